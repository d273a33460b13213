# SPDX-License-Identifier: Apache-2.0
"""fit: how large the hardware is, from the board's resources and the model's shapes.

Decides sizes only; in which order the work is done is lower.py's business.  Resource figures are estimates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from meadow.boards import Board
from meadow.compiler.design import BEAT_BYTES, LANE_COLS, Design
from meadow.compiler.errors import ResourceExceeded, UsageError
from meadow.compiler.graph import Graph, Op
from meadow.compiler.layout import padded
from meadow.compiler.packets import SCHEMES as PUBLISHED

BUDGET = {"LUT": 0.70, "FF": 0.50, "DSP": 0.80, "BRAM36": 0.80}
"""Shares of each resource that a design may fill and still be expected to close timing (FINN, src/finn/util/platforms)."""
URAM_IN_BRAM36 = 8
"""An UltraRAM block (288 Kb) holds what eight BRAM36 (36 Kb) do (UG573)."""
SETTABLE = ("clock_mhz", "weight_ports", "token_lanes", "block", "context", "prefix_codes", "lookup_entries")
OTHER_PORTS = 2
"""Beside the weight ports: one for constants (read only), one for activations and the KV cache."""
DEFAULT_CONTEXT = 2048
"""When neither the model nor the user says."""
DESIGNS = {"meadow-paper": {"clock_mhz": 100, "weight_ports": 1, "token_lanes": 12}}
"""Published configurations.  MEADOW: 100 MHz, 12 broadcasting and 84 parallel PEs, that is 12 tokens at once with 7
parallel PEs each, and one 128-bit port (12.8 Gb/s); docs/decisions/0007-meadow-paper-design.md."""


@dataclass(frozen=True)
class Fit:
    """A design, the share of each resource it is estimated to use, and which one kept it from being larger."""

    design: Design
    used: dict[str, int]
    available: dict[str, int]
    binding: str
    notes: tuple[str, ...]

    def __str__(self) -> str:
        lines = [str(self.design)]
        for kind, used in self.used.items():
            total = self.available[kind]
            lines.append(
                f"  {kind:7s}{used:>8,} of {total:>8,}  {used / total:5.0%}  (estimated; budget {BUDGET[kind]:.0%})"
            )
        lines.append(f"  bound by: {self.binding}")
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines) + "\n"


def available(board: Board) -> dict[str, int]:
    """What the board has; UltraRAM counts as the BRAM36 it can replace."""
    return {"LUT": board.lut, "FF": board.ff, "DSP": board.dsp, "BRAM36": board.bram36 + URAM_IN_BRAM36 * board.uram}


def over_budget(design: Design, board: Board) -> list[tuple[str, int, int]]:
    """(resource, used, allowed) of every resource that the design overfills."""
    limits = available(board)
    used = design.resources()
    return [(k, n, int(limits[k] * BUDGET[k])) for k, n in used.items() if n > limits[k] * BUDGET[k]]


def fit(
    graph: Graph, board: Board, settings: dict[str, int] | None = None, named: str = "", packing: str = "auto"
) -> Fit:
    """The largest design for `graph` on `board` within BUDGET.

    settings  numbers of SETTABLE that the user fixed
    named     a published configuration of DESIGNS to start from
    packing   the scheme of pack.SCHEMES that the engine must unpack; a unit that it does not need is not built
    Raises ResourceExceeded when nothing fits (with the knob to turn), UsageError for settings that are not known.
    """
    if named and named not in DESIGNS:
        raise UsageError(f"design {named!r} is not known; known are {', '.join(DESIGNS)}")
    fixed = {**DESIGNS.get(named, {}), **(settings or {})}
    unknown = [key for key in fixed if key not in SETTABLE]
    if unknown:
        raise UsageError(f"--set {', '.join(unknown)}: not known; settable are {', '.join(SETTABLE)}")
    _check_ports(board, fixed)
    model = graph.model
    cols = max(graph.weight_of(n).cols for n in graph.nodes if n.op in (Op.LINEAR, Op.HEAD))
    wanted = fixed.get("context", model.context or DEFAULT_CONTEXT)
    design = Design(
        board=board.name, part=board.part, clock_mhz=fixed.get("clock_mhz", board.clock_mhz),
        weight_ports=fixed.get("weight_ports", _ports(board, model.head_dim)), token_lanes=fixed.get("token_lanes", 1),
        block=fixed.get("block", 64), context=wanted,
        max_cols=padded(cols, LANE_COLS), max_head_dim=padded(model.head_dim, BEAT_BYTES),
        prefix_codes=fixed.get("prefix_codes", int(packing in ("auto", "prefix"))),
        lookup_entries=fixed.get("lookup_entries", 1024 if packing in PUBLISHED else 0),
    )  # fmt: skip
    try:
        design.check()
    except ValueError as error:
        raise UsageError(f"--set: {error}") from None
    if model.head_dim % design.weight_ports:
        raise UsageError(f"heads of {model.head_dim} do not divide over {design.weight_ports} weight ports")
    design, binding = _shrink_context(design, board, graph, "context" in fixed)
    if design.lookup_entries and "lookup_entries" not in fixed:
        design = _grow(design, board, "lookup_entries", (16384, 8192, 4096, 2048))
    if "token_lanes" not in fixed:
        grown = _grow(design, board, "token_lanes", (16, 8, 4, 2))
        first = over_budget(replace(grown, token_lanes=grown.token_lanes * 2), board)
        binding = binding or (first[0][0] if first else "the largest array this engine has")
        design = grown
    problems = over_budget(design, board)
    if problems:
        raise ResourceExceeded(_refusal(design, board, problems))
    notes = [f"clock {design.clock_mhz} MHz is assumed, not closed"]
    if model.context and design.context < model.context:
        notes.append(f"context {design.context} of the model's {model.context}")
    if not board.uram:
        notes.append(f"{board.title} has no UltraRAM: every buffer is block RAM")
    return Fit(design, design.resources(), available(board), binding or "the settings", tuple(notes))


def _check_ports(board: Board, fixed: dict[str, int]) -> None:
    if board.port_bits != BEAT_BYTES * 8:
        raise ResourceExceeded(
            f"{board.title} has {board.port_bits}-bit memory ports and {board.bandwidth_gb_s} GB/s; the engine is built for "
            f"128-bit ports (Zynq UltraScale+). Choose one of those boards: meadowc boards"
        )
    if fixed.get("weight_ports", 1) + OTHER_PORTS > len(board.ports):
        raise ResourceExceeded(
            f"{fixed['weight_ports']} weight ports and {OTHER_PORTS} for the rest; {board.title} has {len(board.ports)}"
        )


def _ports(board: Board, head_dim: int) -> int:
    """The fewest weight ports that carry the DRAM's bandwidth (or all there are), dividing a head into whole rows."""
    port = BEAT_BYTES * board.clock_mhz * 1e6
    possible = [n for n in (1, 2, 4) if n + OTHER_PORTS <= len(board.ports) and head_dim % n == 0]
    return next((n for n in possible if n * port >= board.bandwidth_gb_s * 1e9), possible[-1])


