# SPDX-License-Identifier: Apache-2.0
"""fit: how large the hardware is, from the board's resources and the model's shapes.

Decides sizes only; in which order the work is done is lower.py's business.  Resource figures are estimates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from meadow.boards import Board
from meadow.compiler.graph.graph import Graph, Model
from meadow.compiler.graph.ops import Linear
from meadow.compiler.program.pack import group_format
from meadow.compiler.size.search import OBJECTIVES, Candidate, search
from meadow.machine.design import BEAT_BYTES, DEFAULT_TILE_ROWS, LANE_COLS, SETTABLE, Design, bram36
from meadow.machine.errors import ResourceExceeded, UnsupportedModel, UsageError
from meadow.machine.storage.groups import GroupLayout
from meadow.machine.storage.packets import SCHEMES as PUBLISHED
from meadow.machine.storage.rows import padded
from meadow.machine.types import Weight

BUDGET = {"LUT": 0.70, "FF": 0.50, "DSP": 0.80, "BRAM36": 0.80}
"""Shares of each resource that a design may fill and still be expected to close timing (FINN, src/finn/util/platforms)."""
URAM_IN_BRAM36 = 8
"""An UltraRAM block (288 Kb) holds what eight BRAM36 (36 Kb) do (UG573)."""
OTHER_PORTS = 2
"""Beside the weight ports: one for constants (read only), one for activations and the KV cache."""
PACQ_FIFO = (4096, 2048, 1024, 512)
"""Beats that a port of pacq_gemv may read ahead: 64 KiB each is what streams while a layer attends (docs/decisions/0014)."""
FIFO_SHARE = 0.12
"""Of the board's BRAM that these FIFOs take at most."""
DEFAULT_CONTEXT = 2048
"""When neither the model nor the user says."""
DESIGNS = {"meadow-paper": {"clock_mhz": 100, "weight_ports": 1, "token_lanes": 12}}
"""Published configurations.  MEADOW: 100 MHz, 12 broadcasting and 84 parallel PEs, that is 12 tokens at once with 7
parallel PEs each, and one 128-bit port (12.8 Gb/s); docs/decisions/0007-meadow-paper-design.md."""


