# SPDX-License-Identifier: Apache-2.0
"""The report: one page that fetches nothing, says what the package is, and can be looked at in a browser."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meadow.cli.report.page import build
from meadow.machine.package.read import load


@pytest.fixture(scope="module")
def page(tiny_package: Path) -> str:
    return build(load(tiny_package), "trace.json")[0]


def test_the_page_fetches_nothing(page: str) -> None:
    assert "<script" not in page and "@import" not in page and "<link" not in page
    outside = [m for m in re.findall(r'(?:src|href|action)\s*=\s*"([^"]*)"', page) if not m.startswith("#")]
    assert outside == []
    assert [u for u in re.findall(r"url\(([^)]*)\)", page) if not u.startswith("#")] == []
    addresses = set(re.findall(r"https?://[^\"' <]+", page))
    assert all(a.startswith("http://www.w3.org/") for a in addresses), addresses


def test_the_page_has_every_part_and_no_stand_in_is_left(page: str) -> None:
    for title in (
        "Roofline",
        "Bytes of a decoded token",
        "GEMM or TPHS",
        "Time to the first token",
        "Where the time goes",
        "Timeline of a token",
        "Packing",
        "Resources",
        "Memory map",
        "What was chosen, and why",
    ):
        assert f"<h2>{title}" in page
    assert page.count('class="chart"') == 9
    assert not re.search(r"#0a0[bc]", page) and "nan" not in re.findall(r"<b>([^<]*)</b>", page)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"var\((--[a-z0-9]+)\)", page)) <= set(re.findall(r"(--[a-z0-9]+):", page))


def test_the_trace_has_every_step_in_order(tiny_package: Path) -> None:
    package = load(tiny_package)
    _, trace = build(package, "trace.json")
    steps = [e for e in trace["traceEvents"] if e["ph"] == "X" and e["tid"] == 0 and e["pid"] == 1]
    assert len(steps) == len(package.steps("decode"))
    for a, b in itertools.pairwise(steps):
        assert a["ts"] + a["dur"] == pytest.approx(b["ts"], abs=0.01)
    phases = [e for e in trace["traceEvents"] if e["ph"] == "X" and e["tid"] > 0 and e["pid"] == 1]
    assert sum(e["dur"] for e in phases) <= sum(e["dur"] for e in steps) * 1.001


def test_the_command_writes_page_and_trace_and_spares_other_files(
    tiny_package: Path, tmp_path: Path, meadowc: Any
) -> None:
    made = meadowc("report", tiny_package, "-o", tmp_path / "a.html", "--json").json
    assert Path(made["page"]).read_text().startswith("<!doctype html>")
    assert json.loads(Path(made["trace"]).read_text())["traceEvents"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "a.trace.json"]
    other = tmp_path / "notes.html"
    other.write_text("mine")
    refused = meadowc("report", tiny_package, "-o", other)
    assert refused.code == 2 and "is no report" in refused.err and other.read_text() == "mine"
    assert meadowc("report", tmp_path).code == 2
    assert meadowc("report", tiny_package, "-o", tmp_path / "none" / "a.html").code == 2


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(BROWSER is None, reason="no Chromium: apt-get install chromium")
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_the_page_shows_in_a_browser(width: int, scheme: str, page: str, tmp_path: Path) -> None:
    """A screenshot: of the asked size, on the scheme's own ground, with the chart colours on it and nothing cut off."""
    image = pytest.importorskip("matplotlib.image")
    file, shot = tmp_path / "page.html", tmp_path / "shot.png"
    file.write_text(
        page.replace("</body>", "<script>document.title = document.documentElement.scrollWidth</script></body>")
    )
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
        f"--window-size={width},2400",
    ]
    assert BROWSER is not None
    subprocess.run(
        [BROWSER, *flags, f"--screenshot={shot}", file.as_uri()], check=True, capture_output=True, timeout=120
    )
    pixels = np.round(image.imread(shot)[..., :3] * 255).astype(int)
    assert pixels.shape == (2400, width, 3)
    ground = {"dark": (0x13, 0x17, 0x14), "light": (0xF5, 0xF6, 0xF3)}[scheme]
    series = {"dark": (0x63, 0xB9, 0x8B), "light": (0x2C, 0x6E, 0x49)}[scheme]
    assert tuple(pixels[5, 5]) == ground
    assert (abs(pixels - series).max(axis=2) < 6).sum() > 500
    text = subprocess.run(
        [BROWSER, *flags, "--dump-dom", file.as_uri()], check=True, capture_output=True, text=True, timeout=120
    ).stdout
    found = re.search(r"<title>(\d+)</title>", text)
    assert found is not None and int(found.group(1)) <= max(width, 500)  # headless windows are at least 500 wide
