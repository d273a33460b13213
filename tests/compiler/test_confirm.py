# SPDX-License-Identifier: Apache-2.0
"""Valid graphs that look like a LLaMA and mean something else are read as what they are, or refused with the true cause."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from reading import same_as_onnxruntime

from meadow import boards
from meadow.compiler.graph.evaluate import evaluate
from meadow.compiler.graph.ops import Attention, Norm
from meadow.compiler.graph.rewrite import rewrite
from meadow.compiler.models import quantize
from meadow.compiler.pipeline import Options, compile_model
from meadow.compiler.program.residual import check_residual
from meadow.compiler.sources.onnx.confirm import trials
from meadow.compiler.sources.onnx.lift import curves
from meadow.compiler.sources.onnx.read import read
from meadow.evidence.ladder.reference import OnnxModel
from meadow.machine.errors import UnsupportedModel, UsageError

EXPORTS = Path(__file__).parents[1] / "fixtures" / "exports"
IDS = [1, 50, 93, 7, 7, 20, 3, 44, 90, 12, 13, 14]


class Surgery:
    """A model with operators put in between others."""

    def __init__(self, name: str = "dynamo-eager-20"):
        self.model = onnx.load(EXPORTS / f"{name}.onnx")
        self.count = 0

    def first(self, kind: str, after: int = 0) -> onnx.NodeProto:
        return [n for n in self.model.graph.node if n.op_type == kind][after]

    def const(self, value: object, kind: type = np.float32) -> str:
        self.count += 1
        name = f"surgery_const_{self.count}"
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def behind(self, value: str, *nodes: tuple[str, list[str], dict[str, object]]) -> None:
        """Everything that reads `value` reads the last of `nodes` instead; "" among their inputs is what comes before."""
        graph = self.model.graph
        place = next((i + 1 for i, n in enumerate(graph.node) if value in n.output), 0)
        current, made = value, []
        for op, inputs, attributes in nodes:
            self.count += 1
            output = f"surgery_{self.count}"
            made.append(helper.make_node(op, [i or current for i in inputs], [output], name=output, **attributes))
            current = output
        for node in graph.node:
            node.input[:] = [current if i == value else i for i in node.input]
        for offset, node in enumerate(made):
            graph.node.insert(place + offset, node)

    def save(self, folder: Path) -> Path:
        onnx.checker.check_model(self.model)
        path = folder / "model.onnx"
        onnx.save(self.model, path)
        return path


def window(s: Surgery, width: int) -> None:
    """Every softmax sees the last `width` keys only."""
    for softmax in [n for n in s.model.graph.node if n.op_type == "Softmax"]:
        scores = softmax.input[0]
        place = next(i for i, n in enumerate(s.model.graph.node) if scores in n.output) + 1
        tag = scores + ".window"
        made = [
            helper.make_node("Shape", [scores], [tag + ".shape"], start=-1),
            helper.make_node("Squeeze", [tag + ".shape"], [tag + ".keys"]),
            helper.make_node("Range", [s.const(0, np.int64), tag + ".keys", s.const(1, np.int64)], [tag + ".at"]),
            helper.make_node("Unsqueeze", ["position_ids", s.const([1, 3], np.int64)], [tag + ".positions"]),
            helper.make_node("Sub", [tag + ".positions", tag + ".at"], [tag + ".distance"]),
            helper.make_node("GreaterOrEqual", [tag + ".distance", s.const(width, np.int64)], [tag + ".far"]),
            helper.make_node("Where", [tag + ".far", s.const(-1e9), s.const(0.0)], [tag + ".mask"]),
            helper.make_node("Add", [scores, tag + ".mask"], [tag]),
        ]
        softmax.input[0] = tag
        for offset, node in enumerate(made):
            s.model.graph.node.insert(place + offset, node)


def refusal(s: Surgery, folder: Path) -> str:
    with pytest.raises(UnsupportedModel) as caught:
        read(s.save(folder))
    return str(caught.value)


@pytest.mark.parametrize("width", [5, 16, 100, 2047])
def test_a_sliding_window_is_read_with_its_width(width: int, tmp_path: Path) -> None:
    s = Surgery()
    window(s, width)
    graph = same_as_onnxruntime(s.save(tmp_path))
    assert {n.op.window for n in graph.nodes if isinstance(n.op, Attention)} == {width}


def test_a_window_as_wide_as_the_context_is_none(tmp_path: Path) -> None:
    s = Surgery()
    window(s, 2048)
    graph = read(s.save(tmp_path), 2048)
    assert {n.op.window for n in graph.nodes if isinstance(n.op, Attention)} == {0}


def test_a_softcap_of_the_attention_operator_is_read(tmp_path: Path) -> None:
    s = Surgery("dynamo-sdpa-23")
    next(a for a in s.first("Attention").attribute if a.name == "softcap").f = 5.0
    graph = same_as_onnxruntime(s.save(tmp_path))
    assert [n.op.softcap for n in graph.nodes if isinstance(n.op, Attention)] == [5.0, 0.0]


def test_an_attribute_that_is_not_read_is_refused(tmp_path: Path) -> None:
    s = Surgery("dynamo-sdpa-23")
    s.first("Attention").attribute.append(helper.make_attribute("local_window", 5))
    with pytest.raises(UnsupportedModel, match="Attention with local_window=5, which is not known here"):
        onnx.save(s.model, tmp_path / "model.onnx")
        read(tmp_path / "model.onnx")


def test_a_softcap_written_out_is_read(tmp_path: Path) -> None:
    s = Surgery()
    scores = s.first("Softmax").input[0]
    mask = next(n for n in s.model.graph.node if scores in n.output)
    before = mask.input[0]
    s.behind(before, ("Div", ["", s.const(2.0)], {}), ("Tanh", [""], {}), ("Mul", ["", s.const(2.0)], {}))
    graph = same_as_onnxruntime(s.save(tmp_path))
    assert [n.op.softcap for n in graph.nodes if isinstance(n.op, Attention)] == [2.0, 0.0]


def test_a_softcap_that_bends_the_mask_too_is_refused(tmp_path: Path) -> None:
    s = Surgery()
    scores = s.first("Softmax").input[0]
    s.behind(scores, ("Div", ["", s.const(50.0)], {}), ("Tanh", [""], {}), ("Mul", ["", s.const(50.0)], {}))
    assert "a token sees later ones" in refusal(s, tmp_path)


@pytest.mark.parametrize("most", [6.0, 30.0])
def test_scores_that_are_bent_only_where_they_are_large_are_found(most: float, tmp_path: Path) -> None:
    s = Surgery()
    softmax = s.first("Softmax")
    scores = softmax.input[0]
    # A clamp is no operator of the pattern; one hidden in the mask's sum is: min(scores, most) by two sums.
    place = next(i for i, n in enumerate(s.model.graph.node) if n is softmax or n.output[0] == softmax.output[0])
    made = [
        helper.make_node("Min", [scores, s.const(most)], ["bent.low"]),
        helper.make_node("Sub", ["bent.low", scores], ["bent.off"]),
        helper.make_node("Add", [scores, "bent.off"], ["bent"]),
    ]
    softmax.input[0] = "bent"
    for offset, node in enumerate(made):
        s.model.graph.node.insert(place + offset, node)
    assert "a function of each element that is no known activation" in refusal(s, tmp_path)


SHUFFLE: tuple[tuple[str, list[str], dict[str, object]], ...] = (
    ("Reshape", ["", "%first"], {}),
    ("Transpose", [""], {"perm": [0, 1, 3, 2]}),
    ("Reshape", ["", "%back"], {}),
)


def shuffle(s: Surgery, value: str) -> None:
    """Swap features in pairs: [.., 2, n / 2] -> [.., n / 2, 2]."""
    first, back = s.const([0, 0, 2, -1], np.int64), s.const([0, 0, -1], np.int64)
    width = {"%first": first, "%back": back}
    s.behind(value, *((op, [width.get(i, i) for i in inputs], attributes) for op, inputs, attributes in SHUFFLE))


def add_of_layer(s: Surgery, index: int) -> onnx.NodeProto:
    """The sum after the attention (even) or the MLP (odd) of a layer."""
    reader = {i: n for n in s.model.graph.node for i in n.input}
    sums = []
    for node in s.model.graph.node:
        if node.op_type == "MatMul" and node.output[0] in reader and reader[node.output[0]].op_type == "Add":
            sums.append(node)
    return sums[index]


@pytest.mark.parametrize("index", [0, 1, 3])
def test_features_shuffled_before_a_residual_sum_are_rows_in_another_order(index: int, tmp_path: Path) -> None:
    s = Surgery()
    shuffle(s, add_of_layer(s, index).output[0])
    same_as_onnxruntime(s.save(tmp_path))


def test_features_shuffled_after_the_embedding_or_before_the_head_are_found(tmp_path: Path) -> None:
    s = Surgery()
    shuffle(s, s.first("Gather").output[0])
    assert "features are moved" in refusal(s, tmp_path)
    s = Surgery()
    head = next(n for n in s.model.graph.node if n.output[0] == "logits")
    shuffle(s, head.input[0])
    assert "features are moved" in refusal(s, tmp_path)


def test_a_cast_to_integers_is_found(tmp_path: Path) -> None:
    s = Surgery()
    s.behind(add_of_layer(s, 1).output[0], ("Cast", [""], {"to": 6}), ("Cast", [""], {"to": 1}))
    assert "computed values are cast to INT32" in refusal(s, tmp_path)


@pytest.mark.parametrize("switch", [3, 16, 1000])
def test_rotary_factors_that_change_with_the_position_are_named(switch: int, tmp_path: Path) -> None:
    s = Surgery()
    s.model.graph.node.insert(0, helper.make_node("Mul", ["position_ids", s.const(2, np.int64)], ["twice"]))
    s.model.graph.node.insert(0, helper.make_node("Less", ["position_ids", s.const(switch, np.int64)], ["early"]))
    made = helper.make_node("Where", ["early", "position_ids", "twice"], ["switched"])
    for node in s.model.graph.node:
        if node.op_type in ("Unsqueeze", "Cast") and node.input[0] == "position_ids":
            node.input[0] = "switched"
    s.model.graph.node.insert(2, made)
    said = f"the rotary positions are others from position {switch} on"
    assert said in refusal(s, tmp_path)


def test_rotary_factors_that_switch_with_the_length_are_named_by_the_first_length(tmp_path: Path) -> None:
    """LongRoPE as genai's builder writes it: other factors for all positions of a longer text."""
    s = Surgery()
    steps = [
        helper.make_node("Size", ["attention_mask"], ["length"]),
        helper.make_node("Greater", ["length", s.const(48, np.int64)], ["long"]),
        helper.make_node("Mul", ["position_ids", s.const(2, np.int64)], ["twice"]),
        helper.make_node("Where", ["long", "twice", "position_ids"], ["switched"]),
    ]
    for node in s.model.graph.node:
        if node.op_type in ("Unsqueeze", "Cast") and node.input[0] == "position_ids":
            node.input[0] = "switched"
    for node in reversed(steps):
        s.model.graph.node.insert(0, node)
    text = refusal(s, tmp_path)
    assert "others from position 48 on" in text and "--set context=48" in text
    assert read(tmp_path / "model.onnx", 48).positions == 48


