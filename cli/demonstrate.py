# SPDX-License-Identifier: Apache-2.0
"""demo: a bundled model of 852,608 weights goes all the way, offline: read, quantized, compiled, run on two rungs to the same bits."""

from __future__ import annotations

import shutil
import time
from importlib import resources
from pathlib import Path
from typing import Any

import click

from meadow.cli.output import emit_json, json_option, out, shell
from meadow.machine.errors import DeviceError

PROMPT = "Alice was beginning to get very tired of sitting by her sister on the bank,"
TOKENS = 32
BOARD = "zcu102"


@click.command("demo")
@click.option(
    "-o",
    "--output",
    "target",
    type=click.Path(path_type=Path),
    default=Path("build/demo"),
    show_default=True,
    help="Folder for the models and the package.",
)
@json_option
def demo_command(target: Path, as_json: bool) -> None:
    """Take a small model from its file to tokens on an emulated board, and compare two rungs bit for bit.

    Offline; the commands are shown as they could be typed.

    \b
    Example:
      meadowc demo
    """
    began, tell = time.perf_counter(), Teller(as_json)
    with resources.as_file(resources.files("meadow.cli") / "demo" / "tiny.gguf") as source:
        found = _go(source, target, tell)
    seconds = time.perf_counter() - began
    if as_json:
        emit_json({**found, "seconds": {"value": seconds, "kind": "measured"}})
        return
    same = "the same bits" if found["equal"] else "DIFFERENT bits"
    rungs = " and ".join(found["digests"])
    out.print(f"\n{rungs}: {same} (digest {next(iter(found['digests'].values()))[:16]}); {seconds:.1f} s in all")
    if not found["equal"]:
        raise DeviceError("two rungs disagree; meadowc doctor shows what is installed here")
    out.print(f"next: {shell('meadowc', 'report', target / 'tiny')}, or a real model: meadowc fetch smollm2")


class Teller:
    """Shows commands and what came of them, or nothing."""

    def __init__(self, quiet: bool):
        self.quiet = quiet

    def command(self, *words: object) -> None:
        self.line(f"$ {shell(*words)}", "dim")

    def line(self, text: str, style: str = "") -> None:
        if not self.quiet:
            out.print(text, style=style)


def _go(source: Path, target: Path, tell: Teller) -> dict[str, Any]:
    """The steps, each after its command.  Models of an earlier demo are written again."""
    from meadow import boards
    from meadow.compiler.models import convert, quantize
    from meadow.compiler.pipeline import Options, compile_model

    model, rounded, package = target / "model", target / "model-int8", target / "tiny"
    tell.command("meadowc", "convert", source, "-o", model)
    convert(source, model)
    tell.command("meadowc", "quantize", model, "-o", rounded)
    quantize(model, rounded)
    tell.command("meadowc", "compile", rounded, "--board", BOARD, "-o", package)
    summary = compile_model(rounded, boards.load(BOARD), package, Options(name="tiny"))
    rate = summary["decode"]["tokens_per_s"]
    tell.line(f"  {summary['model']}; {rate:,.0f} tokens/s on a {BOARD} (modelled)")
    digests, text = {}, ""
    for device in ("emulator", "csim") if shutil.which("g++") else ("emulator",):
        tell.command("meadowc", "run", package, "--raw", "-p", PROMPT, "-n", TOKENS, "--device", device)
        digests[device], text = _answer(package, device)
        tell.line(f"  {PROMPT}{text}")
    return {
        "package": str(package),
        "text": text,
        "digests": digests,
        "equal": len(set(digests.values())) == 1,
        "modelled_tokens_per_s": summary["decode"]["tokens_per_s"],
    }


def _answer(package: Path, device: str) -> tuple[str, str]:
    """(digest, text) of the prompt's continuation."""
    from meadow.runtime.session import Session

    with Session(package, device, lambda done, total: None) as session:
        text = session.answer(PROMPT, TOKENS, raw=True).read()
        return session.digest, text
