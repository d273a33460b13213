# SPDX-License-Identifier: Apache-2.0
"""Rung 0 is the user's own file: verify finds what the reader or the quantizer wrote wrongly, and takes what exporters give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from meadow.compiler.models import quantize
from meadow.evidence.ladder.reference import OnnxModel
from meadow.evidence.ladder.rewritten import compare

EXPORTS = Path(__file__).parents[1] / "fixtures" / "exports"
SMALL = ("--set", "context=128", "--set", "block=16", "--set", "token_lanes=4")
RUNGS = ("--rungs", "onnx,graph,emulator", "--tokens", "3")


def nbits(path: Path, name: str, bits: int = 4, accuracy: int | None = None) -> Path:
    """A fixture's MatMuls as onnxruntime's own quantizer makes MatMulNBits of them; its embedding stays float."""
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    config = DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=False, accuracy_level=accuracy, bits=bits)
    made = MatMulNBitsQuantizer(onnx.load(EXPORTS / f"{name}.onnx"), algo_config=config)
    made.process()
    made.model.save_model_to_file(str(path))
    return path


@pytest.mark.parametrize("name", ["optimum-18", "dynamo-eager-20"])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_model_of_onnxruntimes_quantizer_compiles_with_its_codes_and_float_embedding(
    name: str, bits: int, meadowc: Any, tmp_path: Path
) -> None:
    path = nbits(tmp_path / "model.onnx", name, bits)
    result = meadowc("compile", path, "--board", "zcu102", "-o", tmp_path / "p", *SMALL)
    assert result.code == 0, result.err
    result = meadowc("verify", tmp_path / "p", *RUNGS, "--json")
    assert result.code == 0 and result.json["passed"] and result.json["flipped_bit_detected"]
    assert result.json["notes"] == ["no tokenizer in the package: the prompts are random token ids"]


def test_a_model_without_a_tokenizer_takes_token_ids_and_says_what_has_none(meadowc: Any, tmp_path: Path) -> None:
    nbits(tmp_path / "model.onnx", "dynamo-eager-20")
    assert meadowc("compile", tmp_path / "model.onnx", "--board", "zcu102", "-o", tmp_path / "p", *SMALL).code == 0
    (tmp_path / "ids.json").write_text('[{"ids": [1, 50, 7]}]')
    result = meadowc("verify", tmp_path / "p", *RUNGS, "--prompts", tmp_path / "ids.json", "--json")
    assert result.code == 0 and result.json["prompts"][0]["prompt_tokens"] == 3
    (tmp_path / "ids.json").write_text('[{"ids": [1, true]}]')
    result = meadowc("verify", tmp_path / "p", *RUNGS, "--prompts", tmp_path / "ids.json")
    assert result.code == 2 and '{"ids": [1, 50, 7]}' in result.err
    result = meadowc("run", tmp_path / "p", "-p", "hello")
    assert result.code == 2 and "give token ids to Session.generate in Python" in result.err


def test_rung_0_feeds_the_types_that_the_file_asks_for(tmp_path: Path) -> None:
    ids = [1, 50, 93, 7]
    plain = OnnxModel(EXPORTS / "dynamo-eager-20.onnx").prefill(ids)
    model = onnx.load(EXPORTS / "dynamo-eager-20.onnx")
    for value in model.graph.input:
        if value.name in ("input_ids", "position_ids"):
            value.type.tensor_type.elem_type = TensorProto.INT32
            inner = onnx.helper.make_node("Cast", [value.name], [value.name + ".wide"], to=TensorProto.INT64)
            for node in model.graph.node:
                node.input[:] = [value.name + ".wide" if i == value.name else i for i in node.input]
            model.graph.node.insert(0, inner)
    onnx.save(model, tmp_path / "int32.onnx")
    assert (OnnxModel(tmp_path / "int32.onnx").prefill(ids) == plain).all()


def test_rung_0_computes_in_full_where_the_file_would_round_activations(tmp_path: Path) -> None:
    ids = [1, 50, 93, 7, 20, 21]
    full = OnnxModel(nbits(tmp_path / "full.onnx", "dynamo-eager-20")).prefill(ids)
    rounded = nbits(tmp_path / "rounded.onnx", "dynamo-eager-20", accuracy=4)
    assert np.abs(OnnxModel(rounded).prefill(ids) - full).max() < 1e-5 * np.abs(full).max()
    assert np.abs(OnnxModel(rounded, exact=False).prefill(ids) - full).max() > 1e-4 * np.abs(full).max()


def test_8_bit_groups_keep_their_codes(tmp_path: Path) -> None:
    path = nbits(tmp_path / "model.onnx", "dynamo-eager-20", bits=8)
    report = quantize(path, tmp_path / "q", "group")
    kept = [row for row in report["per_matrix"] if row["relative_error"] == 0.0]
    assert len(kept) == len(report["per_matrix"]) - 1  # the embedding, which was float, got codes
    ids = [1, 50, 93, 7, 20, 21]
    a, b = OnnxModel(path).prefill(ids), OnnxModel(tmp_path / "q" / "model.onnx").prefill(ids)
    assert np.std(a - b) / np.std(a) < 0.02


def test_a_float_head_gets_the_command_that_keeps_the_codes_beside_it(meadowc: Any, tmp_path: Path) -> None:
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    model = onnx.load(EXPORTS / "dynamo-eager-20.onnx")
    head = next(n for n in model.graph.node if n.output[0] == "logits")
    head.name = "head"
    config = DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=False)
    made = MatMulNBitsQuantizer(model, algo_config=config, nodes_to_exclude=["head"])
    made.process()
    made.model.save_model_to_file(str(tmp_path / "model.onnx"))
    result = meadowc("compile", tmp_path / "model.onnx", "--board", "zcu102", "-o", tmp_path / "p")
    assert result.code == 3 and "To keep its codes and give the rest 4 bits: meadowc quantize" in result.err
    assert "--weights int4" in result.err


@pytest.fixture(scope="module")
def rewritten_wrongly(tiny: Path, tiny_int8: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as quantize writes it, one of whose norms has another gain than the model that it names as its origin."""
    folder = tmp_path_factory.mktemp("wrong") / "model"
    quantize(tiny, folder, "channel")
    model = onnx.load(folder / "model.onnx")
    gain = next(t for t in model.graph.initializer if t.name == "blk.1.ffn_norm.weight")
    value = numpy_helper.to_array(gain)
    gain.CopyFrom(numpy_helper.from_array(-value, gain.name))
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=1024)
    return folder


