# SPDX-License-Identifier: Apache-2.0
"""GGUF arrives in ONNX exactly as it is stored."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGUFReader
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from random_gguf import TYPES, write_gguf

from meadow import boards
from meadow.compiler.graph.evaluate import evaluate
from meadow.compiler.graph.ops import Attention, Rotary
from meadow.compiler.models import convert
from meadow.compiler.pipeline import Options, compile_model
from meadow.compiler.program.nodes.add import AddRule
from meadow.compiler.sources.families.family import Family
from meadow.compiler.sources.gguf.file import read_gguf, unpermute
from meadow.compiler.sources.gguf.formats import FORMATS
from meadow.compiler.sources.onnx.builder import Builder
from meadow.compiler.sources.onnx.codes import packed_codes, unpacked_codes
from meadow.compiler.sources.onnx.graph import OnnxGraph
from meadow.compiler.sources.onnx.lift.form import Base, Form
from meadow.compiler.sources.onnx.lift.lifter import Cut, Lifter
from meadow.compiler.sources.onnx.lift.tensors import Tensors
from meadow.compiler.sources.onnx.read import read
from meadow.compiler.sources.onnx.write_weight import write_linear
from meadow.compiler.sources.source import read_source
from meadow.evidence.ladder.reference import OnnxModel
from meadow.machine.errors import UnsupportedModel, UsageError
from meadow.machine.types import Weight, grouped
from meadow.runtime import Session

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_arrives_and_runs_in_onnxruntime(kind: str, tmp_path: Path) -> None:
    stored = write_gguf(tmp_path / "m.gguf", kind)
    convert(tmp_path / "m.gguf", tmp_path / "m")
    graph = read(tmp_path / "m")
    for name, weight in graph.weights.items():
        expected = stored[name]
        if "attn_q" in name or "attn_k" in name:
            expected = expected[unpermute(len(expected), len(expected) // 16)]
        assert np.abs(weight.dequantize() - expected).max() <= 1e-7, name
    ids = [3, 9, 60, 1]
    reference = OnnxModel(tmp_path / "m" / "model.onnx").prefill(ids)
    assert np.abs(evaluate(graph, np.array(ids), quantized=False) - reference).max() < 1e-3


EDGES = np.array([2.0**-24, 2.0**-14, 0.001, 1, 3.14159, 65504], np.float16).astype(np.float32)
EXTREMES = np.concatenate([EDGES, -EDGES, [0]]).astype(np.float32)


def there_and_back(weight: Weight) -> Weight:
    """A weight as it is written to ONNX and read again."""
    b = Builder()
    write_linear(b, "x", weight, "y")
    values = [helper.make_tensor_value_info(name, 1, ["s", None]) for name in ("x", "y")]
    g = OnnxGraph(helper.make_model(helper.make_graph(b.nodes, "g", values[:1], values[1:], b.tensors)), Path())
    source = Base("x", 3, weight.cols)
    lift = Lifter(g, 2, 3, {"x": Cut((1, 3, weight.cols), lambda: Form.of(source, (1, 3, weight.cols)))})
    (base,) = lift.value("y").bases()
    return Tensors(g).matrix(base)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("cols", [64, 50])
def test_codes_scales_and_minima_come_back_bit_for_bit(bits: int, cols: int) -> None:
    random = np.random.default_rng(bits)
    scale, minimum = (a.reshape(-1, 1) for a in np.meshgrid(EXTREMES, EXTREMES))
    scale, minimum = (np.repeat(a, 2, axis=1).astype(np.float32) for a in (scale, minimum))
    codes = random.integers(0, 1 << bits, (len(scale), cols)).astype(np.uint8)
    weight = Weight("w", grouped(bits, 32), codes, scale, minimum)
    back = there_and_back(weight)
    assert (back.codes == codes).all() and back.elem == weight.elem
    assert back.scale is not None and back.scale.tobytes() == scale.tobytes()
    assert back.minimum is not None and (back.minimum == minimum).all()


@given(st.sampled_from([2, 4, 8]), st.integers(0, 255), st.floats(2.0**-14, 60000, width=16))
def test_minima_that_are_zero_points_are_written_as_such(bits: int, zero: int, scale: float) -> None:
    zero %= 1 << bits
    scales = np.full((3, 2), scale, np.float32)
    codes = (np.arange(3 * 64).reshape(3, 64) % (1 << bits)).astype(np.uint8)
    weight = Weight("w", grouped(bits, 32), codes, scales, (np.float32(-zero) * scales).astype(np.float32))
    b = Builder()
    write_linear(b, "x", weight, "y")
    assert not any(n.op_type == "Add" for n in b.nodes)
    back = there_and_back(weight)
    assert back.minimum is not None and weight.minimum is not None and (back.minimum == weight.minimum).all()
    assert (back.codes == codes).all()


@given(st.lists(st.integers(0, 15), min_size=2, max_size=64).filter(lambda x: len(x) % 2 == 0))
def test_nibbles_come_back(codes: list[int]) -> None:
    packed = np.array(codes, np.uint8)
    assert unpacked_codes(packed_codes(packed, 4), 4).tolist() == codes


def test_the_rotary_permutation_is_undone(tmp_path: Path) -> None:
    """The converted model must equal one that rotates neighbouring pairs with the matrices as GGUF stores them."""
    write_gguf(tmp_path / "m.gguf", "F32", "F32")
    file = read_gguf(tmp_path / "m.gguf")
    stored = np.asarray(file.tensors["blk.0.attn_q.weight"].data).reshape(64, 64)
    x = np.random.default_rng(0).normal(size=64).astype(np.float32)
    position, d = 5, 16
    angle = position * np.array(file.decoder.shapes[0].frequencies)
    pairs = (stored @ x).reshape(4, d // 2, 2)
    low = pairs[..., 0] * np.cos(angle) - pairs[..., 1] * np.sin(angle)
    high = pairs[..., 1] * np.cos(angle) + pairs[..., 0] * np.sin(angle)
    ours = (file.matrix(0, "q").codes.astype(np.float32) @ x).reshape(4, 2, d // 2)
    assert np.allclose(ours[:, 0] * np.cos(angle) - ours[:, 1] * np.sin(angle), low, atol=1e-5)
    assert np.allclose(ours[:, 1] * np.cos(angle) + ours[:, 0] * np.sin(angle), high, atol=1e-5)
    assert not (unpermute(64, 4) == np.arange(64)).all()


def test_the_folder_has_the_files_that_other_tools_expect(tiny: Path) -> None:
    names = {p.name for p in tiny.iterdir()}
    assert names == {
        ".meadow",
        "model.onnx",
        "model.onnx.data",
        "tokenizer.json",
        "config.json",
        "generation_config.json",
        "tokenizer_config.json",
    }
    config = json.loads((tiny / "config.json").read_text())
    assert config["num_hidden_layers"] == 4 and config["vocab_size"] == 1024 and config["tie_word_embeddings"]
    assert json.loads((tiny / "generation_config.json").read_text())["eos_token_id"] == 3


def test_converting_twice_gives_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    convert(FIXTURES / "tiny.gguf", tmp_path / "again")
    for path in tiny.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_a_type_that_is_not_served_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    floats = {name: FORMATS[name] for name in ("F32", "F16")}
    monkeypatch.setattr("meadow.compiler.sources.gguf.file.FORMATS", floats)
    write_gguf(tmp_path / "m.gguf", "Q4_0")
    with pytest.raises(UnsupportedModel, match=r"type Q4_0: of 14 tensors") as caught:
        convert(tmp_path / "m.gguf", tmp_path / "m")
    assert "type Q8_0" in str(caught.value) and not (tmp_path / "m").exists()


@pytest.mark.parametrize("permuted", [True, False])
def test_a_bias_stays_with_its_row(permuted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = Family("llama", biases=frozenset("qk"), permuted=permuted)
    monkeypatch.setattr("meadow.compiler.sources.gguf.file.families", lambda: {"llama": family})
    stored = write_gguf(tmp_path / "m.gguf", "F32", "F32", biases=("attn_q", "attn_k"))
    graph = read_source(tmp_path / "m.gguf")
    for name in ("blk.0.attn_q", "blk.1.attn_k"):
        rows = [row.tobytes() for row in stored[f"{name}.weight"]]
        order = [rows.index(row.tobytes()) for row in graph.weights[f"{name}.weight"].dequantize()]
        assert (order != sorted(order)) == permuted
        np.testing.assert_array_equal(graph.vectors[f"{name}.bias"], stored[f"{name}.bias"][order])


def test_a_model_that_no_engine_runs_is_said_to_be_one_when_it_is_written(
    tmp_path: Path, meadowc: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(tmp_path / "m.gguf")
    monkeypatch.setattr(AddRule, "lacks", lambda rule, op: [(True, "a sum", "no sums")])
    result = meadowc("convert", tmp_path / "m.gguf", "-o", tmp_path / "m")
    assert result.code == 0 and "next:" not in result.out
    assert "%l0.attn_add has a sum; the engines run no sums" in result.out


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", "F32", "F32", extra="blk.0.ffn_gate.bias")
    with pytest.raises(UnsupportedModel, match=r"blk.0.ffn_gate.bias"):
        convert(tmp_path / "m.gguf", tmp_path / "m")
    write_gguf(tmp_path / "g.gguf", "F32", "F32", architecture="mamba")
    with pytest.raises(UnsupportedModel, match="architecture 'mamba'"):
        convert(tmp_path / "g.gguf", tmp_path / "g")


def test_a_big_endian_file_is_called_so(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(str(tmp_path / "m.gguf"), "llama", endianess=gguf.GGUFEndian.BIG)
    writer.add_tensor("a", np.ones(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UsageError, match="is big-endian"):
        read_source(tmp_path / "m.gguf")


@pytest.mark.parametrize("keep", [3, 30, 500, 20000, 1_000_000])
def test_a_truncated_file_is_refused_in_a_sentence(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes((FIXTURES / "tiny.gguf").read_bytes()[:keep])
    with pytest.raises((UsageError, UnsupportedModel)):
        convert(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.real
def test_all_groups_of_the_real_file_come_back_bit_for_bit() -> None:
    from meadow.compiler.sources.fetch import fetch

    original = read_source(fetch("smollm2"))
    graph = read(Path("models/smollm2"))
    groups = 0
    for name, weight in graph.weights.items():
        stored = original.weights[name]
        assert weight.elem == stored.elem and (weight.codes == stored.codes).all(), name
        assert weight.scale is not None and stored.scale is not None
        assert weight.scale.tobytes() == stored.scale.tobytes(), name
        if stored.minimum is not None:
            assert weight.minimum is not None and weight.minimum.tobytes() == stored.minimum.tobytes(), name
            groups += stored.minimum.size
    assert groups == 3_317_760


@pytest.mark.parametrize(
    "claim",
    [
        struct.pack("<IQQ", 3, 1 << 60, 1 << 60),
        struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 4) + b"abcd" + struct.pack("<IIQ", 9, 0, 1 << 50),
        struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 62) + b"abcd",
        struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 4) + b"abcd" + struct.pack("<IIQ", 9, 9, 1 << 50),
        struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q", 1) + b"t" + struct.pack("<I", 1 << 30),
        struct.pack("<IQQ", 7, 0, 0),
    ],
)
def test_a_file_that_claims_too_much_is_refused_at_once(claim: bytes, tmp_path: Path) -> None:
    (tmp_path / "hostile.gguf").write_bytes(b"GGUF" + claim)
    with pytest.raises(UsageError):
        convert(tmp_path / "hostile.gguf", tmp_path / "out")


def gguf_with(path: Path, **fields: Any) -> Path:
    """A small model with other or more keys of its architecture: `__` stands for a dot."""
    write_gguf(path, "F16", "F16", fields={f"llama.{key.replace('__', '.')}": value for key, value in fields.items()})
    return path


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("rope__scaling__type", "spiral", "none, linear, yarn and longrope are read"),
        ("logit_scale", 0.5, "changes what is computed"),
        ("attention__causal", False, "changes what is computed"),
        ("attn_logit_softcapping", 50.0, "changes what is computed"),
        ("rope__scaling__attn_factor", 1.5, "changes what is computed"),
        ("a_new_key", 1, "is not known here"),
        ("block_count", 1_000_000, "a number from 0 to 1024"),
        ("embedding_length", 2**31 - 1, "a number from 0 to"),
    ],
)
def test_a_key_that_changes_what_is_computed_is_refused_by_name(
    key: str, value: Any, said: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModel, match=f"llama.{key.replace('__', '.')}: .*{said}"):
        convert(gguf_with(tmp_path / "m.gguf", **{key: value}), tmp_path / "m")


@pytest.mark.parametrize("key", ["rope__scale_linear", "rope__scaling__factor"])
def test_positions_are_divided_by_a_linear_factor(key: str, tmp_path: Path) -> None:
    plain = read_source(gguf_with(tmp_path / "a.gguf")).node("q_rope", 0).op
    slow = read_source(gguf_with(tmp_path / "m.gguf", **{key: 4.0})).node("q_rope", 0).op
    assert isinstance(plain, Rotary) and isinstance(slow, Rotary)
    assert slow.frequencies == tuple(f / 4 for f in plain.frequencies)


def test_a_window_of_the_file_is_every_layers(tmp_path: Path) -> None:
    graph = read_source(gguf_with(tmp_path / "m.gguf", attention__sliding_window=8))
    assert [n.op.window for n in graph.nodes if isinstance(n.op, Attention)] == [8, 8]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rope__scale_linear", 1.0),
        ("attention__sliding_window", 4096),
        ("rope__scaling__type", "none"),
        ("expert_count", 0),
        ("attention__causal", True),
    ],
)
def test_a_key_that_changes_nothing_is_taken(key: str, value: Any, tmp_path: Path) -> None:
    assert convert(gguf_with(tmp_path / "m.gguf", **{key: value}), tmp_path / "m")["types"]


def test_scales_that_are_not_numbers_are_refused_while_converting(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", "Q8_0", "Q8_0")
    data = bytearray((tmp_path / "m.gguf").read_bytes())
    place = next(t for t in GGUFReader(tmp_path / "m.gguf").tensors if t.name == "blk.1.ffn_up.weight").data_offset
    data[place : place + 2] = b"\x00\x7e"  # NaN in FP16: the scale of the first block
    (tmp_path / "m.gguf").write_bytes(data)
    with pytest.raises(UnsupportedModel, match="scales hold NaN or infinity"):
        convert(tmp_path / "m.gguf", tmp_path / "m")


def test_merges_that_make_no_token_are_refused(tmp_path: Path) -> None:
    from meadow.compiler.sources.gguf.tokenizer import tokenizer

    fields = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": ["a", "b", "ab"],
        "tokenizer.ggml.merges": ["a b", "a a", "b"],
    }
    with pytest.raises(UsageError, match=r"2 of the file's 3 merges do not make a token of two tokens \('a a', 'b'\)"):
        tokenizer(fields)


@pytest.mark.csim
def test_a_gguf_file_compiles_without_onnx_to_the_same_tokens(tmp_path: Path) -> None:
    """Straight from the file, and from the folder that convert writes: the same logits bit for bit."""
    write_gguf(tmp_path / "m.gguf", "Q4_1", kv_heads=2)
    convert(tmp_path / "m.gguf", tmp_path / "m")
    board, options, digests = boards.load("zcu102"), Options(settings=(("block", 16), ("context", 64))), set()
    for source in (tmp_path / "m.gguf", tmp_path / "m"):
        compile_model(source, board, tmp_path / f"p-{source.name}", options)
        with Session(tmp_path / f"p-{source.name}", "emulator") as session:
            session.prefill([3, 9, 60, 1], logits="all")
            digests.add(session.digest)
            assert (tmp_path / f"p-{source.name}" / "tokenizer" / "tokenizer.json").is_file()
    assert len(digests) == 1


def test_a_converted_gguf_file_has_the_same_logits_in_onnxruntime(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", "Q4_0")
    graph, ids = read_source(tmp_path / "m.gguf"), [3, 9, 60, 1]
    reference = OnnxModel(tmp_path / "m.gguf").prefill(ids)
    assert np.abs(evaluate(graph, np.array(ids), quantized=False) - reference).max() < 1e-3