@dataclass(frozen=True)
class Fit:
    """A design, the share of each resource it is estimated to use, the front it was chosen from, and why."""

    design: Design
    used: dict[str, int]
    available: dict[str, int]
    optimize: str
    why: str
    front: tuple[Candidate, ...]
    notes: tuple[str, ...]

    @property
    def chosen(self) -> Candidate:
        """The design as it was priced, from a sample of its weights."""
        return next(c for c in self.front if c.design == self.design)

    def reason(self, priced: Candidate) -> str:
        """Why the design was chosen, with the time of its request as `priced`."""
        return self.why.format(seconds=priced.seconds(self.optimize))

    def __str__(self) -> str:
        lines = [str(self.design)]
        for kind, used in self.used.items():
            total = self.available[kind]
            lines.append(
                f"  {kind:7s}{used:>8,} of {total:>8,}  {used / total:5.0%}  (estimated; budget {BUDGET[kind]:.0%})"
            )
        lines.append(f"  chosen for {self.optimize}: {self.reason(self.chosen)}")
        lines.append("  Pareto front (modelled; share of the tightest budget):")
        lines += [f"  {'*' if c.design == self.design else ' '} {c}" for c in self.front]
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
    graph: Graph,
    board: Board,
    settings: dict[str, int] | None = None,
    named: str = "",
    packing: str = "auto",
    optimize: str = "balanced",
    dataflow: str = "auto",
) -> Fit:
    """The design that serves `graph` soonest on `board` within BUDGET, by the cost model.

    settings  numbers of SETTABLE that the user fixed
    named     a published configuration of DESIGNS to start from
    packing   the scheme of pack.SCHEMES that the engine must unpack; a unit that it does not need is not built
    optimize  what is to be soon, of search.OBJECTIVES
    Raises ResourceExceeded when nothing fits (with the knob to turn), UsageError for settings that are not known.
    """
    fixed = _settings(settings or {}, named, optimize)
    _check_ports(board, fixed)
    _check_packing(packing, fixed)
    matrices = [graph.weight_of(n) for n in graph.nodes if isinstance(n.op, Linear)]
    grouped = [w for w in matrices if w.elem.group]
    array = len(grouped) < len(matrices)
    base = _base(graph.model, board, fixed, packing, matrices, grouped)
    _check_base(base, graph.model, fixed, packing, array)
    base, limited = _shrink_context(base, board, graph, "context" in fixed)
    if base.lookup_entries and "lookup_entries" not in fixed:
        base = _grow(base, board, "lookup_entries", (16384, 8192, 4096, 2048))
    keep = set(fixed) | ({"prefix_codes"} if packing != "auto" else set())
    limits = available(board)

    def shares(design: Design) -> dict[str, float]:
        if design.weight_ports + design.pacq_ports + OTHER_PORTS > len(board.ports):
            return {"ports": 2.0}
        return {k: n / (limits[k] * BUDGET[k]) for k, n in design.resources().items()}

    found = search(graph, board, base, keep, optimize, shares, dataflow, packing)
    if found is None:
        raise ResourceExceeded(_refusal(base, board, over_budget(base, board)))
    design = found.best.design
    notes = _notes(design, graph.model, board, limited, grouped)
    if named:
        notes.append(f"{named} gives clock, ports and lanes; the rest is searched, and weights are packed by {packing}")
    if array and packing == "auto" and not design.prefix_codes:
        notes.append("weights are stored raw: the decoder of prefix codes does not fit, or does not pay")
    return Fit(design, design.resources(), limits, optimize, found.why, found.front, tuple(notes))


def _settings(settings: dict[str, int], named: str, optimize: str) -> dict[str, int]:
    """The numbers that the user fixed.  Raises UsageError for what is not known."""
    if named and named not in DESIGNS:
        raise UsageError(f"design {named!r} is not known; known are {', '.join(DESIGNS)}")
    if optimize not in OBJECTIVES:
        raise UsageError(f"--optimize {optimize!r} is not known; known are {', '.join(OBJECTIVES)}")
    fixed = {**DESIGNS.get(named, {}), **settings}
    unknown = [key for key in fixed if key not in SETTABLE]
    if unknown:
        raise UsageError(f"--set {', '.join(unknown)}: not known; settable are {', '.join(SETTABLE)}")
    return fixed


