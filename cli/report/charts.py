# SPDX-License-Identifier: Apache-2.0
"""The charts of the report as data.  Plotly draws them in the browser, tells the numbers under the pointer, and zooms.

Draws what it is given; knows no package.  One colour stands for one kind of work on every chart of every page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

COLORS: dict[str, tuple[str, str]] = {
    "weight ports": ("#2c6e49", "#63b98b"),
    "DRAM": ("#0f6f78", "#58c4cd"),
    "memory port": ("#d1682b", "#ee9a63"),
    "multipliers": ("#3f6fb5", "#82aef0"),
    "vector unit": ("#a8559f", "#d391cb"),
    "attention": ("#b33a3a", "#ee7f7f"),
    "stores": ("#8a8f1f", "#c9cf5c"),
    "tables": ("#4f8f86", "#7fc8bd"),
    "directories": ("#6f6fb0", "#a9a9e8"),
    "latency": ("#7a7a7a", "#aaaaaa"),
    "program": ("#9a8468", "#cdb894"),
    "intermediates": ("#c2447f", "#f08ab5"),
    "values": ("#5b4fa0", "#a79bf0"),
    "feed forward": ("#2f7fa3", "#6fb9dc"),
    "head": ("#8c5a1f", "#d9a45e"),
    "prefill": ("#c07a00", "#f0b64a"),
    "decode": ("#33485e", "#a9c1dc"),
    "GEMM": ("#8f5a3c", "#d8a888"),
    "TPHS": ("#1f7a5a", "#5ed0a5"),
    "used": ("#2c6e49", "#63b98b"),
    "first": ("#3f6fb5", "#82aef0"),
    "second": ("#d1682b", "#ee9a63"),
}
"""Colour on a light and on a dark ground, by what it stands for."""
SAME = {"weights": "weight ports", "kv": "attention", "activations": "memory port"}
"""What reads or moves it: the bytes of a role have the colour of the work that they are."""
DASHES = ("solid", "dash", "dot")
Figure = dict[str, Any]


def color(name: str) -> str:
    """The page's variable for a kind of work; page.js puts in its value."""
    return f"var(--{slug(SAME.get(name, name))})"


def slug(name: str) -> str:
    """A name as a part of CSS and of ids."""
    known = name if name in COLORS else "latency"
    return "c-" + known.lower().replace(" ", "-")


def variables(dark: bool) -> str:
    """The declarations of all colours."""
    return " ".join(f"--{slug(name)}: {pair[dark]};" for name, pair in COLORS.items())


def figure(traces: Sequence[Figure], x: str, y: str, height: int = 300, **layout: Any) -> Figure:
    """Traces with axis titles; `layout` is Plotly's own."""
    xaxis = {"title": {"text": x}, **layout.pop("xaxis", {})}
    yaxis = {"title": {"text": y}, **layout.pop("yaxis", {})}
    return {"data": list(traces), "layout": {"height": height, "xaxis": xaxis, "yaxis": yaxis, **layout}}


def _trace(kind: str, name: str, x: Sequence[Any], y: Sequence[Any], **more: Any) -> Figure:
    return {"type": kind, "name": name, "x": list(x), "y": list(y), **more}


