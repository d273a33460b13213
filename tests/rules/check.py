# SPDX-License-Identifier: Apache-2.0
"""`make hls`: every rule on the emitted C++ of designs of all boards: INT8, prefix codes, published packing, INT4, and both engines.

Both dataflows are in every design.  Ends with `hls checks: N clean`, or with code 1 after what was found.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from meadow import boards
from meadow.compiler.emit.emit import emit
from meadow.compiler.models import convert, quantize
from meadow.compiler.size.fit import fit
from meadow.compiler.sources.onnx.read import read
from meadow.machine.design import Design
from rules import compilers, instances, storage, structure
from rules.source import Finding, Source

RULES: tuple[Callable[[Source], Iterator[Finding]], ...] = (*structure.CHECKS, *storage.CHECKS, *compilers.CHECKS)
SHAPES: dict[str, dict[str, int]] = {
    "INT8, raw": {"weight_ports": 4, "prefix_codes": 0},
    "INT8, prefix codes": {"weight_ports": 2, "prefix_codes": 1},
    "INT8, published packing": {"weight_ports": 1, "prefix_codes": 0, "lookup_entries": 1024, "token_lanes": 1},
    "INT4": {"weight_ports": 0, "pacq_ports": 4, "float_lanes": 16},
    "INT8, every option": {"weight_ports": 2, "prefix_codes": 0, "score_cap": 1, "all_activations": 1},
    "INT8, columns": {
        "weight_ports": 0,
        "prefix_codes": 0,
        "column_ports": 4,
        "column_tokens": 32,
        "column_fifo": 512,
        "column_clock_mhz": 300,
    },
    "both engines": {"weight_ports": 2, "prefix_codes": 1, "pacq_ports": 2, "pacq_lanes": 8, "float_lanes": 4},
}


def emitted(design: Design, board: boards.Board, folder: Path) -> Path:
    """The C++ and the scripts of a design in `folder`."""
    for name, text in emit(design, "0", board).files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "hls"


def findings(folder: Path, design: Design) -> list[Finding]:
    """What every rule says of the C++ of a design in a folder hls/."""
    source = Source(folder)
    return [*(finding for rule in RULES for finding in rule(source)), *instances.differences(source, design)]


def shaped(base: Design, shape: dict[str, int]) -> Design:
    """A design with the engines that a shape names."""
    numbers: dict[str, Any] = {**base.numbers(), "pacq_ports": 0, "pacq_clock_mhz": 300, "lookup_entries": 0, **shape}
    return Design.of(numbers)


@cache
def base_design(board: str) -> Design:
    fixtures = Path(__file__).parents[1] / "fixtures"
    with tempfile.TemporaryDirectory() as work:
        convert(fixtures / "tiny.gguf", Path(work) / "tiny")
        quantize(Path(work) / "tiny", Path(work) / "int8", "channel")
        graph = read(Path(work) / "int8" / "model.onnx")
    return replace(fit(graph, boards.load(board), {"context": 256, "block": 32, "column_ports": 0}).design)


def checked(job: tuple[str, str]) -> tuple[str, list[str]]:
    board, shape = job
    with tempfile.TemporaryDirectory() as work:
        design = shaped(base_design(board), SHAPES[shape])
        made = emitted(design, boards.load(board), Path(work))
        return f"{board}, {shape}", [str(one) for one in findings(made, design)]


def main() -> int:
    able = [name for name in boards.names() if boards.load(name).port_bits == 128]
    jobs = [(name, shape) for name in able for shape in SHAPES]
    bad = 0
    with ProcessPoolExecutor(2) as pool:
        for name, found in pool.map(checked, jobs):
            print(
                f"{name}: {len(RULES) + 1} rules, " + ("clean" if not found else f"{len(found)} findings"), flush=True
            )
            for line in found:
                print(f"  {line}")
            bad += bool(found)
    print(f"hls checks: {len(jobs) - bad} clean" + (f", {bad} not" if bad else ""))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
