# SPDX-License-Identifier: Apache-2.0
"""The SAT solver finds faults planted against the rules of AXI and of the lanes' margins, and none in what is shipped."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rtl.simulator import RTL

pytest.importorskip("pyosys", reason="pyosys is not installed")
pytestmark = pytest.mark.rtl
FAULTS = {
    "a burst crosses 4 KiB": (
        "formal_fetch",
        "stream_fetch.v",
        "9'd256 - {1'b0, at_q[11:4]}",
        "9'd257 - {1'b0, at_q[11:4]}",
    ),
    "an address is dropped by a clear": (
        "formal_fetch",
        "stream_fetch.v",
        "(ask && !clear_i) || !free",
        "(ask || !free) && !clear_i",
    ),
    "bursts are one beat longer": ("formal_fetch", "stream_fetch.v", "length_q} - 9'd1", "length_q}"),
    "a read is answered twice": (
        "formal_registers",
        "gemv_registers.v",
        "s_axil_rvalid <= read || (s_axil_rvalid && !s_axil_rready)",
        "s_axil_rvalid <= read || s_axil_rvalid",
    ),
    "a write does not wait for its data": (
        "formal_registers",
        "gemv_registers.v",
        "wire write = address_q && data_q &&",
        "wire write = address_q &&",
    ),
    "a step begins with a halfword too few": (
        "formal_lane",
        "prefix_lane.v",
        "parameter NEEDED = 7,",
        "parameter NEEDED = 6,",
    ),
    "beats come until there is no room": (
        "formal_lane",
        "prefix_lane.v",
        "parameter ROOM = 60 ",
        "parameter ROOM = 64 ",
    ),
    "a halfword is left out": (
        "formal_lane",
        "prefix_lane.v",
        "count_q <= place_i - read_q;",
        "count_q <= place_i - read_q + 1'b1;",
    ),
    "a sum is added that is to be forgotten": (
        "formal_add",
        "add_clear.v",
        "(a_i & {WIDTH{~clear_i}}) ^ b_i",
        "a_i ^ b_i",
    ),
    "a multiplexer mixes two choices up": ("formal_mux", "mux4.v", "64'hFF00F0F0CCCCAAAA", "64'hFF00CCCCF0F0AAAA"),
}


def proved(top: str, folder: Path) -> bool:
    """Whether the solver finds no run that breaks a rule."""
    code = (
        "from rtl.formal import PROOFS, prove; from pathlib import Path; import sys\n"
        "prove(next(p for p in PROOFS if p.top == sys.argv[1]), folder=Path(sys.argv[2]))"
    )
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code, top, str(folder)], cwd=tests, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 or "proof did fail" in done.stdout + done.stderr, (
        done.stdout[-500:] + done.stderr[-500:]
    )
    return done.returncode == 0


@pytest.mark.parametrize(
    "top", ["formal_fetch", "formal_registers", "formal_lane", "formal_mux", "formal_add", "formal_split"]
)
def test_the_rules_are_kept(top: str) -> None:
    assert proved(top, RTL)


@pytest.mark.parametrize("what", FAULTS)
def test_a_broken_rule_is_found(what: str, tmp_path: Path) -> None:
    top, name, old, new = FAULTS[what]
    folder = Path(shutil.copytree(RTL, tmp_path / "rtl"))
    text = (folder / name).read_text()
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {name}"
    (folder / name).write_text(text.replace(old, new))
    assert not proved(top, folder)


def test_nine_products_would_not_come_apart() -> None:
    code = "from rtl.formal import PROOFS, prove; prove(next(p for p in PROOFS if p.top == 'formal_split'), {'PRODUCTS': 9})"
    tests = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=tests, capture_output=True, text=True, check=False)
    assert done.returncode and "proof did fail" in done.stdout + done.stderr