def decades(low: float, high: float) -> Figure:
    """A logarithmic axis whose labels are whole numbers: 1, 2 and 5 of every decade."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    ticks = [digit * 10.0**power for power in range(first, last + 1) for digit in (1, 2, 5)]
    ticks = [tick for tick in ticks if low / 2 <= tick <= high * 2]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:,.10g}" for tick in ticks]}


def roofline(
    points: Sequence[tuple[str, float, float, str]], peak: float, lines: Sequence[tuple[str, float]]
) -> Figure:
    """points: (name, MAC per byte, GMAC/s, phase); peak in GMAC/s; lines: (name, GB/s)."""
    some = [p for p in points if p[1] > 0]
    low = min(p[1] for p in some) / 2
    high = max(max(p[1] for p in some), peak / min(b for _, b in lines)) * 2
    traces = []
    for number, (name, bandwidth) in enumerate(lines):
        xs = [low, peak / bandwidth, high]
        line = {"color": color(name), "width": 1.5, "dash": DASHES[number]}
        traces.append(
            _trace(
                "scatter",
                f"{name}, {bandwidth:.1f} GB/s",
                xs,
                [low * bandwidth, peak, peak],
                mode="lines",
                line=line,
                hovertemplate=f"{name}: %{{y:.3g}} GMAC/s at %{{x:.3g}} MAC/byte<extra></extra>",
            )
        )
    named: list[tuple[float, float]] = []
    for number, phase in enumerate(dict.fromkeys(p[3] for p in some)):
        mine = [p for p in some if p[3] == phase]
        marker = {"color": color(phase.split(" ")[0]), "size": 9, "symbol": ("circle", "square")[number % 2]}
        traces.append(
            _trace(
                "scatter",
                phase,
                [p[1] for p in mine],
                [p[2] for p in mine],
                mode="markers+text",
                text=_apart(mine, named),
                customdata=[p[0] for p in mine],
                textposition="middle left",
                textfont={"size": 10},
                marker=marker,
                hovertemplate="<b>%{customdata}</b>, "
                + phase
                + "<br>%{x:.3g} MAC/byte, %{y:.4g} GMAC/s<extra></extra>",
            )
        )
    return figure(
        traces,
        "MAC per byte of DRAM",
        "GMAC/s",
        380,
        xaxis=decades(low, high),
        yaxis=decades(min(p[2] for p in some), peak),
    )


def _apart(points: Sequence[tuple[str, float, float, str]], named: list[tuple[float, float]]) -> list[str]:
    """A name where there is room for one beside those that are `named`."""
    found = []
    for name, x, y, _ in points:
        room = all(abs(math.log(x / a)) > 0.5 or abs(math.log(y / b)) > 0.2 for a, b in named)
        found.append(name if room else "")
        if room:
            named.append((x, y))
    return found


def stacked(labels: Sequence[str], parts: Mapping[str, Sequence[float]], unit: str, title: str = "") -> Figure:
    """Bars of `parts` on one another, a bar for each label."""
    form = "%{x:.2f}" if unit != "%" else "%{x:.1f}"
    traces = [
        _trace(
            "bar",
            part,
            values,
            labels,
            orientation="h",
            marker={"color": color(part)},
            hovertemplate=f"%{{y}}: {part} {form} {unit}<extra></extra>",
        )
        for part, values in parts.items()
    ]
    return figure(
        traces,
        unit,
        title,
        120 + 38 * len(labels),
        barmode="stack",
        yaxis={"autorange": "reversed", "type": "category", "automargin": True},
    )


def curves(
    x: Sequence[float], series: Mapping[str, Sequence[float]], xlabel: str, ylabel: str, unit: str, log: bool = True
) -> Figure:
    """Lines over a logarithmic axis; the other is logarithmic too, or begins at 0."""
    ticks = {"type": "log", "tickvals": list(x), "ticktext": [f"{v:g}" for v in x]}
    traces = [
        _trace(
            "scatter",
            name,
            x,
            values,
            mode="lines+markers",
            line={"color": color(name), "width": 2},
            hovertemplate=f"{name}, %{{x}} tokens: %{{y:.4g}} {unit}<extra></extra>",
        )
        for name, values in series.items()
    ]
    return figure(
        traces,
        xlabel,
        ylabel,
        300,
        xaxis=ticks,
        yaxis=decades(min(map(min, series.values())), max(map(max, series.values())))
        if log
        else {"rangemode": "tozero"},
        showlegend=len(series) > 1,
    )


def along(labels: Sequence[str], series: Mapping[str, Sequence[float]], xlabel: str, ylabel: str) -> Figure:
    """Lines over places in an order, whose labels are told under the pointer; the other axis begins at 0."""
    traces = [
        _trace(
            "scatter",
            name,
            list(range(1, len(values) + 1)),
            values,
            mode="lines",
            text=list(labels),
            line={"color": color(shade), "width": 2},
            hovertemplate=f"%{{text}}<br>{name}: %{{y:.4f}}<extra></extra>",
        )
        for (name, values), shade in zip(series.items(), ("second", "first"), strict=False)
    ]
    return figure(traces, xlabel, ylabel, 300, yaxis={"rangemode": "tozero"}, showlegend=len(series) > 1)


def gantt(rows: Sequence[tuple[str, float, float, str, str]], xlabel: str) -> Figure:
    """rows: (label, start, duration, what it is bound by, more words), one below the other."""
    labels = [f"{n + 1}. {row[0]}" for n, row in enumerate(rows)]
    traces = []
    for group in dict.fromkeys(row[3] for row in rows):
        at = [n for n, row in enumerate(rows) if row[3] == group]
        traces.append(
            _trace(
                "bar",
                group,
                [rows[n][2] for n in at],
                [labels[n] for n in at],
                orientation="h",
                base=[rows[n][1] for n in at],
                marker={"color": color(group)},
                customdata=[[rows[n][0], rows[n][2], rows[n][4]] for n in at],
                hovertemplate="<b>%{customdata[0]}</b>: %{customdata[1]:.2f} µs from %{base:.1f}, bound by "
                + f"{group}<br>%{{customdata[2]}}<extra></extra>",
            )
        )
    order = {"categoryorder": "array", "categoryarray": labels[::-1], "automargin": True}
    return figure(traces, xlabel, "", 110 + 22 * len(rows), barmode="overlay", yaxis=order)


def bounds(
    labels: Sequence[str], values: Sequence[float], bound: Sequence[float], ylabel: str, groups: Sequence[str]
) -> Figure:
    """Points with a mark below each that no method can pass; coloured by the kind of work."""
    traces = []
    for group in dict.fromkeys(groups):
        at = [i for i, g in enumerate(groups) if g == group]
        traces.append(
            _trace(
                "scatter",
                group,
                at,
                [values[i] for i in at],
                mode="markers",
                marker={"color": color(group), "size": 6},
                customdata=[[labels[i], bound[i]] for i in at],
                hovertemplate="<b>%{customdata[0]}</b><br>%{y:.3f} bits, entropy %{customdata[1]:.3f}<extra></extra>",
            )
        )
    places = list(range(len(bound)))
    line = {"color": "var(--ink)", "width": 1, "shape": "hvh"}
    traces.append(
        _trace(
            "scatter",
            "entropy",
            places,
            bound,
            mode="lines",
            line=line,
            hovertemplate="entropy %{y:.3f}<extra></extra>",
        )
    )
    return figure(traces, "matrix, in the order of the model", ylabel, 340)


def shares(rows: Sequence[tuple[str, float, float, str]]) -> Figure:
    """rows: (label, share used, share allowed, words)."""
    names = [row[0] for row in rows]
    used = _trace(
        "bar",
        "used",
        [100 * row[1] for row in rows],
        names,
        orientation="h",
        marker={"color": color("used")},
        customdata=[row[3] for row in rows],
        text=[f"{row[1]:.0%}" for row in rows],
        hovertemplate="%{y}: %{customdata}<extra></extra>",
    )
    allowed = _trace(
        "scatter",
        "budget",
        [100 * row[2] for row in rows],
        names,
        mode="markers",
        marker={"symbol": "line-ns", "size": 20, "line": {"width": 2, "color": "var(--ink)"}},
        hovertemplate="%{y}: budget %{x:.0f} %<extra></extra>",
    )
    return figure(
        [used, allowed],
        "% of the board",
        "",
        110 + 34 * len(rows),
        xaxis={"range": [0, 100]},
        yaxis={"autorange": "reversed", "automargin": True},
    )


def front(points: Sequence[tuple[float, float, float, bool, str]]) -> Figure:
    """points: (prefill, decode, share, chosen, words)."""
    traces = []
    for chosen in (False, True):
        some = [p for p in points if p[3] == chosen]
        traces.append(
            _trace(
                "scatter",
                "chosen" if chosen else "others",
                [p[0] for p in some],
                [p[1] for p in some],
                mode="markers",
                marker={
                    "size": [6 + 12 * p[2] for p in some],
                    "color": color("memory port" if chosen else "latency"),
                    "opacity": 1 if chosen else 0.5,
                },
                customdata=[p[4] for p in some],
                hovertemplate="%{customdata}<br>prefill %{x:.0f}, decode %{y:.1f} tokens/s<extra></extra>",
            )
        )
    return figure(traces, "prefill, tokens/s", "decode, tokens/s", 320)


def recipes(points: Sequence[tuple[str, float, float, bool]], whole: float) -> Figure:
    """points: (recipe, MB per token, perplexity, whether no other beats it); `whole` is the float model's perplexity."""
    traces, ends = [], [min(p[1] for p in points), max(p[1] for p in points)]
    for best in (False, True):
        some = sorted((p for p in points if p[3] == best), key=lambda p: p[1])
        traces.append(
            _trace(
                "scatter",
                "beaten by no other" if best else "beaten by another",
                [p[1] for p in some],
                [p[2] for p in some],
                mode="lines+markers+text" if best else "markers+text",
                text=[p[0] for p in some],
                textposition="top center",
                marker={"size": 9, "color": color("weight ports" if best else "latency")},
                line={"color": color("weight ports")},
                hovertemplate="%{text}<br>%{x:.1f} MB per token, perplexity %{y:.2f}<extra></extra>",
            )
        )
    traces.append(
        _trace("scatter", "float", ends, [whole, whole], mode="lines", line={"color": color("decode"), "dash": "dash"})
    )
    axis = decades(min(whole, *(p[2] for p in points)), max(p[2] for p in points))
    return figure(traces, "MB per token", "perplexity", 420, yaxis=axis)


def pairs(labels: Sequence[str], series: Mapping[str, Sequence[float]], unit: str) -> Figure:
    """Bars of two packages side by side."""
    traces = [
        _trace(
            "bar",
            name,
            values,
            labels,
            orientation="h",
            marker={"color": color(("first", "second")[n])},
            hovertemplate=f"%{{y}}: %{{x:.4g}} {unit}, {name}<extra></extra>",
        )
        for n, (name, values) in enumerate(series.items())
    ]
    return figure(
        traces,
        unit,
        "",
        110 + 46 * len(labels),
        barmode="group",
        yaxis={"autorange": "reversed", "type": "category", "automargin": True},
    )
