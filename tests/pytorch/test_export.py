# SPDX-License-Identifier: Apache-2.0
"""meadow export and the rung torch, with PyTorch itself; skipped where it is not installed (make torch installs it)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import TOKENS, logits_of, write_folder

pytest.importorskip("torch")
pytest.importorskip("transformers")

import meadow
from meadow import boards
from meadow.compiler.graph.evaluate import Evaluator, State
from meadow.compiler.models import quantize
from meadow.compiler.pipeline import Options, compile_model
from meadow.compiler.sources.source import read_source
from meadow.compiler.sources.torch.model import TorchModel
from meadow.evidence.ladder.verify import verify
from meadow.machine.errors import UnsupportedModel, UsageError
from meadow.machine.package.read import load


@pytest.mark.parametrize("name", ["qwen3", "gemma2", "gpt_neox", "opt", "gptj", "smollm3"])
def test_an_export_computes_what_the_folder_does(name: str, tmp_path: Path) -> None:
    result = meadow.export(write_folder(name, tmp_path / "a"), None, tmp_path / "b")
    assert result["difference"]["value"] < 1e-5
    found = Evaluator(read_source(tmp_path / "b"), quantized=False).run(np.array(TOKENS), State())
    wanted = logits_of(name)
    assert np.abs(found[-len(wanted) :] - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_a_model_in_memory_is_exported_and_not_changed(tmp_path: Path) -> None:
    import transformers

    folder = write_folder("olmo2", tmp_path / "a")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="bfloat16")
    before = str(model.dtype), model.config._attn_implementation
    meadow.export(model, None, tmp_path / "b")
    assert (str(model.dtype), model.config._attn_implementation) == before
    assert json.loads((tmp_path / "b" / "config.json").read_text())["model_type"] == "olmo2"


def test_what_cannot_be_exported_is_said_in_a_sentence_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="object is no transformers model"):
        meadow.export(object(), None, tmp_path / "b")
    folder = write_folder("phi3 with LongRoPE", tmp_path / "a")
    with pytest.raises(UnsupportedModel, match=r"torch cannot export Phi3ForCausalLM: .*meadowc convert"):
        meadow.export(folder, None, tmp_path / "b")
    (folder / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises((UsageError, UnsupportedModel), match="transformers cannot load"):
        meadow.export(folder, None, tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("by", ["folder", "export"])
def test_the_torch_model_stands_on_top_of_the_ladder(by: str, tmp_path: Path) -> None:
    source = folder = write_folder("qwen2", tmp_path / "a")
    if by == "export":
        meadow.export(folder, None, tmp_path / "b")
        source = tmp_path / "b"
    quantize(source, tmp_path / "q")
    compile_model(tmp_path / "q", boards.load("zcu102"), tmp_path / "p", Options(settings=(("context", 64),)))
    rungs = ("torch", "onnx", "graph", "emulator")
    verdict = verify(load(tmp_path / "p"), rungs, 6, None, 2, None, lambda done, total, text: None)
    assert not verdict.problems and [len(row["torch"]) for row in verdict.prompts] == [6, 6]
    _spoil(folder)
    with pytest.raises(UsageError, match="has changed since"):
        verify(load(tmp_path / "p"), rungs, 6, None, 2, None, lambda done, total, text: None)


def _spoil(folder: Path) -> None:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rope_theta": 5e5}))


def test_another_model_on_the_top_rung_is_noticed(tmp_path: Path) -> None:
    folder = write_folder("qwen2", tmp_path / "a")
    quantize(folder, tmp_path / "q")
    compile_model(tmp_path / "q", boards.load("zcu102"), tmp_path / "p", Options(settings=(("context", 64),)))
    other = write_folder("qwen2", tmp_path / "other", rope_theta=3.0)
    verdict = verify(
        load(tmp_path / "p"), ("torch", "onnx", "emulator"), 8, None, 4, other, lambda done, total, text: None
    )
    assert verdict.problems
    assert len(TorchModel(other).prefill(TOKENS)) == len(TOKENS)
