# SPDX-License-Identifier: Apache-2.0
"""lm-evaluation-harness scores a package as it scores the same logits from onnxruntime.  Run by `make harness`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meadow.evidence.ladder.reference import OnnxModel
from meadow.machine.errors import UsageError
from meadow.runtime.session import Session
from meadow.runtime.text.sampler import logprobs

lm_eval = pytest.importorskip("lm_eval", reason="no lm-eval: make harness")

CHOICES = """
task: tiny_choices
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{q}}"
doc_to_choice: "{{c}}"
doc_to_target: "{{a}}"
target_delimiter: ""
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
QUESTIONS = [
    {"q": "The White", "c": [" Rabbit", " Queen", " xqz"], "a": 0},
    {"q": "Alice was", "c": [" beginning", " ÄÖ", " not"], "a": 0},
    {"q": "said the", "c": [" zz", " King", " Hatter"], "a": 1},
]


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, QUESTIONS)))
    (tmp_path / "tiny.yaml").write_text(CHOICES.replace("FILE", str(tmp_path / "q.jsonl")))
    return tmp_path


def test_multiple_choice_is_scored_as_from_onnxruntimes_logits(
    tasks: Path, meadowc: Any, tiny_package: Path, tiny_int8: Path
) -> None:
    found = meadowc("eval", tiny_package, "--tasks", "tiny_choices", "--include", tasks, "--json").json
    assert "rows" in found, found
    scores = {r["metric"]: r for r in found["rows"]}
    with Session(tiny_package) as session:
        text = session.tokenizer
        reference = OnnxModel(tiny_int8 / "model.onnx")
        right = 0
        for asked in QUESTIONS:
            likely = []
            for choice in asked["c"]:  # type: ignore[attr-defined]
                before, whole = text.encode(str(asked["q"])), text.encode(str(asked["q"]) + choice)
                rows = reference.prefill(whole)
                likely.append(sum(logprobs(rows[n - 1])[whole[n]] for n in range(len(before), len(whole))))
            right += int(np.argmax(likely)) == asked["a"]
    assert scores["acc"]["value"] == pytest.approx(right / len(QUESTIONS))
    assert scores["acc"]["questions"] == len(QUESTIONS) and found["kind"] == "measured"


def test_the_harness_finds_the_model_by_its_name_and_generates(tiny_package: Path) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.api.registry import get_model

    from meadow.evidence.ladder import harness

    assert get_model("meadow") is harness.Meadow
    with Session(tiny_package) as session:
        model = harness.Meadow(session)
        ask = [Instance("generate_until", {}, ("The", {"until": ["\n"], "max_gen_toks": 6}), 0)]
        answer = model.generate_until(ask)[0]
        assert answer and "\n" not in answer
        text = "The Queen of Hearts " * 30
        rolled = model.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)])[0]
        assert rolled < 0
        with pytest.raises(UsageError, match="known are"):
            model.generate_until([Instance("generate_until", {}, ("x", {"num_beams": 4}), 0)])
        with pytest.raises(UsageError, match="not known"):
            harness.Meadow(session, pretrained="x")


def test_a_task_that_is_not_known_is_named(meadowc: Any, tiny_package: Path) -> None:
    result = meadowc("eval", tiny_package, "--tasks", "no_such_task")
    assert result.code == 2 and "no_such_task" in result.err
