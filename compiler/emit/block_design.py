# SPDX-License-Identifier: Apache-2.0
"""The block design: which cells stand around the engines, how they are wired, and at which addresses.

One frozen graph, from which the Vivado script and the emulated board's metadata are printed and which the runtime's addresses
are taken from.  Writes no Tcl and no XML itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from meadow.boards import Board
from meadow.boards.clocks import SOURCE_MHZ
from meadow.compiler.emit.verilog import shape_of
from meadow.machine.design import Design
from meadow.machine.registers import BLOCK_BYTES

CONTROL_BASE = 0xA000_0000
"""M_AXI_HPM0_FPD begins here, 256 MB (UG1085, system address map)."""
INTERRUPT = 121
"""Line of the interrupt controller that is pl_ps_irq0[0] (UG1085, "System Interrupts")."""
DDR_LOW, DDR_LOW_BYTES = 0x0, 0x8000_0000
DDR_HIGH = 0x8_0000_0000
PS, CLOCKS = "zynq_ps", "clocks"
ENGINE, IDENTITY = "meadow_engine", "meadow_identity"
GP_OF_PORT = {"HPC0": 0, "HPC1": 1, "HP0": 2, "HP1": 3, "HP2": 4, "HP3": 5}
"""S_AXI_GPn of the PS block, by the port's name in the manual (PG201)."""
AFIFM_OF_PORT = {
    "HPC0": 0xFD36_0000,
    "HPC1": 0xFD37_0000,
    "HP0": 0xFD38_0000,
    "HP1": 0xFD39_0000,
    "HP2": 0xFD3A_0000,
    "HP3": 0xFD3B_0000,
}
"""Registers that hold a port's width: RDCTRL at 0x0, WRCTRL at 0x14; bits 1..0 are 0 for 128 bits (UG1087)."""


@dataclass(frozen=True)
class Cell:
    """One block: `kind` "ip" with a VLNV without its version, or "module" with the name of a Verilog module."""

    name: str
    kind: str
    what: str
    config: dict[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True)
class Segment:
    """What a master finds at an address: `slave` is its segment's name as Vivado has it."""

    master: str
    slave: str
    offset: int
    length: int


@dataclass(frozen=True)
class BlockDesign:
    """Cells, connections (pin to pin, of interfaces and of nets) and addresses.

    ports   memory port of the PS by engine pin, such as {"meadow_engine/m_axi_weights0": "HP0"}
    clocks  MHz of the engine and, with pacq_gemv, of that
    """

    design: Design
    board: Board
    cells: tuple[Cell, ...]
    interfaces: tuple[tuple[str, str], ...]
    nets: tuple[tuple[str, tuple[str, ...]], ...]
    segments: tuple[Segment, ...]
    ports: dict[str, str]
    clocks: tuple[int, ...]

    def check(self) -> None:
        """Raise ValueError when an interface is joined twice, a cell is not there, or addresses overlap."""
        names = {cell.name for cell in self.cells}
        ends = [end for pair in self.interfaces for end in pair]
        for end in [*ends, *(pin for source, sinks in self.nets for pin in (source, *sinks))]:
            if end.partition("/")[0] not in names:
                raise ValueError(f"{end} is a pin of no cell")
        if len(set(ends)) != len(ends):
            raise ValueError("an interface is joined twice")
        driven = [sink for _, sinks in self.nets for sink in sinks]
        if len(set(driven)) != len(driven):
            raise ValueError("a pin is driven twice")
        for master in {s.master for s in self.segments}:
            mine = sorted((s.offset, s.length) for s in self.segments if s.master == master)
            if any(a + n > b for (a, n), (b, _) in pairwise(mine)):
                raise ValueError(f"addresses of {master} overlap")

    def __str__(self) -> str:
        rows = [
            f"block design of {self.design.id} for {self.board.title}, clocks {', '.join(map(str, self.clocks))} MHz"
        ]
        rows += [f"  {cell.name}: {cell.what}" for cell in self.cells]
        rows += [f"  {pin} -> {port}" for pin, port in self.ports.items()]
        rows += [f"  {s.slave} at {s.offset:#x}, {s.length:#x}" for s in self.segments if s.master == f"{PS}/Data"]
        return "\n".join(rows)


def memory_pins(design: Design) -> tuple[str, ...]:
    """The engines' AXI4 masters, those that stream most first."""
    fastest = sorted(design.engines, key=lambda e: -e.stream_bytes_per_second(design))
    return (
        *(engine.pin.format(n=n) for engine in fastest for n in range(engine.ports)),
        f"{ENGINE}/m_axi_memory",
        f"{ENGINE}/m_axi_constants",
    )


