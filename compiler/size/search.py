# SPDX-License-Identifier: Apache-2.0
"""search: the sizes of the engine that serve a model soonest on a board, by the cost model, within its resources.

Analytic: one layer is lowered for every shape and priced; weights are stood in for by sizes, from their entropy in a sample.
Decides nothing that the user has fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from meadow.boards import Board
from meadow.compiler.engines.engine import planner_for, planners
from meadow.compiler.engines.stored import Stored
from meadow.compiler.graph.graph import Graph, Node
from meadow.compiler.graph.ops import Threshold
from meadow.compiler.price.run import ANSWER, PROMPT, Prices, Programs, Workload, rates
from meadow.compiler.program.lower import lower
from meadow.compiler.program.parts import weight_parts
from meadow.machine.design import IDENTITY, Design

OBJECTIVES = ("balanced", "prefill", "decode")
CHOICES: dict[str, tuple[int, ...]] = {
    "token_lanes": (1, 2, 4, 6, 8, 10, 12, 16, 24, 32),
    "block": (16, 32, 64, 128),
    "float_lanes": (4, 8, 16),
    "tile_rows": (64, 128, 256),
}
"""Numbers of the design itself; those of its engines are their planners'."""
NEAR = 1.005
"""Times this close count as equal; the smaller design is then taken."""


@dataclass(frozen=True)
class Space:
    """What is searched: the values of each number.

    shape   numbers that change the generated programs, from the outermost loop to the innermost
    lanes   numbers that only change what the programs cost
    """

    options: dict[str, tuple[int, ...]]
    shape: tuple[str, ...]
    lanes: tuple[str, ...]

    @classmethod
    def around(cls, base: Design, fixed: set[str]) -> Space:
        """Of designs with the engines of `base`; what is in `fixed` stays as it is there."""
        options, ports, units, lanes = dict(CHOICES), [], [], []
        for engine in base.engines:
            planner = planners()[type(engine)]
            options |= planner.options(engine)
            options |= planner.sizes(engine)
            ports += [engine.ports_name()]
            units += [n for n in planner.shape if n != engine.ports_name()]
            lanes += [n for n in planner.search if n not in planner.shape]
        options |= {name: (base.number(name),) for name in fixed if name in options}
        if "block" not in fixed and base.context < min(options["block"]):
            options["block"] = (base.context,)
        shape = (*ports, "tile_rows", *units, "block")
        return cls(options, shape, ("token_lanes", "float_lanes", *lanes))

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, in the order in which reports name them."""
        return tuple(name for name in IDENTITY if name in self.options)

    def key(self, design: Design) -> tuple[int, ...]:
        """The numbers of a design that were searched."""
        return tuple(design.number(name) for name in self.names)

    def products(self, names: tuple[str, ...]) -> Iterator[dict[str, int]]:
        """Every combination of some of them."""
        for values in product(*(self.options[name] for name in names)):
            yield dict(zip(names, values, strict=True))


def workload(design: Design) -> tuple[int, int]:
    """(prompt, answer) in tokens: as much of the request as the context holds."""
    return min(PROMPT, design.context), min(ANSWER, design.context)


@dataclass(frozen=True)
class Candidate:
    """A design within the budget, with its modelled rates (tokens per second) and the largest share of a resource it takes."""

    design: Design
    prefill: float
    decode: float
    share: float
    resource: str
    packing: str = "raw"

    def seconds(self, objective: str) -> float:
        """Time of the request that `objective` stands for."""
        prompt, answer = (n / rate for n, rate in zip(workload(self.design), (self.prefill, self.decode), strict=True))
        return {"prefill": prompt, "decode": answer, "balanced": prompt + answer}[objective]

    def __str__(self) -> str:
        d = self.design
        ports, brief = "+".join(str(e.ports) for e in d.engines), "".join(e.brief() for e in d.engines)
        return (
            f"ports {ports}, lanes {d.token_lanes:>2},{brief} floats {d.float_lanes:>2}, block {d.block:>3}, tiles of {d.tile_rows:>3}, "
            f"{self.packing:9}: prefill {self.prefill:6.0f}, decode {self.decode:5.1f} tokens/s, {self.share:.0%} of the {self.resource} budget"
        )


@dataclass(frozen=True)
class Found:
    """The winner, the front it was chosen from (nothing beats one of it in prefill, decode and resources), and why."""

    best: Candidate
    front: tuple[Candidate, ...]
    why: str


def search(
    graph: Graph,
    board: Board,
    base: Design,
    fixed: set[str],
    objective: str,
    shares: Callable[[Design], dict[str, float]],
    dataflow: str = "auto",
    packing: str = "auto",
) -> Found | None:
    """The best design of CHOICES around `base`; what is in `fixed` stays as it is in `base`.

    shares   of each resource's budget that a design takes: one above 1 does not fit
    packing  the scheme of array.SCHEMES that designs without prefix codes use
    Returns None when nothing fits.
    """
    bits = sampled_bits(graph, base, packing)
    reduced, repeats = _kinds_of_layers(graph)
    prices = Prices(board.bandwidth_gb_s)
    space = Space.around(base, fixed)
    found: list[Candidate] = []
    chosen = fixed & {n for e in base.engines for n in planners()[type(e)].search if n != e.ports_name()}
    excluded: dict[tuple[int, ...], str] = {}
    for sizes in space.products(space.shape):
        shape = base.changed(sizes)
        if shape.block > base.context:
            continue
        programs: list[Programs] | None = None
        for lanes in space.products(space.lanes):
            design = shape.changed(lanes)
            too_many = design.token_lanes > design.block and "token_lanes" not in fixed
            if too_many or (not chosen and _wasteful(design)) or not _possible(design, graph.model.head_dim):
                continue
            used = shares(design)
            worst = max(used, key=lambda k: used[k])
            if used[worst] > 1:
                excluded[space.key(design)] = worst
                continue
            if programs is None:
                programs = _programs(reduced, shape, bits, board, dataflow, packing)
            prefill, decode = _best_rates(programs, design, prices, Workload.of(design), repeats)
            found.append(Candidate(design, prefill, decode, used[worst], worst, _packing_of(design, packing)))
    if not found:
        return None
    front = _front(found)
    fastest = min(c.seconds(objective) for c in front)
    near = [c for c in front if c.seconds(objective) <= NEAR * fastest]
    best = min(near, key=lambda c: (c.share, c.seconds(objective)))
    return Found(best, front, _why(space, best, found, excluded, objective))


def smallest(base: Design, fixed: set[str]) -> Design:
    """The design of the search's space that takes least: each number as low as it may be."""
    space = Space.around(base, fixed)
    return base.changed({name: min(values) for name, values in space.options.items()})


