# SPDX-License-Identifier: Apache-2.0
"""What users of other tools reported as bugs, each with its right answer here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnx
import pytest
from random_gguf import write_gguf

from meadow.compiler.sources.gguf.tokenizer import adds_bos, tokenizer
from meadow.compiler.sources.onnx.read import read
from meadow.compiler.sources.source import companions_of, read_source
from meadow.machine.errors import UnsupportedModel, UsageError
from meadow.runtime.text.tokenizer import Tokenizer

EXPORTS = Path(__file__).parents[1] / "fixtures" / "exports"


def hub_cache(folder: Path) -> Path:
    """A model as huggingface_hub keeps it: links from a snapshot to blobs."""
    model = onnx.load(EXPORTS / "dynamo-eager-20.onnx")
    blobs, snapshot = folder / "models--a--b" / "blobs", folder / "models--a--b" / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    onnx.save_model(model, folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    (folder / "m.onnx").rename(blobs / "aaaa")
    (folder / "m.data").rename(blobs / "bbbb")
    (snapshot / "model.onnx").symlink_to("../../blobs/aaaa")
    (snapshot / "m.data").symlink_to("../../blobs/bbbb")
    return snapshot


def test_links_into_the_blobs_of_a_hubs_cache_are_followed(tmp_path: Path) -> None:
    assert read(hub_cache(tmp_path)).model.layers == 2


def test_a_link_to_anywhere_else_is_not(tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path)
    (tmp_path / "models--a--b" / "blobs" / "bbbb").rename(tmp_path / "elsewhere")
    (snapshot / "m.data").unlink()
    (snapshot / "m.data").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="outside the model's folder"):
        read(snapshot)


def test_a_hub_repository_has_its_tokenizer_one_level_up(tmp_path: Path, tiny_int8: Path) -> None:
    (tmp_path / "onnx").mkdir()
    shutil.copy(tiny_int8 / "tokenizer.json", tmp_path / "tokenizer.json")
    assert set(companions_of(tmp_path / "onnx" / "model.onnx")) == {"tokenizer.json"}


def test_external_data_that_is_cut_short_without_a_length_is_named(tmp_path: Path) -> None:
    model = onnx.load(EXPORTS / "dynamo-eager-20.onnx")
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    stored = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    for tensor in stored.graph.initializer:
        kept = [e for e in tensor.external_data if e.key != "length"]
        del tensor.external_data[:]
        tensor.external_data.extend(kept)
    (tmp_path / "m.onnx").write_bytes(stored.SerializeToString())
    assert read(tmp_path / "m.onnx").model.layers == 2
    data = (tmp_path / "m.data").read_bytes()
    (tmp_path / "m.data").write_bytes(data[: len(data) // 2])
    with pytest.raises(UsageError, match="truncated"):
        read(tmp_path / "m.onnx")


SPM: dict[str, Any] = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "▁", "a", "b", "ab"],
    "tokenizer.ggml.scores": [0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -1.5],
    "tokenizer.ggml.token_type": [2, 3, 3, 1, 1, 1, 1],
}


def test_sentencepiece_adds_the_begin_unless_the_file_says_no() -> None:
    assert adds_bos(SPM) and not adds_bos({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm"})
    assert adds_bos({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "llama-bpe"})


def test_llama_3_looks_a_word_up_before_it_merges() -> None:
    tokens = ["<|begin|>", "a", "b", "c", "Ġ", "Ġa", "bc", "Ġabc"]
    fields = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.tokens": tokens}
    fields |= {"tokenizer.ggml.merges": ["Ġ a", "b c"]}
    assert tokenizer(fields).encode(" abc").ids == [7]
    assert tokenizer({**fields, "tokenizer.ggml.pre": "gpt-2"}).encode(" abc").ids == [5, 6]


def test_a_tokenizer_without_scores_and_merges_is_refused_in_a_sentence() -> None:
    with pytest.raises(UnsupportedModel, match="neither scores nor merges"):
        tokenizer({k: v for k, v in SPM.items() if not k.endswith("scores")})


def test_two_numbers_of_one_text_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match="two numbers"):
        tokenizer({**SPM, "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "a", "a", "b", "ab"]})


def test_a_part_of_a_split_file_says_which_it_is(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", "F16", "F16", fields={"split.count": 3, "split.no": 0})
    with pytest.raises(UnsupportedModel, match=r"part 1 of 3 of a split file: join them first"):
        read_source(tmp_path / "m.gguf")


def test_heads_that_are_listed_by_layer_are_taken_where_all_are_alike(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", "F16", "F16")
    for listed, said in (([2, 2], None), ([2, 1], "one number for all layers is served")):
        writer = gguf.GGUFReader(tmp_path / "m.gguf")
        fields = {name: field.contents() for name, field in writer.fields.items()}
        assert fields["llama.attention.head_count_kv"] == 2
        from meadow.compiler.sources.gguf.file import _decoder

        tensors = {t.name: t for t in writer.tensors}
        changed = {**fields, "llama.attention.head_count_kv": listed}
        if said is None:
            assert _decoder(tmp_path / "m.gguf", changed, tensors).model.kv_heads == 2
        else:
            with pytest.raises(UnsupportedModel, match=said):
                _decoder(tmp_path / "m.gguf", changed, tensors)


@pytest.fixture
def folder(tiny_int8: Path, tmp_path: Path) -> Path:
    shutil.copy(tiny_int8 / "tokenizer.json", tmp_path / "tokenizer.json")
    return tmp_path


def settings(folder: Path, **values: Any) -> Tokenizer:
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    return Tokenizer(folder)


def test_of_named_templates_the_default_is_taken(folder: Path) -> None:
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "[{{ messages[0].content }}]"}]
    assert settings(folder, chat_template=named).chat([{"role": "user", "content": "hi"}]) == "[hi]"


def test_the_begin_is_added_where_the_post_processor_adds_it(folder: Path) -> None:
    made = json.loads((folder / "tokenizer.json").read_text())
    vocab = made["model"]["vocab"]
    token, number = next((t, n) for t, n in vocab.items() if n == 2)
    made["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": [number], "tokens": [token]}},
    }
    plain = settings(folder).encode("Alice was")
    (folder / "tokenizer.json").write_text(json.dumps(made))
    assert settings(folder).encode("Alice was") == [2, *plain]
    assert settings(folder, add_bos_token=False).encode("Alice was") == plain


def test_padding_and_truncation_that_training_left_are_switched_off(folder: Path) -> None:
    plain = settings(folder).encode("Alice was beginning to")
    made = json.loads((folder / "tokenizer.json").read_text())
    made["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    made["padding"] = {
        "strategy": {"Fixed": 8},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "x",
    }
    (folder / "tokenizer.json").write_text(json.dumps(made))
    assert len(plain) > 3 and settings(folder).encode("Alice was beginning to") == plain
    assert np.all(np.array(plain) >= 0)
