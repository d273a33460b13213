# SPDX-License-Identifier: Apache-2.0
"""What a file is read as, against onnxruntime on the very file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from meadow.compiler.graph.evaluate import Evaluator, State
from meadow.compiler.graph.graph import Graph
from meadow.compiler.sources.onnx.read import read
from meadow.evidence.ladder.reference import OnnxModel


def same_as_onnxruntime(path: Path, tokens: int = 40, prompt: int = 17, tolerance: float = 1e-4) -> Graph:
    """The Graph of `path`; its logits are onnxruntime's on the file, for a prompt and for every token after it."""
    graph = read(path)
    ids = np.random.default_rng(3).integers(0, graph.model.vocab, tokens)
    reference, evaluator, state = OnnxModel(path), Evaluator(graph, quantized=False), State()
    for part in (ids[:prompt], *ids[prompt:, None]):
        wanted = reference.step([int(t) for t in part])
        found = evaluator.run(part, state)[-len(wanted) :]
        assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max(), f"after {state.position} tokens"
    return graph
