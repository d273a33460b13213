# SPDX-License-Identifier: Apache-2.0
"""The documentation builds as a site without a warning, fetches nothing, and leaves out no decision, command or name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="no mkdocs-material: pip install 'meadow-fpga[docs]'")
    subprocess.run(["make", "-s", "links"], cwd=ROOT, check=True)
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", out],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr[-3000:]
    return out


def test_the_site_builds_without_a_warning_and_fetches_nothing(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 60
    for page in pages:
        text = page.read_text()
        outside = re.findall(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(https?://[^"]+)"', text)
        assert [a for a in outside if not a.startswith("https://meadow.")] == [], page


def test_the_reference_has_every_command_and_name(site: Path) -> None:
    from meadow.cli.bench import BENCHMARKS
    from meadow.cli.main import COMMANDS

    text = (site / "cli" / "index.html").read_text()
    for name in (*COMMANDS, *(f"bench {b}" for b in BENCHMARKS)):
        assert f">meadowc {name}<" in text, name
    python = (site / "python" / "index.html").read_text()
    for name in ("meadow.compiled.compile", "meadow.runtime.session.Session", "meadow.machine.errors.UnsupportedModel"):
        assert f'id="{name}"' in python, name
    assert "<code>quantize</code>: " in python  # arguments are a list, not a paragraph


def test_every_decision_and_page_can_be_reached() -> None:
    index, nav = (ROOT / "docs/decisions/index.md").read_text(), (ROOT / "mkdocs.yml").read_text()
    for file in sorted((ROOT / "docs/decisions").glob("0*.md")):
        title = file.read_text().splitlines()[0].removeprefix("# ")
        assert f"- [{title}]({file.name})" in index and f"decisions/{file.name}" in nav, file.name
    for file in (ROOT / "docs").glob("*.md"):
        assert f": {file.name}\n" in nav, file.name


def test_the_pictures_fetch_nothing_and_are_small() -> None:
    text = (ROOT / "docs/pictures/terminal.svg").read_text()
    assert not re.findall(r"(?:href|src|url)[=(][\"']?http", text) and "EMULATED" in text and "@keyframes" in text
    assert all(file.stat().st_size < 400_000 for file in (ROOT / "docs/pictures").iterdir())
