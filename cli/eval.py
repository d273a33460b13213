# SPDX-License-Identifier: Apache-2.0
"""eval: prints the perplexity of a package beside onnxruntime's."""

from __future__ import annotations

from pathlib import Path

import click

from meadow.cli.output import emit_json, json_option, out
from meadow.cli.progress import Pace
from meadow.cli.run import device_option, opened
from meadow.cli.trust import trust_option
from meadow.evidence.ladder.perplexity import perplexity, text_of, windows
from meadow.evidence.ladder.reference import OnnxModel, reference_model
from meadow.machine.errors import UsageError


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
def eval_command(
    package: Path,
    text: str,
    count: int,
    window_tokens: int,
    reference: Path | None,
    device: str,
    trust: bool,
    as_json: bool,
) -> None:
    """Measure the perplexity of PACKAGE on text, beside onnxruntime on the lossless ONNX.

    \b
    Example:
      meadowc eval build/smollm2 --text wikipedia --windows 12 --json
    """
    words = text_of(text)
    with opened(package, device, as_json, trust) as session:
        length = window_tokens
        if length > session.context:
            raise UsageError(
                f"windows of {length} tokens are longer than the context of {session.context} that was compiled"
            )
        pieces = windows(session, words, count, length)
        onnx = OnnxModel(reference_model(session.package, reference, prefer_origin=True))

        with Pace("windows", count, as_json) as pace:
            pace.at(0)
            tell = lambda done, so_far: pace.at(done, f"perplexity so far {so_far:.3f}")  # noqa: E731
            ours, base = perplexity(session, onnx, pieces, tell)
        name = session.device.name
    result = {
        "perplexity": ours,
        "reference": base,
        "ratio": ours / base,
        "kind": "measured",
        "device": name,
        "text": text,
        "windows": count,
        "window_tokens": length,
        "reference_model": str(onnx.path),
    }
    if as_json:
        emit_json(result)
    else:
        out.print(
            f"perplexity {ours:.3f} on {name}, {base:.3f} in onnxruntime on {onnx.path}: ratio {ours / base:.4f} "
            f"(measured, {count} windows of {length} tokens of {text})"
        )