def _grow(design: Design, board: Board, key: str, values: tuple[int, ...]) -> Design:
    for value in values:
        larger = replace(design, **{key: value})  # type: ignore[arg-type]
        if not over_budget(larger, board):
            return larger
    return design


def _shrink_context(design: Design, board: Board, graph: Graph, pinned: bool) -> tuple[Design, str]:
    """Halve the context until the on-chip rows of keys, values and scores fit, unless the user fixed it."""
    binding = ""
    while not pinned and design.context > design.block:
        problems = [
            p for p in over_budget(replace(design, token_lanes=max(4, design.token_lanes)), board) if p[0] == "BRAM36"
        ]
        if not problems and kv_bytes(design, graph) < board.dram_bytes // 2:
            break
        binding = "BRAM36" if problems else "DRAM"
        design = replace(design, context=padded(design.context // 2, 64))
    return design, binding


def kv_bytes(design: Design, graph: Graph) -> int:
    """DRAM of the KV cache: INT8 keys and values with an FP32 scale a token and head."""
    model = graph.model
    return 2 * model.layers * model.kv_heads * design.context * (padded(model.head_dim, BEAT_BYTES) + 4)


def _refusal(design: Design, board: Board, problems: list[tuple[str, int, int]]) -> str:
    knobs = {"BRAM36": "--set context=... or block=... lower", "DSP": "--set token_lanes=... or weight_ports=... lower",
             "LUT": "--set token_lanes=... lower", "FF": "--set token_lanes=... lower"}  # fmt: skip
    rows = [f"{kind} {used:,} of {allowed:,} allowed ({knobs[kind]})" for kind, used, allowed in problems]
    return f"the design does not fit {board.title} (estimated): " + "; ".join(rows) + f"\n  tried: {design}"
