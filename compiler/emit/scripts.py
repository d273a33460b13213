# SPDX-License-Identifier: Apache-2.0
"""What Vitis and Vivado are given: the config of v++, a self-contained Tcl for older Vitis HLS, a test bench, the block design's
Tcl, and the metadata by which an emulated board is made.  Texts only; toolchain/run.py runs the tools.
"""

from __future__ import annotations

from importlib import resources
from typing import Any
from xml.sax.saxutils import quoteattr

from jinja2 import Environment

from meadow.boards.clocks import PLL_DIVIDERS, PLL_MHZ, SOURCE_MHZ
from meadow.compiler.emit.block_design import CLOCKS, ENGINE, PS, BlockDesign, Cell, Segment
from meadow.compiler.emit.testbench import BASES, PROGRAM, TOKENS, testbench
from meadow.machine.design import Design
from meadow.machine.engines.array import Array
from meadow.machine.instructions import table
from meadow.machine.registers import (
    BLOCK_BYTES,
    IDENTITY_ID,
    IDENTITY_VERSION,
    Register,
    engine_registers,
    identity_fields,
)

UNCERTAINTY = 12
"""Percent of the clock period that HLS leaves for routing; Vitis' own default is 27."""
AXIMM = "xilinx.com:interface:aximm:1.0"


def texts(environment: Environment, design: Design, made: BlockDesign, banner: str) -> dict[str, str]:
    """File name in the package -> text."""
    board, bench = made.board, testbench(design)
    period = f"{1000 / design.clock_mhz:.3f}".rstrip("0").rstrip(".")
    engines = {"array": design.engine(Array), "gemv": design.beside is not None}
    common = {
        "banner": banner,
        "board": board,
        "design": design,
        **engines,
        "period": period,
        "uncertainty": UNCERTAINTY,
    }

    def render(package: str, name: str, **values: Any) -> str:
        text = (resources.files(package) / name).read_text()
        return environment.from_string(text).render(**common, **values)

    return {
        "vitis/hls_config.cfg": render("meadow.hls", "hls_config.cfg.j2", flow_target=True),
        "vitis/hls_config_2026.cfg": render("meadow.hls", "hls_config.cfg.j2", flow_target=False),
        "vitis/run_hls.tcl": render("meadow.hls", "run_hls.tcl.j2"),
        "vitis/testbench.cpp": render(
            "meadow.hls",
            "testbench.cpp.j2",
            depth=bench.depth,
            words=[int(w) for w in bench.image.view("<u8")],
            golden=[(name, at, values.tolist()) for name, at, values in bench.golden],
            program=PROGRAM,
            bases=BASES,
            tokens=TOKENS,
        ),
        "vivado/build.tcl": render(
            "meadow.boards",
            "build.tcl.j2",
            cells=made.cells,
            interfaces=made.interfaces,
            nets=made.nets,
            segments=made.segments,
            ps=PS,
            clocks=list(enumerate(made.clocks, 1)),
            clock_cell=CLOCKS,
            excluded=sorted({(s.master, s.slave.rpartition("_DDR")[0]) for s in made.segments if "_DDR" in s.slave}),
        ),
        "vivado/emulated.hwh": hwh(made),
        "rtl/meadow_identity.v": render(
            "meadow.rtl",
            "meadow_identity.v.j2",
            id=IDENTITY_ID,
            version=IDENTITY_VERSION,
            isa=table.VERSION,
            fields=identity_fields(design),
            design_id=design.id,
        ),
    }


