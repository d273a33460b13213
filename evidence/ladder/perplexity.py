# SPDX-License-Identifier: Apache-2.0
"""Perplexity of a package on a text, beside onnxruntime on the same windows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from meadow.evidence.ladder.reference import OnnxModel
from meadow.evidence.ladder.rewritten import surprise
from meadow.machine.errors import UsageError
from meadow.runtime.session import Session


def windows(session: Session, text: str, count: int, length: int) -> list[list[int]]:
    """The first `count` pieces of `length` tokens.  Raises UsageError when the text is too short."""
    return _cut(session.tokenizer.encode(text[: count * length * 12], control=False), count, length)


def pieces_of(tokenizer: bytes | None, text: str, count: int, length: int) -> list[list[int]]:
    """The same for a model that is not compiled, by the tokenizer.json beside it.  Raises UsageError where there is none."""
    if tokenizer is None:
        raise UsageError("there is no tokenizer.json beside the model, and text is to be made tokens of")
    from tokenizers import Tokenizer

    encoded = Tokenizer.from_str(tokenizer.decode()).encode(text[: count * length * 12], add_special_tokens=False)
    return _cut(encoded.ids, count, length)


def _cut(tokens: list[int], count: int, length: int) -> list[list[int]]:
    if len(tokens) < count * length:
        raise UsageError(f"the text has {len(tokens)} tokens and {count} windows of {length} need {count * length}")
    return [tokens[i * length : (i + 1) * length] for i in range(count)]


def text_of(name: str) -> str:
    if name == "wikipedia":
        from meadow.compiler.sources.fetch import wikipedia_test_text

        return wikipedia_test_text()
    path = Path(name)
    if not path.is_file():
        raise UsageError(f"--text {name!r} is neither 'wikipedia' nor a file")
    try:
        return path.read_text()
    except UnicodeDecodeError:
        raise UsageError(f"--text {name!r} is not UTF-8 text") from None


def perplexity(
    session: Session, onnx: OnnxModel, pieces: list[list[int]], tell: Callable[[int, float], None]
) -> tuple[float, float]:
    """Perplexity of `session` and of `onnx` over the windows `pieces`; tell(windows done, perplexity so far)."""
    mine = theirs = 0.0
    scored = 0
    for index, tokens in enumerate(pieces):
        session.reset()
        mine += surprise(session.prefill(tokens, logits="all"), tokens)
        theirs += surprise(onnx.prefill(tokens), tokens)
        scored += len(tokens) - 1
        tell(index + 1, float(np.exp(mine / scored)))
    return float(np.exp(mine / scored)), float(np.exp(theirs / scored))
