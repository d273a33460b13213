# SPDX-License-Identifier: Apache-2.0
"""fit: how large the hardware is, from the board's resources and the model's shapes.

Decides sizes only; lower.py decides the order of the work.  Resource figures are estimates.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from functools import partial

from meadow.boards import Board, clock_problems
from meadow.compiler.engines.engine import OTHER_PORTS, Needs, Planner, planners
from meadow.compiler.graph.graph import Graph, Model
from meadow.compiler.graph.ops import Activation, Attention, Linear
from meadow.compiler.program.nodes.activation import FUNCTIONS
from meadow.compiler.size.memory import memory_of
from meadow.compiler.size.search import OBJECTIVES, Candidate, search, smallest
from meadow.machine.design import DEFAULT_TILE_ROWS, SETTABLE, Design
from meadow.machine.engines.array import Array
from meadow.machine.engines.columns import Columns
from meadow.machine.engines.engine import Engine
from meadow.machine.engines.table import engine_for
from meadow.machine.errors import ResourceExceeded, UsageError
from meadow.machine.instructions.options import EVERYWHERE
from meadow.machine.storage.rows import padded
from meadow.machine.types import Weight
from meadow.machine.units import BEAT_BYTES, LANE_COLS

BUDGET = {"LUT": 0.70, "FF": 0.50, "DSP": 0.80, "BRAM36": 0.80, "URAM": 0.80}
"""Shares of each resource that a design may fill and still be expected to close timing (FINN, src/finn/util/platforms)."""
MEMORY = ("BRAM36", "URAM")
LEAST_LANES, LEAST_BLOCK = 2, 32
"""Token lanes and tokens of a block that a context must leave room for, where the user does not say."""
DEFAULT_CONTEXT = 2048
"""When neither the model nor the user says."""
MOST_TOKENS = max(Columns.choices["column_tokens"])
"""Of a block that column_gemm takes."""
UNITS = ("score_cap", "all_activations")
"""Numbers of a design that say whether it has a unit that some models need."""
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

    def beside(self, columns: Fit, array: Fit) -> Fit:
        """The same with a word on the other engine for INT8 weights."""
        other, engine, what = (
            (array, "the INT8 array", "--set column_ports=0")
            if self is columns
            else (columns, "column_gemm", "--set column_ports=N")
        )
        chosen = other.chosen
        note = (
            f"{engine} instead ({what}) would do {chosen.prefill:.0f} tokens/s of prefill and {chosen.decode:.1f} of decode (modelled, "
            f"weights {chosen.packing})"
        )
        return replace(self, notes=(*self.notes, note))

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
    """What the board has."""
    return {"LUT": board.lut, "FF": board.ff, "DSP": board.dsp, "BRAM36": board.bram36, "URAM": board.uram}


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
    _check_width(board)
    matrices = [graph.weight_of(n) for n in graph.nodes if isinstance(n.op, Linear)]
    if "column_ports" not in fixed and set(Columns.numbers) & set(fixed):  # whoever names its numbers wants it
        fixed["column_ports"] = most_column_ports(board)
    ports = 0 if named or packing != "auto" else column_ports(matrices, graph.model.head_dim, board, fixed)
    made = partial(
        _fitted, graph, board, named=named, packing=packing, optimize=optimize, dataflow=dataflow, matrices=matrices
    )
    if not ports:
        return made(fixed)
    try:
        columns = made({**fixed, "column_ports": ports})
    except (ResourceExceeded, UsageError):  # what the array cannot do either, it says
        return made(fixed)
    try:
        array = made(fixed)
    except ResourceExceeded:
        return columns
    return min((columns, array), key=lambda found: found.chosen.seconds(optimize)).beside(columns, array)


def column_ports(matrices: list[Weight], head_dim: int, board: Board, fixed: Mapping[str, int]) -> int:
    """The ports with which column_gemm may take the array's place: 0 where the user asks for either, and where a matrix or a head is
    not for it."""
    asked = {*Array.numbers, *Columns.numbers} & set(fixed)
    if (
        asked
        or fixed.get("tile_rows", BEAT_BYTES) % BEAT_BYTES
        or head_dim % BEAT_BYTES
        or fixed.get("block", 0) > MOST_TOKENS
        or not all(Columns.multiplies(w.elem) for w in matrices)
    ):
        return 0
    return most_column_ports(board)


def most_column_ports(board: Board) -> int:
    """The ports that a board has for weights: 0 where it has but one."""
    return max((n for n in (2, 4) if n + OTHER_PORTS <= len(board.ports)), default=0)


def _fitted(
    graph: Graph,
    board: Board,
    fixed: dict[str, int],
    named: str,
    packing: str,
    optimize: str,
    dataflow: str,
    matrices: list[Weight],
) -> Fit:
    """The same with an engine for each kind of matrix that `fixed` decides."""
    used = _planners(matrices, fixed, packing)
    wanted = _units(graph)
    for name, what in wanted.items():
        if not fixed.get(name, 1):
            raise UsageError(f"--set {name}=0: the model has {what}, which takes that unit; drop it")
    fixed = {**{name: int(name in wanted) for name in UNITS}, **fixed}
    base = _base(graph.model, board, fixed, packing, matrices, used)
    base, limited = _shrink_context(base, board, graph, fixed)
    for planner in used:
        for name, values in planner.growth(base.engine(planner.kind)).items():
            base = base if name in fixed else _grow(base, board, name, values)
    keep = set(fixed).union(*(planner.pinned(packing) for planner in used))
    limits = available(board)

    def shares(design: Design) -> dict[str, float]:
        if design.stream_ports + OTHER_PORTS > len(board.ports):
            return {"ports": 2.0}
        return {k: n / (limits[k] * BUDGET[k]) if limits[k] else 2.0 for k, n in design.resources().items()}

    found = search(graph, board, base, keep, optimize, shares, dataflow, packing)
    if found is None:
        least = smallest(base, keep)
        raise ResourceExceeded(_refusal(least, board, over_budget(least, board)))
    design = found.best.design
    notes = _notes(design, graph.model, board, limited)
    if named:
        notes.append(f"{named} gives clock, ports and lanes; the rest is searched, and weights are packed by {packing}")
    for planner, mine in used.items():
        notes += planner.notes(design.engine(planner.kind), mine, packing)
    return Fit(design, design.resources(), limits, optimize, found.why, found.front, tuple(notes))


def _units(graph: Graph) -> dict[str, str]:
    """Of UNITS, those that the model needs, and what for."""
    found = {}
    for node in graph.nodes:
        if isinstance(node.op, Attention) and node.op.softcap:
            found["score_cap"] = "capped scores"
        if isinstance(node.op, Activation) and FUNCTIONS.get(node.op.kind) not in (None, *EVERYWHERE):
            found["all_activations"] = f"the activation {node.op.kind}"
    return found


def _planners(matrices: list[Weight], fixed: dict[str, int], packing: str) -> dict[Planner[Engine], list[Weight]]:
    """The planners of the engines that the matrices need, with the matrices of each.

    Raises UsageError for settings of an engine that none needs.
    """
    used: dict[Planner[Engine], list[Weight]] = {}
    for planner in planners().values():
        mine = [w for w in matrices if planner.kind.multiplies(w.elem) and planner.kind in _kinds(w, fixed)]
        if mine:
            used[planner] = mine
        else:
            planner.refuse(fixed, packing)
    return used


def _kinds(weight: Weight, fixed: Mapping[str, int]) -> set[type[Engine] | None]:
    """The engine that takes a matrix: one that takes another's place where the user gives it ports."""
    asked: set[type[Engine] | None] = {
        k for k in planners() if k.instead and fixed.get(k.ports_name()) and k.multiplies(weight.elem)
    }
    return asked or {engine_for(weight.elem)}


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
    model: Model,
    board: Board,
    fixed: dict[str, int],
    packing: str,
    matrices: list[Weight],
    used: dict[Planner[Engine], list[Weight]],
) -> Design:
    """The design that the search starts from.  Raises UsageError for numbers that make no design."""
    context = fixed.get("context", model.context or DEFAULT_CONTEXT)
    needs = Needs(board, fixed, packing, model.head_dim, len(used) > 1, available(board)["BRAM36"])
    made = {planner: planner.start(mine, needs) for planner, mine in used.items()}
    for planner, engine in made.items():
        if not engine.ports:
            kind = planner.kind
            raise UsageError(
                f"--set {kind.ports_name()}=0: the model has {kind.weights}, which {kind.name} takes; drop it"
            )
    most = min(planner.largest_block(engine) for planner, engine in made.items())
    base = Design(
        board=board.name,
        part=board.part,
        clock_mhz=fixed.get("clock_mhz", board.clock_mhz),
        token_lanes=fixed.get("token_lanes", 1),
        float_lanes=fixed.get("float_lanes", 4),
        tile_rows=fixed.get("tile_rows", DEFAULT_TILE_ROWS),
        block=fixed.get("block", min(most, max(1, context))),
        context=context,
        max_cols=padded(max(w.cols for w in matrices), LANE_COLS),
        max_head_dim=padded(model.head_dim, BEAT_BYTES),
        engines=tuple(made.values()),
        **{name: fixed[name] for name in UNITS},
        uram=fixed.get("uram", int(board.uram > 0)),
    )
    try:
        base.check()
    except ValueError as error:
        raise UsageError(f"--set: {error}") from None
    others = [
        (e.clock(base), next(n for n, field in e.numbers.items() if field == "clock_mhz"))
        for e in base.engines
        if e.own_clock
    ]
    if problems := clock_problems(base.clock_mhz, *(others[0] if others else ())):
        raise UsageError(f"--set: {'; '.join(problems)}")
    for planner, engine in made.items():
        if not planner.possible(engine, base.block, model.head_dim):
            raise UsageError(
                f"heads of {model.head_dim} do not divide over {engine.ports} ports for {planner.kind.weights}"
            )
    return base


