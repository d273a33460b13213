# SPDX-License-Identifier: Apache-2.0
"""build: plans of three generations, a fake tool that fails in every way that is known, and reports of several releases."""

from __future__ import annotations

import json
import shutil
import stat
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fake_tool import LOGS

from meadow import boards
from meadow.compiler.pipeline import Options, compile_model
from meadow.machine.errors import ToolMissing, UsageError
from meadow.toolchain import reports, tools
from meadow.toolchain.failures import FAILURES, explain, first_error

REPORTS = Path(__file__).parent / "reports"
RELEASES = ("2023.2", "2024.2", "2025.1", "2026.1")


class Machine:
    """A machine that has Vitis and Vivado of a release, as far as anyone can tell."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder, self.monkeypatch, self.ran = folder, monkeypatch, folder / "ran"
        monkeypatch.setenv("FAKE_REPORTS", str(REPORTS))
        monkeypatch.setenv("FAKE_RAN", str(self.ran))
        monkeypatch.setenv("FAKE_SCENARIO", "well")
        monkeypatch.setattr(tools, "ROOTS", (str(folder / "none"),))

    def install(self, release: str) -> None:
        place = self.folder / "bin"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        names = ["vivado", "v++", "vitis-run"] + ["vitis_hls"] * (release < "2025")
        for name in names:
            path = place / name
            path.write_text(f"#!{sys.executable}\n" + (Path(__file__).parents[1] / "fake_tool.py").read_text())
            path.chmod(path.stat().st_mode | stat.S_IEXEC)
        self.monkeypatch.setenv("PATH", f"{place}:/usr/bin:/bin")
        self.monkeypatch.setenv("FAKE_RELEASE", release)

    def scenario(self, what: str) -> None:
        self.monkeypatch.setenv("FAKE_SCENARIO", what)

    def steps(self) -> list[str]:
        """What ran since the last question."""
        found = self.ran.read_text().split() if self.ran.exists() else []
        self.ran.unlink(missing_ok=True)
        return found


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


@pytest.fixture
def package(tiny_package: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_package, tmp_path / "package")
    return tmp_path / "package"


@pytest.mark.parametrize("release", RELEASES)
def test_a_plan_needs_no_tool_and_names_what_is_there(
    release: str, tiny_package: Path, meadowc: Any, golden: Any
) -> None:
    made = meadowc("build", tiny_package, "--dry-run", "--tool", release, "--csim", "--json").json
    hardware = json.loads((tiny_package / "manifest.json").read_text())["hardware"]
    assert (
        made["ports"] == hardware["ports"] and {k: int(v, 16) for k, v in made["blocks"].items()} == hardware["blocks"]
    )
    for step in made["steps"]:
        words = step["command"].split()
        for flag in ("-f", "--config", "-source"):
            if flag in words:
                assert (tiny_package / step["in"] / words[words.index(flag) + 1]).is_file()
    golden.check("\n".join(f"{s['step']}: {s['command'] or s['what']}" for s in made["steps"]) + "\n")
    shown = meadowc("build", tiny_package, "--dry-run", "--tool", release)
    assert (
        shown.code == 0
        and "not run with them yet" in shown.out
        and hardware["ports"]["meadow_engine/m_axi_weights0"] in shown.out
    )


def test_only_releases_before_2026_get_a_flow_option(tiny_package: Path) -> None:
    assert "flow_target=vivado" in (tiny_package / "vitis" / "hls_config.cfg").read_text()
    assert "flow_target" not in (tiny_package / "vitis" / "hls_config_2026.cfg").read_text()


@pytest.mark.parametrize("release", RELEASES)
def test_a_build_runs_each_step_once(release: str, machine: Machine, package: Path, meadowc: Any) -> None:
    machine.install(release)
    result = meadowc("build", package, "--json")
    assert result.code == 0, result.err + result.out
    assert machine.steps() == (["csynth", "bitstream"] if release == "2023.2" else ["csynth", "package", "bitstream"])
    assert sorted(p.relative_to(package / "overlay").as_posix() for p in (package / "overlay").rglob("*.*")) == [
        "meadow.bit",
        "meadow.hwh",
        "platform/meadow.xsa",
        "reports.json",
    ]
    again = meadowc("build", package, "--json").json
    assert machine.steps() == [] and not any(step["ran"] for step in again["steps"])
    assert meadowc("build", package, "--from", "bitstream").code == 0 and machine.steps() == ["bitstream"]
    assert meadowc("build", package, "--from", "lunch").code == 2


def test_a_build_goes_on_where_it_stopped_and_a_new_design_starts_anew(
    machine: Machine, package: Path, meadowc: Any
) -> None:
    machine.install("2024.2")
    machine.scenario("disk@bitstream")
    result = meadowc("build", package)
    assert result.code == 5 and "goes on where it stopped" in result.err and not (package / "overlay").exists()
    assert machine.steps() == ["csynth", "package", "bitstream"]
    machine.scenario("well")
    assert meadowc("build", package).code == 0 and machine.steps() == ["bitstream"]
    machine.install("2025.1")
    assert meadowc("build", package).code == 0 and machine.steps() == ["csynth", "package", "bitstream"]


STEP_OF = {
    "licence": "bitstream",
    "part": "csynth",
    "killed": "bitstream",
    "crash": "bitstream",
    "disk": "bitstream",
    "revision": "package",
    "board": "bitstream",
    "ip": "bitstream",
    "csim": "csim",
    "source": "csynth",
    "dataflow": "csynth",
    "resources": "bitstream",
    "clock pins": "bitstream",
    "clocks differ": "bitstream",
    "locale": "csynth",
    "slack": "bitstream",
}


@pytest.mark.parametrize("name", STEP_OF)
def test_every_recorded_failure_becomes_a_sentence(name: str, machine: Machine, package: Path, meadowc: Any) -> None:
    machine.install("2024.2")
    machine.scenario(f"{name}@{STEP_OF[name]}")
    result = meadowc("build", package, "--csim")
    known = next(f for f in FAILURES if f.name == name)
    said = explain(LOGS[name])
    assert said is not None and said.name == name and "{" not in said.meaning + said.todo
    assert result.code == known.exit_code != 0 and said.meaning in result.err and said.todo in result.err
    assert f"{STEP_OF[name]}.log" in result.err and not (package / "overlay").exists()


def test_an_unknown_failure_is_quoted(machine: Machine, package: Path, meadowc: Any) -> None:
    machine.install("2024.2")
    machine.scenario("unknown@csynth")
    result = meadowc("build", package)
    assert result.code == 6 and "[Weird 1-2] the moon is in the wrong house" in result.err
    assert first_error("a\nERROR: b\nc") == "ERROR: b" and first_error("") == "it said nothing"


def test_a_tool_that_leaves_nothing_is_found_out(machine: Machine, package: Path, meadowc: Any) -> None:
    machine.install("2024.2")
    machine.scenario("nothing@csynth")
    result = meadowc("build", package)
    assert result.code == 6 and "left no work/hls/hls/syn/report/*csynth.xml" in result.err


@pytest.mark.parametrize(
    ("scenario", "option", "said"),
    [
        ("hang@bitstream", "--silence", "said nothing for 0.03 minutes"),
        ("chatter@csynth", "--timeout", "was ended after 0.03 minutes"),
    ],
)
def test_a_tool_that_hangs_is_ended(
    scenario: str, option: str, said: str, machine: Machine, package: Path, meadowc: Any
) -> None:
    machine.install("2024.2")
    machine.scenario(scenario)
    began = time.monotonic()
    result = meadowc("build", package, option, "0.03")
    assert result.code == 6 and said in result.err and time.monotonic() - began < 60


def test_negative_slack_ends_with_5_unless_it_is_allowed(machine: Machine, package: Path, meadowc: Any) -> None:
    machine.install("2024.2")
    machine.scenario("missed")
    result = meadowc("build", package)
    assert result.code == 5 and "-0.333 ns setup" in result.err and not (package / "overlay").exists()
    machine.steps()
    assert (
        meadowc("build", package, "--allow-timing-violation").code == 0
        and (package / "overlay" / "meadow.bit").is_file()
    )
    assert machine.steps() == []  # allowing it does not cost the hours again
    machine.scenario("unmeasured")
    result = meadowc("build", package, "--from", "bitstream")
    assert result.code == 5 and "nobody measured the timing" in result.err


def test_checks_run_when_they_are_asked_for_and_cost_nothing_else(
    machine: Machine, package: Path, meadowc: Any
) -> None:
    machine.install("2024.2")
    assert meadowc("build", package).code == 0
    machine.steps()
    assert meadowc("build", package, "--csim").code == 0 and machine.steps() == ["csim"]
    (package / "work" / "state.json").write_text('{"csynth": 5}')
    assert meadowc("build", package).code == 0 and machine.steps() == ["csynth", "package", "bitstream"]


def test_a_file_of_an_earlier_run_is_not_taken_for_this_runs(machine: Machine, package: Path, meadowc: Any) -> None:
    machine.install("2024.2")
    assert meadowc("build", package).code == 0
    machine.scenario("nothing@package")
    result = meadowc("build", package, "--from", "package")
    assert result.code == 6 and "package ended without an error but left no" in result.err


def test_a_changed_package_is_not_built(machine: Machine, package: Path, meadowc: Any) -> None:
    machine.install("2024.2")
    (package / "hls" / "top.cpp").write_text("int main() {}")
    result = meadowc("build", package)
    assert result.code == 7 and "hls/top.cpp changed" in result.err and machine.steps() == []


def test_pynq_takes_the_bitstream_for_one(machine: Machine, package: Path, meadowc: Any) -> None:
    embedded = pytest.importorskip("pynq.pl_server.embedded_device")
    machine.install("2024.2")
    assert meadowc("build", package).code == 0
    assert not embedded.BitfileHandler(str(package / "overlay" / "meadow.bit")).is_xsa()


def test_a_tool_whose_helpers_live_on_is_not_waited_for(machine: Machine, package: Path, meadowc: Any) -> None:
    machine.install("2024.2")
    machine.scenario("helper@csynth")
    began = time.monotonic()
    assert meadowc("build", package).code == 6 and time.monotonic() - began < 60


def test_without_tools_it_says_where_it_looked(machine: Machine, package: Path, meadowc: Any) -> None:
    machine.monkeypatch.setenv("PATH", "/usr/bin:/bin")
    result = meadowc("build", package)
    assert result.code == 6 and "--dry-run" in result.err
    machine.install("2024.2")
    result = meadowc("build", package, "--tool", "2023.2")
    assert result.code == 6 and "found" in result.err and "2024.2" in result.err
    assert meadowc("build", package, "--tool", "yesterday").code == 2
    with pytest.raises(UsageError, match="older than Vitis HLS"):
        tools.parse("2018.3")


def test_the_newest_whole_installation_below_a_root_is_taken(machine: Machine, tmp_path: Path) -> None:
    machine.install("2024.2")
    root = tmp_path / "Xilinx"
    for folder in ("Vivado/2024.2/bin", "Vitis/2024.2/bin"):
        shutil.copytree(tmp_path / "bin", root / folder)
    machine.monkeypatch.setenv("PATH", "/usr/bin:/bin")
    machine.monkeypatch.setattr(tools, "ROOTS", (str(root),))
    release, found = tools.find(None)
    assert (
        release == (2024, 2)
        and set(found) == {"vivado", "v++", "vitis-run"}
        and found["v++"].parent == root / "Vitis/2024.2/bin"
    )
    shutil.rmtree(root / "Vitis")
    with pytest.raises(ToolMissing, match=r"no v\+\+ of 2024.2"):
        tools.find(None)


def test_compiling_again_keeps_what_took_hours(machine: Machine, tiny_int8: Path, tmp_path: Path, meadowc: Any) -> None:
    machine.install("2024.2")
    folder = tmp_path / "kept"
    options = (("block", 64), ("token_lanes", 8))
    compile_model(tiny_int8, boards.load("zcu102"), folder, Options(settings=options))
    assert meadowc("build", folder).code == 0
    compile_model(tiny_int8, boards.load("zcu102"), folder, Options(settings=options, name="other"))
    assert (folder / "overlay" / "meadow.bit").read_text() == "meadow.bit"
    machine.steps()
    assert meadowc("build", folder).code == 0 and machine.steps() == []
    before = json.loads((folder / "manifest.json").read_text())["design_id"]
    compile_model(tiny_int8, boards.load("zcu102"), folder, Options(settings=(("block", 32), ("token_lanes", 4))))
    assert not (folder / "overlay").exists() and (folder / f"overlay-{before}" / "meadow.bit").is_file()


# -- reports ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("release", "worst"), [("2018.3", 2089114), ("2023.2", None), ("2025.2", None)])
def test_csynth_reports_of_three_generations_are_read(release: str, worst: float | None) -> None:
    found = reports.parse_csynth(REPORTS / f"csynth-{release}.xml")
    assert found["release"] == release and found["top"] == "meadow_engine" and found["estimated_ns"] == 4.38
    assert found["resources"] == {
        "LUT": 121900,
        "FF": 98304,
        "DSP": 1402,
        "BRAM36": 345,
        **({"URAM": 0} if release != "2018.3" else {}),
    }
    assert found["latency_cycles"] == [41, worst] and found["available"]["DSP"] == 2520


@pytest.mark.parametrize("release", ["2020.2", "2023.1", "2025.1"])
def test_utilization_reports_are_read_by_their_headers(release: str) -> None:
    found = reports.parse_utilization(REPORTS / f"utilization-{release}.rpt")
    assert found["LUT"] == {"used": 118234, "available": 274080} and found["BRAM36"]["used"] == 341.5
    assert found["DSP"]["used"] == 1390 and found["FF"]["used"] == 91022 and ("URAM" in found) == (release == "2025.1")


def test_timing_and_power_are_read_and_timing_without_a_number_is_not_met() -> None:
    assert reports.parse_timing(REPORTS / "timing-met.rpt") == {
        "wns_ns": 0.104,
        "tns_ns": 0.0,
        "whs_ns": 0.012,
        "wpws_ns": 1.225,
        "met": True,
    }
    assert reports.parse_timing(REPORTS / "timing-missed.rpt")["met"] is False
    assert reports.parse_timing(REPORTS / "timing-unconstrained.rpt")["met"] is None
    assert reports.parse_power(REPORTS / "power-2025.2.rpt") == {
        "total_w": 6.209,
        "dynamic_w": 5.435,
        "static_w": 0.774,
        "junction_c": 31.2,
    }


@pytest.mark.parametrize("text", ["", "<profile>", "<other/>", '<!DOCTYPE a [<!ENTITY b "c">]><profile>&b;</profile>'])
def test_a_file_that_is_no_report_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_text(text)
    for parser in (reports.parse_csynth, reports.parse_utilization, reports.parse_timing, reports.parse_power):
        with pytest.raises(UsageError):
            parser(tmp_path / "x")


def test_the_build_compares_clock_cells_loops_and_rates(machine: Machine, package: Path, meadowc: Any) -> None:
    none = meadowc("build", package, "--compare")
    assert none.code == 2 and "no report of Vitis or Vivado is in" in none.err
    machine.install("2025.2")
    done = meadowc("build", package)
    again = meadowc("build", package, "--compare")
    for said in (
        "each iteration makes its own request",
        "II 2 where 1 is asked for",
        "121,900",
        "118,234",
        "VITIS_LOOP_189_1",
    ):
        assert said in done.out and said in again.out
    found = json.loads(meadowc("build", package, "--compare", "--json").out)
    assert [row["ns"] for row in found["clock"]] == [5.0, 4.38, pytest.approx(5 - 0.104)]
    assert found["rates"][1]["prefill"] < found["rates"][0]["prefill"]
    shutil.rmtree(package / "work")  # on the board only overlay/ is left
    assert json.loads(meadowc("build", package, "--compare", "--json").out)["loops"] == found["loops"]


def test_the_page_sets_reports_beside_estimates(machine: Machine, package: Path, meadowc: Any) -> None:
    assert "after routing" not in _page(package, meadowc)
    machine.install("2024.2")
    assert meadowc("build", package).code == 0
    text = _page(package, meadowc)
    for said in (
        "reported by csynth",
        "reported after routing",
        "118,234",
        "121,900",
        "6.209 W",
        "0.104 ns",
        "each iteration makes its own request",
    ):
        assert said in text


def _page(package: Path, meadowc: Any) -> str:
    assert meadowc("report", package).code == 0
    return (package / "report" / "index.html").read_text()
