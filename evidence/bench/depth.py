# SPDX-License-Identifier: Apache-2.0
"""bench depth: the slowest path of each Verilog module, by static timing of what Yosys makes of it for UltraScale+.

No placement, so delays of nets are assumed by fanout: OPTIMISTIC is what a good placement gives and is what is gated, TYPICAL is shown
beside it.  A path that passes the gate may still fail in Vivado; one that does not would.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from meadow.boards import Board

GATE_NS, GATE_MHZ = 2.8, 300
"""A module is within a clock when its worst path, optimistic, takes at most this share of the period on a -2 part."""
GRADES = {"-3": 0.87, "-2LV": 1.2, "-2": 1.0, "-1": 1.2}
"""How much slower a speed grade is than -2: the largest clocks of a DSP48E2, 891, 644 (at 0.72 V), 775 and 645 MHz (DS925)."""


class Delays(NamedTuple):
    """ns: of a LUT, and of a net by how many it feeds at most."""

    lut: float
    nets: tuple[tuple[int, float], ...]

    def net(self, fanout: int) -> float:
        return next(delay for most, delay in self.nets if fanout <= most)


OPTIMISTIC = Delays(0.08, ((2, 0.15), (8, 0.20), (24, 0.28), (64, 0.35), (1 << 30, 0.45)))
TYPICAL = Delays(0.10, ((2, 0.25), (8, 0.35), (24, 0.50), (64, 0.70), (256, 1.0), (1 << 30, 1.3)))
# Of cells, in ns (UltraScale+ -2, rounded from DS925 and from reports of Vivado): clock to output, setup, through.
FLIP_FLOP, FLIP_FLOP_D, FLIP_FLOP_ENABLE = 0.08, 0.06, 0.10
SHIFT_OUT, SHIFT_IN = 0.45, 0.15
BLOCK_OUT, BLOCK_OUT_REGISTERED, BLOCK_IN = 0.95, 0.30, 0.35
ULTRA_OUT, ULTRA_IN = 1.30, 0.40  # without its output register
LUT_RAM_OUT, LUT_RAM_IN, LUT_RAM_THROUGH = 0.60, 0.25, 0.14
SLICE_OUT, SLICE_IN, SLICE_CASCADE, SLICE_CONTROL = 0.30, 0.25, 0.30, 0.60
SLICE_OUT_UNREGISTERED, SLICE_IN_UNREGISTERED, SLICE_THROUGH = {"M": 1.1, "A": 2.0}, 1.6, 2.2
CARRY_CHAIN, CARRY_IN, CARRY_OPERAND, WIDE_MUX = 0.03, 0.12, 0.16, 0.05
CLOCKS = {"CLK", "C", "WCLK", "CLKARDCLK", "CLKBWRCLK"}


class Path(NamedTuple):
    """The slowest path: ns, cells on it, from which net to which cell."""

    ns: float
    levels: int
    start: str
    end: str


@dataclass
class Netlist:
    """A flat module as Yosys writes it (JSON)."""

    cells: dict[str, Any]
    names: dict[int, str]

    @classmethod
    def of(cls, module: dict[str, Any]) -> Netlist:
        names: dict[int, str] = {}
        for name, net in module["netnames"].items():
            for n, bit in enumerate(net["bits"]):
                better = isinstance(bit, int) and (
                    bit not in names or names[bit].startswith("$") or len(name) < len(names[bit])
                )
                if better and not (name.startswith("$") and bit in names):
                    names[bit] = f"{name}[{n}]" if len(net["bits"]) > 1 else name
        return cls(module["cells"], names)

    def pins(self, cell: dict[str, Any], way: str) -> Iterator[tuple[str, int]]:
        for pin, bits in cell["connections"].items():
            if cell["port_directions"][pin] == way and pin not in CLOCKS:
                yield from ((pin, bit) for bit in bits if isinstance(bit, int))


def worst(netlist: Netlist, delays: Delays) -> Path:
    """The slowest path between two registers, or from or to a port of the module."""
    starts: dict[int, float] = {}
    arcs: dict[int, list[tuple[int, float, bool]]] = {}
    ends: list[tuple[int, float, str]] = []
    fanout: Counter[int] = Counter()
    for name, cell in netlist.cells.items():
        inputs, outputs = list(netlist.pins(cell, "input")), list(netlist.pins(cell, "output"))
        fanout.update(bit for _, bit in inputs)
        _timed(name, cell, inputs, outputs, delays, starts, arcs, ends)
    arrival: dict[int, float] = {}
    before: dict[int, int | None] = {}
    for bit, _, _ in ends:
        _arrive(bit, starts, arcs, fanout, delays, arrival, before)
    slow = max(ends, key=lambda e: arrival[e[0]] + delays.net(fanout[e[0]]) + e[1])
    path = [slow[0]]
    while (previous := before.get(path[-1])) is not None:
        path.append(previous)
    ns = arrival[slow[0]] + delays.net(fanout[slow[0]]) + slow[1]
    return Path(ns, len(path) - 1, netlist.names.get(path[-1], "?"), slow[2])


def _timed(
    name: str,
    cell: dict[str, Any],
    inputs: list[tuple[str, int]],
    outputs: list[tuple[str, int]],
    delays: Delays,
    starts: dict[int, float],
    arcs: dict[int, list[tuple[int, float, bool]]],
    ends: list[tuple[int, float, str]],
) -> None:
    """Where paths start and end at a cell, and what lies through it: (input, ns, whether no net of its own leads there)."""
    kind = cell["type"]

    def number(parameter: str) -> int:
        text = str(cell["parameters"].get(parameter, "0"))
        return int(text, 2) if set(text) <= {"0", "1"} else 0

    if kind.startswith("FD"):
        starts.update({bit: FLIP_FLOP for _, bit in outputs})
        ends += [(bit, FLIP_FLOP_D if pin == "D" else FLIP_FLOP_ENABLE, f"{name}.{pin}") for pin, bit in inputs]
    elif kind.startswith("SRL"):
        starts.update({bit: SHIFT_OUT for _, bit in outputs})
        ends += [(bit, SHIFT_IN, f"{name}.{pin}") for pin, bit in inputs]
    elif kind.startswith("RAMB"):
        out = BLOCK_OUT_REGISTERED if number("DOA_REG") else BLOCK_OUT
        starts.update({bit: out for _, bit in outputs})
        ends += [(bit, BLOCK_IN, f"{name}.{pin}") for pin, bit in inputs]
    elif kind.startswith("URAM"):
        starts.update({bit: ULTRA_OUT for _, bit in outputs})
        ends += [(bit, ULTRA_IN, f"{name}.{pin}") for pin, bit in inputs]
    elif kind.startswith("RAM"):
        for _, bit in outputs:
            starts.setdefault(bit, LUT_RAM_OUT)
            read = [
                (i, LUT_RAM_THROUGH, False) for pin, i in inputs if pin.startswith(("ADDR", "DPRA")) or pin[0] == "A"
            ]
            arcs.setdefault(bit, []).extend(read)
        ends += [(bit, LUT_RAM_IN, f"{name}.{pin}") for pin, bit in inputs]
    elif kind.startswith("DSP48"):
        registers = {r: number(f"{r}REG") for r in "PMAB"}
        for _, bit in outputs:
            starts[bit] = SLICE_OUT if registers["P"] else SLICE_OUT_UNREGISTERED["M" if registers["M"] else "A"]
            if not (registers["P"] or registers["M"] or registers["A"]):
                starts[bit] = 0.0
                arcs.setdefault(bit, []).extend((i, SLICE_THROUGH, False) for pin, i in inputs if pin in "AB")
        for pin, bit in inputs:
            registered = pin in ("A", "B", "D") and (registers["A"] or registers["B"])
            plain = SLICE_IN_UNREGISTERED if pin in ("A", "B") else SLICE_CONTROL
            ends.append((bit, SLICE_IN if registered else SLICE_CASCADE if pin == "PCIN" else plain, f"{name}.{pin}"))
    else:
        for way, bit in outputs:
            for pin, i in inputs:
                if kind == "CARRY4":
                    ns = CARRY_CHAIN if (pin, way) == ("CI", "CO") else CARRY_IN if pin == "CI" else CARRY_OPERAND
                else:
                    ns = WIDE_MUX if kind.startswith("MUXF") else 0.0 if kind == "INV" else delays.lut
                arcs.setdefault(bit, []).append((i, ns, pin == "CI" or (kind.startswith("MUXF") and pin != "S")))


def _arrive(
    wanted: int,
    starts: dict[int, float],
    arcs: dict[int, list[tuple[int, float, bool]]],
    fanout: Counter[int],
    delays: Delays,
    arrival: dict[int, float],
    before: dict[int, int | None],
) -> None:
    """When a net has its value: after all that it depends on."""
    waiting = [(wanted, False)]
    while waiting:
        bit, ready = waiting.pop()
        if bit in arrival:
            continue
        if not ready:
            waiting.append((bit, True))
            waiting += [(i, False) for i, _, _ in arcs.get(bit, ()) if i not in arrival]
            continue
        best, source = starts.get(bit, 0.0), None
        for i, ns, own in arcs.get(bit, ()):
            at = arrival.get(i, 0.0) + ns + (0.0 if own else delays.net(fanout[i]))
            if at > best:
                best, source = at, i
        arrival[bit], before[bit] = best, source


def grade(board: Board) -> str:
    """The speed grade of a board's part: the longest of GRADES in its name."""
    found = [g for g in GRADES if g.lower() in board.part.lower()]
    return max(found, key=len) if found else "-1"


def limit(board: Board, clock_mhz: int) -> float:
    """ns that the worst optimistic path may take, as for a -2 part, so that the board holds a clock."""
    return GATE_NS * GATE_MHZ / clock_mhz / GRADES[grade(board)]