def _notes(design: Design, model: Model, board: Board, limited: str) -> list[str]:
    """What the user should know of the design."""
    others = [f", and of {e.clock(design)} MHz for {e.name}," for e in design.engines if e.own_clock]
    notes = [f"clock {design.clock_mhz} MHz is assumed, not closed"]
    if others:
        notes = [f"clocks of {design.clock_mhz} MHz{''.join(others)} are assumed, not closed"]
    if model.context and design.context < model.context:
        notes.append(
            f"context {design.context} of the model's {model.context}"
            + (f", because {limited} is short" if limited else "")
        )
    if model.context and design.context > model.context:
        notes.append(f"context {design.context} passes the {model.context} tokens that the model was made for")
    if not board.uram:
        notes.append(f"{board.title} has no UltraRAM: every buffer is block RAM")
    else:
        notes.append(
            f"keys and values lie in UltraRAM, of which {board.title} has {board.uram} blocks beside {board.bram36} BRAM36"
            if design.uram
            else f"the {board.uram} UltraRAM blocks of {board.title} are not used"
        )
    return notes


def _check_width(board: Board) -> None:
    if board.port_bits != BEAT_BYTES * 8:
        raise ResourceExceeded(
            f"{board.title} has {board.port_bits}-bit memory ports and {board.bandwidth_gb_s} GB/s; the engine is built for "
            f"128-bit ports (Zynq UltraScale+). Choose one of those boards: meadowc boards"
        )


