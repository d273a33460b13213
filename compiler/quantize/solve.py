# SPDX-License-Identifier: Apache-2.0
"""solve: a Graph's matrices rounded on calibration text, each for what it meets on the device; what nearest would do is the start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.calibration import written
from meadow.compiler.graph.graph import Graph
from meadow.compiler.graph.ops import Embedding, Linear
from meadow.compiler.quantize.calibrate import Calibration
from meadow.compiler.quantize.grid import Grid, GroupGrid, RowGrid
from meadow.compiler.quantize.kept import Kept
from meadow.compiler.quantize.recipe import HEAD_GROUP, Recipe
from meadow.compiler.quantize.solver import DAMP
from meadow.compiler.quantize.walk import Method, Solved, Walk
from meadow.machine.errors import UsageError
from meadow.machine.types import Weight

HELD = 4
"""Windows of the calibration text that choose and judge, and that the solver does not see; at most a quarter of all."""
MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True)
class Calibrated:
    """A graph whose matrices were solved, and what was done: for the file's metadata, and per group of matrices."""

    graph: Graph
    facts: dict[str, Any]
    solved: tuple[Solved, ...]
    changed: int
    resumed: int = 0

    @property
    def notes(self) -> list[str]:
        """What the user should know."""
        found = []
        if self.resumed:
            found.append(
                f"{self.resumed} of {len(self.solved)} groups of matrices were solved by a run that was interrupted"
            )
        if not self.changed:
            found.append("no code is another than by nearest: the matrices lie on that grid already")
        damped = [s for s in self.solved if s.damp > DAMP * 1.5 and s.damp > self.facts.get("damp", 0) * 1.5]
        if damped:
            found.append(
                f"{len(damped)} of {len(self.solved)} groups of matrices were damped more than asked, {damped[0].names[0]} by {damped[0].damp:g}: "
                "more --tokens help"
            )
        dead = [s for s in self.solved if s.dead]
        if dead:
            found.append(
                f"{sum(s.dead for s in dead)} columns met only zeros on the text, the first in {dead[0].names[0]}: rounded to nearest"
            )
        few = [s for s in self.solved if s.columns > self.facts["tokens"]]
        if few:
            found.append(
                f"{len(few)} groups of matrices have more columns than the text has tokens; more --tokens help"
            )
        return found

    def report(self) -> dict[str, Any]:
        """For the summary of `quantize`."""
        return {
            "method": self.facts["method"],
            "calibration": self.facts,
            "changed_codes": self.changed,
            "errors": [
                {"matrices": list(s.names), "nearest": s.nearest, "error": s.error, "beta": s.beta, "damp": s.damp}
                for s in self.solved
            ],
        }

    @property
    def metadata(self) -> dict[str, str]:
        rows = [[s.names[0], round(s.nearest, 4), round(s.error, 4), s.beta] for s in self.solved]
        return written(self.facts, rows)


def solve_graph(
    graph: Graph,
    nearest: Graph,
    recipe: Recipe,
    method: Method,
    windows: list[NDArray[np.integer[Any]]],
    calibration: Calibration,
    progress: Callable[[str], None],
    kept: Kept | None = None,
) -> Calibrated:
    """`nearest`, of which each matrix that was rounded is rounded again by the solver.

    graph    in floats, as it was before
    nearest  the same, rounded by recipe.round_graph
    kept     where what was solved is kept until the output is written
    Raises UsageError where memory would not do, or activations are not finite.
    """
    before = _in_floats(graph, nearest)
    linears = [n for n in nearest.nodes if isinstance(n.op, Linear)]
    embedding = nearest.nodes[0].op
    assert isinstance(embedding, Embedding)
    apart = {embedding.weight, embedding.positions}
    new = {n.weight or "" for n in linears} - apart
    new = {name for name in new if not _stays(graph.weights.get(name), nearest.weights[name])}
    if recipe.head == "int8" or not recipe.grouped:
        new.discard(nearest.nodes[-1].weight or "")
    grids = partial(_grid, recipe, nearest)
    formats = {n.weight or "": "half" if nearest.weight_of(n).elem.group else "int8" for n in linears}
    held = min(HELD, len(windows) // 4)
    require_memory(before, sum(len(w) for w in windows))

    def tell(done: int, count: int, solved: Solved | None) -> None:
        last = f", {solved.names[0]}: error {solved.nearest:.3f} by nearest, {solved.error:.3f} now" if solved else ""
        progress(f"solving {done}/{count}{last}")

    rounded = {name: nearest.weights[name] for name in nearest.weights if name not in new}
    walk = Walk(
        before,
        windows,
        held,
        method,
        dict.fromkeys(new, grids),
        rounded,
        formats,
        tell,
        kept=kept,
        nearest=nearest.weights,
    )
    made = walk.run()
    changed = sum(int((made[name].codes != nearest.weights[name].codes).sum()) for name in new)
    facts = {
        "method": method.name,
        **{k: v for k, v in asdict(method).items() if k in PARAMETERS.get(method.name, ())},
        "windows": len(windows),
        "held": held,
        "tokens": sum(len(w) for w in windows),
        **calibration.facts(windows),
    }
    weights = {name: made.get(name) or weight for name, weight in nearest.weights.items()}
    return Calibrated(nearest.replace(weights=weights), facts, tuple(walk.solved), changed)


PARAMETERS = {"gptq": ("damp", "passes"), "gptaq": ("alpha", "damp", "passes"), "shift": ("beta", "damp", "passes")}
"""What of a Method its solver looks at."""


def _stays(before: Weight | None, after: Weight) -> bool:
    """Whether nearest left a matrix in the groups that it had."""
    return (
        before is not None
        and before.elem.group > 0
        and before.elem.bits <= after.elem.bits
        and before.elem == after.elem
    )


def _in_floats(graph: Graph, nearest: Graph) -> Graph:
    """The float model with the names of the rounded one: a head that was given codes of its own has the embedding's weights."""
    last = graph.nodes[-1].weight or ""
    weights = {
        name: graph.weights.get(name) or graph.weights[last].only(slice(0, graph.weights[last].rows), name)
        for name in nearest.weights
    }
    return nearest.replace(weights=weights, vectors=graph.vectors)


def _grid(recipe: Recipe, nearest: Graph, weights: Sequence[Weight]) -> Grid:
    """The grid of matrices that are stacked, which share a format."""
    first = nearest.weights[weights[0].name].elem
    if not first.group:
        scales = [nearest.weights[w.name].scale for w in weights]
        return RowGrid(np.concatenate([s for s in scales if s is not None]), weights[0].cols)
    bits = recipe.bits if first.bits == recipe.stored_bits else first.bits
    return GroupGrid(
        sum(w.rows for w in weights),
        weights[0].cols,
        bits,
        recipe.group if bits < 8 or recipe.bits == 8 else HEAD_GROUP,
    )


def require_memory(graph: Graph, tokens: int) -> None:
    """Raise UsageError where the walk needs more than the machine has."""
    widths = graph.widths()
    widest = max(graph.weight_of(n).cols for n in graph.nodes if isinstance(n.op, Linear))
    live = 2 * tokens * 4 * (4 * max(widths[n.name] for n in graph.nodes[:-1]) + graph.model.dim)
    need = live + 8 * 8 * widest**2 + 3 * 4 * max(w.size for w in graph.weights.values())
    try:
        rows = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        room = int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return
    if need > room:
        raise UsageError(
            f"{tokens} tokens of calibration need {need / 1e9:.1f} GB and {room / 1e9:.1f} GB are free; "
            f"--tokens {max(512, int(tokens * room / need) // 512 * 512)} would do"
        )