def control_blocks(design: Design) -> dict[str, int]:
    """Address of each block of registers, by its cell."""
    names = [ENGINE, IDENTITY] + ([design.beside.name] if design.beside is not None else [])
    return {name: CONTROL_BASE + n * BLOCK_BYTES for n, name in enumerate(names)}


def ddr_windows(board: Board) -> tuple[tuple[str, int, int], ...]:
    """(segment, address, bytes) of the halves of the DRAM that the board has."""
    low = (("DDR_LOW", DDR_LOW, DDR_LOW_BYTES),)
    rest = board.ddr_bytes - DDR_LOW_BYTES
    return low if rest <= 0 else (*low, ("DDR_HIGH", DDR_HIGH, 1 << (rest - 1).bit_length()))


@dataclass
class _Wiring:
    """What is laid so far.  `domains`, `low` and `high` list, for each clock, the pins of the clock and of both polarities of reset."""

    cells: list[Cell] = field(default_factory=list)
    interfaces: list[tuple[str, str]] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    domains: list[list[str]] = field(default_factory=lambda: [[], []])
    low: list[list[str]] = field(default_factory=lambda: [[], []])
    high: list[list[str]] = field(default_factory=lambda: [[], []])


def block_design(design: Design, board: Board) -> BlockDesign:
    """The block design that carries `design` on `board`: one SmartConnect per memory port, so that no two masters share one."""
    ports = dict(zip(memory_pins(design), board.ports, strict=False))
    clocks = (design.clock_mhz, *(e.clock(design) for e in design.engines if e.own_clock))
    blocks = control_blocks(design)
    w = _Wiring()
    w.cells.append(Cell(PS, "ip", "xilinx.com:ip:zynq_ultra_ps_e", _processor(board, ports)))
    w.cells.append(Cell(CLOCKS, "ip", "xilinx.com:ip:clk_wiz", _wizard(clocks)))
    _lay_control(w, blocks, len(clocks))
    shape = shape_of(design)
    if shape is not None:
        _lay_beside(w, shape.module, shape.top)
    for pin, port in ports.items():
        _lay_memory(w, pin, port, board)
    nets: list[tuple[str, tuple[str, ...]]] = [(f"{ENGINE}/interrupt", (f"{PS}/pl_ps_irq0",))]
    nets.append((f"{PS}/pl_clk0", (f"{CLOCKS}/clk_in1",)))
    for n in range(len(clocks)):
        w.cells.append(Cell(f"reset_{n}", "ip", "xilinx.com:ip:proc_sys_reset"))
        nets.append((f"{CLOCKS}/clk_out{n + 1}", (*w.domains[n], f"reset_{n}/slowest_sync_clk")))
        nets.append((f"reset_{n}/peripheral_aresetn", tuple(w.low[n])))
        nets.append((f"reset_{n}/peripheral_reset", tuple(w.high[n])))
    nets.append((f"{PS}/pl_resetn0", tuple(f"reset_{n}/ext_reset_in" for n in range(len(clocks)))))
    nets.append((f"{CLOCKS}/locked", tuple(f"reset_{n}/dcm_locked" for n in range(len(clocks)))))
    w.segments += [
        Segment(f"{PS}/Data", f"{name}/{'s_axi_control/Reg' if name == ENGINE else 's_axil/reg0'}", at, BLOCK_BYTES)
        for name, at in blocks.items()
    ]
    made = BlockDesign(
        design, board, tuple(w.cells), tuple(w.interfaces), tuple(nets), tuple(w.segments), ports, clocks
    )
    made.check()
    return made


def _processor(board: Board, ports: dict[str, str]) -> dict[str, str | int]:
    """Settings of the PS block (PG201): its master, the memory ports in use, one clock, interrupt and high memory."""
    config: dict[str, str | int] = {"PSU__USE__M_AXI_GP0": 1, "PSU__USE__M_AXI_GP1": 0, "PSU__USE__M_AXI_GP2": 0}
    for port, gp in GP_OF_PORT.items():
        config[f"PSU__USE__S_AXI_GP{gp}"] = int(port in ports.values())
        if port in ports.values():
            config[f"PSU__SAXIGP{gp}__DATA_WIDTH"] = 128
    config["PSU__FPGA_PL0_ENABLE"] = 1
    config["PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ"] = SOURCE_MHZ
    config["PSU__USE__IRQ0"] = 1
    if len(ddr_windows(board)) > 1:
        config["PSU__HIGH_ADDRESS__ENABLE"] = 1
    return config