def price(
    graph: Graph, board: Board, design: Design, prompt: int = PROMPT, dataflow: str = "auto"
) -> tuple[float, float]:
    """(prefill, decode) of `design` in tokens per second: a prompt of `prompt` tokens, and the token after it."""
    reduced, repeats = _kinds_of_layers(graph)
    programs = _programs(reduced, design, sampled_bits(graph, design), board, dataflow)
    work = Workload.of(design, prompt, prompt)
    return _best_rates(programs, design, Prices(board.bandwidth_gb_s), work, repeats)


def _possible(design: Design, head_dim: int) -> bool:
    """Whether every engine takes the design's blocks and the model's heads."""
    return all(planners()[type(e)].possible(e, design.block, head_dim) for e in design.engines)


def _wasteful(design: Design) -> bool:
    """Whether an engine is larger than the design's blocks need."""
    return any(planners()[type(e)].wasteful(e, design.block) for e in design.engines)


def _packing_of(design: Design, packing: str) -> str:
    """What the weights of a design are stored as."""
    first = design.engines[0]
    return planners()[type(first)].stored_as(first, packing)


def _front(found: list[Candidate]) -> tuple[Candidate, ...]:
    """Those that no other beats in all of prefill, decode and share; by falling decode rate."""
    ordered = sorted(found, key=lambda c: (-c.decode, -c.prefill, c.share))
    kept: list[Candidate] = []
    for c in ordered:
        if not any(k.decode >= c.decode and k.prefill >= c.prefill and k.share <= c.share for k in kept):
            kept.append(c)
    return tuple(kept)


