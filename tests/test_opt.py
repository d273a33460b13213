# SPDX-License-Identifier: Apache-2.0
"""The trained OPT of tests/fixtures: from a Hugging Face folder to text on the emulated board, and what eight bits cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from meadow import boards
from meadow.compiler.models import quantize
from meadow.compiler.pipeline import Options, compile_model
from meadow.evidence.ladder.reference import OnnxModel
from meadow.evidence.ladder.rewritten import surprise
from meadow.runtime.session import Session

FOLDER = Path(__file__).parent / "fixtures" / "austen-opt"
TEXT = """It is a truth universally acknowledged, that a single man in possession
of a good fortune, must be in want of a wife.

However little known the feelings or views of such a man may be on his
first entering a neighbourhood, this truth is so well fixed in the minds
of the surrounding families, that he is considered the rightful property
of some one or other of their daughters."""
"""As the training text has it, line by line."""


def test_a_trained_opt_loses_little_by_eight_bits_and_writes_words(tmp_path: Path) -> None:
    quantize(FOLDER, tmp_path / "q")
    compile_model(tmp_path / "q", boards.load("kv260"), tmp_path / "p", Options())
    with Session(tmp_path / "p", "emulator") as session:
        ids = session.tokenizer.encode(TEXT)
        found = session.prefill(ids, logits="all")
        words = session.tokenizer.decode(list(session.generate(session.tokenizer.encode("She was"), 12)))
    wanted = OnnxModel(FOLDER / "model.safetensors").prefill(ids)
    before, after = (float(np.exp(surprise(rows, ids) / (len(ids) - 1))) for rows in (wanted, found))
    assert before < 60 and after < 1.02 * before
    assert len(words.split()) >= 6 and words.isascii()
