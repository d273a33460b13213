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
def test_a_notebook_runs_and_shows_text_and_plots(
    notebook: Path, tiny_package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEADOW_MODEL", str(Path(__file__).parent / "fixtures" / "tiny.gguf"))
    found = execute(notebook, tiny_package, tmp_path)
    assert found["text/plain"] > 3 and found["image/png"] >= 1
    text = (tmp_path / notebook.name).read_text()
    assert "EMULATED" in text or "modelled" in text


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_kept_with_the_outputs_of_a_whole_run_and_no_path_of_a_machine(notebook: Path) -> None:
    text = notebook.read_text()
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert len(outputs) >= len(cells) // 2 and all(output["output_type"] != "error" for output in outputs)
    for path in ("/home/", "/root/", "/work/", "/tmp/"):
        assert path not in text, path
