# SPDX-License-Identifier: Apache-2.0
"""Model files in, ONNX folders out: what `convert` and `quantize` do around reading, rounding and writing.

Reads with sources/, rounds with quantize/, writes with sources/onnx/write.py; decides nothing about a model itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from meadow.compiler.graph import calibration as calibrations
from meadow.compiler.graph import pruning, sparsity
from meadow.compiler.graph.graph import Graph
from meadow.compiler.graph.ops import Linear, Threshold
from meadow.compiler.quantize.calibrate import Calibration, Statistics, calibrate, calibration_windows
from meadow.compiler.quantize.kept import Kept
from meadow.compiler.quantize.recipe import SMOOTHING, MatrixReport, Recipe, matrix_reports, round_graph
from meadow.compiler.quantize.rotate import rotate
from meadow.compiler.quantize.smooth import smooth
from meadow.compiler.quantize.solve import Calibrated, solve_graph
from meadow.compiler.quantize.walk import Method
from meadow.compiler.require import lacks
from meadow.compiler.sources.gguf.file import read_gguf
from meadow.compiler.sources.onnx.file import save_model
from meadow.compiler.sources.onnx.read import ABSURD_SCALE
from meadow.compiler.sources.onnx.write import write
from meadow.compiler.sources.source import companions_of, digest_of, find_source, format_of, read_source
from meadow.compiler.sources.text import some_text
from meadow.machine.errors import UsageError
from meadow.machine.folder import beside, refuse_target

Progress = Callable[[str], None]


def convert(source: Path, target: Path) -> dict[str, Any]:
    """Write `target`/ from the GGUF file or the Hugging Face folder `source`, losslessly; returns a summary for the command line.

    Raises UsageError for a damaged file, UnsupportedModel (with every problem) for one of no known family.
    """
    file = find_source(source)
    refuse_target(target, "model", (file,))
    if format_of(file) == "ONNX":
        if file.suffix == ".onnx":
            raise UsageError(f"{file} is an ONNX file already; convert reads GGUF files and Hugging Face folders")
        read_gguf(file)  # which says what it is instead
    graph, texts = read_source(file), companions_of(file)
    save_folder(graph, target, file, texts, graph.metadata)
    types: dict[str, int] = {}
    for node in graph.nodes:
        if isinstance(node.op, Linear):
            kind = str(graph.weight_of(node).elem)
            types[kind] = types.get(kind, 0) + 1
    return {
        "model": str(graph.model),
        "types": types,
        "tied": graph.nodes[0].weight == graph.nodes[-1].weight,
        "chat_template": "chat_template.jinja" in texts,
        "folder": str(target),
        "bytes": sum(p.stat().st_size for p in target.iterdir()),
        "lacks": _lacks(graph),
        "notes": list(graph.notes),
    }


def _lacks(graph: Graph) -> list[str]:
    """What no engine computes of a graph, whatever its weights are: one sentence per kind, with the first node."""
    found: dict[tuple[str, str], str] = {}
    for node in graph.nodes:
        for where, what, served in lacks(node):
            found.setdefault((what, served), f"{where} {what}; {served}")
    return list(found.values())


def save_folder(graph: Graph, target: Path, source: Path, texts: dict[str, bytes], metadata: dict[str, str]) -> None:
    """Write `target`/ with model.onnx, its data and `texts`, whole or not at all."""
    with beside(target, "model", (source,)) as folder:
        save_model(write(graph, metadata), folder)
        for name, text in texts.items():
            (folder / name).write_bytes(text)


def quantize(
    source: Path,
    target: Path,
    granularity: str = "channel",
    activations: str = "int8",
    smoothing: float | None = None,
    progress: Progress = lambda _: None,
    weights: str = "int8",
    group: int = 32,
    head: str = "int8",
    method: Method | None = None,
    calibration: Calibration | None = None,
    turned: bool = False,
) -> dict[str, Any]:
    """Write `target`/ with quantized weights from the model `source`; returns the coverage and error report.

    weights      int8, or int4, int3 or int2 in groups of `group` columns; then activations stay float
    granularity  of int8: "channel", "tensor", or "group": 8 bits in groups of `group` columns, and activations stay float
    smoothing    0 to 1, how much activation range is moved into the weights; None takes the default of the granularity
    head         of int4, int3 and int2: "int8" gives the head 8 bits in groups, "same" those of the linears
    method       how the solver rounds, on `calibration`; None rounds each weight to nearest
    turned       rotate the residual stream and the values first (compiler/quantize/rotate.py); smoothing is 0 then unless given

    Raises UnsupportedModel for a graph that is not understood or weights that are not finite, UsageError for options.
    """
    recipe = Recipe(int(weights.removeprefix("int")), granularity if weights == "int8" else "group", group, head)
    recipe.check()
    if not recipe.grouped and activations not in ("int8", "float"):
        raise UsageError(f"activations {activations!r} are not known; int8 and float are")
    strength = smoothing if smoothing is not None else 0.0 if recipe.grouped or turned else SMOOTHING[granularity]
    if not 0 <= strength <= 1:
        raise UsageError(f"smoothing is {strength}; it must lie between 0 and 1")
    file = find_source(source)
    refuse_target(target, "model", (file,))
    progress("reading")
    graph, texts = read_source(file), companions_of(file)
    activations = "float" if recipe.grouped else activations
    wish = calibration or Calibration()
    before = rotate(graph, wish.seed) if turned else graph
    notes = [*graph.notes, *_rounded_before(graph, recipe, weights)]
    smoothed, statistics = _smoothed(before, texts, recipe, activations, strength, notes, progress)
    made, rows = round_graph(smoothed, recipe, statistics, progress)
    solved = kept = None
    if method is not None and method.name != "rtn":
        key = repr((digest_of(file), recipe, method, activations, strength, turned))
        solved, kept = _solved(smoothed, made, texts, recipe, method, wish, progress, target, key)
        made, rows = solved.graph, matrix_reports(smoothed, solved.graph, rows)
        notes += solved.notes
    progress("writing")
    said = _metadata(graph, recipe, activations, turned) | (solved.metadata if solved else {})
    save_folder(made, target, file, texts, said | origin_of(graph, file, target))
    if kept is not None:
        kept.remove()
    return {
        **_report(graph, made, rows, recipe, target, activations, strength, statistics, notes),
        **(solved.report() if solved else {"method": "rtn"}),
    }


def _rounded_before(graph: Graph, recipe: Recipe, weights: str) -> list[str]:
    """A note where matrices have the bits already, with scales of other places."""
    again = [w for w in graph.weights.values() if w.elem.quantized and not w.elem.group and w.elem.bits == recipe.bits]
    if not again:
        return []
    return [
        f"{len(again)} of {len(graph.weights)} matrices are {weights} already; they are rounded once more, and lose more than the model they came of"
    ]


def _metadata(graph: Graph, recipe: Recipe, activations: str, turned: bool) -> dict[str, str]:
    """What a file that `quantize` writes says of itself."""
    return {
        "meadow.activations": activations,
        "meadow.context": str(graph.model.context),
        "meadow.weights": f"{recipe}{', rotated' * turned}",
        **{key: value for key, value in graph.metadata.items() if key in ("meadow.family", pruning.KEY, sparsity.KEY)},
    }


KEPT = (
    "meadow.activations",
    "meadow.context",
    "meadow.weights",
    "meadow.family",
    calibrations.KEY,
    pruning.KEY,
    sparsity.KEY,
)


def kept_metadata(graph: Graph) -> dict[str, str]:
    """What a file says of itself that is true of what `prune` and `sparsify` make of it: it is a model of its own, which no other is compared with."""
    return {key: value for key, value in graph.metadata.items() if key in KEPT}


def _solved(
    graph: Graph,
    nearest: Graph,
    texts: dict[str, bytes],
    recipe: Recipe,
    method: Method,
    calibration: Calibration,
    progress: Progress,
    target: Path,
    key: str,
) -> tuple[Calibrated, Kept]:
    """What was rounded to nearest, rounded again by the solver on calibration text; and what is kept of it until it is written."""
    progress("calibrating")
    windows = calibration_windows(graph, texts.get("tokenizer.json"), calibration, some_text)
    kept = Kept(target.absolute(), f"{key} {calibration.facts(windows)}")
    found = solve_graph(graph, nearest, recipe, method, windows, calibration, progress, kept)
    if kept.found:
        found = replace(found, resumed=kept.found)
    return found, kept


def _smoothed(
    graph: Graph,
    texts: dict[str, bytes],
    recipe: Recipe,
    activations: str,
    strength: float,
    notes: list[str],
    progress: Progress,
) -> tuple[Graph, Statistics | None]:
    """The graph with range moved from INT8 activations into weights, and what was seen on the bundled text; a note where there is none."""
    if activations != "int8" or not (strength or recipe.granularity == "tensor"):
        return graph, None
    progress("calibrating")
    statistics = calibrate(graph, texts.get("tokenizer.json"))
    if statistics is None:
        notes.append(
            "no tokenizer beside the model that knows the calibration text: not calibrated, so neither smoothed nor range-searched"
        )
    cuts = sum(isinstance(node.op, Threshold) for node in graph.nodes)
    if cuts and strength and statistics is not None:
        notes.append(
            f"{cuts} inputs are cut at thresholds and are not smoothed, since another range would be cut elsewhere; INT8 activations cost more there"
        )
    return smooth(graph, statistics, strength) if statistics is not None and strength else graph, statistics


def _report(
    graph: Graph,
    made: Graph,
    rows: list[MatrixReport],
    recipe: Recipe,
    target: Path,
    activations: str,
    strength: float,
    statistics: Statistics | None,
    notes: list[str],
) -> dict[str, Any]:
    """What `quantize` ends with."""
    if recipe.grouped:
        after = sum(w.nbytes for w in made.weights.values())
        kind: dict[str, Any] = {
            "weights": f"int{recipe.bits}",
            "group": recipe.group,
            "head": recipe.head,
            "granularity": f"group of {recipe.group}",
        }
        absurd = [r.name for r in rows if not abs(r.largest_scale) < ABSURD_SCALE]
    else:
        per_row = recipe.granularity == "channel"
        after = sum(w.size + (w.rows if per_row else 1) * 4 for w in made.weights.values())
        kind = {"granularity": recipe.granularity}
        absurd = [r.name for r in rows if not 0 < r.smallest_scale <= r.largest_scale < ABSURD_SCALE]
    return {
        "folder": str(target),
        "matrices": len(rows),
        "matrices_total": len(made.weights),
        "bytes_before": sum(w.nbytes for w in graph.weights.values()),
        "bytes_after": after,
        **kind,
        "activations": activations,
        "smoothing": strength if statistics is not None else 0.0,
        "calibration_tokens": statistics.tokens if statistics else 0,
        "worst": [vars(r) for r in sorted(rows, key=lambda r: -r.relative_error)[:5]],
        "mean_relative_error": float(np.mean([r.relative_error for r in rows])),
        "absurd_scales": absurd,
        "per_matrix": [vars(r) for r in rows],
        "lacks": _lacks(graph),
        "notes": notes,
    }


def origin_of(graph: Graph, file: Path, target: Path) -> dict[str, str]:
    """Metadata that names the user's own file: `file`, or the one that it was quantized from; and how far that was tried."""
    path, digest = (graph.metadata.get(f"meadow.origin.{key}", "") for key in ("path", "sha256"))
    tried = graph.metadata.get("meadow.confirmed", "")
    first = (file.parent / path).resolve() if path and digest else file.resolve()
    return {
        "meadow.origin.path": os.path.relpath(first, target.resolve()),
        "meadow.origin.sha256": digest if path and digest else digest_of(file),
        "meadow.confirmed": str(min(graph.positions, int(tried)) if tried.isdecimal() else graph.positions),
    }
