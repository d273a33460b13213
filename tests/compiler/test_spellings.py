# SPDX-License-Identifier: Apache-2.0
"""One model in the spellings of many exporters is read as one model: each change is onnxruntime's to judge."""

from __future__ import annotations

from pathlib import Path

import pytest
from reading import same_as_onnxruntime
from spellings import SPELLINGS, Spelling

from meadow.compiler.graph.ops import Activation, Attention, Linear, Norm


@pytest.mark.parametrize("name", SPELLINGS)
def test_another_spelling_or_feature_is_read_as_onnxruntime_computes_it(name: str, tmp_path: Path) -> None:
    s = Spelling()
    SPELLINGS[name](s)
    graph = same_as_onnxruntime(s.save(tmp_path))
    kinds = {n.op.kind for n in graph.nodes if isinstance(n.op, Activation)}
    assert kinds == {name if name in ("relu", "relu2", "gelu", "gelu_tanh") else "silu"}
    assert sum(isinstance(n.op, Attention) for n in graph.nodes) == 2
    norms = {(n.role, n.op.kind) for n in graph.nodes if isinstance(n.op, Norm)}
    assert (
        ("q_norm", "rms") in norms
        if name == "normed heads"
        else ("attn_norm", "layer" if name in ("layer norms", "centred RMS") else "rms") in norms
    )
    assert all(
        bool(n.op.bias) == (name in ("biases", "Gemms behind positions")) for n in graph.nodes if type(n.op) is Linear
    )
