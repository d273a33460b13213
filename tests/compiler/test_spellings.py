# SPDX-License-Identifier: Apache-2.0
"""One model in the spellings of many exporters is read as one model: each change is onnxruntime's to judge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from reading import same_as_onnxruntime
from spellings import SPELLINGS, Spelling

from meadow.compiler.graph.ops import Activation, Attention, Linear, Norm
from meadow.compiler.sources.onnx.read import read
from meadow.machine.errors import UnsupportedModel


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


def test_learned_positions_that_are_clamped_are_named_and_served_up_to_their_table(tmp_path: Path) -> None:
    s = Spelling()
    SPELLINGS["positions"](s)
    for node in s.nodes:
        node.input[:] = ["clamped" if i == "places" else i for i in node.input]
    place = next(n for n, node in enumerate(s.nodes) if "places" in node.output)
    s.nodes.insert(place + 1, helper.make_node("Min", ["places", s.const("last_place", np.int64(129))], ["clamped"]))
    path = s.save(tmp_path)
    with pytest.raises(UnsupportedModel, match=r"there are 128 learned positions, .*--set context=128"):
        read(path)
    assert read(path, 128).positions == 128


@pytest.mark.parametrize("change", ["Mod", "Div"])
def test_positions_that_mean_something_else_are_refused_where_they_do(change: str, tmp_path: Path) -> None:
    s = Spelling()
    for node in s.nodes:
        node.input[:] = ["changed" if i == "position_ids" else i for i in node.input]
    s.nodes.insert(0, helper.make_node(change, ["position_ids", s.const("by", np.int64(64))], ["changed"]))
    with pytest.raises(UnsupportedModel, match="positions"):
        read(s.save(tmp_path), 128)
