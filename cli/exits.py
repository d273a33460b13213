# SPDX-License-Identifier: Apache-2.0
"""exits fit: maps by which a large model tells early what it will probably say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from meadow.cli.output import emit_json, json_option, listing, out, shell
from meadow.cli.progress import stages
from meadow.machine.errors import UsageError

TOKENS = 16384
HELD = 4
"""Windows that judge."""


@click.group("exits")
def exits_command() -> None:
    """Exits of a model that verifies drafts: after some of its layers it tells what it will probably say.

    \b
    Examples:
      meadowc exits fit models/smollm2
      meadowc exits fit models/smollm2 --layers 24,27 --json
    """


@exits_command.command("fit")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--layers", default="", metavar="N,N,...", help="After which layers [default: 50, 60, 70, 80 and 90 %].")
@click.option("--calibrate", "text", metavar="FILE", default="wikipedia", show_default=True, help="The text.")
@click.option("--tokens", type=click.IntRange(min=2), default=TOKENS, show_default=True, help="Of the text.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the places in the text.")
@click.option(
    "-o",
    "--output",
    "target",
    type=click.Path(path_type=Path),
    default=None,
    help="File to write [default: exits.safetensors beside the model].",
)
@json_option
def fit_command(
    model: Path, layers: str, text: str, tokens: int, seed: int, target: Path | None, as_json: bool
) -> None:
    """Fit a map from the state behind some layers of MODEL to that behind the last, by ridge regression; nothing of the model is trained.

    Prints how often the exit's likeliest token is the model's (agreement), how often it is sure of it (coverage) and right then (precision).

    \b
    Examples:
      meadowc exits fit models/smollm2
      meadowc exits fit models/smollm2 --layers 21,24,27 --tokens 8192
    """
    from meadow.compiler.quantize.calibrate import Calibration, calibration_windows
    from meadow.compiler.sources.source import companions_of, find_source, format_of, read_source
    from meadow.compiler.sources.text import some_text
    from meadow.targets.exits import fit, save_exits, usual_layers
    from meadow.targets.graph import FORMATS

    chosen = numbers(layers, "--layers")
    file = find_source(model)
    path = target or file.parent / "exits.safetensors"
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path.absolute().parent} is not there; make the folder, or choose another with -o")
    with stages(("reading", "fitting"), as_json) as show:
        show("reading", str(model))
        graph = read_source(file)
        calibration = Calibration(text, tokens, seed)
        windows = calibration_windows(graph, companions_of(file).get("tokenizer.json"), calibration, some_text)
        held = min(HELD, len(windows) // 2)
        found = fit(
            graph,
            windows[held:],
            windows[:held],
            chosen or usual_layers(graph.model.layers),
            lambda what: show("fitting", what),
        )
        save_exits(found, graph, path)
    result = {"file": str(path), "tau": found.tau, "rows": list(found.rows), "kind": "measured on held-out windows"}
    if as_json:
        emit_json(result)
        return
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "after layer": lambda r: f"{r['layer']} of {r['of']}",
        "agreement": lambda r: f"{r['agreement']:.3f}",
        f"coverage at {found.tau:g}": lambda r: f"{r['coverage']:.3f}",
        "precision": lambda r: f"{r['precision']:.3f}",
    }
    out.print(listing(f"exits of {file.parent.name} (measured on {held} held-out windows)", columns, list(found.rows)))
    used = ",".join(str(r["layer"]) for r in found.rows[-3:])
    where = [] if target is None else ["--exits-file", str(target)]
    kind = FORMATS[format_of(file)]
    out.print(f"next: {shell('meadowc', 'serve', '--target', f'{kind}:{model}', '--exits', used, *where)}")


def numbers(text: str, option: str) -> tuple[int, ...]:
    """Layers by their numbers, in order.  Raises UsageError."""
    parts = [p.strip() for p in text.split(",") if p.strip()]
    wrong = next((p for p in parts if not p.isdecimal() or len(p) > 4), None)
    if wrong is not None:
        raise UsageError(f"{option} {text!r}: {wrong!r} is no number of a layer; write them like 14,21,25")
    if text and not parts:
        raise UsageError(f"{option} {text!r} names no layer; write them like 14,21,25")
    return tuple(sorted({int(p) for p in parts}))
