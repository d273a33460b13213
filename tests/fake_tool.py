# SPDX-License-Identifier: Apache-2.0
"""Stands in for vivado, v++, vitis-run and vitis_hls: says its release, then does what $FAKE_SCENARIO says."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(os.environ.get("FAKE_REPORTS", "."))
LOGS = {
    "licence": "ERROR: [Common 17-345] A valid license was not found for feature 'Synthesis' and/or device 'xczu9eg'. Please run the Vivado "
    "License Manager for assistance in determining\nResolution: Check the status of your licenses in the Vivado License Manager.",
    "part": "ERROR: [HLS 200-1023] Part 'xczu9eg-ffvb1156-2-e' is not installed.",
    "killed": '/opt/Xilinx/2025.2/Vivado/bin/rdiArgs.sh: line 57:  3843 Killed                  "$RDI_PROG" "$@"',
    "crash": '/opt/Xilinx/2024.1/Vivado/bin/rdiArgs.sh: line 53:  12 Segmentation fault      "$RDI_PROG" "$@"',
    "disk": "ERROR: [Common 17-49] Internal Data Exception: HDDMProto::writeMessage failed",
    "revision": 'bad lexical cast: source type value could not be interpreted as target\n    while executing\n"rdi::set_property core_revision '
    '2607161630 {component component_1}"\nERROR: [IMPL 213-28] Failed to generate IP.',
    "board": "ERROR: [Board 49-71] The board_part definition was not found for xilinx.com:zcu102:part0:3.4. The project's board_part "
    "property was not set",
    "ip": "ERROR: [BD 5-216] VLNV <meadow:hls:meadow_engine:1.0> is not supported for the current part.\nERROR: [Common 17-39] "
    "'create_bd_cell' failed due to earlier errors",
    "csim": "@E Simulation failed: Function 'main' returns nonzero value '1'.\nERROR: [SIM 211-100] 'csim_design' failed: nonzero return value.",
    "source": "ERROR: [HLS 207-3776] use of undeclared identifier 'N' (top.cpp:42:7)\nERROR: [HLS 200-1715] Encountered problem during "
    "source synthesis\nPre-synthesis failed.",
    "dataflow": "ERROR: [HLS 200-979] Argument 'heads' failed dataflow checking: it can only be written in one process function.",
    "resources": "ERROR: [Place 30-640] Place Check : This design requires more RAMB36/FIFO cells than are available in the target device. "
    "This design requires 324 of such cell types but only 140 compatible sites are available",
    "clock pins": "ERROR: [BD 41-758] The following clock pins are not connected to a valid clock source: \n/zynq_ps/maxihpm1_fpd_aclk",
    "clocks differ": "ERROR: [BD 41-237] Bus Interface property FREQ_HZ does not match between /axi_smc/S02_AXI(250000000) and /x/m_axis(100000000)",
    "locale": "terminate called after throwing an instance of 'std::runtime_error'\n  what():  locale::facet::_S_create_c_locale name not valid",
    "slack": "MEADOW SLACK -0.333\nMEADOW FAILED negative slack -0.333 ns",
    "unknown": "INFO: something\nERROR: [Weird 1-2] the moon is in the wrong house",
}
"""As the tools print them (real logs in public issue threads), cut to what matters."""


def main() -> int:
    name, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    release = os.environ["FAKE_RELEASE"]
    if arguments and arguments[0] in ("-version", "--version"):
        print(f"{name} v{release} (64-bit)\nTool Version Limit: 2039.05\nSW Build 1 on Wed May 21")
        return 0
    scenario, _, where = os.environ["FAKE_SCENARIO"].partition("@")
    step = (
        "bitstream"
        if name == "vivado"
        else "package"
        if "--package" in arguments
        else "csim"
        if "--csim" in arguments
        else "csynth"
    )
    with Path(os.environ["FAKE_RAN"]).open("a") as ran:
        ran.write(f"{step}\n")
    print(f"INFO: [HLS 200-10] -- Starting {step} --", flush=True)
    if where == step:
        if scenario == "hang":
            time.sleep(600)
        if scenario == "chatter":
            for n in range(6000):
                print(f"still at it {n}", flush=True)
                time.sleep(0.1)
        if scenario == "nothing":
            return 0
        if scenario == "helper":
            subprocess.Popen(["sleep", "600"])
            return 1
        print(LOGS[scenario], flush=True)
        return 1
    succeed(step, release)
    if step == "bitstream" and scenario == "missed":
        print(LOGS["slack"], flush=True)
        return 5
    return 0


def succeed(step: str, release: str) -> None:
    package = Path.cwd() if step == "bitstream" else Path.cwd().parent
    if step == "csynth":
        unified = tuple(map(int, release.split("."))) >= (2024, 2)
        folder = package / "work" / "hls" / ("hls/syn/report" if unified else "meadow/solution1/syn/report")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "meadow_engine_csynth.xml").write_text((HERE / "csynth-2025.2.xml").read_text())
        (folder / "csynth.xml").write_text((HERE / "csynth-loops-2025.2.xml").read_text())
    if step in ("csynth", "package"):
        folder = package / "work" / "hls" / "impl" / "ip"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "component.xml").write_text("<component/>")
    if step == "bitstream":
        for name in ("meadow.bit", "meadow.hwh", "meadow.xsa"):
            path = package / "work" / "vivado" / "overlay" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
        reports = package / "work" / "vivado" / "reports"
        reports.mkdir(parents=True, exist_ok=True)
        slack = {"missed": "missed", "unmeasured": "unconstrained"}.get(os.environ["FAKE_SCENARIO"], "met")
        for source, target in (
            ("utilization-2023.1.rpt", "utilization.rpt"),
            (f"timing-{slack}.rpt", "timing.rpt"),
            ("power-2025.2.rpt", "power.rpt"),
        ):
            (reports / target).write_text((HERE / source).read_text())


if __name__ == "__main__":
    sys.exit(main())
