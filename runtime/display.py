# SPDX-License-Identifier: Apache-2.0
"""How a Session shows itself in a notebook: what runs where, and where the time goes.

Draws with matplotlib where it is installed and says the same in text where it is not.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, TypeVar

from meadow.machine.errors import UsageError

if TYPE_CHECKING:
    from meadow.runtime.session import Session

EVERY = 1.0
"""Seconds between two updates of an upload."""
BARS = 60
"""Characters of the longest bar in text."""


def quiet(done: int, total: int) -> None:
    """Shows nothing."""


def upload_bar() -> Callable[[int, int], None]:
    """What shows an upload where nobody else does: one line in a notebook, nothing elsewhere."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if not hasattr(shell, "kernel"):  # no notebook; pynq imports IPython everywhere
        return quiet
    began = time.perf_counter()

    shown = [0.0]

    def show(done: int, total: int) -> None:
        if done < total and time.perf_counter() - shown[0] < EVERY:
            return
        shown[0] = time.perf_counter()
        rate = done / 1e6 / max(1e-6, time.perf_counter() - began)
        end = "\n" if done >= total else ""
        print(f"\ruploading weights: {done / 1e6:.0f} of {total / 1e6:.0f} MB, {rate:.0f} MB/s", end=end, flush=True)

    return show


def rows(session: Session) -> list[tuple[str, str]]:
    """What there is to say of a session: (what, value)."""
    package, model = session.package, session.package.model
    clocks = session.device.abilities.clocks_mhz
    asked = package.manifest["hardware"]["clocks_mhz"]
    weights = sum(c.length for c in package.chunks if c.kind in ("weights", "constants"))
    found = [
        ("model", f"{package.name}: {model['layers']} layers, {model['dim']} wide, vocabulary {model['vocab']}"),
        ("board", f"{package.design.board} ({package.design.part})"),
        ("device", ("EMULATED: " if session.device.emulated else "") + session.device.name),
        (
            "clock",
            ", ".join(f"{c:g} MHz" for c in clocks) + " (read back)"
            if clocks
            else ", ".join(f"{c} MHz" for c in asked) + " (designed, not running here)",
        ),
        ("memory", f"{sum(c.length for c in package.chunks) / 2**20:.1f} MiB, of which {weights / 2**20:.1f} weights"),
        ("context", f"{session.position} of {session.context} tokens"),
    ]
    stats = session.stats
    if stats.prefill_tokens and not session.device.name.startswith("replay"):
        kind = "on this machine, not the board's speed" if session.device.emulated else "on the board"
        found.append(("measured", f"prefill {stats.prefill_rate:.1f}, decode {stats.decode_rate:.1f} tokens/s {kind}"))
    return found + [("note", note) for note in session.notes]


T = TypeVar("T")


class Shown(list[T]):
    """A list that a notebook shows as a table.

    columns  their headings
    cells    of an item, one text for each
    """

    def __init__(self, items: Iterable[T], columns: Sequence[str], cells: Callable[[T], Sequence[str]]):
        super().__init__(items)
        self.columns, self.cells = tuple(columns), cells

    def _repr_html_(self) -> str:
        return grid(self.columns, [self.cells(item) for item in self])


def grid(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in HTML; what failed stands out."""
    left = "style='text-align:left'"
    head = "".join(f"<th {left}>{escape(name)}</th>" for name in columns)
    body = ""
    for row in rows:
        cells = (escape(cell).replace("FAILED", "<b style='color:#b42318'>FAILED</b>") for cell in row)
        body += "<tr>" + "".join(f"<td {left}>{cell}</td>" for cell in cells) + "</tr>"
    return f"<table><tr>{head}</tr>{body}</table>"


def html(session: Session) -> str:
    """A table; EMULATED stands out."""
    lines = []
    for name, value in rows(session):
        text = escape(value).replace("EMULATED", "<b style='color:#b45309'>EMULATED</b>")
        lines.append(f"<tr><th style='text-align:left'>{escape(name)}</th><td style='text-align:left'>{text}</td></tr>")
    return f"<table>{''.join(lines)}</table>"


def timeline(session: Session, program: str) -> Any:
    """Modelled microseconds of each kind of step of a program: a matplotlib figure, or lines of text."""
    steps = session.package.summary().get("timeline", {}).get(program)
    if not steps:
        raise UsageError(f"{session.package.folder} has no timeline of {program!r}; decode and prefill are possible")
    spent: dict[str, float] = {}
    for kind, microseconds, _ in steps:
        spent[kind] = spent.get(kind, 0.0) + microseconds
    ordered = sorted(spent.items(), key=lambda item: -item[1])
    total = sum(spent.values())
    mark = "EMULATED; " if session.device.emulated else ""
    title = (
        f"{session.package.name}, {program}: {total / 1e3:.2f} ms on {session.package.design.board} ({mark}modelled)"
    )
    try:
        from matplotlib import pyplot
    except ImportError:
        longest = ordered[0][1]
        return "\n".join(
            [title, *(f"{kind:>12} {us:10.1f} us {'#' * round(BARS * us / longest)}" for kind, us in ordered)]
        )
    figure, (bars, line) = pyplot.subplots(2, 1, figsize=(9, 5), height_ratios=(3, 1), layout="constrained")
    bars.barh([kind for kind, _ in ordered][::-1], [us / 1e3 for _, us in ordered][::-1], color="#2563eb")
    bars.set_xlabel("ms, all layers together")
    bars.set_title(title)
    colours = {kind: f"C{n % 10}" for n, (kind, _) in enumerate(ordered)}
    at = 0.0
    for kind, microseconds, _ in steps:
        line.barh(0, microseconds / 1e3, left=at / 1e3, color=colours[kind], linewidth=0)
        at += microseconds
    line.set_yticks([])
    shown = [kind for kind, _ in ordered[:6]]
    line.legend(
        [pyplot.Rectangle((0, 0), 1, 1, color=colours[kind]) for kind in shown],
        shown,
        ncols=6,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.9),
        frameon=False,
    )
    line.set_xlabel("ms, one step after another")
    line.margins(0)
    pyplot.close(figure)
    return figure
