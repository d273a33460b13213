# SPDX-License-Identifier: Apache-2.0
"""Functions, Constants and options of an ONNX file: written out, or refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from spellings import Spelling, constants

from meadow.compiler.sources.onnx.read import read, source_digest
from meadow.machine.errors import UnsupportedModel, UsageError


def functions(bodies: dict[str, list[str]]) -> Spelling:
    """A model with functions that call those named, each on what the one before gave; the first is called on the logits' input."""
    s = Spelling()
    s.model.opset_import.append(helper.make_opsetid("local", 1))
    for name, called in bodies.items():
        steps = [
            helper.make_node(other, [f"v{n}"], [f"v{n + 1}"], domain="local" if other in bodies else "")
            for n, other in enumerate(called)
        ]
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
        s.model.functions.append(helper.make_function("local", name, ["v0"], [f"v{len(called)}"], steps, opsets))
    head = s.linears()[-1]
    s.put([head], [helper.make_node(next(iter(bodies)), [head.input[0]], ["called"], domain="local"), head])
    s.linears()[-1].input[0] = "called"
    return s


def test_functions_that_call_one_another_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="call one another more than 64 deep"):
        read(functions({"A": ["B"], "B": ["A"]}).save(tmp_path))


def test_functions_that_double_thirty_times_are_refused_before_they_are_written_out(tmp_path: Path) -> None:
    bodies = {f"F{n}": [f"F{n + 1}"] * 2 for n in range(30)} | {"F30": ["Identity"]}
    with pytest.raises(UsageError, match=r"make 10737\d{5} operators when written out"):
        read(functions(bodies).save(tmp_path))


def test_the_digest_is_of_the_external_data_of_constants_too(tmp_path: Path) -> None:
    s = Spelling()
    constants(s)
    node = next(n for n in s.nodes if n.op_type == "Constant")
    tensor = node.attribute[0].t
    values = numpy_helper.to_array(tensor)
    del tensor.external_data[:]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="constant.bin")
    (tmp_path / "constant.bin").write_bytes(values.tobytes())
    file = s.save(tmp_path)
    assert read(file).model.layers == 2
    before = source_digest(file)
    (tmp_path / "constant.bin").write_bytes(bytes(values.nbytes))
    assert source_digest(file) != before


def test_a_rounding_to_halves_that_is_left_out_is_a_note(tmp_path: Path) -> None:
    s = Spelling()
    head = s.linears()[-1]
    casts = [
        helper.make_node("Cast", [head.input[0]], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["half"], ["again"], to=TensorProto.FLOAT),
    ]
    s.put([head], [*casts, head])
    s.linears()[-1].input[0] = "again"
    (note,) = read(s.save(tmp_path)).notes
    assert note == "casts to 16-bit floats: values are kept in FP32 (1 times)"


def grouped(**attributes: object) -> Spelling:
    """An attention of two heads as one operator, between the embedding and the head."""
    g = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["x"]),
            *(helper.make_node("MatMul", ["x", f"w{part}"], [part]) for part in "qkv"),
            helper.make_node(
                "GroupQueryAttention",
                ["q", "k", "v", "past_key_values.0.key", "past_key_values.0.value", "seen", "all"],
                ["y", "present.0.key", "present.0.value"],
                domain="com.microsoft",
                num_heads=2,
                kv_num_heads=2,
                **attributes,
            ),
            helper.make_node("MatMul", ["y", "head"], ["logits"]),
        ],
        "grouped",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["b", "t"])]
        + [
            helper.make_tensor_value_info(f"past_key_values.0.{kind}", TensorProto.FLOAT, ["b", 2, "p", 16])
            for kind in ("key", "value")
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)]
        + [
            helper.make_tensor_value_info(f"present.0.{kind}", TensorProto.FLOAT, ["b", 2, "s", 16])
            for kind in ("key", "value")
        ],
        [
            numpy_helper.from_array(np.random.default_rng(0).normal(size=shape).astype(np.float32), name)
            for name, shape in (("table", (50, 32)), ("head", (32, 50)), *((f"w{part}", (32, 32)) for part in "qkv"))
        ]
        + [numpy_helper.from_array(np.int32(n), name) for n, name in ((3, "seen"), (4, "all"))],
    )
    s = Spelling()
    s.model = helper.make_model(g, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)])
    return s


@pytest.mark.parametrize("option", [{"k_quant_type": "PER_TENSOR"}, {"smooth_softmax": 1}, {"unheard_of": 3}])
def test_an_option_of_an_attention_operator_that_nothing_computes_is_named(
    option: dict[str, object], tmp_path: Path
) -> None:
    (name,) = option
    with pytest.raises(UnsupportedModel) as refused:
        read(grouped(**option).save(tmp_path))
    assert any(f"GroupQueryAttention with {name}=" in found for _, found, _ in refused.value.problems)


def test_a_length_of_the_cache_that_is_another_than_the_caches_is_not_taken_on_trust(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel) as refused:
        read(grouped().save(tmp_path))
    assert any("GroupQueryAttention of 3 + 1 positions" in found for _, found, _ in refused.value.problems)


def test_onnx_itself_accepts_the_functions(tmp_path: Path) -> None:
    onnx.checker.check_model(functions({"A": ["B", "B"], "B": ["Identity"]}).model)
