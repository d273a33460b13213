# SPDX-License-Identifier: Apache-2.0
"""The vendor's Tcl under tclsh, every command recorded and checked: the graph that it builds is the block design, the manifest and the
board's."""

from __future__ import annotations

import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from meadow import boards
from meadow.compiler.emit.block_design import AFIFM_OF_PORT, GP_OF_PORT, block_design, memory_pins
from meadow.compiler.pipeline import Options, compile_model
from meadow.machine.package.read import Package, load

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(shutil.which("tclsh") is None, reason="no tclsh: apt-get install tcl")
BOARDS = ("zcu102", "zcu104", "kv260", "ultra96v2")
Call = list[str]


@pytest.fixture(scope="module", params=BOARDS)
def package(request: pytest.FixtureRequest, tiny_int8: Path, tmp_path_factory: pytest.TempPathFactory) -> Package:
    folder = tmp_path_factory.mktemp("tcl") / request.param
    compile_model(tiny_int8, boards.load(request.param), folder, Options())
    return load(folder)


@pytest.fixture(scope="module")
def grouped(tiny_int4: Path, tmp_path_factory: pytest.TempPathFactory) -> Package:
    folder = tmp_path_factory.mktemp("tcl4") / "tiny-int4"
    compile_model(tiny_int4, boards.load("kv260"), folder, Options(settings=(("block", 16),)))
    return load(folder)


def record(script: Path, spec: str, log: Path, *answers: str) -> tuple[int, str, list[Call]]:
    """(exit code, what it said, its calls) of a script."""
    done = subprocess.run(
        ["tclsh", HERE / "recorder.tcl", HERE / f"{spec}.spec", script, log, *answers],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=script.parent,
    )
    calls = [line.split("\x1f") for line in log.read_text().splitlines()] if log.exists() else []
    return done.returncode, done.stdout + done.stderr, calls


def options(call: Call) -> dict[str, str]:
    return {key: call[n + 1] for n, key in enumerate(call[:-1]) if key.startswith("-")}


def graph(
    calls: list[Call],
) -> tuple[dict[str, str], set[tuple[str, ...]], dict[str, dict[str, str]], list[tuple[str, str, int, int]]]:
    """Cells, connections, properties by cell, addresses, as the commands made them."""
    cells: dict[str, str] = {}
    wires: set[tuple[str, ...]] = set()
    config: dict[str, dict[str, str]] = defaultdict(dict)
    segments: list[tuple[str, str, int, int]] = []
    for n, call in enumerate(calls):
        if call[0] == "create_bd_cell":
            cells[call[-1]] = options(call).get("-vlnv") or options(call)["-reference"]
        if call[0] in ("connect_bd_intf_net", "connect_bd_net"):
            wires.add(tuple(call[1:]))
        if call[0] == "set_property" and call[1] == "-dict" and calls[n - 1][0] == "get_bd_cells":
            pairs = call[2].split()
            for key, value in zip(pairs[::2], pairs[1::2], strict=True):
                config[call[3]][key] = value.strip("{}")
        if call[0] == "assign_bd_address":
            o = options(call)
            slave = next(a for a in call[1:] if "/" in a and a != o["-target_address_space"])
            at = int(o["-offset"], 16) if "-offset" in o else None
            segments.append((o["-target_address_space"], slave, at, int(o.get("-range", "0"), 16)))  # type: ignore[arg-type]
    return cells, wires, dict(config), segments


def test_the_script_builds_the_block_design_of_the_manifest_and_the_board(package: Package, tmp_path: Path) -> None:
    board = boards.load(package.manifest["board"])
    code, said, calls = record(package.folder / "vivado" / "build.tcl", "vivado", tmp_path / "log")
    assert code == 0, said
    made = block_design(package.design, board)
    cells, wires, config, segments = graph(calls)
    assert cells == {c.name: f"{c.what}:" if c.kind == "ip" else c.what for c in made.cells}
    assert wires == {*made.interfaces, *((source, *sinks) for source, sinks in made.nets)}
    hardware = package.manifest["hardware"]
    for name, address in hardware["blocks"].items():
        assert [(s[2], s[3]) for s in segments if s[1].startswith(f"{name}/")] == [(address, 0x10000)]
    for pin in memory_pins(package.design):
        port = hardware["ports"][pin]
        assert (pin, f"{port.lower()}_connect/S00_AXI") in wires and (
            f"{port.lower()}_connect/M00_AXI",
            f"zynq_ps/S_AXI_{port}_FPD",
        ) in wires
        gp = GP_OF_PORT[port]
        assert config["zynq_ps"][f"CONFIG.PSU__USE__S_AXI_GP{gp}"] == "1"
        assert (
            config["zynq_ps"][f"CONFIG.PSU__SAXIGP{gp}__DATA_WIDTH"] == "128"
            and hardware["widths"][port] == AFIFM_OF_PORT[port]
        )
        halves = [s for s in segments if s[1].startswith(f"zynq_ps/SAXIGP{gp}/{port}_DDR")]
        assert halves[0][2:] == (0, 1 << 31) and hardware["ddr"][0] == [0, 1 << 31]
        assert len(halves) == len(hardware["ddr"]) == 1 + (board.ddr_bytes > 1 << 31)
        assert all(s[1].endswith("_DDR_HIGH") and s[2] is None for s in halves[1:])
    unused = set(GP_OF_PORT) - set(hardware["ports"].values())
    assert all(config["zynq_ps"][f"CONFIG.PSU__USE__S_AXI_GP{GP_OF_PORT[p]}"] == "0" for p in unused)
    assert config["zynq_ps"]["CONFIG.PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ"] == "100"
    assert config["clocks"]["CONFIG.PRIM_IN_FREQ"] == "100"
    assert config["clocks"]["CONFIG.CLKOUT1_REQUESTED_OUT_FREQ"] == str(package.design.clock_mhz)
    assert ("zynq_ps/pl_clk0", "clocks/clk_in1") in wires
    clocked = {pin for wire in wires if wire[0] in ("clocks/clk_out1", "clocks/clk_out2") for pin in wire}
    assert {f"zynq_ps/saxi{p.lower()}_fpd_aclk" for p in hardware["ports"].values()} <= clocked
    assert ("meadow_engine/interrupt", "zynq_ps/pl_ps_irq0") in wires
    exports = [call[-1].rpartition("/")[2] for call in calls if call[0] in ("file copy", "write_hw_platform")]
    assert sorted(exports) == ["meadow.bit", "meadow.hwh", "meadow.xsa"]


