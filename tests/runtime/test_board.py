# SPDX-License-Identifier: Apache-2.0
"""The driver of a board, on an emulated one behind the real pynq: the same bits, and everything that can go wrong found."""

from __future__ import annotations

import gc
import itertools
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meadow import boards
from meadow.compiler.pipeline import Options, compile_model
from meadow.machine.errors import DeviceError, UsageError
from meadow.machine.facts import Status
from meadow.machine.package.read import load, manifest_digest
from meadow.machine.registers import GEMV_REGISTERS, engine_registers, identity_fields, offsets
from meadow.runtime import Session
from meadow.runtime.devices import control
from meadow.runtime.devices.csim import CSim
from meadow.runtime.devices.device import Run
from meadow.runtime.devices.emulated_board import FAULTS, EmulatedBoard
from meadow.runtime.devices.fabric import claim
from meadow.runtime.devices.interrupt import Interrupt

pynq = pytest.importorskip("pynq", reason="no pynq: pip install 'meadow-fpga[pynq]'")
from meadow.runtime.devices import emulated_pynq, zynq  # noqa: E402

pytestmark = pytest.mark.csim
PROMPT = [1, 8, 15, 22, 29, 36, 43]
ENGINE = 0xA000_0000


@pytest.fixture
def board(tiny_package: Path) -> Iterator[zynq.Zynq]:
    made = emulated_pynq.emulated(load(tiny_package))
    yield made
    made.close()


