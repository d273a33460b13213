# SPDX-License-Identifier: Apache-2.0
"""The charts of the report as SVG text whose colours are the page's own, so that they follow light and dark.

Draws what it is given; knows no package.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import rcParams
from matplotlib.figure import Figure

INK, FAINT, GRID, BACK = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04"
SERIES = tuple(f"#0a0c{n:02x}" for n in range(1, 9))
"""Stand-ins that svg() replaces by the page's variables."""
VARIABLES = {INK: "--ink", FAINT: "--faint", GRID: "--grid", BACK: "--card"} | {
    c: f"--s{n}" for n, c in enumerate(SERIES, 1)
}
WIDTH = 5.4
rcParams.update(
    {
        "svg.fonttype": "none",
        "svg.hashsalt": "meadow",
        "font.size": 9,
        "axes.edgecolor": GRID,
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": FAINT,
        "ytick.color": FAINT,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": GRID,
        "grid.linewidth": 0.6,
        "axes.axisbelow": True,
        "legend.frameon": False,
        "legend.fontsize": 8,
        "axes.titlesize": 9,
    }
)


def figure(height: float = 3.0) -> tuple[Figure, Any]:
    made = Figure(figsize=(WIDTH, height), layout="constrained")
    return made, made.subplots()


def svg(drawn: Figure, name: str, title: str) -> str:
    """The figure as one <svg> element whose ids begin with `name`."""
    buffer = io.StringIO()
    drawn.savefig(
        buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)
    for color, variable in VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    text = re.sub(r"font: ([0-9.]+)px [^;\"]*", r"font-size: \1px", text)
    text = re.sub(
        r'<svg [^>]*viewBox="([^"]+)"[^>]*>',
        rf'<svg viewBox="\1" role="img" aria-label="{title}" class="chart">'
        rf"<title>{title}</title>",
        text,
        count=1,
    )
    return text


def roofline(points: Sequence[tuple[str, float, float, str]], peak: float, lines: Sequence[tuple[str, float]]) -> str:
    """points: (name, MACs per byte, GMAC/s, phase); peak in GMAC/s; lines: (name, GB/s)."""
    drawn, ax = figure(3.4)
    xs = [p[1] for p in points if p[1] > 0]
    low, high = min(xs) / 2, max(max(xs), peak / min(b for _, b in lines)) * 2
    for number, (name, bandwidth) in enumerate(lines):
        knee = peak / bandwidth
        ax.plot(
            [low, knee, high],
            [low * bandwidth, peak, peak],
            color=FAINT,
            lw=1.2,
            ls=("-", "--", ":")[number],
            label=f"{name}, {bandwidth:.1f} GB/s",
        )
    named: list[tuple[float, float]] = []
    for number, phase in enumerate(dict.fromkeys(p[3] for p in points)):
        mine = [p for p in points if p[3] == phase and p[1] > 0]
        ax.plot(
            [p[1] for p in mine],
            [p[2] for p in mine],
            "os"[number] if number < 2 else "^",
            color=SERIES[number],
            ms=5,
            label=phase,
        )
        for p in mine:  # a name where there is room for one
            if all(abs(math.log(p[1] / x)) > 0.25 or abs(math.log(p[2] / y)) > 0.12 for x, y in named):
                ax.annotate(
                    p[0],
                    (p[1], p[2]),
                    xytext=(-5, -2),
                    textcoords="offset points",
                    fontsize=6.5,
                    color=FAINT,
                    ha="right",
                )
                named.append((p[1], p[2]))
    ax.set(xscale="log", yscale="log", xlabel="multiplications a DRAM byte", ylabel="GMAC/s", xlim=(low, high))
    ax.legend(loc="lower right")
    return svg(drawn, "roofline", "Roofline with the model's steps")


def stacked(
    name: str,
    title: str,
    labels: Sequence[str],
    parts: Mapping[str, Sequence[float]],
    unit: str,
    horizontal: bool = True,
    height: float = 2.6,
) -> str:
    """Bars of `parts` on one another, a bar for each label."""
    drawn, ax = figure(height)
    base = [0.0] * len(labels)
    places = range(len(labels))
    for number, (part, values) in enumerate(parts.items()):
        color = SERIES[number % len(SERIES)]
        if horizontal:
            ax.barh(places, values, left=base, color=color, label=part, height=0.62)
        else:
            ax.bar(places, values, bottom=base, color=color, label=part, width=0.7)
        base = [b + v for b, v in zip(base, values, strict=True)]
    if horizontal:
        ax.set(yticks=list(places), yticklabels=list(labels), xlabel=unit)
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
    else:
        ax.set(xticks=list(places), xticklabels=list(labels), ylabel=unit)
        ax.grid(axis="x", visible=False)
    ax.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.2 if height > 2.4 else -0.34))
    return svg(drawn, name, title)


