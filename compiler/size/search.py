# SPDX-License-Identifier: Apache-2.0
"""search: the sizes of the engine that serve a model soonest on a board, by the cost model, within its resources.

Analytic: one layer is lowered for every shape and priced; weights are stood in for by sizes, from their entropy in a sample.
Decides nothing that the user has fixed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.boards import Board
from meadow.compiler.graph.graph import Graph, Node
from meadow.compiler.price.run import ANSWER, PROMPT, Prices, Programs, Workload, rates
from meadow.compiler.program.lower import lower
from meadow.compiler.program.pack import Packed, PackedGroups, Stored, entropy_bits, pack
from meadow.compiler.program.parts import weight_parts
from meadow.machine.design import BEAT_BYTES, Design
from meadow.machine.storage.coded import Coded, Format
from meadow.machine.storage.groups import GroupLayout
from meadow.machine.storage.packets import SCHEMES as PUBLISHED
from meadow.machine.storage.packets import Packets
from meadow.machine.storage.prefix import Prefix
from meadow.machine.storage.raw import Raw
from meadow.machine.storage.rows import Layout

OBJECTIVES = ("balanced", "prefill", "decode")
CHOICES = {
    "weight_ports": (1, 2, 4),
    "token_lanes": (1, 2, 4, 6, 8, 10, 12, 16, 24, 32),
    "block": (16, 32, 64, 128),
    "float_lanes": (4, 8, 16),
    "tile_rows": (64, 128, 256),
    "prefix_codes": (0, 1),
    "pacq_ports": (1, 2, 4),
    "pacq_tokens": (1, 2, 4),
}
SHAPE = ("weight_ports", "pacq_ports", "tile_rows", "prefix_codes", "block")
"""What the programs hang on."""
LANES = ("token_lanes", "float_lanes", "pacq_tokens")
KEYS = ("weight_ports", "tile_rows", "prefix_codes", "block", "token_lanes", "float_lanes", "pacq_ports", "pacq_tokens")
"""SHAPE and LANES in the order in which they are told of."""
NEAR = 1.005
"""Times this close count as equal; the smaller design is then taken."""
SAMPLE = 1 << 17
"""Weights of a matrix from which its entropy is estimated."""
CODE_LOSS = 1.007
"""What prefix codes of CODE_BITS lose against the entropy before tiles are cut (docs/decisions/0010)."""


def workload(design: Design) -> tuple[int, int]:
    """(prompt, answer) in tokens: as much of the request as the context holds."""
    return min(PROMPT, design.context), min(ANSWER, design.context)


@dataclass(frozen=True)
class Candidate:
    """A design within the budget, with its modelled rates (tokens a second) and the largest share of a resource it takes."""

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
        pacq = f" pacq tokens {d.pacq_tokens}," if d.pacq_ports else ""
        return (
            f"ports {d.weight_ports or d.pacq_ports}, lanes {d.token_lanes:>2},{pacq} floats {d.float_lanes:>2}, block {d.block:>3}, tiles of {d.tile_rows:>3}, "
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
    packing  the scheme of pack.SCHEMES that designs without prefix codes use
    Returns None when nothing fits.
    """
    bits = (
        sampled_bits(graph, packing if packing in PUBLISHED else "prefix", base.lookup_entries)
        if base.weight_ports
        else {}
    )
    reduced, repeats = _kinds_of_layers(graph)
    prices = Prices(board.bandwidth_gb_s)
    found: list[Candidate] = []
    excluded: dict[tuple[int, ...], str] = {}
    needless = set() if base.weight_ports else {"weight_ports", "prefix_codes"}
    needless |= set() if base.pacq_ports else {"pacq_tokens", "pacq_ports"}
    options = {k: (getattr(base, k),) if k in fixed | needless else values for k, values in CHOICES.items()}
    options["pacq_ports"] = tuple(n for n in options["pacq_ports"] if n <= base.pacq_ports)
    if "block" not in fixed and base.context < min(options["block"]):
        options["block"] = (base.context,)
    for sizes in product(*(options[k] for k in SHAPE)):
        shape = replace(base, **dict(zip(SHAPE, sizes, strict=True)))
        if (shape.weight_ports and graph.model.head_dim % shape.weight_ports) or shape.block > base.context:
            continue
        programs: list[Programs] | None = None
        for lanes in product(*(options[k] for k in LANES)):
            design = replace(shape, **dict(zip(LANES, lanes, strict=True)))
            too_many = design.token_lanes > design.block and "token_lanes" not in fixed
            if too_many or (design.pacq_ports and design.block > 64 * design.pacq_tokens):
                continue
            used = shares(design)
            worst = max(used, key=lambda k: used[k])
            if used[worst] > 1:
                excluded[_key(design)] = worst
                continue
            if programs is None:
                programs = _programs(reduced, shape, bits, board, dataflow)
            prefill, decode = _best_rates(programs, design, prices, Workload.of(design), repeats)
            found.append(Candidate(design, prefill, decode, used[worst], worst, _packing_of(design, packing)))
    if not found:
        return None
    front = _front(found)
    fastest = min(c.seconds(objective) for c in front)
    near = [c for c in front if c.seconds(objective) <= NEAR * fastest]
    best = min(near, key=lambda c: (c.share, c.seconds(objective)))
    return Found(best, front, _why(best, found, excluded, objective))


