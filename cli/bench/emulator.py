# SPDX-License-Identifier: Apache-2.0
"""bench emulator: Prints tokens per second of the emulator and the C simulation beside onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from meadow.cli import results
from meadow.cli.output import emit_json, json_option, out, table
from meadow.cli.progress import stages
from meadow.cli.trust import require_trust, trust_option
from meadow.evidence.bench.emulator import measure
from meadow.machine.errors import UsageError
from meadow.machine.package.read import load

DEFAULT = Path("build/smollm2")


@click.command("emulator")
@click.argument("package", type=click.Path(path_type=Path), default=DEFAULT)
@click.option("--prompt", type=click.IntRange(min=1), default=128, show_default=True, help="Tokens of the prefill.")
@click.option("--tokens", type=click.IntRange(min=1), default=16, show_default=True, help="Decoded tokens.")
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True, help="Rounds; the median counts.")
@click.option("--reference", type=click.Path(path_type=Path), help="ONNX to compare with [default: the one compiled].")
@trust_option
@json_option
def emulator_command(
    package: Path, prompt: int, tokens: int, repeats: int, reference: Path | None, trust: bool, as_json: bool
) -> None:
    """Time PACKAGE on the emulator and the C simulation, in turns with onnxruntime on the ONNX file it was compiled from.

    \b
    Example:
      meadowc bench emulator build/smollm2 --json
    """
    opened = load(package)
    require_trust(opened, trust)
    if prompt + tokens > opened.design.context:
        raise UsageError(f"{prompt} and {tokens} tokens pass the context of {opened.design.context}")
    with stages(("start", "time"), as_json) as show:
        result = measure(opened, prompt, tokens, repeats, reference, show)
    speed = [
        (
            f"{name}, decode and prefill over onnxruntime's",
            f"{r['decode']['ratio_to_onnxruntime']:.2f}, {r['prefill']['ratio_to_onnxruntime']:.2f}",
            "measured",
        )
        for name, r in result["runners"].items()
        if name in ("emulator", "csim")
    ]
    results.keep(opened, speed)
    if as_json:
        emit_json(result)
    else:
        _show(package, result)


def _show(package: Path, result: dict[str, Any]) -> None:
    made = table(
        f"{package}: tokens per second (measured, median of rounds in turns: {result['repeats']}), prompt of {result['prompt']}",
        "runner",
        "start, s",
        "prefill",
        "x onnxruntime",
        "x its default",
        "decode",
        "x onnxruntime",
        "x its default",
    )
    for name, r in result["runners"].items():
        made.add_row(
            name,
            f"{r['start_seconds']:.1f}",
            f"{r['prefill']['tokens_per_s']:.1f}",
            f"{r['prefill']['ratio_to_onnxruntime']:.2f}",
            f"{r['prefill']['ratio_to_default']:.2f}",
            f"{r['decode']['tokens_per_s']:.1f}",
            f"{r['decode']['ratio_to_onnxruntime']:.2f}",
            f"{r['decode']['ratio_to_default']:.2f}",
        )
    out.print(made)
    out.print(
        f"onnxruntime runs the file's own meaning in FP32, its default rounds activations to 8 bits; load on this machine while "
        f"starting: {result['load']:.1f} of {result['cores']} cores"
    )
    b = result["bounds"]
    for name in ("emulator_decode", "emulator_prefill"):
        out.print(
            f"{name.replace('_', ' ')}: bound by {b[name]['bound']}: {b[name]['tokens_per_s']:.1f} tokens/s, of which {b[name]['share']:.0%} are reached"
        )
    out.print(
        f"csim decode: {b['csim_decode']['nanoseconds_per_weight']:.2f} ns per weight; {b['csim_decode']['bound']}"
    )
    out.print(
        f"csim prefill: {b['csim_prefill']['nanoseconds_per_product']:.3f} ns per product; {b['csim_prefill']['bound']}"
    )