def curves(
    name: str,
    title: str,
    x: Sequence[float],
    series: Mapping[str, Sequence[float]],
    xlabel: str,
    ylabel: str,
    log: bool = True,
) -> str:
    drawn, ax = figure()
    for number, (label, values) in enumerate(series.items()):
        ax.plot(x, values, "-o", color=SERIES[number], ms=3.5, lw=1.6, label=label)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if log:
        ax.set(xscale="log", yscale="log")
        ax.set_xticks(list(x), [f"{v:g}" for v in x])
        ax.minorticks_off()
    ax.legend()
    return svg(drawn, name, title)


def gantt(name: str, title: str, rows: Sequence[tuple[str, float, float, str]], xlabel: str) -> str:
    """rows: (label, start, duration, group), one below the other."""
    drawn, ax = figure(0.2 * len(rows) + 1.1)
    groups = list(dict.fromkeys(r[3] for r in rows))
    for number, (_, start, duration, group) in enumerate(rows):
        ax.barh(number, duration, left=start, color=SERIES[groups.index(group) % len(SERIES)], height=0.66)
    for number, group in enumerate(groups):
        ax.barh(0, 0, color=SERIES[number % len(SERIES)], label=group)
    ax.set(yticks=range(len(rows)), yticklabels=[r[0] for r in rows], xlabel=xlabel)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.legend(loc="upper right", title="bound by", title_fontsize=8)
    return svg(drawn, name, title)


def bounds(
    name: str,
    title: str,
    labels: Sequence[str],
    values: Sequence[float],
    bound: Sequence[float],
    ylabel: str,
    groups: Sequence[str],
) -> str:
    """Points with a mark below each that no method can pass; coloured by group."""
    drawn, ax = figure(3.2)
    names = list(dict.fromkeys(groups))
    for number, group in enumerate(names):
        at = [i for i, g in enumerate(groups) if g == group]
        ax.plot(at, [values[i] for i in at], "o", ms=3, color=SERIES[number % len(SERIES)], label=group)
    ax.plot(range(len(bound)), bound, "_", ms=4, color=INK, label="entropy", mew=1.0)
    ax.axhline(8, color=FAINT, lw=0.8, ls="--")
    ax.annotate("raw INT8", (0, 8), xytext=(0, -9), textcoords="offset points", fontsize=7, color=FAINT)
    ax.set(xlabel="matrix, in the order of the model", ylabel=ylabel, ylim=(max(0, min(bound) - 0.5), 8.4))
    ax.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.16), columnspacing=1.2)
    return svg(drawn, name, title)


def shares(name: str, title: str, rows: Sequence[tuple[str, float, float]]) -> str:
    """rows: (label, share used, share allowed)."""
    drawn, ax = figure(0.35 * len(rows) + 0.9)
    for number, (_, used, allowed) in enumerate(rows):
        ax.barh(number, 100, color=GRID, height=0.6)
        ax.barh(number, 100 * used, color=SERIES[0], height=0.6)
        ax.plot([100 * allowed] * 2, [number - 0.4, number + 0.4], color=INK, lw=1.4)
    ax.set(
        yticks=range(len(rows)),
        yticklabels=[f"{r[0]}  {r[1]:.0%}" for r in rows],
        xlim=(0, 100),
        xlabel="% of the board (line: budget)",
    )
    ax.invert_yaxis()
    ax.grid(visible=False)
    return svg(drawn, name, title)


def front(points: Sequence[tuple[float, float, float, bool]]) -> str:
    """points: (prefill, decode, share, chosen)."""
    drawn, ax = figure()
    for prefill, decode, share, chosen in points:
        ax.plot(
            prefill,
            decode,
            "o",
            ms=3 + 7 * share,
            color=SERIES[1] if chosen else SERIES[0],
            alpha=1 if chosen else 0.45,
            mec=BACK,
        )
        if chosen:
            ax.annotate("chosen", (prefill, decode), xytext=(-6, 8), textcoords="offset points", fontsize=8, ha="right")
    ax.set(xlabel="prefill, tokens/s", ylabel="decode, tokens/s")
    return svg(drawn, "front", "Designs that nothing beats in prefill, decode and resources")