def _wizard(clocks: tuple[int, ...]) -> dict[str, str | int]:
    """Settings of the Clocking Wizard (PG065): an MMCM that makes the clocks exactly, and says when they are there."""
    config: dict[str, str | int] = {
        "PRIMITIVE": "MMCM",
        "PRIM_SOURCE": "Global_buffer",
        "PRIM_IN_FREQ": SOURCE_MHZ,
        "USE_RESET": "false",
        "USE_LOCKED": "true",
    }
    for n, mhz in enumerate(clocks, 1):
        config |= {f"CLKOUT{n}_USED": "true", f"CLKOUT{n}_REQUESTED_OUT_FREQ": mhz}
    return config


def _lay_control(w: _Wiring, blocks: dict[str, int], clocks: int) -> None:
    """The engine, the identity block, and the SmartConnect to every block of registers."""
    w.cells += [
        Cell(ENGINE, "ip", "meadow:hls:meadow_engine"),
        Cell(IDENTITY, "module", "meadow_identity"),
        Cell("control", "ip", "xilinx.com:ip:smartconnect", {"NUM_SI": 1, "NUM_MI": len(blocks), "NUM_CLKS": clocks}),
    ]
    w.interfaces.append((f"{PS}/M_AXI_HPM0_FPD", "control/S00_AXI"))
    w.interfaces += [
        (f"control/M{n:02d}_AXI", f"{name}/{'s_axi_control' if name == ENGINE else 's_axil'}")
        for n, name in enumerate(blocks)
    ]
    w.domains[0] += [f"{PS}/maxihpm0_fpd_aclk", "control/aclk", f"{ENGINE}/ap_clk", f"{IDENTITY}/clk_i"]
    w.low[0] += ["control/aresetn", f"{ENGINE}/ap_rst_n"]
    w.high[0].append(f"{IDENTITY}/rst_i")


def _lay_beside(w: _Wiring, cell: str, top: str) -> None:
    """The engine in Verilog on the second clock, and a clock converter in each of its streams."""
    w.cells.append(Cell(cell, "module", top))
    w.domains[1] += ["control/aclk1", f"{cell}/clk_i"]
    w.high[1].append(f"{cell}/rst_i")
    for name, source, sink, out in (
        ("command_clocks", f"{ENGINE}/gemv_command", f"{cell}/s_axis_command", True),
        ("activation_clocks", f"{ENGINE}/gemv_activation", f"{cell}/s_axis_activation", True),
        ("result_clocks", f"{cell}/m_axis_result", f"{ENGINE}/gemv_result", False),
    ):
        w.cells.append(Cell(name, "ip", "xilinx.com:ip:axis_clock_converter"))
        w.interfaces += [(source, f"{name}/S_AXIS"), (f"{name}/M_AXIS", sink)]
        for side, domain in (("s", 0 if out else 1), ("m", 1 if out else 0)):
            w.domains[domain].append(f"{name}/{side}_axis_aclk")
            w.low[domain].append(f"{name}/{side}_axis_aresetn")


def _lay_memory(w: _Wiring, pin: str, port: str, board: Board) -> None:
    """The SmartConnect between one master and its memory port, and what the master finds behind it."""
    connect, domain = f"{port.lower()}_connect", int(not pin.startswith(ENGINE))
    w.cells.append(Cell(connect, "ip", "xilinx.com:ip:smartconnect", {"NUM_SI": 1, "NUM_MI": 1}))
    w.interfaces += [(pin, f"{connect}/S00_AXI"), (f"{connect}/M00_AXI", f"{PS}/S_AXI_{port}_FPD")]
    w.domains[domain] += [f"{connect}/aclk", f"{PS}/saxi{port.lower()}_fpd_aclk"]
    w.low[domain].append(f"{connect}/aresetn")
    space = f"{ENGINE}/Data_{pin.partition('/')[2]}" if pin.startswith(ENGINE) else pin
    w.segments += [
        Segment(space, f"{PS}/SAXIGP{GP_OF_PORT[port]}/{port}_{half}", at, length)
        for half, at, length in ddr_windows(board)
    ]


def hardware_facts(made: BlockDesign) -> dict[str, object]:
    """What the manifest tells the runtime: where the registers are, which ports have which width, the clocks, the memory."""
    return {
        "blocks": control_blocks(made.design),
        "ports": made.ports,
        "clocks_mhz": list(made.clocks),
        "source_mhz": SOURCE_MHZ,
        "interrupt": INTERRUPT,
        "widths": {port: AFIFM_OF_PORT[port] for port in made.ports.values()},
        "ddr": [[at, length] for _, at, length in ddr_windows(made.board)],
    }
