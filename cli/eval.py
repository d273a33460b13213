# SPDX-License-Identifier: Apache-2.0
"""eval: prints the perplexity of a package beside onnxruntime's, or the scores of lm-evaluation-harness's tasks."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import click

from meadow.cli import results
from meadow.cli.output import emit_json, json_option, out, table
from meadow.cli.progress import Pace
from meadow.cli.run import device_option, opened
from meadow.cli.trust import trust_option
from meadow.evidence.ladder.perplexity import perplexity, text_of, windows
from meadow.evidence.ladder.reference import OnnxModel, reference_model
from meadow.machine.errors import UsageError
from meadow.runtime.session import Session


@click.command("eval")
@click.argument("package", type=click.Path(path_type=Path))
@click.option("--text", default="wikipedia", show_default=True, help="wikipedia (its test split), or a text file.")
@click.option("--windows", "count", type=click.IntRange(min=1), default=12, show_default=True)
@click.option("--window-tokens", type=click.IntRange(min=2), default=512, show_default=True)
@click.option(
    "--reference", type=click.Path(path_type=Path), help="ONNX to compare with [default: the one quantized from]."
)
@click.option("--tasks", default="", metavar="NAME,...", help="Tasks of lm-evaluation-harness instead of text.")
@click.option("--limit", type=click.IntRange(min=1), help="With --tasks: questions of each.")
@click.option("--shots", type=click.IntRange(min=0), help="With --tasks: examples before each question.")
@click.option("--chat", is_flag=True, help="With --tasks: ask in the model's chat template.")
@click.option(
    "--include", multiple=True, type=click.Path(path_type=Path), help="With --tasks: a folder with tasks of your own."
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
    tasks: str,
    limit: int | None,
    shots: int | None,
    chat: bool,
    include: tuple[Path, ...],
    device: str,
    trust: bool,
    as_json: bool,
) -> None:
    """Measure the perplexity of PACKAGE on text, beside onnxruntime on the lossless ONNX; or its scores in lm-evaluation-harness.

    \b
    Examples:
      meadowc eval build/smollm2 --text wikipedia --windows 12 --json
      meadowc eval build/smollm2 --tasks arc_easy,hellaswag --limit 100 --device csim
    """
    _check(tasks)
    if tasks:
        names = [name.strip() for name in tasks.split(",") if name.strip()]
        with opened(package, device, as_json, trust) as session, Pace("requests", 0, as_json) as pace:
            _tasks(session, names, limit, shots, chat, include, pace, as_json)
        return
    words = text_of(text)
    with opened(package, device, as_json, trust) as session:
        _perplexity(session, words, text, count, window_tokens, reference, as_json)


def _perplexity(
    session: Session, words: str, text: str, count: int, length: int, reference: Path | None, as_json: bool
) -> None:
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
    what = f"perplexity over onnxruntime's, {count} windows of {length} tokens of {text}"
    results.keep(session.package, [(what, f"{ours:.2f} / {base:.2f} = {ours / base:.4f}", "measured")])
    result = {
        "perplexity": ours,
        "reference": base,
        "ratio": ours / base,
        "kind": "measured",
        "device": session.device.name,
        "text": text,
        "windows": count,
        "window_tokens": length,
        "reference_model": str(onnx.path),
    }
    if as_json:
        emit_json(result)
    else:
        out.print(
            f"perplexity {ours:.3f} on {session.device.name}, {base:.3f} in onnxruntime on {onnx.path}: ratio {ours / base:.4f} "
            f"(measured, {count} windows of {length} tokens of {text})"
        )


def _check(tasks: str) -> None:
    """Raise UsageError for options that would do nothing: those of tasks without tasks, those of text with them."""
    ctx = click.get_current_context()

    def said(names: dict[str, str]) -> list[str]:  # on the command line: a file may hold both kinds
        return [o for n, o in names.items() if ctx.get_parameter_source(n) is click.core.ParameterSource.COMMANDLINE]

    idle = said({"limit": "--limit", "shots": "--shots", "chat": "--chat", "include": "--include"})
    if not tasks and idle:
        raise UsageError(f"{', '.join(idle)}: of use with --tasks alone; drop it, or name tasks")
    idle = said(
        {"text": "--text", "count": "--windows", "window_tokens": "--window-tokens", "reference": "--reference"}
    )
    if tasks and idle:
        raise UsageError(f"{', '.join(idle)}: of no use with --tasks; drop it")


def _tasks(
    session: Session,
    names: list[str],
    limit: int | None,
    shots: int | None,
    chat: bool,
    include: tuple[Path, ...],
    pace: Pace,
    as_json: bool,
) -> None:
    from meadow.evidence.ladder.harness import evaluate

    def tell(done: int, total: int) -> None:
        pace.total = total
        pace.at(done)

    with contextlib.redirect_stdout(sys.stderr):  # the harness prints
        found = evaluate(session, names, limit, shots, chat, include, tell)
    found_rows = [(f"{r['task']}: {r['metric']}", f"{r['value']:.4f}", "measured") for r in found["rows"]]
    results.keep(session.package, found_rows)
    device = {"device": session.device.name, "kind": "measured", "package": str(session.package.folder)}
    if as_json:
        emit_json({**found, **device})
        return
    rows = table(
        f"{session.package.name} on {session.device.name}, {found['harness']} (measured)",
        *("task", "metric", "value", "stderr", "questions"),
    )
    for r in found["rows"]:
        metric = r["metric"] if r["filter"] == "none" else f"{r['metric']}, {r['filter']}"
        error = "" if r["stderr"] is None else f"{r['stderr']:.4f}"
        rows.add_row(r["task"], metric, f"{r['value']:.4f}", error, str(r["questions"] or ""))
    out.print(rows)