def hwh(made: BlockDesign) -> str:
    """The hardware handoff of the block design, as far as pynq reads one: the processor with its clocks, ports and address map,
    and each block of registers; modules without register names, as Vivado writes them.  For the emulated board: a build's own
    takes its place on hardware."""
    modules = [_processor(made)]
    for cell in made.cells:
        if any(s.slave.startswith(f"{cell.name}/") for s in made.segments if s.master == f"{PS}/Data"):
            modules.append(_slave(cell, made))
    name, device = quoteattr(made.board.board_part.replace("*", "1.0")), quoteattr(made.board.part.partition("-")[0])
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<EDKSYSTEM EDWVERSION="1.2" TIMESTAMP="" VIVADOVERSION="emulated">\n'
        f'<SYSTEMINFO ARCH="zynquplus" BOARD={name} DEVICE={device} NAME="meadow" PACKAGE="" SPEEDGRADE=""/>\n'
        "<EXTERNALPORTS/><EXTERNALINTERFACES/>\n<MODULES>\n" + "\n".join(modules) + "\n</MODULES>\n</EDKSYSTEM>\n"
    )


def _element(tag: str, inside: str = "", **values: object) -> str:
    attributes = "".join(f" {key}={quoteattr(str(value))}" for key, value in values.items())
    return f"<{tag}{attributes}>{inside}</{tag}>" if inside else f"<{tag}{attributes}/>"


def _module(name: str, vlnv: str, inside: str, is_pl: bool = True) -> str:
    kind = {} if is_pl else {"IS_PL": "FALSE"}
    return _element(
        "MODULE",
        inside,
        COREREVISION=1,
        FULLNAME=f"/{name}",
        HWVERSION=vlnv.split(":")[3],
        INSTANCE=name,
        IPTYPE="PERIPHERAL",
        IS_ENABLE=1,
        MODCLASS="PERIPHERAL",
        MODTYPE=vlnv.split(":")[2],
        VLNV=vlnv,
        **kind,
    )


def _interfaces(rows: list[tuple[str, str, str]]) -> str:
    inside = "".join(
        _element(
            "BUSINTERFACE", BUSNAME=bus, DATAWIDTH=128 if "GP" not in name else 32, NAME=name, TYPE=kind, VLNV=AXIMM
        )
        for name, kind, bus in rows
    )
    return f"<BUSINTERFACES>{inside}</BUSINTERFACES>"


def _parameters(values: dict[str, object]) -> str:
    inside = "".join(_element("PARAMETER", NAME=key, VALUE=value) for key, value in values.items())
    return f"<PARAMETERS>{inside}</PARAMETERS><PORTS/>"


def _processor(made: BlockDesign) -> str:
    cell = next(cell for cell in made.cells if cell.name == PS)
    values: dict[str, object] = dict(cell.config)
    for gp in range(6):
        if f"PSU__SAXIGP{gp}__DATA_WIDTH" in values:
            values[f"C_SAXIGP{gp}_DATA_WIDTH"] = values[f"PSU__SAXIGP{gp}__DATA_WIDTH"]
    for n in range(4):
        first, second = PLL_DIVIDERS
        prefix = f"PSU__CRL_APB__PL{n}_REF_CTRL__"
        values |= {
            f"PSU__FPGA_PL{n}_ENABLE": int(n == 0),
            f"{prefix}DIVISOR0": first,
            f"{prefix}DIVISOR1": second,
            f"{prefix}SRCSEL": "IOPLL",
            f"{prefix}FREQMHZ": SOURCE_MHZ,
            f"{prefix}ACT_FREQMHZ": PLL_MHZ / (first * second),
        }
    ranges = "".join(_range(s, "M_AXI_HPM0_FPD") for s in made.segments if s.master == f"{PS}/Data")
    buses = [("M_AXI_HPM0_FPD", "MASTER", "control")]
    buses += [(f"S_AXI_{port}_FPD", "SLAVE", port.lower()) for port in made.ports.values()]
    return _module(
        PS,
        "xilinx.com:ip:zynq_ultra_ps_e:3.5",
        _parameters(values) + _interfaces(buses) + f"<MEMORYMAP>{ranges}</MEMORYMAP>",
        is_pl=False,
    )


