# SPDX-License-Identifier: Apache-2.0
"""Cosim: the C simulation as the sequencer with pacq_gemv or column_gemm in Verilog behind its streams, and its registers behind the board's.

Driver, register map, stream protocol and Verilog meet here.  Counts cycles of that engine's clock; the sequencer takes none.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from importlib import resources
from pathlib import Path

from meadow.compiler.emit.verilog import MODELS, ColumnShape, Shape, shape_of
from meadow.evidence.ladder.beside import require_side
from meadow.evidence.ladder.verilated import verilator
from meadow.machine.engines.array import Array
from meadow.machine.errors import DeviceError, ToolMissing
from meadow.machine.package.read import Package
from meadow.runtime.devices.built import is_whole, keep, place
from meadow.runtime.devices.csim import FLAGS, cpu
from meadow.runtime.devices.csim_engine import Engine
from meadow.runtime.devices.emulated_board import EmulatedBoard

TIMEOUT = 900


def build(package: Package, shape: Shape | ColumnShape) -> Path:
    """The library of the package's C++ and Verilog, with an engine of this shape.

    Raises ToolMissing without Verilator, g++ or make, DeviceError when one of them refuses.
    """
    command, environment = verilator()
    compiler = shutil.which("g++")
    if compiler is None or shutil.which("make") is None:
        raise ToolMissing("co-simulation needs g++ and make: apt-get install g++ make")
    parameters = {**shape.parameters, "DESIGN_ID": int(package.design.id, 16)}
    tops = (f"{shape.top}.v", "meadow_identity.v")
    rtl = [path for path in package.sources("rtl").values() if path.name not in tops]
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
        _run(_verilate(command, rtl, shape.module, parameters), work, environment)
        _run(_compile(compiler, package, shape.module, Path(environment["VERILATOR_ROOT"]), made), work, environment)
        return keep(made, library)


def _verilate(command: str, rtl: list[Path], module: str, parameters: dict[str, int]) -> list[str]:
    """Verilator's command: a static library of the module in obj_dir."""
    return [
        command,
        *("--cc", "--build", "-O3", "--no-timing", "-Wno-fatal", "-Wno-lint"),
        *("--x-assign", "fast", "--x-initial", "fast"),
        *("-CFLAGS", "-O2 -march=native -std=c++17 -fPIC"),
        *("--top-module", module),
        *(f"-G{name}={value}" for name, value in parameters.items()),
        *(str(p.resolve()) for p in rtl),
    ]


def _compile(compiler: str, package: Package, module: str, verilator_root: Path, made: Path) -> list[str]:
    """g++'s command: the package's C simulation with that library instead of its own model of the module."""
    hls, design = (package.folder / "hls").resolve(), package.design
    return [
        compiler,
        *FLAGS,
        "-DMEADOW_COSIM",
        f"-DMEADOW_WEIGHT_PORTS={design.engine(Array).ports}",
        "-DMEADOW_GEMV=1",
        f'-DMEADOW_GEMV_HEADER="V{module}.h"',
        f"-DMEADOW_GEMV_MODULE=V{module}",
        "-Wno-unused-parameter",
        *("-isystem", f"{verilator_root}/include"),
        *("-Iobj_dir", f"-I{hls / 'sim'}", f"-I{hls}", str(hls / "sim" / "csim.cpp")),
        *(f"obj_dir/libV{module}.a", "obj_dir/libverilated.a", "-pthread"),
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
    """The registers of the engine in Verilog, over its AXI4-Lite port."""

    def __init__(self, engine: Engine):
        self.engine = engine

    def read(self, offset: int) -> int:
        return self.engine.read_register(offset)

    def write(self, offset: int, value: int) -> None:
        self.engine.write_register(offset, value)


class CosimBoard(EmulatedBoard):
    """An emulated board whose engine beside, pacq_gemv or column_gemm, is Verilog.  Raises UsageError for a design without one."""

    def __init__(self, package: Package):
        self.multiplier = require_side(package).engine
        shape = shape_of(package.design)
        assert shape is not None
        self.shape = shape
        super().__init__(package)

    def _open_engine(self) -> Engine:
        return Engine(self.package, build(self.package, self.shape), self.memory)

    @property
    def verilog_cycles(self) -> int:
        """Of that engine's clock, since the board was made."""
        return self.engine.clock_cycles()

    def program(self, bitstream: Path) -> None:
        super().program(bitstream)
        address = int(self.package.manifest["hardware"]["blocks"][self.multiplier.name])
        block = VerilogBlock(self.engine)
        self.blocks = [(at, length, block if at == address else other) for at, length, other in self.blocks]
