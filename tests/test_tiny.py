# SPDX-License-Identifier: Apache-2.0
"""READ FIRST: the whole product in six small tests on the tiny model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from meadow.compiler.graph.evaluate import evaluate
from meadow.compiler.sources.onnx.read import read
from meadow.evidence.ladder.reference import OnnxModel
from meadow.runtime import Session

STORY = (
    " the\nQueen to the Queen, and she found it was saying to herself, and\nshe was so much a little fellow.\n\n"
    "Alice was so much very curiously at"
)
"""What the tiny model's own package answers to "Alice was beginning to", greedily (models.md of its author's release)."""
PROMPT = "Alice was beginning to"
IDS = [5, 300, 17, 801, 64, 3, 999, 120, 44]


def test_a_gguf_file_becomes_an_onnx_model_that_onnxruntime_runs(tiny: Path) -> None:
    logits = OnnxModel(tiny / "model.onnx").prefill(IDS)
    assert logits.shape == (len(IDS), 1024) and np.isfinite(logits).all()


def test_the_graph_means_what_onnxruntime_computes(tiny: Path) -> None:
    reference = OnnxModel(tiny / "model.onnx").prefill(IDS)
    found = evaluate(read(tiny), np.array(IDS), quantized=False)
    assert np.abs(found - reference).max() < 1e-3


def test_int8_weights_and_activations_stay_close_to_the_float_model(tiny: Path, tiny_int8: Path) -> None:
    reference = evaluate(read(tiny), np.array(IDS), quantized=False)
    found = evaluate(read(tiny_int8), np.array(IDS))
    assert np.std(found - reference) < 0.1 * np.std(reference)


def test_the_emulated_board_tells_the_tiny_models_story(tiny_package: Path) -> None:
    with Session(tiny_package) as session:
        assert "".join(session.stream(PROMPT, max_new_tokens=40)) == STORY


@pytest.mark.csim
def test_the_emitted_cpp_gives_the_same_bits(tiny_package: Path) -> None:
    digests = []
    for device in ("emulator", "csim"):
        with Session(tiny_package, device) as session:
            assert "".join(session.stream(PROMPT, max_new_tokens=40)) == STORY
            digests.append(session.digest)
    assert digests[0] == digests[1]


def test_a_healthy_device_passes_its_selftest(tiny_package: Path) -> None:
    with Session(tiny_package) as session:
        assert all(passed for _, passed, _ in session.selftest())
