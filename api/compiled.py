# SPDX-License-Identifier: Apache-2.0
"""meadow.compile: a model becomes a package, from Python."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from meadow import boards
from meadow.compiler.models import quantize as round_model
from meadow.compiler.pipeline import Options, compile_model
from meadow.compiler.sources.source import find_source, name_of


@dataclass(frozen=True)
class Compiled:
    """A package: a path, so that Session(compiled) opens it, with what the compiler says of it.

    folder   of the package
    summary  design, resources, memory map, bytes per token, rates; each number's kind stands beside it
    """

    folder: Path
    summary: dict[str, Any] = field(repr=False)

    def __fspath__(self) -> str:
        return os.fspath(self.folder)

    def _rows(self) -> list[tuple[str, str]]:
        s = self.summary
        dec, pre = s["decode"], s["prefill"]
        used = ", ".join(f"{kind} {n / total:.0%}" for kind, (n, total) in s["resources"].items() if total)
        return [
            ("package", str(self.folder)),
            ("model", str(s["model"])),
            ("design", f"{s['design_id']} for {s['board']}"),
            (
                "decode",
                f"{dec['tokens_per_s']:.1f} tokens/s at context {dec['context']} (modelled), bound by {dec['limit']}",
            ),
            ("prefill", f"{pre['tokens_per_s']:.0f} tokens/s (modelled), bound by {pre['limit']}"),
            ("resources", f"{used} (estimated)"),
            *(("note", note) for note in s["notes"]),
        ]

    def __str__(self) -> str:
        return "\n".join(f"{name:>9}: {text}" for name, text in self._rows())

    def _repr_html_(self) -> str:
        left = "style='text-align:left'"
        rows = (f"<tr><th {left}>{escape(a)}</th><td {left}>{escape(b)}</td></tr>" for a, b in self._rows())
        return f"<table>{''.join(rows)}</table>"


def compile(  # the command's own name; nobody here needs Python's
    source: str | os.PathLike[str],
    board: str = "zcu102",
    output: str | os.PathLike[str] | None = None,
    *,
    quantize: str = "",
    dataflow: str = "auto",
    packing: str = "auto",
    optimize: str = "balanced",
    progress: Any = lambda stage, what: None,
    **numbers: int,
) -> Compiled:
    """Compile an ONNX or GGUF file, a folder with one, or a Hugging Face folder, as `meadowc compile` does.

    output    folder of the package [build/NAME]
    quantize  "int8", "int4" or "int2": round the weights first, into OUTPUT-QUANTIZE
    progress  called with (stage, what)
    numbers   of the design, such as context=1024 (meadowc compile --help lists them)
    Raises UsageError, UnsupportedModel and ResourceExceeded, which meadow.machine.errors has.
    """
    model = Path(source)
    folder = Path(output) if output is not None else Path("build") / name_of(find_source(model))
    options = Options(dataflow, packing, "", tuple(numbers.items()), folder.name, optimize)
    if quantize:
        rounded = folder.with_name(f"{folder.name}-{quantize}")
        round_model(model, rounded, weights=quantize)
        model = rounded
    return Compiled(folder, compile_model(model, boards.load(board), folder, options, progress))