def _range(s: Segment, master: str) -> str:
    """What a master's interface finds at an address."""
    cell, bus, block = s.slave.split("/")
    return _element(
        "MEMRANGE",
        ADDRESSBLOCK=block,
        BASENAME="C_BASEADDR",
        BASEVALUE=f"0x{s.offset:08X}",
        HIGHNAME="C_HIGHADDR",
        HIGHVALUE=f"0x{s.offset + s.length - 1:08X}",
        INSTANCE=cell,
        IS_DATA="TRUE",
        IS_INSTRUCTION="TRUE",
        MASTERBUSINTERFACE=master,
        MEMTYPE="REGISTER" if cell != PS else "MEMORY",
        SLAVEBUSINTERFACE=bus,
    )


def _slave(cell: Cell, made: BlockDesign) -> str:
    segment = next(s for s in made.segments if s.master == f"{PS}/Data" and s.slave.startswith(f"{cell.name}/"))
    bus = segment.slave.split("/")[1]
    if cell.name != ENGINE:
        return _module(
            cell.name,
            f"xilinx.com:module_ref:{cell.what}:1.0",
            _parameters({}) + _interfaces([(bus, "SLAVE", "control")]),
        )
    registers = "".join(piece for r in engine_registers(made.design) for piece in _registers(r))
    block = _element(
        "ADDRESSBLOCK",
        f"<REGISTERS>{registers}</REGISTERS>",
        ACCESS="read-write",
        INTERFACE=bus,
        NAME="Reg",
        RANGE=BLOCK_BYTES,
        USAGE="register",
    )
    masters = [
        (pin.partition("/")[2], "MASTER", port.lower())
        for pin, port in made.ports.items()
        if pin.startswith(f"{ENGINE}/")
    ]
    ranges = "".join(
        _range(s, s.master.partition("/Data_")[2]) for s in made.segments if s.master.startswith(f"{ENGINE}/")
    )
    return _module(
        cell.name,
        f"{cell.what}:1.0",
        f"<ADDRESSBLOCKS>{block}</ADDRESSBLOCKS>"
        + _parameters({})
        + _interfaces([(bus, "SLAVE", "control"), *masters])
        + f"<MEMORYMAP>{ranges}</MEMORYMAP>",
    )


CONTROL_FIELDS = (
    ("AP_START", 0, "read-write"),
    ("AP_DONE", 1, "read-only"),
    ("AP_IDLE", 2, "read-only"),
    ("AP_READY", 3, "read-only"),
    ("AUTO_RESTART", 7, "read-write"),
    ("INTERRUPT", 9, "read-only"),
)


def _registers(r: Register) -> list[str]:
    """One 32-bit register, or the two by which Vitis HLS names 64 bits: name_1, name_2."""
    access = "read-only" if r.access == "read" else "read-write"
    if r.bits == 64:
        return [
            _register(f"{r.name}_{n + 1}", r.offset + 4 * n, access, r.what, ((f"{r.name}", 0, 32, access),))
            for n in range(2)
        ]
    if r.name == "CTRL":
        return [_register(r.name, r.offset, access, r.what, tuple((f, at, 1, a) for f, at, a in CONTROL_FIELDS))]
    return [_register(r.name, r.offset, access, r.what, ((r.name, 0, 32, access),))]


def _register(name: str, offset: int, access: str, what: str, fields: tuple[tuple[str, int, int, str], ...]) -> str:
    def properties(**values: object) -> str:
        return "".join(_element("PROPERTY", NAME=key, VALUE=value) for key, value in values.items())

    inside = "".join(
        _element("FIELD", properties(DESCRIPTION=f, ACCESS=a, BIT_OFFSET=at, BIT_WIDTH=width), NAME=f)
        for f, at, width, a in fields
    )
    return _element(
        "REGISTER",
        properties(
            DESCRIPTION=what, ADDRESS_OFFSET=hex(offset), SIZE=32, ACCESS=access, IS_ENABLED="true", RESET_VALUE="0x0"
        )
        + f"<FIELDS>{inside}</FIELDS>",
        NAME=name,
    )