def test_rotary_factors_that_are_others_for_one_token_at_one_position_are_named(tmp_path: Path) -> None:
    s = Surgery()
    steps = [
        helper.make_node("Size", ["input_ids"], ["count"]),
        helper.make_node("Equal", ["count", s.const(1, np.int64)], ["alone"]),
        helper.make_node("Equal", ["position_ids", s.const(256, np.int64)], ["there"]),
        helper.make_node("And", ["alone", "there"], ["strange"]),
        helper.make_node("Mul", ["position_ids", s.const(2, np.int64)], ["twice"]),
        helper.make_node("Where", ["strange", "twice", "position_ids"], ["switched"]),
    ]
    for node in s.model.graph.node:
        if node.op_type in ("Unsqueeze", "Cast") and node.input[0] == "position_ids":
            node.input[0] = "switched"
    for node in reversed(steps):
        s.model.graph.node.insert(0, node)
    assert "the rotary positions are others from position 256 on" in refusal(s, tmp_path)


def share_gains(model: onnx.ModelProto) -> int:
    """Every norm's gain becomes the first one's initializer, as exporters do with equal tensors; returns how many."""
    producer = {o: n for n in model.graph.node for o in n.output}
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    gains = []
    for node in model.graph.node:
        vectors = [i for i in node.input if i in arrays and arrays[i].shape == (64,)]
        if node.op_type == "Mul" and vectors and any(i in producer for i in node.input):
            gains.append((node, vectors[0]))
    for node, name in gains:
        node.input[:] = [gains[0][1] if i == name else i for i in node.input]
    return len(gains)


