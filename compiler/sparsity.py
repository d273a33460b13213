# SPDX-License-Identifier: Apache-2.0
"""sparsify: a model file in, an ONNX folder out whose linear layers read what is above a threshold."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.graph import Graph
from meadow.compiler.graph.sparsity import KEY
from meadow.compiler.graph.thresholds import with_thresholds
from meadow.compiler.models import kept_metadata, save_folder
from meadow.compiler.quantize.calibrate import Calibration, calibration_windows
from meadow.compiler.quantize.solve import HELD, require_memory
from meadow.compiler.sources.source import companions_of, digest_of, find_source, read_source
from meadow.compiler.sources.text import some_text
from meadow.compiler.sparsify.shape import (
    MIXES,
    MOST,
    NAMES,
    PARTS,
    TRIED,
    Cost,
    Group,
    Judge,
    Shape,
    chosen,
    cut,
    groups_of,
    magnitudes,
    measured,
    shares_of,
    uniform,
)
from meadow.machine.errors import UsageError
from meadow.machine.folder import refuse_target

Progress = Callable[[str], None]
Windows = list[NDArray[np.integer[Any]]]
SHAPES = ("auto", "uniform")
TOKENS = 6144
"""Of calibration text: two thirds for the thresholds, and HELD windows that judge."""


@dataclass(frozen=True)
class Wish:
    """The share of the layers' weights whose column shall not be needed, and how it is spread over their inputs."""

    share: float
    shape: str = "auto"

    def check(self) -> None:
        """Raise UsageError for what is not known or possible."""
        if not 0 < self.share <= MOST:
            raise UsageError(f"--activations is {self.share:g}; a share above 0 and up to {MOST:g} can be cut")
        if self.shape not in SHAPES:
            raise UsageError(f"the shape {self.shape!r} is not known; {' and '.join(SHAPES)} are")


@dataclass(frozen=True)
class Sparse:
    """A graph with thresholds, how they were chosen, and what they cost on windows that were held out."""

    graph: Graph
    shape: Shape
    cost: Cost


def sparsify(
    source: Path,
    target: Path,
    wish: Wish,
    calibration: Calibration | None = None,
    progress: Progress = lambda _: None,
    known: dict[str, Survey] | None = None,
) -> dict[str, Any]:
    """Write `target`/ with thresholds in the model `source`; returns a report.

    known  surveys by model and text that were made before, to which those of this call are added
    Raises UnsupportedModel for a graph that is not understood, UsageError for options and for a model in which nothing can be cut.
    """
    wish.check()
    file = find_source(source)
    refuse_target(target, "model", (file,))
    progress("reading")
    graph, texts = with_thresholds(read_source(file), {}), companions_of(file)
    groups_of(graph, 1)
    some = calibration or Calibration(tokens=TOKENS)
    windows = calibration_windows(graph, texts.get("tokenizer.json"), some, some_text)
    require_memory(graph, sum(len(w) for w in windows))
    surveys = {} if known is None else known
    key = f"{digest_of(file)} {some.facts(windows)}"
    if key not in surveys:
        surveys[key] = survey(graph, windows, progress)
    made = sparse_graph(surveys[key], wish, progress)
    progress("writing")
    facts = {
        "share": made.shape.share,
        "asked": wish.share,
        "shape": wish.shape,
        **made.cost._asdict(),
        **some.facts(windows),
    }
    shares = [[g.role, g.part, round(share, 3)] for g, share in made.shape.shares.items()]
    record = json.dumps({**facts, "shares": shares})
    save_folder(made.graph, target, file, texts, {**kept_metadata(graph), KEY: record})
    return {
        "folder": str(target),
        "tokens": sum(len(w) for w in windows),
        **facts,
        "weights_cut": made.shape.share,
        "groups": [
            {
                "inputs": NAMES[g.role],
                "part": g.part,
                "parts": made.shape.parts,
                "share": share,
                "weights": made.shape.weights[g],
            }
            | (
                {"costs": {str(t): c.mean for t, c in zip(TRIED, made.shape.costs[g], strict=True)}}
                if made.shape.costs
                else {}
            )
            for g, share in made.shape.shares.items()
        ],
        "notes": list(graph.notes),
    }


@dataclass(frozen=True)
class Survey:
    """What a text says of a model: quantiles of what may be cut, how to judge, and what groups cost, by the number of parts of the layers."""

    graph: Graph
    quantiles: Mapping[str, NDArray[np.float64]]
    judge: Judge
    costs: dict[int, Mapping[Group, tuple[Cost, ...]]]


def survey(graph: Graph, windows: Windows, progress: Progress) -> Survey:
    """Thresholds come from the first windows, and costs from the last."""
    held = max(1, min(HELD, len(windows) // 3))
    return Survey(graph, magnitudes(graph, windows[:-held], telling(progress)), Judge(graph, windows[-held:]), {})


def telling(progress: Progress) -> Callable[[str, int, int], None]:
    """How far a stage is, as text."""
    return lambda what, done, count: progress(f"{what} {done}/{count}")


def sparse_graph(found: Survey, wish: Wish, progress: Progress) -> Sparse:
    """The graph with thresholds of its inputs' quantiles, the shares chosen where they cost least; costs are measured when first asked for."""
    graph, shapes = found.graph, [uniform(found.graph, wish.share)]
    for parts in PARTS if wish.shape == "auto" else ():
        if parts not in found.costs:
            found.costs[parts] = measured(graph, found.quantiles, found.judge, parts, telling(progress))
        shapes += [chosen(graph, found.costs[parts], wish.share, parts, mix) for mix in MIXES]
    tried = []
    for shape in shapes:
        made = cut(graph, found.quantiles, shares_of(graph, shape))
        tried.append(Sparse(made, shape, found.judge.cost(made)))
    return min(tried, key=lambda one: one.cost.mean)