def _grow(design: Design, board: Board, key: str, values: tuple[int, ...]) -> Design:
    for value in values:
        larger = design.changed({key: value})
        if not over_budget(larger, board):
            return larger
    return design


def _shrink_context(design: Design, board: Board, graph: Graph, fixed: Container[str]) -> tuple[Design, str]:
    """Halve the context until the on-chip rows of keys, values and scores fit, unless the user fixed it."""
    binding, least = "", design.block if "block" in fixed else LEAST_BLOCK
    while "context" not in fixed:
        small = replace(design, token_lanes=max(LEAST_LANES, design.token_lanes), block=min(design.block, least))
        problems = [p for p in over_budget(small, board) if p[0] in MEMORY]
        if not problems and design.context * memory_of(graph).per_token < board.dram_bytes // 2:
            break
        binding = problems[0][0] if problems else "DRAM"
        shorter = padded(design.context // 2, 64)
        if shorter >= design.context or shorter < design.block:
            break
        design = replace(design, context=shorter)
    return design, binding


KNOBS = {
    "BRAM36": ("context", "block"),
    "URAM": ("context", "uram"),
    "DSP": ("token_lanes", "weight_ports", "column_tokens"),
}
"""What takes each resource; token_lanes of the others."""
LEAST = {"context": 64, "block": 16, "uram": 0, "token_lanes": 1, "weight_ports": 1, "column_tokens": 1}


def _refusal(design: Design, board: Board, problems: list[tuple[str, int, int]]) -> str:
    """Why not even the smallest design fits, and what the user can lower."""
    rows = []
    for kind, used, allowed in problems:
        has = {name for e in design.engines for name in e.numbers} | set(vars(design))
        knobs = [
            name for name in KNOBS.get(kind, ("token_lanes",)) if name in has and design.number(name) > LEAST[name]
        ]
        advice = " or ".join(f"{name}=..." for name in knobs)
        rows.append(
            f"{kind} {used:,} of {allowed:,} allowed ({f'--set {advice} lower' if knobs else 'a larger board is needed'})"
        )
    return (
        f"the design does not fit {board.title} (estimated): {'; '.join(rows)}\n  the smallest that was tried: {design}"
    )