def test_gains_that_share_an_initializer_are_smoothed_once_each(tmp_path: Path, tiny: Path) -> None:
    s = Surgery()
    assert share_gains(s.model) == 5
    path = s.save(tmp_path)
    graph = read(path)
    norms = [n.op.gain for n in graph.nodes if isinstance(n.op, Norm)]
    assert len(set(norms)) == 5
    reference = OnnxModel(path).prefill(IDS)
    for strength in (0.0, 1.0):
        target = tmp_path / f"q{strength:g}"
        _calibrated(path, target, strength)
        logits = OnnxModel(target / "model.onnx").prefill(IDS)
        assert np.std(logits - reference) / np.std(reference) < 0.03


def _calibrated(path: Path, target: Path, strength: float) -> None:
    """quantize with smoothing, which needs a tokenizer: one of single words, whose ids are below the small vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({"the": 0, "of": 1, "and": 2, "[UNK]": 3}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(path.parent / "tokenizer.json"))
    report = quantize(path, target, "channel", smoothing=strength)
    assert report["smoothing"] == strength and (report["calibration_tokens"] > 0) == (strength > 0)


def test_a_parallel_block_is_refused_by_the_engine_with_names(tiny_int8: Path) -> None:
    graph = rewrite(read(tiny_int8))
    check_residual(graph)
    parallel = tuple(
        replace(n, inputs=("embed",)) if n.name == "l0.ffn_norm" else n for n in graph.nodes
    )  # the MLP reads what the attention read
    with pytest.raises(
        UnsupportedModel, match=r"l0.ffn_norm: the norm reads %embed, and the running residual there is %l0.attn_add"
    ):
        check_residual(graph.replace(nodes=parallel))
    skipped = tuple(replace(n, inputs=("embed", "l0.down")) if n.name == "l0.ffn_add" else n for n in graph.nodes)
    with pytest.raises(UnsupportedModel, match=r"l0.down: its sum adds %embed and %l0.down"):
        check_residual(graph.replace(nodes=skipped))


def test_a_layer_that_cannot_be_evaluated_counts_as_unchecked(tmp_path: Path) -> None:
    s = Surgery()
    s.behind(add_of_layer(s, 1).output[0], ("Identity", [""], {}))
    s.model.opset_import.append(helper.make_opsetid("com.example", 1))
    node = s.first("Softmax")
    node.domain = "com.example"
    onnx.save(s.model, tmp_path / "model.onnx")
    with pytest.raises(UnsupportedModel, match="the operator com.example.Softmax") as caught:
        read(tmp_path / "model.onnx")
    assert "something else" not in str(caught.value)


def angles(s: Surgery) -> set[str]:
    """The values behind Cos and Sin."""
    producer = {o: n for n in s.model.graph.node for o in n.output}
    seen: set[str] = set()
    stack = [i for n in s.model.graph.node if n.op_type in ("Cos", "Sin") for i in n.input]
    while stack:
        name = stack.pop()
        if name not in seen:
            seen.add(name)
            stack += list(producer[name].input) if name in producer else []
    return seen


@pytest.mark.parametrize("kind", [np.float16, "bfloat16"])
def test_a_graph_in_halves_means_what_it_means_in_full(kind: object, tmp_path: Path) -> None:
    from onnx import TensorProto

    s = Surgery()
    wanted = TensorProto.FLOAT16 if kind is np.float16 else TensorProto.BFLOAT16
    dtype = helper.tensor_dtype_to_np_dtype(wanted)
    full = angles(s)  # positions times frequencies stay in FP32, as exporters have it
    for kind_ in ("Cos", "Sin"):
        s.behind(s.first(kind_).output[0], ("Cast", [""], {"to": wanted}))
    for tensor in s.model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in full:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))
    for node in s.model.graph.node:
        for attribute in node.attribute if not full & set(node.output) else ():
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = wanted
            if attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT:
                attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(dtype)))
    for value in (*s.model.graph.input, *s.model.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = wanted
    del s.model.graph.value_info[:]
    onnx.save(s.model, tmp_path / "model.onnx")
    logits = evaluate(read(tmp_path / "model.onnx"), np.array(IDS), quantized=False)
    plain = evaluate(read(EXPORTS / "dynamo-eager-20.onnx"), np.array(IDS), quantized=False)
    assert np.std(logits - plain) / np.std(plain) < 0.02


def test_the_trials_reach_the_last_position_and_scores_of_trained_size() -> None:
    assert [(t.past, t.tokens, t.score) for t in trials(128)] == [(0, 8, 1.0), (5, 3, 6.0), (127, 1, 1.0)]
    assert [(t.past, t.tokens) for t in trials(1)] == [(0, 1), (0, 1), (0, 1)]


def test_compile_tries_as_many_positions_as_its_design_has(tmp_path: Path) -> None:
    s = Surgery()
    window(s, 2048)
    path = s.save(tmp_path)
    _calibrated(path, tmp_path / "q", 0.0)
    options = Options(settings=(("context", 2048), ("block", 16), ("token_lanes", 4)))
    compile_model(tmp_path / "q", boards.load("zcu102"), tmp_path / "p", options)
    longer = replace(options, settings=(("context", 2112), ("block", 16), ("token_lanes", 4)))
    with pytest.raises(UnsupportedModel, match="beyond position 2048"):
        compile_model(tmp_path / "q", boards.load("zcu102"), tmp_path / "p", longer)
    path.unlink()
    with pytest.raises(UsageError, match="was tried up to position 2048 .* compile with --set context=2048"):
        compile_model(tmp_path / "q", boards.load("zcu102"), tmp_path / "p", longer)


def outputs(s: Surgery, kind: str, layer: int) -> onnx.NodeProto:
    """The node that makes present.N.kind."""
    name = next(o.name for o in s.model.graph.output if o.name.endswith(f".{layer}.{kind}") and "present" in o.name)
    return next(n for n in s.model.graph.node if name in n.output)


def renamed(s: Surgery, node: onnx.NodeProto) -> tuple[str, str]:
    """(the name that an output had, the one that its node has now); the name is free for another node."""
    before = node.output[0]
    node.output[0] = f"{before}.inner"
    for other in s.model.graph.node:
        other.input[:] = [f"{before}.inner" if i == before else i for i in other.input]
    return before, f"{before}.inner"


def test_a_cache_that_is_given_out_otherwise_is_found(tmp_path: Path) -> None:
    """Prefill is right and decode is wrong: a cache halved, cut to its last tokens, or another layer's."""
    s = Surgery()
    name, inner = renamed(s, outputs(s, "key", 0))
    s.model.graph.node.append(helper.make_node("Mul", [inner, s.const(0.5)], [name]))
    assert "given back with a factor" in refusal(s, tmp_path)
    s = Surgery()
    name, inner = renamed(s, outputs(s, "value", 1))
    start, end, axis = (s.const([v], np.int64) for v in (-6, 1 << 40, 2))
    s.model.graph.node.append(helper.make_node("Slice", [inner, start, end, axis], [name]))
    assert "present.1.value" in refusal(s, tmp_path)
    s = Surgery()
    (first, a), (second, b) = renamed(s, outputs(s, "key", 0)), renamed(s, outputs(s, "key", 1))
    s.model.graph.node.extend([helper.make_node("Identity", [b], [first]), helper.make_node("Identity", [a], [second])])
    assert "present.0.key" in refusal(s, tmp_path)


