# SPDX-License-Identifier: Apache-2.0
"""eval: perplexity of a package beside onnxruntime's on the unquantized model, over the same windows of text."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import numpy as np

from meadow.cli.output import emit_json, err, json_option, out
from meadow.cli.reference import OnnxModel, reference_model
from meadow.cli.rewritten import surprise
from meadow.cli.run import device_option, opened
from meadow.cli.trust import trust_option
from meadow.compiler.errors import UsageError
from meadow.runtime.session import Session


def windows(session: Session, text: str, count: int, length: int) -> list[list[int]]:
    """The first `count` pieces of `length` tokens.  Raises UsageError when the text is too short."""
    need = count * length
    tokens = session.tokenizer.encode(text[: need * 12], control=False)
    if len(tokens) < need:
        raise UsageError(f"the text has {len(tokens)} tokens and {count} windows of {length} need {need}")
    return [tokens[i * length : (i + 1) * length] for i in range(count)]


@click.command("eval")
@click.argument("package", type=click.Path(path_type=Path))
@click.option("--text", default="wikipedia", show_default=True, help="wikipedia (its test split), or a text file.")
@click.option("--windows", "count", type=click.IntRange(min=1), default=12, show_default=True)
@click.option("--window-tokens", type=click.IntRange(min=2), default=512, show_default=True)
@click.option(
    "--reference", type=click.Path(path_type=Path), help="ONNX to compare with [default: the one quantized from]."
)
@device_option
@trust_option
@json_option
def eval_command(package: Path, text: str, count: int, window_tokens: int, reference: Path | None, device: str,
                 trust: bool, as_json: bool) -> None:  # fmt: skip
    """Measure the perplexity of PACKAGE on text, beside onnxruntime on the lossless ONNX.

    \b
    Example:
      meadowc eval build/smollm2 --text wikipedia --windows 12 --json
    """
    words = _text(text)
    with opened(package, device, as_json, trust) as session:
        length = window_tokens
        if length > session.context:
            raise UsageError(
                f"windows of {length} tokens are longer than the context of {session.context} that was compiled"
            )
        pieces = windows(session, words, count, length)
        onnx = OnnxModel(reference_model(session.package, reference, prefer_origin=True))
        mine = theirs = 0.0
        for index, tokens in enumerate(pieces):
            session.reset()
            mine += surprise(session.prefill(tokens, logits="all"), tokens)
            theirs += surprise(onnx.prefill(tokens), tokens)
            if not as_json and sys.stderr.isatty():
                err.print(f"window {index + 1}/{count}: {np.exp(mine / ((index + 1) * (length - 1))):.3f}", end="\r")
        name = session.device.name
    scored = count * (length - 1)
    ours, base = float(np.exp(mine / scored)), float(np.exp(theirs / scored))
    result = {"perplexity": ours, "reference": base, "ratio": ours / base, "kind": "measured", "device": name,
              "text": text, "windows": count, "window_tokens": length, "reference_model": str(onnx.path)}  # fmt: skip
    if as_json:
        emit_json(result)
    else:
        out.print(f"perplexity {ours:.3f} on {name}, {base:.3f} in onnxruntime on {onnx.path}: ratio {ours / base:.4f} "
                  f"(measured, {count} windows of {length} tokens of {text})")  # fmt: skip


def _text(name: str) -> str:
    if name == "wikipedia":
        from meadow.compiler.fetch import wikipedia_test_text

        return wikipedia_test_text()
    path = Path(name)
    if not path.is_file():
        raise UsageError(f"--text {name!r} is neither 'wikipedia' nor a file")
    try:
        return path.read_text()
    except UnicodeDecodeError:
        raise UsageError(f"--text {name!r} is not UTF-8 text") from None