def test_two_clocks_meet_only_in_converters(grouped: Package, tmp_path: Path) -> None:
    code, said, calls = record(grouped.folder / "vivado" / "build.tcl", "vivado", tmp_path / "log")
    assert code == 0, said
    cells, wires, config, _ = graph(calls)
    domain: dict[str, str] = {}
    for wire in wires:
        if wire[0] in ("clocks/clk_out1", "clocks/clk_out2"):
            domain |= dict.fromkeys(wire[1:], wire[0])
    assert domain["pacq_gemv/clk_i"] == "clocks/clk_out2" and domain["meadow_engine/ap_clk"] == "clocks/clk_out1"
    for name in ("command_clocks", "activation_clocks", "result_clocks"):
        assert {domain[f"{name}/s_axis_aclk"], domain[f"{name}/m_axis_aclk"]} == {"clocks/clk_out1", "clocks/clk_out2"}
    for pin, port in grouped.manifest["hardware"]["ports"].items():
        wanted = "clocks/clk_out2" if pin.startswith("pacq") else "clocks/clk_out1"
        assert domain[f"zynq_ps/saxi{port.lower()}_fpd_aclk"] == wanted == domain[f"{port.lower()}_connect/aclk"]
    assert config["clocks"]["CONFIG.CLKOUT2_REQUESTED_OUT_FREQ"] == "250"
    assert config["control"]["CONFIG.NUM_CLKS"] == "2" and cells["pacq_gemv"] == "pacq_top"


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ("slack=-0.2", 5, "negative slack -0.2"),
        ("hold=-0.05", 5, "negative slack -0.05 ns, hold"),
        ("pulse=-0.1", 5, "negative slack -0.1 ns, pulse width"),
        ("parts=0", 6, "is not installed"),
        ("hertz=187500000", 1, "the clock of 200 MHz would be 187500000 Hz"),
        ("progress=40%", 1, "implementation ended"),
    ],
)
def test_the_script_ends_with_a_code_that_says_why(
    answer: str, code: int, said: str, grouped: Package, tmp_path: Path
) -> None:
    found, text, _ = record(grouped.folder / "vivado" / "build.tcl", "vivado", tmp_path / "log", answer)
    assert found == code and said in text


def test_without_board_files_the_part_is_enough(grouped: Package, tmp_path: Path) -> None:
    code, said, calls = record(grouped.folder / "vivado" / "build.tcl", "vivado", tmp_path / "log", "boards=0")
    assert code == 0 and "no board files" in said
    assert not [c for c in calls if c[0] == "apply_bd_automation"]


def test_the_script_for_older_vitis_hls_runs_and_names_files_that_are_there(grouped: Package, tmp_path: Path) -> None:
    code, said, calls = record(grouped.folder / "vitis" / "run_hls.tcl", "vitis_hls", tmp_path / "log")
    assert code == 0, said
    names = [c[0] for c in calls if not c[0].startswith("file")]
    assert names[0] == "open_project" and "csynth_design" in names and names[-1] == "export_design"
    sources = [a for c in calls if c[0] == "add_files" for a in c[1:] if a.endswith(".cpp")]
    assert len(sources) == 2 and all((grouped.folder / "vitis" / s).resolve().is_file() for s in sources)


def test_the_recorder_itself_catches_a_slip(tmp_path: Path) -> None:
    for text in ("create_project -prat x y", "launch_run impl_1", "connect_bd_net a"):
        (tmp_path / "slip.tcl").write_text(text)
        assert record(tmp_path / "slip.tcl", "vivado", tmp_path / "log")[0] == 99


def test_the_config_names_what_the_package_holds(grouped: Package, package: Package) -> None:
    for each in (grouped, package):
        text = (each.folder / "vitis" / "hls_config.cfg").read_text()
        lines: dict[str, Any] = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and line[0] != "#")
        assert lines["part"] == each.design.part and text.index("part=") < text.index("[hls]")
        assert (
            lines["clock"] == f"{1000 / each.design.clock_mhz:.3f}".rstrip("0").rstrip(".") + "ns"
            and lines["syn.top"] == "meadow_engine"
        )
        for key in ("syn.file", "tb.file"):
            assert (each.folder / "vitis" / lines[key]).resolve().is_file()
