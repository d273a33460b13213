# SPDX-License-Identifier: Apache-2.0
"""quantize: a Graph becomes a Graph with INT8, INT4 or INT2 weights.

Rounds to nearest: INT8 symmetric with a scale per tensor or row, for the INT8 array; 8, 4 and 2 bits in groups, for pacq_gemv,
which computes with FP16 activations.  Activations are not touched: the wish for INT8 is metadata of the file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.graph import Graph
from meadow.compiler.graph.ops import Embedding, Linear
from meadow.compiler.quantize.calibrate import Statistics
from meadow.compiler.quantize.groups import round_to_groups, round_to_int8_groups
from meadow.compiler.quantize.nearest import round_to_nearest
from meadow.machine.errors import UsageError
from meadow.machine.storage.groups import GroupFormat
from meadow.machine.types import I8, Weight, grouped

Floats = NDArray[np.float32]
SMOOTHING = {"channel": 1.0, "tensor": 0.15}
"""Default strength by granularity.  With one scale per tensor, strong smoothing widens the range of the weights more than it
narrows the activations (measured on SmolLM2: docs/decisions/0005-smoothing.md)."""
HEAD_GROUP = 32


@dataclass(frozen=True)
class Recipe:
    """What becomes of each matrix.

    bits         of the linears
    granularity  "channel" or "tensor": one scale per row or per matrix; "group": in groups of `group` columns
    head         of groups of fewer than 8 bits: "int8" gives the head 8 bits in groups of HEAD_GROUP, "same" those of the linears
    """

    bits: int
    granularity: str
    group: int = 32
    head: str = "int8"

    @property
    def stored_bits(self) -> int:
        """Of a code in memory: 3 bits take 4."""
        return 4 if self.bits == 3 else self.bits

    @property
    def grouped(self) -> bool:
        return self.granularity == "group"

    def check(self) -> None:
        """Raise UsageError for what is not known."""
        if not self.grouped:
            if self.granularity not in SMOOTHING:
                raise UsageError(f"granularity {self.granularity!r} is not known; channel, tensor and group are")
            return
        try:
            GroupFormat(self.stored_bits, self.group, self.bits < 8, False)
        except ValueError as error:
            raise UsageError(f"--weights int{self.bits} --group {self.group}: {error}") from None
        if self.head not in ("int8", "same"):
            raise UsageError(f"head {self.head!r} is not known; int8 and same are")

    def __str__(self) -> str:
        return f"int{self.bits} in groups of {self.group}" if self.grouped else f"int8 per {self.granularity}"


@dataclass(frozen=True)
class MatrixReport:
    """One row of the coverage table: relative error is ||W - W8|| / ||W||."""

    name: str
    rows: int
    cols: int
    relative_error: float
    smallest_scale: float
    largest_scale: float


def round_graph(
    graph: Graph, recipe: Recipe, statistics: Statistics | None, progress: Callable[[str], None]
) -> tuple[Graph, list[MatrixReport]]:
    """`graph` with its matrices rounded, and what each lost.  Matrices that are grouped already and have no more bits stay."""
    readers: dict[str, str] = {n.weight or "": n.name for n in graph.nodes if isinstance(n.op, Linear)}
    wanted = _grouped_widths(graph, recipe) if recipe.grouped else dict.fromkeys(graph.weights, 8)
    places = {n.op.positions for n in graph.nodes if isinstance(n.op, Embedding)}  # the host's alone
    wanted = {name: bits for name, bits in wanted.items() if name not in places}
    apart = next((name for name in wanted if name not in graph.weights), "")
    quantized: dict[str, Weight] = {}
    rows = []
    for index, (name, bits) in enumerate(wanted.items()):
        weight = graph.weights[graph.nodes[-1].weight or "" if name == apart else name]
        w = weight.dequantize()
        if not recipe.grouped:
            power = statistics.power.get(readers.get(name, "")) if statistics else None
            codes, scale = round_to_nearest(w, recipe.granularity, power)
            quantized[name] = Weight(name, I8, codes, scale)
        elif weight.elem.group and weight.elem.bits <= bits:
            quantized[name] = replace(weight, name=name)
        else:
            quantized[name] = _in_groups(name, w, bits, recipe.group if recipe.bits == 8 or bits < 8 else HEAD_GROUP)
        rows.append(_matrix_report(quantized[name], w))
        progress(f"rounding {index + 1}/{len(wanted)}")
    nodes = graph.nodes
    if apart:  # a tied head that is given codes of its own
        nodes = (*nodes[:-1], replace(nodes[-1], op=replace(nodes[-1].op, weight=apart)))  # type: ignore[call-arg]
    made = {n: quantized.get(n) or graph.weights[n] for n in graph.weights} | (
        {apart: quantized[apart]} if apart else {}
    )
    return graph.replace(nodes=nodes, weights=made).used(), rows


def _grouped_widths(graph: Graph, recipe: Recipe) -> dict[str, int]:
    """Bits of every matrix; a tied head that shall have its own has a name that the graph does not."""
    embed, last = graph.nodes[0].weight or "", graph.nodes[-1].weight or ""
    wanted = {name: recipe.bits for name in graph.weights if name not in (embed, last)} | {embed: 8}
    if last != embed:
        wanted[last] = recipe.bits if recipe.head == "same" else 8
    elif recipe.head == "same":
        wanted["output.weight" if "output.weight" not in graph.weights else f"{embed}.head"] = recipe.bits
    return wanted


def _in_groups(name: str, w: Floats, bits: int, group: int) -> Weight:
    if bits == 8:
        codes, scale = round_to_int8_groups(w, group)
        return Weight(name, grouped(8, group), codes, scale)
    found, scale, minimum = round_to_groups(w, bits, group)
    return Weight(name, grouped(4 if bits == 3 else bits, group), found, scale, minimum)


def matrix_reports(graph: Graph, made: Graph, before: list[MatrixReport]) -> list[MatrixReport]:
    """The coverage table of matrices that were rounded again, in the order of `before`."""
    last = graph.nodes[-1].weight or ""
    return [
        _matrix_report(
            made.weights[row.name], graph.weights[row.name if row.name in graph.weights else last].dequantize()
        )
        for row in before
    ]


def _matrix_report(made: Weight, w: Floats) -> MatrixReport:
    assert made.scale is not None
    off = float(np.linalg.norm(made.dequantize() - w)) / max(float(np.linalg.norm(w)), 1e-30)
    return MatrixReport(made.name, made.rows, made.cols, off, float(made.scale.min()), float(made.scale.max()))