def test_a_mask_by_the_length_of_the_prompt_is_found(tmp_path: Path) -> None:
    """A window that begins where a prompt has more than 30 tokens."""
    s = Surgery()
    window(s, 16)
    graph = s.model.graph
    graph.node.insert(0, helper.make_node("Shape", ["input_ids"], ["length"], start=1, end=2))
    graph.node.insert(1, helper.make_node("Greater", ["length", s.const([30], np.int64)], ["long"]))
    for node in graph.node:
        if node.op_type == "Where" and node.output[0].endswith(".window.mask"):
            node.input[0] = node.input[0] + ".and"
    for place in [
        i for i, n in enumerate(graph.node) if n.op_type == "GreaterOrEqual" and n.output[0].endswith(".far")
    ][::-1]:
        far = graph.node[place].output[0]
        graph.node.insert(place + 1, helper.make_node("And", [far, "long"], [far + ".and"]))
    assert "neither everything before it nor a sliding window, from position 16 on" in refusal(s, tmp_path)


def test_values_that_are_not_a_layers_own_are_refused(tmp_path: Path) -> None:
    """A mask by a token's number; a bias from another layer's cache: both are nothing in a trial of zeros or of one cache."""
    s = Surgery()
    graph = s.model.graph
    graph.node.insert(0, helper.make_node("Equal", ["input_ids", s.const([5], np.int64)], ["pad"]))
    graph.node.insert(1, helper.make_node("Cast", ["pad"], ["pad.float"], to=1))
    graph.node.insert(2, helper.make_node("Unsqueeze", ["pad.float", s.const([1, 3], np.int64)], ["pad.column"]))
    s.behind(s.first("Softmax").input[0], ("Add", ["", "pad.column"], {}))
    assert "the operator Equal" in refusal(s, tmp_path)
    s = Surgery()
    graph = s.model.graph
    pasts = [i.name for i in graph.input if i.name.endswith(".key")]
    graph.node.insert(0, helper.make_node("Sub", pasts, ["difference"]))
    graph.node.insert(1, helper.make_node("ReduceSum", ["difference"], ["foreign"], keepdims=0))
    s.behind(s.first("Softmax", 1).input[0], ("Add", ["", "foreign"], {}))
    assert "ReduceSum over axes None" in refusal(s, tmp_path)


