# SPDX-License-Identifier: Apache-2.0
"""Cosim: the C simulation as the sequencer with pacq_gemv in Verilog behind its streams, and its registers behind the board's.

Driver, register map, stream protocol and Verilog meet here.  Counts cycles of pacq_gemv's clock; the sequencer takes none.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from importlib import resources
from pathlib import Path

from meadow.compiler.emit.verilog import MODELS
from meadow.evidence.ladder.verilated import verilator
from meadow.machine.engines.array import Array
from meadow.machine.engines.pacq import Pacq
from meadow.machine.errors import DeviceError, ToolMissing, UsageError
from meadow.machine.package.read import Package
from meadow.runtime.devices.built import is_whole, keep, place
from meadow.runtime.devices.csim import FLAGS, cpu
from meadow.runtime.devices.csim_engine import Engine
from meadow.runtime.devices.emulated_board import EmulatedBoard

TIMEOUT = 900


def build(package: Package, parameters: dict[str, int]) -> Path:
    """The library of the package's C++ and Verilog; `parameters` are pacq_gemv's by their Verilog names.

    Raises ToolMissing without Verilator, g++ or make, DeviceError when one of them refuses.
    """
    command, environment = verilator()
    compiler = shutil.which("g++")
    if compiler is None or shutil.which("make") is None:
        raise ToolMissing("co-simulation needs g++ and make: apt-get install g++ make")
    rtl = [
        path for name, path in package.sources("rtl").items() if path.name not in ("pacq_top.v", "meadow_identity.v")
    ]
    models = [Path(str(resources.files("meadow.rtl") / name)) for name in MODELS]
    rtl += models
    version = subprocess.run([compiler, "-dumpfullversion"], capture_output=True, text=True, check=False).stdout
    files = {name: path.read_bytes() for folder in ("hls", "rtl") for name, path in package.sources(folder).items()}
    files |= {model.name: model.read_bytes() for model in models}
    library = place("cosim", [parameters, FLAGS, version, command, cpu()], files, ".so")
    if is_whole(library):
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as work:
        made = Path(work) / "cosim.so"
        _run(_verilate(command, rtl, parameters), work, environment)
        _run(_compile(compiler, package, Path(environment["VERILATOR_ROOT"]), made), work, environment)
        return keep(made, library)


def _verilate(command: str, rtl: list[Path], parameters: dict[str, int]) -> list[str]:
    """Verilator's command: a static library of pacq_gemv in obj_dir."""
    return [
        command,
        *("--cc", "--build", "-O3", "--no-timing", "-Wno-fatal", "-Wno-lint"),
        *("--x-assign", "fast", "--x-initial", "fast"),
        *("-CFLAGS", "-O2 -march=native -std=c++17 -fPIC"),
        *("--top-module", "pacq_gemv"),
        *(f"-G{name}={value}" for name, value in parameters.items()),
        *(str(p.resolve()) for p in rtl),
    ]


def _compile(compiler: str, package: Package, verilator_root: Path, made: Path) -> list[str]:
    """g++'s command: the package's C simulation with that library instead of its own model of pacq_gemv."""
    hls, design = (package.folder / "hls").resolve(), package.design
    return [
        compiler,
        *FLAGS,
        "-DMEADOW_COSIM",
        f"-DMEADOW_WEIGHT_PORTS={design.engine(Array).ports}",
        f"-DMEADOW_PACQ_PORTS={design.engine(Pacq).ports}",
        "-Wno-unused-parameter",
        *("-isystem", f"{verilator_root}/include"),
        *("-Iobj_dir", f"-I{hls / 'sim'}", f"-I{hls}", str(hls / "sim" / "csim.cpp")),
        *("obj_dir/libVpacq_gemv.a", "obj_dir/libverilated.a", "-pthread"),
        *("-o", str(made)),
    ]


def _run(step: list[str], work: str, environment: dict[str, str]) -> None:
    tool = Path(step[0]).name
    try:
        done = subprocess.run(
            step, cwd=work, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired:
        raise DeviceError(f"{tool} did not end within {TIMEOUT} s") from None
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if "rror" in line]
        raise DeviceError(f"{tool} refused the engine: {lines[0] if lines else done.stderr[-300:]}")


class VerilogBlock:
    """The registers of pacq_gemv, over its AXI4-Lite port."""

    def __init__(self, engine: Engine):
        self.engine = engine

    def read(self, offset: int) -> int:
        return self.engine.read_register(offset)

    def write(self, offset: int, value: int) -> None:
        self.engine.write_register(offset, value)


class CosimBoard(EmulatedBoard):
    """An emulated board whose pacq_gemv is Verilog."""

    def __init__(self, package: Package, parameters: dict[str, int]):
        if not package.design.engine(Pacq).ports:
            raise UsageError(
                f"{package.folder} has no grouped weights, so no pacq_gemv to simulate; compile a model whose weights are INT4 or INT2 in groups "
                "(meadowc quantize MODEL -o FOLDER --weights int4)"
            )
        self.parameters = parameters
        super().__init__(package)

    def _open_engine(self) -> Engine:
        return Engine(self.package, build(self.package, self.parameters), self.memory)

    @property
    def verilog_cycles(self) -> int:
        """Of pacq_gemv's clock, since the board was made."""
        return self.engine.clock_cycles()

    def program(self, bitstream: Path) -> None:
        super().program(bitstream)
        address = int(self.package.manifest["hardware"]["blocks"]["pacq_gemv"])
        block = VerilogBlock(self.engine)
        self.blocks = [(at, length, block if at == address else other) for at, length, other in self.blocks]
