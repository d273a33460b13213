# SPDX-License-Identifier: Apache-2.0
"""Ids and texts of tokenizers of every kind, as transformers has them (tests/fixtures/make_tokenizers.py made the table)."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from meadow.runtime.text.tokenizer import Tokenizer

FOLDER = Path(__file__).parents[1] / "fixtures" / "tokenizers"
KINDS = sorted(p.name for p in FOLDER.iterdir())


def table(kind: str) -> dict[str, Any]:
    return dict(json.loads((FOLDER / kind / "expected.json").read_text()))


@pytest.mark.parametrize("kind", KINDS)
def test_text_becomes_the_ids_that_transformers_makes_of_it(kind: str) -> None:
    tokenizer = Tokenizer(FOLDER / kind)
    for row in table(kind)["texts"]:
        assert tokenizer.encode(row["text"]) == row["ids"], row["text"]


@pytest.mark.parametrize("kind", KINDS)
def test_ids_become_the_text_that_transformers_makes_of_them(kind: str) -> None:
    tokenizer = Tokenizer(FOLDER / kind)
    for row in table(kind)["texts"]:
        assert tokenizer.decode(row["ids"]) == row["decoded"], row["text"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if table(kind)["chat"]])
def test_a_conversation_is_what_the_template_makes_of_it_in_transformers(kind: str) -> None:
    tokenizer, chat = Tokenizer(FOLDER / kind), table(kind)["chat"]
    assert tokenizer.chat(chat["messages"]) == chat["text"]
    assert tokenizer.conversation(chat["messages"]) == chat["ids"]


def test_a_template_may_ask_for_the_date_and_write_json(tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((FOLDER / "gpt2" / name).read_bytes())
    template = "{{ strftime_now('%Y') }} {{ messages[0] | tojson(separators=(',', ':')) }}"
    (tmp_path / "chat_template.jinja").write_text(template)
    said = Tokenizer(tmp_path).chat([{"role": "user", "content": "é"}])
    assert said == f'{datetime.now().year} {{"role":"user","content":"é"}}'
