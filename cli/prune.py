# SPDX-License-Identifier: Apache-2.0
"""prune: a model without the heads and channels that it misses least."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from meadow.cli.output import emit_json, json_option, listing, megabytes, out, shell
from meadow.cli.progress import stages

SCORES = ("layer-energy", "taylor", "confidence", "random")
RULES = ("sparsegpt", "duogpt", "wanda", "magnitude")


@click.command("prune")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@click.option("--heads", type=float, default=0.0, metavar="SHARE", help="Of all query heads, such as 0.1.")
@click.option("--kv-groups", type=float, default=0.0, metavar="SHARE", help="Of all KV heads, with their query heads.")
@click.option("--channels", type=float, default=0.0, metavar="SHARE", help="Of the channels of all MLPs.")
@click.option(
    "--score",
    type=click.Choice(SCORES),
    default=SCORES[0],
    show_default=True,
    help="By which heads go, the lowest first: the energy of a head's output as a share of its layer's; what the surprise would change "
    "by without it; how sure its attention is; or by chance. Channels always go by energy.",
)
@click.option(
    "--weights", type=float, default=0.0, metavar="SHARE", help="Of the single weights of all layers, which become 0."
)
@click.option(
    "--rule",
    type=click.Choice(RULES),
    default=None,
    help="By which weights go: sparsegpt makes their error good by those that stay; duogpt does so for a model with thresholds too "
    "(meadowc sparsify); wanda and magnitude change no other weight  [default: sparsegpt].",
)
@click.option(
    "--repair",
    is_flag=True,
    help="Fit the matrices whose columns were cut to the outputs of the whole model, by least squares.",
)
@click.option("--calibrate", "text", metavar="FILE", default=None, help="The text, or wikipedia  [default: wikipedia].")
@click.option("--tokens", type=click.IntRange(min=2), default=None, help="Of the text  [default: 12288].")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the places in the text.")
@json_option
def prune_command(
    source: Path,
    target: Path,
    heads: float,
    kv_groups: float,
    channels: float,
    score: str,
    weights: float,
    rule: str | None,
    repair: bool,
    text: str | None,
    tokens: int | None,
    seed: int,
    as_json: bool,
) -> None:
    """Take from SOURCE, a model file or folder of any kind, the attention heads, MLP channels or single weights that it misses least.

    What is left is a smaller model: fewer rows and columns, fewer heads for the engine.  A layer keeps one head at least; a KV head goes
    with its last query head.  Compile or quantize it like any other.

    \b
    Examples:
      meadowc prune models/smollm2 -o models/smollm2-pruned --heads 0.1
      meadowc prune models/smollm2 -o models/smollm2-pruned --heads 0.3 --channels 0.1 --repair
      meadowc prune models/smollm2 -o models/smollm2-pruned --weights 0.5 --rule sparsegpt
    """
    from meadow.compiler.pruning import Wish, needs_text, prune
    from meadow.compiler.quantize.calibrate import Calibration

    wish = Wish(heads, kv_groups, channels, score, repair, weights, rule or RULES[0])
    if score != SCORES[0] and not (heads or kv_groups):
        raise click.UsageError(f"--score {score}: of no use without --heads or --kv-groups; drop it")
    if rule and not weights:
        raise click.UsageError(f"--rule {rule}: of no use without --weights; drop it")
    if repair and not (heads or kv_groups or channels):
        raise click.UsageError("--repair: of no use without --heads, --kv-groups or --channels; drop it")
    if (text or tokens) and not needs_text(wish):
        raise click.UsageError("--calibrate and --tokens: of no use here, since nothing is measured on text; drop them")
    given = {"text": text, "tokens": tokens, "seed": seed}
    calibration = Calibration(**{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]
    with stages(("reading", "scoring", "repairing", "masking", "writing"), as_json) as show:
        result = prune(source, target, wish, calibration, lambda text: show(text.split(" ")[0], text.partition(" ")[2]))
    if as_json:
        emit_json(result)
    else:
        _show(target, result)


def _show(target: Path, result: dict[str, Any]) -> None:
    before, after = result["before"], result["after"]
    parts = [
        f"{after[key]:,} of {before[key]:,} {name}"
        for key, name in (("heads", "query heads"), ("kv_heads", "KV heads"), ("channels", "MLP channels"))
        if after[key] != before[key]
    ]
    size = f"{megabytes(before['bytes'])} became {megabytes(after['bytes'])}"
    out.print(
        f"{target}: {', '.join(parts) or 'nothing went'} left; {after['weights'] / before['weights']:.1%} of the weights, {size}"
    )
    if result["rule"]:
        out.print(f"  {result['zeros']:.1%} of the weights of the layers are 0, by {result['rule']}")
    chosen = (
        "by chance" if result["score"] == "random" else f"by {result['score']} on text of {result['tokens']:,} tokens"
    )
    if result["heads_gone"] or result["channels_gone"]:
        out.print(f"  chosen {chosen}")
    gone = result["heads_gone"]
    if gone:
        most = sorted(gone, key=lambda layer: (-len(gone[layer]), int(layer)))[:8]
        told = "; ".join(f"{len(gone[n])} in layer {n}" for n in most)
        out.print(f"  heads that went: {told}{' ...' if len(gone) > len(most) else ''}")
    rows = result["repaired"]
    if rows:
        shown = [rows[n] for n in dict.fromkeys((0, len(rows) // 4, len(rows) // 2, 3 * len(rows) // 4, len(rows) - 1))]
        out.print(
            listing(
                "errors of outputs on text that was held out, from the first matrices to the last (relative, measured)",
                {
                    "matrix": lambda r: r["name"],
                    "cut": lambda r: f"{r['before']:.4f}",
                    "fitted": lambda r: f"{r['after']:.4f}",
                    "share of the fit": lambda r: f"{r['share']:g}",
                },
                shown,
            )
        )
    for note in result["notes"]:
        out.print(f"note: {note}")
    out.print(f"next: {shell('meadowc', 'quantize', target, '-o', f'{target}-int8')}")