def _base(
    model: Model, board: Board, fixed: dict[str, int], packing: str, matrices: list[Weight], grouped: list[Weight]
) -> Design:
    """The design that the search starts from.  Raises UsageError for numbers that make no design."""
    array = len(grouped) < len(matrices)
    context = fixed.get("context", model.context or DEFAULT_CONTEXT)
    ports = fixed.get("weight_ports", _most_ports(board, model.head_dim) // (2 if grouped else 1)) if array else 0
    base = Design(
        board=board.name,
        part=board.part,
        clock_mhz=fixed.get("clock_mhz", board.clock_mhz),
        weight_ports=ports,
        token_lanes=fixed.get("token_lanes", 1),
        float_lanes=fixed.get("float_lanes", 4),
        tile_rows=fixed.get("tile_rows", DEFAULT_TILE_ROWS),
        block=fixed.get("block", min(64, max(1, context))),
        context=context,
        max_cols=padded(max(w.cols for w in matrices), LANE_COLS),
        max_head_dim=padded(model.head_dim, BEAT_BYTES),
        prefix_codes=fixed.get("prefix_codes", int(array and packing in ("auto", "prefix"))),
        lookup_entries=fixed.get("lookup_entries", 1024 if array and packing in PUBLISHED else 0),
        **_pacq(grouped, board, fixed, array, model.head_dim),
    )
    try:
        base.check()
    except ValueError as error:
        raise UsageError(f"--set: {error}") from None
    return base


def _check_base(base: Design, model: Model, fixed: dict[str, int], packing: str, array: bool) -> None:
    """Raise UsageError for settings of the array where there is none, and for heads that its ports do not share."""
    if array and model.head_dim % base.weight_ports:
        raise UsageError(f"heads of {model.head_dim} do not divide over {base.weight_ports} weight ports")
    if not array and fixed.get("weight_ports"):
        raise UsageError(
            "--set weight_ports: every matrix is of grouped weights, which stream over pacq_ports; drop it"
        )
    if not array and packing != "auto":
        raise UsageError(
            f"--packing {packing}: every matrix is of grouped weights, which are streamed as they are; drop it"
        )


def _notes(design: Design, model: Model, board: Board, limited: str, grouped: list[Weight]) -> list[str]:
    """What the user should know of the design."""
    notes = [f"clock {design.clock_mhz} MHz is assumed, not closed"]
    if design.pacq_ports:
        notes = [
            f"clocks of {design.clock_mhz} MHz, and of {design.pacq_clock_mhz} MHz for pacq_gemv, are assumed, not closed"
        ]
        notes += _starved(design, grouped)
    if model.context and design.context < model.context:
        notes.append(
            f"context {design.context} of the model's {model.context}" + (f", for want of {limited}" if limited else "")
        )
    if model.context and design.context > model.context:
        notes.append(f"context {design.context} passes the {model.context} tokens that the model was made for")
    if not board.uram:
        notes.append(f"{board.title} has no UltraRAM: every buffer is block RAM")
    else:
        notes.append(
            f"{board.uram} UltraRAM blocks count as {URAM_IN_BRAM36 * board.uram} BRAM36 beside {board.bram36} of these"
        )
    return notes


def _pacq(grouped: list[Weight], board: Board, fixed: dict[str, int], array: bool, head_dim: int) -> dict[str, int]:
    """What pacq_gemv is built with, when there are grouped weights.

    Raises UsageError for settings without them, UnsupportedModel where heads are no whole tiles.
    """
    asked = [key for key in fixed if key.startswith("pacq_")]
    if not grouped:
        if asked:
            raise UsageError(
                f"--set {', '.join(asked)}: the model has no grouped weights, so there is no pacq_gemv; drop it"
            )
        return {}
    lanes = fixed.get("pacq_lanes", 8 if any(w.elem.bits == 2 for w in grouped) else 4)
    most = 2 if array else 4
    rows = max(group_format(w).lanes for w in grouped)
    possible = [
        n for n in (1, 2, 4) if n <= most and n + OTHER_PORTS <= len(board.ports) and head_dim % (n * rows) == 0
    ]
    if not possible:
        raise UnsupportedModel(
            f"heads of {head_dim} are no whole tiles of {rows} rows of grouped weights; use more bits"
        )
    ports = fixed.get("pacq_ports", max(possible))
    affordable = [n for n in PACQ_FIFO if ports * bram36(n * 8 * BEAT_BYTES) <= FIFO_SHARE * available(board)["BRAM36"]]
    return {
        "pacq_ports": ports,
        "pacq_lanes": lanes,
        "pacq_tokens": fixed.get("pacq_tokens", 1),
        "pacq_fifo": fixed.get("pacq_fifo", max(affordable, default=min(PACQ_FIFO))),
        "pacq_clock_mhz": fixed.get("pacq_clock_mhz", board.pacq_clock_mhz),
    }


def _starved(design: Design, grouped: list[Weight]) -> list[str]:
    """Where pacq_gemv multiplies slower than its ports bring weights, for one token."""
    slow = []
    for form in {group_format(w) for w in grouped}:
        layout = GroupLayout(1, form.group, 1, form)
        cycles = layout.windows * form.window_cycles
        if cycles > layout.group_beats:
            slow.append(
                f"{form} take {cycles / layout.group_beats:.2f} cycles a beat: the ports wait for the multipliers"
            )
    return sorted(slow)


def _check_packing(packing: str, fixed: dict[str, int]) -> None:
    """Raise UsageError where --packing asks for a unit that --set leaves out, or the other way round."""
    prefix, chunks = fixed.get("prefix_codes"), fixed.get("lookup_entries")
    if packing == "prefix" and prefix == 0:
        raise UsageError("--packing prefix needs the decoder that --set prefix_codes=0 leaves out; drop one of them")
    if packing in ("raw", *PUBLISHED) and prefix == 1:
        raise UsageError(
            f"--packing {packing} has no use for the decoder that --set prefix_codes=1 builds; drop one of them"
        )
    if packing in PUBLISHED and chunks == 0:
        raise UsageError(
            f"--packing {packing} needs the tables that --set lookup_entries=0 leaves out; drop one of them"
        )
    if packing in ("raw", "prefix") and chunks:
        raise UsageError(f"--packing {packing} has no use for --set lookup_entries={chunks}; drop one of them")


def _check_ports(board: Board, fixed: dict[str, int]) -> None:
    if board.port_bits != BEAT_BYTES * 8:
        raise ResourceExceeded(
            f"{board.title} has {board.port_bits}-bit memory ports and {board.bandwidth_gb_s} GB/s; the engine is built for "
            f"128-bit ports (Zynq UltraScale+). Choose one of those boards: meadowc boards"
        )
    if fixed.get("weight_ports", 1) + OTHER_PORTS > len(board.ports):
        raise ResourceExceeded(
            f"{fixed['weight_ports']} weight ports and {OTHER_PORTS} for the rest; {board.title} has {len(board.ports)}: "
            f"--set weight_ports={max([n for n in (1, 2, 4) if n + OTHER_PORTS <= len(board.ports)], default=1)} at most"
        )


def _most_ports(board: Board, head_dim: int) -> int:
    """The most weight ports that the board has room for and that divide a head into whole rows."""
    return max(n for n in (1, 2, 4) if (n == 1 or n + OTHER_PORTS <= len(board.ports)) and head_dim % n == 0)


def _grow(design: Design, board: Board, key: str, values: tuple[int, ...]) -> Design:
    for value in values:
        larger = replace(design, **{key: value})  # type: ignore[arg-type]
        if not over_budget(larger, board):
            return larger
    return design


def _shrink_context(design: Design, board: Board, graph: Graph, pinned: bool) -> tuple[Design, str]:
    """Halve the context until the on-chip rows of keys, values and scores fit, unless the user fixed it."""
    binding = ""
    while not pinned:
        problems = [
            p for p in over_budget(replace(design, token_lanes=max(4, design.token_lanes)), board) if p[0] == "BRAM36"
        ]
        if not problems and kv_bytes(design, graph) < board.dram_bytes // 2:
            break
        binding = "BRAM36" if problems else "DRAM"
        shorter = padded(design.context // 2, 64)
        if shorter >= design.context or shorter < design.block:
            break
        design = replace(design, context=shorter)
    return design, binding


def kv_bytes(design: Design, graph: Graph) -> int:
    """DRAM of the KV cache: INT8 keys and values with an FP32 scale a token and head."""
    model = graph.model
    return 2 * model.layers * model.kv_heads * design.context * (padded(model.head_dim, BEAT_BYTES) + 4)


def _refusal(design: Design, board: Board, problems: list[tuple[str, int, int]]) -> str:
    knobs = {
        "BRAM36": "--set context=... or block=... lower",
        "DSP": "--set token_lanes=... or weight_ports=... lower",
        "LUT": "--set token_lanes=... lower",
        "FF": "--set token_lanes=... lower",
    }
    rows = [f"{kind} {used:,} of {allowed:,} allowed ({knobs[kind]})" for kind, used, allowed in problems]
    return f"the design does not fit {board.title} (estimated): " + "; ".join(rows) + f"\n  tried: {design}"