def test_positions_rounded_to_16_bits_are_refused(tmp_path: Path) -> None:
    s = Surgery()
    s.behind(
        "position_ids",
        ("Cast", [""], {"to": onnx.TensorProto.BFLOAT16}),
        ("Cast", [""], {"to": onnx.TensorProto.INT64}),
    )
    assert "rounds position_ids to 16 bits" in refusal(s, tmp_path)


def test_a_model_without_a_window_is_not_refused_for_one(tmp_path: Path) -> None:
    """Sinks beside a window: the first four tokens are seen too."""
    s = Surgery()
    window(s, 100)
    graph = s.model.graph
    for place in [
        i for i, n in enumerate(graph.node) if n.op_type == "GreaterOrEqual" and n.output[0].endswith(".far")
    ][::-1]:
        far, at = graph.node[place].output[0], graph.node[place].output[0].replace(".far", ".at")
        graph.node.insert(place + 1, helper.make_node("GreaterOrEqual", [at, s.const(4, np.int64)], [far + ".late"]))
        graph.node.insert(place + 2, helper.make_node("And", [far, far + ".late"], [far + ".both"]))
        for node in graph.node:
            if node.op_type == "Where" and node.input[0] == far:
                node.input[0] = far + ".both"
    text = refusal(s, tmp_path)
    assert "neither everything before it nor a sliding window" in text


def test_a_reading_is_confirmed_by_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever lifting gets wrong, the whole model on the user's graph shows it, and where."""
    monkeypatch.setitem(curves.KNOWN, "silu", lambda x: -x)
    monkeypatch.setitem(curves.KNOWN, "gelu", lambda x: x / (1 + np.exp(-x)))
    with pytest.raises(UnsupportedModel, match=r"computes something else than it looks like: .* \(%l0.glu\)"):
        read(EXPORTS / "dynamo-eager-20.onnx")