@pytest.fixture(scope="module")
def grouped(tiny_int4: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("board") / "tiny-int4"
    compile_model(tiny_int4, boards.load("kv260"), folder, Options(settings=(("block", 16),)))
    return folder


def digest_of(package: Path, device: str) -> str:
    with Session(package, device) as session:
        list(session.generate(PROMPT, 8))
        return session.digest


@pytest.mark.parametrize("which", ["tiny_package", "grouped"])
def test_the_board_gives_the_bits_of_the_c_simulation(which: str, request: pytest.FixtureRequest) -> None:
    package = request.getfixturevalue(which)
    assert digest_of(package, "emulated-pynq") == digest_of(package, "csim") == digest_of(package, "emulator")


def test_operations_are_counted_on_both_sides_of_pynq(board: zynq.Zynq, tiny_package: Path) -> None:
    with Session(tiny_package, board) as session:
        list(session.generate(PROMPT, 3))
        mine, theirs = session.operations, board.device.board.operations
        for name in ("flushes", "invalidates", "allocations"):
            assert mine[name] == theirs[name] > 0
        assert 0 < mine["register reads"] < theirs["register reads"]  # pynq sets clocks and widths besides
        assert theirs["runs"] == 3 and session.device.counters.runs == 3


def test_overlay_register_map_and_mmio_work_as_on_a_board(board: zynq.Zynq) -> None:
    overlay = board.overlay
    assert overlay.is_loaded() and {"meadow_engine", "meadow_identity", "zynq_ps"} <= set(overlay.ip_dict)
    registers = overlay.meadow_engine.register_map
    registers.tokens = 5
    assert int(registers.tokens) == 5 and registers.CTRL.AP_IDLE == 1
    assert pynq.MMIO(ENGINE, 0x100, device=board.device).read(board.registers["tokens"]) == 5
    told = {k: v["address_offset"] for k, v in overlay.ip_dict["meadow_engine"]["registers"].items()}
    for name, at in offsets(engine_registers(board.package.design)).items():
        assert told.get(name, told.get(f"{name}_1")) == at
    assert abs(pynq.Clocks.fclk0_mhz - 100) < 0.01 and board.abilities.clocks_mhz == [199.998]
    assert not board.abilities.notes


def test_a_forgotten_flush_and_a_forgotten_invalidate_show(board: zynq.Zynq) -> None:
    buffer = pynq.allocate((4096,), np.uint8, target=board.device)
    buffer[:] = 7
    assert not board.device.board.dram[buffer.physical_address]
    buffer.flush()
    board.device.board.dram[buffer.physical_address] = 9
    assert buffer[0] == 7
    buffer.invalidate()
    assert buffer[0] == 9 and buffer[1] == 7


def test_host_writes_and_device_writes_to_one_line_are_both_kept(board: zynq.Zynq) -> None:
    address = board.alloc(4096)
    board.write(address, np.full(4096, 1, np.uint8))
    board.buffers.hand_over()
    board.device.board.dram[address + 10] = 99  # what an engine does
    board.write(address + 20, np.full(4, 5, np.uint8))  # the same cache line, the host's copy of which is old
    board.buffers.hand_over()
    assert board.device.board.dram[address + 10] == 99 and board.device.board.dram[address + 20] == 5
    assert board.read(address + 10, 1)[0] == 99


def test_a_wrong_address_a_busy_engine_and_a_hole_in_the_map_fail(board: zynq.Zynq, tiny_package: Path) -> None:
    with pytest.raises(DeviceError, match="nothing is at 0xb0000000"):
        pynq.MMIO(0xB000_0000, 0x100, device=board.device).read(0)
    with pytest.raises(DeviceError, match="read only"):
        board.fabric.write("meadow_identity", 0, 1)
    with pytest.raises(DeviceError, match="in no buffer"):
        board.read(0x2000_0000, 4)
    with Session(tiny_package, board) as session:
        table = session.device.read(session.loaded.bases, 8 * len(session.loaded.addresses)).view(np.uint64)
        table[1] = 0x7000_0000  # nobody's memory
        session.device.write(session.loaded.bases, table.view(np.uint8))
        with pytest.raises(DeviceError, match="outside of memory"):
            session.prefill(PROMPT)
        board.device.board.fault = "engine-hang"
        board.fabric.write("meadow_engine", 0, 1)
        with pytest.raises(DeviceError, match="while it runs"):
            board.fabric.write("meadow_engine", board.registers["tokens"], 1)


def test_the_fabric_is_not_loaded_while_its_engine_runs(board: zynq.Zynq) -> None:
    """Reads that are under way would stop the processor's memory port."""
    board._quiet(0.2)
    board.device.board.fault = "engine-hang"
    board.fabric.write("meadow_engine", 0, 1)
    with pytest.raises(DeviceError, match="still runs, and does not end"):
        board._quiet(0.2)
    with pytest.raises(DeviceError, match="did not end when it was told to. Switch the board off and on"):
        board.control.stall = 0.2
        board.control.start(Run(0, 0, 1, 0, 1, 0))


@pytest.mark.csim
def test_a_run_is_ended_before_its_next_instruction_and_the_next_one_is_right(tiny_package: Path) -> None:
    package = load(tiny_package)
    with Session(tiny_package, "csim") as session:
        session.prefill(PROMPT)
        wanted = session.digest
        device = session.device
        assert isinstance(device, CSim)
        seen = set()
        run = Run(session.loaded.programs["prefill"], session.loaded.bases, len(package.chunks), 0, 32, 31)
        for _ in range(200):
            device.start(run)
            device.engine.abort()
            seen.add(device.engine.wait())
            if Status.ABORTED in seen:
                break
        assert Status.ABORTED in seen
        session.reset()
        session.prefill(PROMPT)
        assert session.digest == wanted


def test_memory_comes_from_both_halves_and_goes_back(board: zynq.Zynq) -> None:
    first, second = board.alloc(100), board.alloc(100)
    assert first < 1 << 31 and second >= 0x8_0000_0000
    free = board.device.board.meminfo()[1]
    assert free < board.device.board.meminfo()[0]
    board.close()
    assert board.device.board.meminfo()[1] == board.device.board.meminfo()[0]
    board.close()


def test_a_second_session_is_refused_with_the_name_of_the_first(board: zynq.Zynq, tiny_package: Path) -> None:
    with (
        emulated_pynq.emulated_overlay(load(tiny_package)) as bit,
        pytest.raises(DeviceError, match=r"in use by process \d+ with .*tiny"),
    ):
        zynq.Zynq(load(tiny_package), bit, board.device)
    board.close()
    with emulated_pynq.emulated_overlay(load(tiny_package)) as bit:
        zynq.Zynq(load(tiny_package), bit, board.device).close()


def test_a_process_that_dies_gives_the_fabric_back(tmp_path: Path) -> None:
    script = "import os, sys; from meadow.runtime.devices.fabric import claim; f = claim('dies', 'x'); os._exit(0)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    claim("dies", "y").close()


FOUND = {
    "engine-hang": (4, "one step", "did not finish"),
    "corrupted-weights": (4, "weight checksums", "differs near byte"),
    "wrong-id": (7, "open", "token_lanes is 16 in the fabric and 8 in the package"),
    "no-memory": (7, "open", "cma="),
    "stale-lines": (4, "memory walk", "cache handling"),
    "slow-bus": (4, "speed", "too narrow or shared"),
    "narrow-port": (7, "open", "HP0 (reads: 32 bits)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_found_at_its_rung(
    fault: str, tiny_package: Path, meadowc: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = emulated_pynq.emulated
    monkeypatch.setattr(emulated_pynq, "emulated", lambda package, fault="": real(package, fault, stall=1.0))
    code, rung, said = FOUND[fault]
    began = time.monotonic()
    result = meadowc("selftest", tiny_package, "--device", "emulated-pynq", "--inject", fault, "--json")
    assert result.code == code and time.monotonic() - began < 60
    last = result.json["rungs"][-1]
    assert last["rung"] == rung and not last["passed"] and said in last["seen"]
    assert all(row["passed"] for row in result.json["rungs"][:-1])


def test_a_healthy_board_passes_and_a_fault_needs_an_emulated_one(tiny_package: Path, meadowc: Any) -> None:
    result = meadowc("selftest", tiny_package, "--device", "emulated-pynq", "--json")
    assert result.code == 0 and [r["rung"] for r in result.json["rungs"]][-1] == "speed"
    assert meadowc("selftest", tiny_package, "--device", "csim", "--inject", "slow-bus").code == 2
    assert meadowc("selftest", tiny_package, "--device", "emulated-pynq", "--inject", "gremlins").code == 2


def test_a_timeout_tells_the_state_of_both_engines(grouped: Path) -> None:
    board = emulated_pynq.emulated(load(grouped), "engine-hang")
    with Session(grouped, board) as session:
        session.device.start(Run(0x1000_0000, 0x1000_0000, 1, 0, 1, 0))
        with pytest.raises(DeviceError) as caught:
            session.device.wait(0.3)
    assert (
        "instruction 3" in str(caught.value)
        and "pacq_gemv STATUS 0" in str(caught.value)
        and "COMMANDS" in str(caught.value)
    )


def test_ctrl_c_ends_with_the_run_and_leaves_the_engine_free(
    tiny_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Session(tiny_package, "emulated-pynq") as session:
        real, idle = Interrupt.wait, control.Control._idle
        fired: list[str] = []

        def interrupted(self: Interrupt, seconds: float) -> bool:
            if fired == ["looked"]:
                fired.append("interrupted")
                raise KeyboardInterrupt
            return real(self, seconds)

        def busy_at_first(self: control.Control) -> bool:
            if self.running and not fired:
                fired.append("looked")
                return False
            return idle(self)

        monkeypatch.setattr(Interrupt, "wait", interrupted)
        monkeypatch.setattr(control.Control, "_idle", busy_at_first)
        with pytest.raises(KeyboardInterrupt):
            session.prefill(PROMPT)
        assert session.position == 0
        list(session.generate(PROMPT, 2))
        assert session.position == len(PROMPT) + 1


def test_the_fabrics_version_and_a_foreign_design_id_are_named(tiny_package: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(tiny_package, folder)
    package = load(folder)
    device = emulated_pynq.EmulatedDevice(EmulatedBoard(package))
    for name, value, said in (
        ("ISA", 99, "programs of version 99"),
        ("VERSION", 7, "of version 7"),
        ("ID", 0, "no overlay of meadow"),
    ):
        with emulated_pynq.emulated_overlay(package) as bit:
            program = device.board.program

            def changed(file: Path, name: str = name, value: int = value, program: Any = program) -> None:
                program(file)
                block = next(b for _, _, b in device.board.blocks if type(b).__name__ == "IdentityBlock")
                block.values[{"ID": 0, "VERSION": 4, "ISA": 8}[name]] = value  # type: ignore[attr-defined]

            device.board.program = changed  # type: ignore[assignment, method-assign]
            with pytest.raises(DeviceError, match=said):
                zynq.Zynq(package, bit, device)
            device.board.program = program  # type: ignore[method-assign]


def test_a_package_without_a_bitstream_says_how_to_get_one(tiny_package: Path, meadowc: Any) -> None:
    result = meadowc("run", tiny_package, "-p", "x", "--device", "pynq")
    assert result.code == 7 and "meadowc build" in result.err and "emulated-pynq" in result.err


def test_compare_finds_the_layer_that_differs(tiny_package: Path, board: zynq.Zynq) -> None:
    with Session(tiny_package, board) as session:
        rows = session.compare()
        assert [r.layer for r in rows] == list(range(session.package.model["layers"])) and all(r.equal for r in rows)
        norm_of_second = session.package.steps("prefill")
        gain = [s for s in norm_of_second if s.opcode.name == "NORM"][3].operands["gain"]
        session.device.write(session.loaded.addresses[gain.space] + gain.offset, np.full(8, 0.5, np.float32))  # type: ignore[index, union-attr]
        rows = session.compare()
        assert rows[0].equal and not rows[1].equal and "differs from" in str(rows[1])


def test_a_session_shows_itself(tiny_package: Path, board: zynq.Zynq) -> None:
    with Session(tiny_package, board) as session:
        page = session._repr_html_()
        assert "EMULATED" in page and "199.998 MHz (read back)" in page and "vocabulary" in page
        figure = session.plot_timeline()
        assert "modelled" in figure.axes[0].get_title() and "EMULATED" in figure.axes[0].get_title()
    with Session(tiny_package) as session:
        assert "designed, not running here" in session._repr_html_()


def test_a_dropped_session_gives_the_fabric_back(tiny_package: Path, board: zynq.Zynq) -> None:
    device = board.device
    board.close()
    with emulated_pynq.emulated_overlay(load(tiny_package)) as bit:
        dropped = zynq.Zynq(load(tiny_package), bit, device)
        assert device.board.meminfo()[1] == device.board.meminfo()[0]
        dropped.alloc(1 << 20)
        del dropped
        gc.collect()
        assert device.board.meminfo()[1] == device.board.meminfo()[0]
        zynq.Zynq(load(tiny_package), bit, device).close()
    assert not list(Path("/run/lock").glob(f"meadow-{device.tag}.lock"))


def test_memory_is_kept_while_the_engine_runs(tiny_package: Path) -> None:
    board = emulated_pynq.emulated(load(tiny_package), "engine-hang", stall=0.2)
    board.alloc(4096)
    board.start(Run(0x1000_0000, 0x1000_0000, 1, 0, 1, 0))
    with pytest.warns(ResourceWarning, match="still runs"):
        board.close()
    assert board.device.board.meminfo()[1] < board.device.board.meminfo()[0]


def test_a_session_that_cannot_record_leaves_the_board_free(
    tiny_package: Path, board: zynq.Zynq, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        Session(tiny_package, board, record=tmp_path / "no" / "tape")
    emulated_pynq.emulated(load(tiny_package)).close()
    with Session(tiny_package, "csim") as session:
        for _ in range(20):
            assert session.selftest()[0][1]


def test_an_overlay_without_the_upper_half_keeps_below_it(tiny_package: Path, tmp_path: Path) -> None:
    package = load(tiny_package)
    with emulated_pynq.emulated_overlay(package) as bit:
        text = bit.with_suffix(".hwh").read_text()
        bit.with_suffix(".hwh").write_text(text.replace("DDR_HIGH", "DDR_NONE"))
        board = zynq.Zynq(package, bit, emulated_pynq.EmulatedDevice(EmulatedBoard(package)))
        board.alloc(4096)
        with pytest.raises(DeviceError, match="maps the DRAM below 0x80000000 alone"):
            board.alloc(4096)
        board.close()


def test_a_pynq_without_ranges_is_served_by_whole_buffers(board: zynq.Zynq, tiny_package: Path) -> None:
    real = emulated_pynq.EmulatedBo.sync
    with pytest.MonkeyPatch.context() as patch:

        def whole(self: emulated_pynq.EmulatedBo, direction: str, size: int, offset: int = -1) -> None:
            if sys._getframe(1).f_code.co_name == "sync":
                raise TypeError("sync() takes one argument")
            real(self, direction, size, offset)

        patch.setattr(emulated_pynq.EmulatedBo, "sync", whole)
        with Session(tiny_package, board) as session:
            list(session.generate(PROMPT, 8))
            assert session.digest == digest_of(tiny_package, "emulator")


def test_unknown_faults_are_refused(tiny_package: Path) -> None:
    with pytest.raises(UsageError, match="known are engine-hang"):
        EmulatedBoard(load(tiny_package), "gremlins")


def test_two_boards_do_not_share_a_run(tiny_package: Path) -> None:
    wanted = digest_of(tiny_package, "emulator")
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(digest_of(tiny_package, "csim"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [wanted, wanted]


def test_the_table_of_pacqs_registers_is_the_verilogs() -> None:
    text = (Path(__file__).parents[2] / "rtl" / "gemv_registers.v").read_text()
    for register in GEMV_REGISTERS:
        if register.access != "write":
            assert f"8'h{register.offset:02X}: s_axil_rdata" in text, register
    read = text.count(": s_axil_rdata <=") - 1  # the default
    assert read == sum(1 if r.bits == 32 else 2 for r in GEMV_REGISTERS if r.access != "write")


def test_every_number_of_a_design_has_a_register(tiny_package: Path) -> None:
    package = load(tiny_package)
    text = package.file("rtl/meadow_identity.v").read_text()
    for name, value in identity_fields(package.design).items():
        assert f"32'd{value};  // {name}" in text
    assert package.manifest["digest"] == manifest_digest(package.manifest)


def test_the_command_for_another_bitstream_makes_a_package_that_it_takes(
    tiny_package: Path, tiny_int8: Path, tmp_path: Path
) -> None:
    fabric = tmp_path / "fabric"
    compile_model(
        tiny_int8,
        boards.load("zcu102"),
        fabric,
        Options(settings=(("token_lanes", 4), ("block", 32), ("tile_rows", 64))),
    )
    device = emulated_pynq.EmulatedDevice(EmulatedBoard(load(fabric)))
    with emulated_pynq.emulated_overlay(load(fabric)) as bit:
        with pytest.raises(DeviceError, match=r"meadowc compile .* --board zcu102") as caught:
            zynq.Zynq(load(tiny_package), bit, device)
        words = str(caught.value).split(";")[0].split()
        settings = tuple(
            (word.partition("=")[0], int(word.partition("=")[2]))
            for flag, word in itertools.pairwise(words)
            if flag == "--set"
        )
        compile_model(tiny_int8, boards.load("zcu102"), tmp_path / "again", Options(settings=settings))
        with Session(tmp_path / "again", zynq.Zynq(load(tmp_path / "again"), bit, device)) as session:
            list(session.generate(PROMPT, 3))
            assert session.digest


def test_a_bitstream_without_the_models_engine_says_so(tiny_package: Path, grouped: Path) -> None:
    device = emulated_pynq.EmulatedDevice(EmulatedBoard(load(grouped)))
    with emulated_pynq.emulated_overlay(load(grouped)) as bit, pytest.raises(DeviceError) as caught:
        zynq.Zynq(load(tiny_package), bit, device)
    assert "has the engine for" in str(caught.value) and "--set" not in str(caught.value)