def _why(
    space: Space, best: Candidate, found: list[Candidate], excluded: dict[tuple[int, ...], str], objective: str
) -> str:
    """For each number of the winner: what the next larger would have brought, or which resource forbade it."""
    here = space.key(best.design)
    by_key = {space.key(c.design): c for c in found}
    words = []
    for index, key in enumerate(space.names):
        larger = [v for v in space.options[key] if v > here[index]]
        for value in larger[:1]:
            other = (*here[:index], value, *here[index + 1 :])
            name = "prefix codes" if key == "prefix_codes" else f"{key} {value}"
            if other in excluded:
                words.append(f"{name} would take more {excluded[other]} than its budget")
            elif other in by_key:
                gain = best.seconds(objective) / by_key[other].seconds(objective) - 1
                words.append(f"{name} would bring {gain:+.1%}")
    prompt, answer = workload(best.design)
    what = {
        "prefill": f"a prompt of {prompt}",
        "decode": f"an answer of {answer}",
        "balanced": f"a prompt of {prompt} and an answer of {answer}",
    }[objective]
    taken = f"{what} tokens takes {{seconds:.2f}} s (modelled), within {NEAR - 1:.1%} of the least of {len(found)} designs that fit"
    return taken + "".join(f"; {w}" for w in words)


def sampled_bits(graph: Graph, design: Design, packing: str = "auto") -> dict[str, float]:
    """Bits per weight of each matrix that an engine of the design takes, estimated from a sample of its rows."""
    found = {}
    for name, weight in graph.weights.items():
        planner = planner_for(weight.elem, design)
        if planner is not None:
            found[name] = planner.sampled_bits(weight, design.engine(planner.kind), packing)
    return found


def _kinds_of_layers(graph: Graph) -> tuple[Graph, dict[int, int]]:
    """The graph with one layer of each kind, and how many layers each stands for: layers of the same shapes are priced once."""
    kinds: dict[str, int] = {}
    repeats: dict[int, int] = {}
    kept: dict[str, str] = {}  # of a dropped layer: its last node, and the last kept one before it
    nodes: list[Node] = []
    for layer in range(graph.model.layers):
        some = graph.layer(layer)
        representative = kinds.setdefault(_shape_of_layer(graph, some), layer)
        repeats[representative] = repeats.get(representative, 0) + 1
    for node in graph.nodes:
        if node.layer is None or node.layer in repeats:
            nodes.append(replace(node, inputs=tuple(kept.get(i, i) for i in node.inputs)))
        elif node is graph.layer(node.layer)[-1]:
            kept[node.name] = nodes[-1].name
    return graph.replace(nodes=tuple(nodes)).used(), repeats


def _shape_of_layer(graph: Graph, nodes: tuple[Node, ...]) -> str:
    """What decides the cost of a layer: kinds, attributes, types and sizes, and what reads what."""
    places = {node.name: n for n, node in enumerate(nodes)}
    shown = []
    for node in nodes:
        named: dict[str, Any] = {f: "" for f in (*node.op.names, *node.op.vectors) if getattr(node.op, f) is not None}
        weight = str(graph.weight_of(node)) if node.weight is not None else ""
        if isinstance(node.op, Threshold):
            named["value"] = 1.0  # which costs as much whatever it is
        shown.append((replace(node.op, **named), weight, [places.get(i) for i in node.inputs]))
    return repr(shown)


def _programs(
    graph: Graph, design: Design, bits: dict[str, float], board: Board, dataflow: str, packing: str = "auto"
) -> list[Programs]:
    """The programs of each dataflow that is possible."""
    packed: dict[str, Stored] = {}
    for name, parts in weight_parts(graph, design).items():
        planner = planner_for(graph.weights[name].elem, design)
        assert planner is not None, name
        engine = design.engine(planner.kind)
        packed |= {part.name: planner.stand_in(part.layout, bits[name], engine, packing) for part in parts}
    modes = ("tphs", "gemm") if dataflow == "auto" else (dataflow,)
    return [lower(graph, design, packed, mode, board.bandwidth_gb_s).programs for mode in modes]


def _best_rates(
    programs: list[Programs], design: Design, prices: Prices, work: Workload, repeats: dict[int, int]
) -> tuple[float, float]:
    """(prefill, decode) in tokens per second, each by its faster dataflow."""
    found = [rates(p, design, prices, work, repeats) for p in programs]
    return max(prefill for prefill, _ in found), max(decode for _, decode in found)
