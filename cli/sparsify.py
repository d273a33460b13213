# SPDX-License-Identifier: Apache-2.0
"""sparsify: a model whose linear layers read what is above a threshold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from meadow.cli.output import emit_json, json_option, listing, out, shell
from meadow.cli.progress import stages

THIRDS = ("first", "second", "last")


@click.command("sparsify")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@click.option(
    "--activations",
    "share",
    type=float,
    required=True,
    metavar="SHARE",
    help="Of the layers' weights: the part whose column shall not be needed, such as 0.4.",
)
@click.option(
    "--shape",
    type=click.Choice(["auto", "uniform"]),
    default="auto",
    show_default=True,
    help="auto: cut most where that is measured to cost least; uniform: cut every input alike.",
)
@click.option("--calibrate", "text", metavar="FILE", default=None, help="The text, or wikipedia  [default: wikipedia].")
@click.option("--tokens", type=click.IntRange(min=2), default=None, help="Of the text  [default: 6144].")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the places in the text.")
@json_option
def sparsify_command(
    source: Path,
    target: Path,
    share: float,
    shape: str,
    text: str | None,
    tokens: int | None,
    seed: int,
    as_json: bool,
) -> None:
    """Put thresholds before the linear layers of SOURCE, a model file or folder of any kind: what is not above them is 0.

    In decode a zero makes a column of weights unneeded.  Thresholds are quantiles of magnitudes on calibration text, ONNX's own operator
    Shrink in the file, and the same bits on every rung.

    \b
    Examples:
      meadowc sparsify models/smollm2 -o models/smollm2-sparse --activations 0.4
      meadowc sparsify models/smollm2 -o models/smollm2-sparse --activations 0.25 --shape uniform
    """
    from meadow.compiler.quantize.calibrate import Calibration
    from meadow.compiler.sparsity import TOKENS, Wish, sparsify

    calibration = Calibration(text or "wikipedia", tokens or TOKENS, seed)
    names = ("reading", "measuring", "shaping", "writing")
    with stages(names if shape == "auto" else tuple(n for n in names if n != "shaping"), as_json) as show:
        result = sparsify(
            source,
            target,
            Wish(share, shape),
            calibration,
            lambda text: show(text.split(" ")[0], text.partition(" ")[2]),
        )
    if as_json:
        emit_json(result)
    else:
        _show(target, result)


def _show(target: Path, result: dict[str, Any]) -> None:
    out.print(
        f"{target}: {result['weights_cut']:.1%} of the layers' weights are not needed on the text that chose the thresholds; "
        f"on text that was held out it is {result['distance']:.4f} nats per token from the whole model and surprised by "
        f"{result['rise']:+.4f} (measured)"
    )
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "cut of": lambda r: r["inputs"],
        "layers": lambda r: f"{THIRDS[r['part']]} third" if r["parts"] == len(THIRDS) else "all",
        "share": lambda r: f"{r['share']:.2f}",
        "alone, nats per token": lambda r: ", ".join(f"{n:.4f} at {s}" for s, n in r.get("costs", {}).items()),
    }
    out.print(listing("shares, and what a group costs alone (measured)", columns, result["groups"]))
    for note in result["notes"]:
        out.print(f"note: {note}")
    out.print(f"next: {shell('meadowc', 'quantize', target, '-o', f'{target}-int8')}")
