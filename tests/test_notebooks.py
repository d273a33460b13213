# SPDX-License-Identifier: Apache-2.0
"""The notebooks, executed against the emulated board."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from notebooks import NOTEBOOKS, execute

for needed in ("nbclient", "ipykernel", "matplotlib", "pynq"):
    pytest.importorskip(needed)


@pytest.mark.csim
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs_and_shows_text_and_plots(notebook: Path, tiny_package: Path, tmp_path: Path) -> None:
    found = execute(notebook, tiny_package, tmp_path)
    assert found["text/plain"] > 3 and found["image/png"] >= 1
    text = (tmp_path / notebook.name).read_text()
    assert "EMULATED" in text or "modelled" in text


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_kept_without_outputs(notebook: Path) -> None:
    cells = json.loads(notebook.read_text())["cells"]
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells)
