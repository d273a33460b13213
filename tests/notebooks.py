# SPDX-License-Identifier: Apache-2.0
"""Runs docs/notebooks against a package and keeps what they show.

    python tests/notebooks.py PACKAGE OUTPUT

`make notebooks` runs it on SmolLM2, test_notebooks.py on the tiny model.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
NOTEBOOKS = tuple(sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")))
MINUTES = 20


def execute(notebook: Path, package: Path, output: Path) -> dict[str, int]:
    """Run one notebook in a kernel of its own and write it to the folder `output`; returns how many outputs it has, by MIME type.

    Raises nbclient's CellExecutionError where a cell fails.
    """
    import nbformat
    from nbclient import NotebookClient

    os.environ["MEADOW_PACKAGE"] = os.path.relpath(
        package, notebook.parent
    )  # outputs are committed: no path of this machine
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # for meadowc
    book: Any = nbformat.read(notebook, as_version=4)
    NotebookClient(book, timeout=60 * MINUTES, resources={"metadata": {"path": str(notebook.parent)}}).execute()
    output.mkdir(parents=True, exist_ok=True)
    text = nbformat.writes(book).replace(f"{ROOT}/", "").replace(str(ROOT), ".").replace(str(Path.home()), "~")
    (output / notebook.name).write_text(text + "\n")
    found: dict[str, int] = {}
    for cell in book.cells:
        for each in cell.get("outputs", ()):
            for kind in ["text/plain"] if each.output_type == "stream" else each.get("data", {}):
                found[kind] = found.get(kind, 0) + 1
    return found


def main() -> None:
    package, output = Path(sys.argv[1]), Path(sys.argv[2])
    for notebook in NOTEBOOKS:
        began = time.perf_counter()
        found = execute(notebook, package, output)
        if not found.get("text/plain") or not found.get("image/png"):
            sys.exit(f"{notebook.name}: no text or no plot among its outputs: {found}")
        print(
            f"{output / notebook.name}: {found['text/plain']} texts, {found['image/png']} plots, {time.perf_counter() - began:.0f} s"
        )


if __name__ == "__main__":
    main()
