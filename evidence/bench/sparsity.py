# SPDX-License-Identifier: Apache-2.0
"""bench sparsity: one model with thresholds of several shares: what they cost in perplexity, and how many weights its linear layers need."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.evaluate import Evaluator, State
from meadow.compiler.graph.graph import Graph, Node
from meadow.compiler.graph.thresholds import sparse_inputs
from meadow.compiler.quantize.calibrate import Calibration
from meadow.compiler.sources.source import find_source, read_source
from meadow.compiler.sparsity import Survey, Wish, sparsify
from meadow.evidence.bench.prune import perplexity_of

Tell = Callable[[str, str], None]


def measure(
    source: Path,
    shares: Sequence[float],
    shapes: Sequence[str],
    folder: Path,
    pieces: Sequence[list[int]],
    calibration: Calibration,
    tell: Tell,
) -> Iterator[dict[str, Any]]:
    """A row for the whole model, then one for each share and shape.

    pieces  token ids of each window
    """
    known: dict[str, Survey] = {}  # what groups cost is the same for all shares
    tell("measuring", "the whole model")
    whole = perplexity_of(find_source(source), pieces)
    yield {"share": 0.0, "shape": "", "perplexity": whole, "ratio": 1.0, "weights_cut": 0.0}
    for share in shares:
        for shape in shapes:
            name = f"{share:g} {shape}"
            model = folder / f"{share:g}-{shape}"
            tell("sparsifying", name)
            sparsify(
                source,
                model,
                Wish(share, shape),
                calibration,
                lambda text, name=name: tell("sparsifying", f"{text}; {name}"),  # type: ignore[misc]
                known,
            )
            tell("measuring", name)
            found = perplexity_of(model / "model.onnx", pieces)
            yield {
                "share": share,
                "shape": shape,
                "perplexity": found,
                "ratio": found / whole,
                "weights_cut": weights_cut(read_source(model / "model.onnx"), pieces),
            }


def weights_cut(graph: Graph, pieces: Sequence[list[int]]) -> float:
    """The share of the layers' weights whose input is 0, over all tokens."""
    readers = {node.name for some in sparse_inputs(graph).values() for node in some}
    cut = whole = 0.0

    def observe(node: Node, x: NDArray[np.float32]) -> None:
        nonlocal cut, whole
        if node.name in readers:
            size = graph.weight_of(node).size * len(x)
            cut, whole = cut + size * float((x == 0).mean()), whole + size

    evaluator = Evaluator(graph, quantized=False)
    for tokens in pieces:
        evaluator.follow(graph.nodes[:-1], {}, np.asarray(tokens), State(), observe)
    return cut / whole