def price(
    graph: Graph, board: Board, design: Design, prompt: int = PROMPT, dataflow: str = "auto"
) -> tuple[float, float]:
    """(prefill, decode) of `design` in tokens a second: a prompt of `prompt` tokens, and the token after it."""
    reduced, repeats = _kinds_of_layers(graph)
    programs = _programs(reduced, design, sampled_bits(graph, "prefix"), board, dataflow)
    work = Workload.of(design, prompt, prompt)
    return _best_rates(programs, design, Prices(board.bandwidth_gb_s), work, repeats)


def _key(design: Design) -> tuple[int, ...]:
    """The numbers of a design that were searched."""
    return tuple(getattr(design, k) for k in KEYS)


def _packing_of(design: Design, packing: str) -> str:
    """What the weights of a design are stored as."""
    if design.prefix_codes:
        return "prefix"
    if packing in PUBLISHED:
        return packing
    return "raw" if design.weight_ports else "grouped"


def _front(found: list[Candidate]) -> tuple[Candidate, ...]:
    """Those that no other beats in all of prefill, decode and share; by falling decode rate."""
    ordered = sorted(found, key=lambda c: (-c.decode, -c.prefill, c.share))
    kept: list[Candidate] = []
    for c in ordered:
        if not any(k.decode >= c.decode and k.prefill >= c.prefill and k.share <= c.share for k in kept):
            kept.append(c)
    return tuple(kept)


def _why(best: Candidate, found: list[Candidate], excluded: dict[tuple[int, ...], str], objective: str) -> str:
    """For each number of the winner: what the next larger would have brought, or which resource forbade it."""
    d = best.design
    here = _key(d)
    by_key = {_key(c.design): c for c in found}
    words = []
    for index, key in enumerate(KEYS):
        larger = [v for v in CHOICES[key] if v > here[index] and (here[index] or key == "prefix_codes")]
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


def sampled_bits(graph: Graph, scheme: str, lookup_entries: int = 0) -> dict[str, float]:
    """Bits a weight of each matrix, estimated from a sample of its rows: prefix codes from the entropy, without what tiles
    waste; a published scheme by packing the sample, without its table."""
    found = {}
    for name, weight in graph.weights.items():
        step = max(1, min(weight.codes.size // SAMPLE, weight.rows))
        rows = np.ascontiguousarray(weight.codes[::step]).astype(np.int8, copy=False)
        if scheme == "prefix":
            found[name] = entropy_bits(rows) * CODE_LOSS
        else:
            packed = pack(rows, Layout(rows.shape[0], rows.shape[1], 1, 64), scheme, False, lookup_entries)
            found[name] = 8 * packed.streams[0].nbytes / rows.size
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
        named = {f: "" for f in (*node.op.names, *node.op.vectors) if getattr(node.op, f) is not None}
        weight = str(graph.weight_of(node)) if node.weight is not None else ""
        shown.append((replace(node.op, **named), weight, [places.get(i) for i in node.inputs]))
    return repr(shown)


def _programs(graph: Graph, design: Design, bits: dict[str, float], board: Board, dataflow: str) -> list[Programs]:
    """The programs of each dataflow that is possible."""
    mean = float(np.mean(list(bits.values()))) if bits else 8.0
    form: Format = Prefix() if design.prefix_codes else Packets(2, 1) if design.lookup_entries else Raw()
    packed = {
        part.name: stand_in(part.layout, bits.get(name, mean), form, design.lookup_entries)
        for name, parts in weight_parts(graph, design).items()
        for part in parts
    }
    modes = ("tphs", "gemm") if dataflow == "auto" else (dataflow,)
    return [lower(graph, design, packed, mode, board.bandwidth_gb_s).programs for mode in modes]


def stand_in(layout: Layout | GroupLayout, bits: float, form: Format, lookup_entries: int = 0) -> Stored:
    """A matrix of which only the size is known: its arrays have lengths and no memory."""
    if isinstance(layout, GroupLayout):
        return PackedGroups(layout, (_zeros(layout.port_beats * BEAT_BYTES, np.uint8),) * layout.ports, bits)
    entries = 256 if isinstance(form, Prefix) else lookup_entries
    size = form.expected_bytes(layout, bits, entries)
    if size is None:
        return stand_in(layout, bits, Raw())
    streams = (_zeros(size, np.uint8),) * layout.ports
    directory = np.broadcast_to(np.uint32(0), (layout.tiles, layout.ports) if form.packed else (0, 0))
    return Packed(layout, form, Coded(streams, directory, _zeros(form.table_bytes(entries), np.uint8), entries), bits)


def _zeros(count: int, kind: type) -> NDArray[Any]:
    return np.broadcast_to(kind(0), (count,))


def _best_rates(
    programs: list[Programs], design: Design, prices: Prices, work: Workload, repeats: dict[int, int]
) -> tuple[float, float]:
    """(prefill, decode) in tokens per second, each by its faster dataflow."""
    found = [rates(p, design, prices, work, repeats) for p in programs]
    return max(prefill for prefill, _ in found), max(decode for _, decode in found)
