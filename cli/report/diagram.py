# SPDX-License-Identifier: Apache-2.0
"""A drawing of the board's memory ports and of what stands behind each, as SVG in the page's own colours."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from meadow.cli.report.charts import color
from meadow.machine.package.read import Package

WIDTH, ROW, TOP = 460, 30, 14
"""Of the drawing: narrow, so that its letters are as large on a phone."""
WHAT = {
    "weights": ("weight ports", "weights"),
    "constants": ("program", "program, constants"),
    "memory": ("memory port", "activations, KV cache"),
    "": ("weight ports", "grouped weights"),
}
"""Colour and words of an interface m_axi_NAMEn."""


def rows_of(package: Package) -> list[tuple[str, str, str, str]]:
    """(port of the processing system, block, kind of work, words) of each memory interface, block by block."""
    found = []
    for name, port in package.manifest["hardware"]["ports"].items():
        block, _, interface = name.partition("/")
        kind = interface.removeprefix("m_axi_").rstrip("0123456789")
        work, words = WHAT.get(kind, ("latency", kind))
        number = interface.removeprefix("m_axi_").removeprefix(kind)
        found.append((str(port), block, work, f"{words} {number}".strip()))
    return sorted(found, key=lambda r: (r[1] != "meadow_engine", r[2] != "weight ports", r[3]))


def draw(package: Package, bandwidth: float) -> str:
    """One <svg>."""
    rows = rows_of(package)
    blocks = list(dict.fromkeys(row[1] for row in rows))
    words = {block: _words(package, block) for block in blocks}
    parts: list[str] = []
    y = TOP
    for block in blocks:
        mine = [row for row in rows if row[1] == block]
        height = max(ROW * len(mine), 18 * len(words[block]) + 22)
        parts.append(_box(250, y, WIDTH - 252, height, block, words[block]))
        for n, (port, _, work, said) in enumerate(mine):
            parts.append(_wire(y + height * (n + 0.5) / len(mine), port, said, color(work)))
        y += height + 12
    memory = _box(2, TOP, 92, y - 12 - TOP, "DRAM", [f"{bandwidth:.1f} GB/s", "one memory,", "all ports"])
    title = f"Memory ports of {escape(package.design.board)} and the blocks behind them"
    return (
        f'<svg viewBox="0 0 {WIDTH} {y + 2}" role="img" aria-label="{title}" class="diagram"><title>{title}</title>'
        f"{memory}{''.join(parts)}</svg>"
    )


def _words(package: Package, block: str) -> list[str]:
    """What a block is made of."""
    design = package.design
    own = [engine for engine in design.engines if engine.own_clock]
    engine = next((e for e in own if e.name == block), None)
    if engine is not None:
        shape = engine.describe(design).partition(" with ")[2]
        return [f"Verilog, {engine.clock(design)} MHz", *_wrapped(shape)]
    lines = [f"HLS C++, {design.clock_mhz} MHz"]
    for engine in design.engines:
        if not engine.own_clock:
            lines += _wrapped(engine.describe(design))
    lanes = [f"{design.float_lanes} float lanes:", "norms, rotation, softmax"]
    return [*lines, f"attention: {design.token_lanes} token lanes", *lanes, f"blocks of {design.block} tokens on chip"]


def _wrapped(text: str, most: int = 30) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        if len(lines[-1]) + len(word) + 1 > most and lines[-1]:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _box(x: float, y: float, width: float, height: float, title: str, lines: Sequence[str]) -> str:
    texts = "".join(
        f'<text x="{x + 8}" y="{y + 34 + 16 * n}" class="small">{escape(line)}</text>' for n, line in enumerate(lines)
    )
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" class="block"/>'
        f'<text x="{x + 8}" y="{y + 17}" class="name">{escape(title)}</text>{texts}'
    )


def _wire(y: float, port: str, words: str, stroke: str) -> str:
    return (
        f'<line x1="94" x2="250" y1="{y:.1f}" y2="{y:.1f}" style="stroke: {stroke}" class="wire"/>'
        f'<text x="172" y="{y - 4:.1f}" text-anchor="middle" class="small">{escape(words)}</text>'
        f'<text x="172" y="{y + 11:.1f}" text-anchor="middle" class="port">{escape(port)}, 128 bits</text>'
    )
