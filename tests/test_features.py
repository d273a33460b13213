# SPDX-License-Identifier: Apache-2.0
"""Every feature of a family of decoders on the ladder: read as onnxruntime computes it, and the same bits from the emulator down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper
from spellings import SPELLINGS, Spelling

from meadow import boards
from meadow.compiler.graph.evaluate import Evaluator, State
from meadow.compiler.models import quantize
from meadow.compiler.pipeline import Options, compile_model
from meadow.compiler.sources.onnx.read import read
from meadow.runtime.session import Session

TOKENS = [(13 * i * i + 5) % 90 for i in range(37)]
STEPS = [9, 70, 31]


def no_rotation(s: Spelling) -> None:
    """Queries and keys of the first layer do not turn (SmolLM 3)."""
    for kind, value in (("Cos", 1.0), ("Sin", 0.0)):
        node = next(n for n in s.nodes if n.op_type == kind)
        factor, plus = s.const(f"{kind}.factor", np.float32(0)), s.const(f"{kind}.plus", np.float32(value))
        out = node.output[0]
        node.output[0] = out + ".raw"
        place = list(s.nodes).index(node) + 1
        s.nodes.insert(place, helper.make_node("Add", [out + ".still", plus], [out]))
        s.nodes.insert(place, helper.make_node("Mul", [out + ".raw", factor], [out + ".still"]))


FROM_SPELLINGS = (
    "biases",
    "normed heads",
    "fused",
    "relu2",
    "gelu",
    "gelu_tanh",
    "layer norms",
    "post norms",
    "norms of sums",
    "parallel",
    "parallel from behind",
    "Gemms behind positions",
    "factors",
    "positions",
    "window",
    "capped scores",
)
FEATURES = {
    **{name: SPELLINGS[name] for name in FROM_SPELLINGS},
    "no rotation": no_rotation,
}
RECIPES: dict[str, dict[str, Any]] = {
    "int8": {"weights": "int8", "granularity": "channel"},
    "int4": {"weights": "int4", "head": "same"},
}


def digest(package: Path, device: str, block: int) -> tuple[str, NDArray[Any]]:
    with Session(package, device) as session:
        rows = [session.prefill(TOKENS, logits="all", block=min(block, session.package.design.block))]
        rows += [np.atleast_2d(session.step(token)) for token in STEPS]
        return session.digest, np.concatenate(rows)


@pytest.mark.csim
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", FEATURES)
def test_a_feature_is_compiled_with_the_same_bits_on_every_rung(name: str, recipe: str, tmp_path: Path) -> None:
    s = Spelling()
    FEATURES[name](s)
    onnx.save(s.model, tmp_path / "model.onnx")
    quantize(tmp_path / "model.onnx", tmp_path / "q", smoothing=0.0, **RECIPES[recipe])
    graph = read(tmp_path / "q", 64)
    evaluator, state = Evaluator(graph, quantized=True), State()
    wanted = np.concatenate([evaluator.run(np.array(part), state) for part in (TOKENS, *([t] for t in STEPS))])
    found = set()
    for dataflow in ("tphs", "gemm"):
        options = Options(dataflow=dataflow, settings=(("context", 64), ("block", 16), ("token_lanes", 4)))
        compile_model(tmp_path / "q", boards.load("zcu102"), tmp_path / dataflow, options)
        for device, block in (("emulator", 16), ("csim", 16), ("csim", 7)):
            bits, rows = digest(tmp_path / dataflow, device, block)
            found.add(bits)
    assert len(found) == 1
    off = rows - wanted
    assert np.std(off - off.mean(axis=1, keepdims=True)) < 0.05 * np.std(wanted)