def test_verify_finds_a_rewritten_file_that_is_another_function(
    rewritten_wrongly: Path, meadowc: Any, tmp_path: Path
) -> None:
    assert meadowc("compile", rewritten_wrongly, "--board", "zcu102", "-o", tmp_path / "p", *SMALL).code == 0
    result = meadowc("verify", tmp_path / "p", *RUNGS, "--limit", 2, "--json")
    assert result.code == 4 and result.json["bit_exact"] and not result.json["same_tokens"]
    assert any("user's file" in p for p in result.json["problems"])
    # Against the rewritten file alone nothing shows: every other rung begins with it.
    source = rewritten_wrongly / "model.onnx"
    assert meadowc("verify", tmp_path / "p", *RUNGS, "--limit", 2, "--reference", source, "--json").code == 0


def test_verify_compares_rewritten_weights_with_the_users_own_file(tiny_package: Path, meadowc: Any) -> None:
    result = meadowc("verify", tiny_package, *RUNGS, "--limit", 2, "--json")
    found = result.json["rewritten"]
    assert result.code == 0 and found["bits"] == 8 and found["noise"] < 0.1 and found["flipped"] == 0
    assert found["user"].endswith("tiny/model.onnx") and found["rewritten"].endswith("tiny-int8/model.onnx")
    assert abs(found["perplexity"][1] / found["perplexity"][0] - 1) < 0.05


def test_a_chain_of_quantized_files_names_the_first_as_the_users_own(
    tiny: Path, tiny_int8: Path, tmp_path: Path
) -> None:
    quantize(tiny_int8, tmp_path / "twice", weights="int4")
    properties = {
        p.key: p.value for p in onnx.load(tmp_path / "twice" / "model.onnx", load_external_data=False).metadata_props
    }
    assert (tmp_path / "twice" / properties["meadow.origin.path"]).resolve() == (tiny / "model.onnx").resolve()


def test_a_users_file_that_is_gone_is_asked_for(tiny: Path, meadowc: Any, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(tiny, tmp_path / "tiny")
    quantize(tmp_path / "tiny", tmp_path / "q", "channel")
    assert meadowc("compile", tmp_path / "q", "--board", "zcu102", "-o", tmp_path / "p", *SMALL).code == 0
    shutil.rmtree(tmp_path / "tiny")
    result = meadowc("verify", tmp_path / "p", *RUNGS, "--limit", 1)
    assert (
        result.code == 2
        and "which the package's source was quantized from, is gone; name it with --reference" in result.err
    )
    assert meadowc("verify", tmp_path / "p", *RUNGS, "--limit", 1, "--reference", tiny / "model.onnx").code == 0


def test_two_bits_are_shown_and_not_judged(tiny: Path, tmp_path: Path) -> None:
    quantize(tiny, tmp_path / "q", weights="int2")
    user, rewritten = OnnxModel(tiny / "model.onnx"), OnnxModel(tmp_path / "q" / "model.onnx")
    found = compare(user, rewritten, [[1, 5, 9, 20, 44]], 2)
    assert found.noise > 0.1 and not found.problems() and "not judged" in str(found)
    assert json.dumps(vars(found))


def test_a_design_that_cannot_run_the_model_saves_nothing(meadowc: Any, tmp_path: Path) -> None:
    """Heads of 8 rows, and an engine that takes 16 at a time: what is saved must be what can be opened."""
    from random_gguf import write_gguf

    write_gguf(tmp_path / "m.gguf", "F16", "F16", heads=8, dim=64)
    assert meadowc("convert", tmp_path / "m.gguf", "-o", tmp_path / "m").code == 0
    assert meadowc("quantize", tmp_path / "m", "-o", tmp_path / "q", "--weights", "int4").code == 0
    result = meadowc("compile", tmp_path / "q", "--board", "zcu102", "-o", tmp_path / "p", "--set", "pacq_ports=4")
    assert result.code == 5 and "this design cannot run this model, so nothing was saved" in result.err, result.err
    assert "tiles of 8 rows" in result.err and not (tmp_path / "p").exists()
    assert meadowc("compile", tmp_path / "q", "--board", "zcu102", "-o", tmp_path / "p").code == 0
