# SPDX-License-Identifier: Apache-2.0
"""The reading list: everything between an ONNX file and the bytes a board runs, in order.

Each stage is a function in the file of its name; what stands between two stages is frozen data with check() and str().
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from meadow.boards import Board
from meadow.compiler.emit.block_design import block_design, hardware_facts
from meadow.compiler.emit.emit import emit
from meadow.compiler.emit.save import compiler_digest, save
from meadow.compiler.emit.spool import Spool
from meadow.compiler.engines.engine import planner_for
from meadow.compiler.engines.stored import Part, Stored
from meadow.compiler.graph.graph import Graph
from meadow.compiler.graph.ops import Attention, Rotary
from meadow.compiler.graph.rewrite import rewrite
from meadow.compiler.program.ahead import ahead_of
from meadow.compiler.program.lower import lower
from meadow.compiler.program.parts import weight_parts
from meadow.compiler.program.place import place
from meadow.compiler.require import require_engines
from meadow.compiler.size.fit import fit
from meadow.compiler.size.memory import require_memory, room_beside
from meadow.compiler.sources.source import companions_of, digest_of, find_source, read_source
from meadow.compiler.summary import dataflow_traffic, summarize
from meadow.machine import distribution
from meadow.machine.design import Design
from meadow.machine.errors import MeadowError, UnsupportedModel, UsageError
from meadow.machine.folder import refuse_target
from meadow.machine.package.read import load

STAGES = ("read", "rewrite", "fit", "pack", "lower", "place", "emit", "save")


@dataclass(frozen=True)
class Options:
    """What the user may say besides the model and the board."""

    dataflow: str = "auto"
    packing: str = "auto"
    design: str = ""
    settings: tuple[tuple[str, int], ...] = ()
    name: str = ""
    optimize: str = "balanced"


def compile_model(
    source: Path,
    board: Board,
    target: Path,
    options: Options,
    progress: Callable[[str, str], None] = lambda stage, what: None,
) -> dict[str, Any]:
    """Compile the model `source` (an ONNX or GGUF file, a folder with one, or a Hugging Face folder) for `board` into the package folder `target`; returns the summary.

    A package that was made of the same inputs is left as it is (`up_to_date` in the summary).
    Raises UsageError, UnsupportedModel and ResourceExceeded.
    """
    file = find_source(source)
    refuse_target(target, "package", (file,))
    progress("read", "")
    graph = read_source(file, asked_context(options))
    digest, texts = digest_of(file), companions_of(file)
    inputs = inputs_digest(digest, texts, board, options)
    if is_current(target, inputs):
        summary: dict[str, Any] = json.loads((target / "report" / "summary.json").read_text())
        return {**summary, "up_to_date": True}
    require_engines(graph)
    progress("rewrite", str(graph.model))
    graph = rewrite(graph)
    progress("fit", board.title)
    fitted = fit(
        graph, board, dict(options.settings), options.design, options.packing, options.optimize, options.dataflow
    )
    design = fitted.design
    require_memory(graph, design.context, board)
    confirm_context(graph, file, design.context, progress)
    parts_of = weight_parts(graph, design)
    with Spool(target.absolute().parent) as spool:
        packed = pack_all(graph, design, parts_of, options.packing, progress, spool.keep)
        progress("lower", f"dataflow {options.dataflow}")
        ahead = ahead_of(graph, design, room_beside(graph, design.context, board))
        schedule = lower(graph, design, packed, options.dataflow, board.bandwidth_gb_s, ahead)
        progress("place", f"{len(schedule.buffers)} buffers")
        schedule = place(schedule, board)
        progress("emit", "")
        plan = emit(design, distribution.version(), board)
        summary = summarize(graph, board, fitted, schedule, packed, ahead)
        summary["traffic"] = dataflow_traffic(graph, design, packed, board)
        hardware_digest = plan.digest()
        plan.files["report/summary.json"] = json.dumps(summary, indent=1, sort_keys=True) + "\n"
        facts = {
            "name": options.name or target.name,
            "board": board.name,
            "inputs": inputs,
            "meadow_version": distribution.version(),
            "source": {"path": os.path.relpath(file.resolve(), target.resolve()), "sha256": digest},
            "origin": origin(graph, file, target),
            "options": asdict(options),
            "tile_rows": design.tile_rows,
            "hardware": hardware_facts(block_design(design, board)),
            "hardware_digest": hardware_digest,
        }
        progress("save", str(target))
        save(target, graph, design, schedule, ahead, packed, parts_of, plan, facts, texts, spool.release)
    return {**summary, "up_to_date": False}


def asked_context(options: Options) -> int | None:
    """The context that the settings ask for; None where they leave it to the model."""
    found = dict(options.settings).get("context")
    return found if isinstance(found, int) and found > 0 else None


def confirm_context(graph: Graph, file: Path, context: int, progress: Callable[[str, str], None]) -> None:
    """Try the user's file up to the last position of the design, where reading it tried fewer.

    Raises UnsupportedModel for a file that means something else there, UsageError where it is gone.
    """
    if context > graph.positions:
        progress("read", f"again, up to position {context}")
        _same_attention(graph, read_source(file, context), file, graph.positions)
    tried = graph.metadata.get("meadow.confirmed", "")
    if tried.isdecimal() and context > int(tried):  # `file` was written anew of what was tried so far only
        before = (file.parent / graph.metadata.get("meadow.origin.path", "")).resolve()
        if not before.is_file():
            raise UsageError(
                f"{file} was tried up to position {tried} of the model that it was quantized from, and {before} is gone; "
                f"compile with --set context={tried}, or quantize that model again"
            )
        progress("read", f"{before}, up to position {context}")
        _same_attention(graph, read_source(before, context), before, int(tried))


def _same_attention(graph: Graph, longer: Graph, file: Path, tried: int) -> None:
    """Raise UnsupportedModel where attention is another at positions that were not tried before: a window begins, angles change."""
    kinds = (Attention, Rotary)
    pairs = zip(
        *(
            [
                (n.name, replace(n.op, sinks=None) if isinstance(n.op, Attention) else n.op)
                for n in g.nodes
                if isinstance(n.op, kinds)
            ]
            for g in (graph, longer)
        ),
        strict=True,
    )
    found = [
        (
            f"%{name}",
            f"is {' '.join(b.arguments())} in {file}, tried up to position {longer.positions}",
            f"it was read as {' '.join(a.arguments())}",
        )
        for (name, a), (_, b) in pairs
        if a != b
    ]
    if found:
        raise UnsupportedModel(
            f"attention is another beyond position {tried}; compile with --set context={tried}, or quantize the model again:",
            tuple(found[:6]),
        )


def origin(graph: Graph, file: Path, target: Path) -> dict[str, str] | None:
    """The unquantized model that `quantize` noted in the file: its path from the package, and its digest."""
    path, digest = (graph.metadata.get(f"meadow.origin.{key}") for key in ("path", "sha256"))
    if not path or not digest or not path.isprintable() or not digest.isalnum():  # metadata of a file from anywhere
        return None
    return {"path": os.path.relpath((file.parent / path).resolve(), target.resolve()), "sha256": digest}


def inputs_digest(source: str, texts: Mapping[str, bytes], board: Board, options: Options) -> str:
    """What a package is made of: the model's bytes (their digest `source`) and companions, the board, the options and this compiler."""
    digest = hashlib.sha256(source.encode())
    companions = [f"{name}:{hashlib.sha256(text).hexdigest()}" for name, text in texts.items()]
    for part in (repr(board), repr(options), compiler_digest(), *companions):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()


def is_current(target: Path, inputs: str) -> bool:
    """Whether `target` is a whole package made of these inputs, and no file of it is missing or changed."""
    try:
        package = load(target)
        return bool(package.manifest["inputs"] == inputs) and not package.verify_files()
    except MeadowError:
        return False


def pack_all(
    graph: Graph,
    design: Design,
    parts_of: dict[str, list[Part]],
    scheme: str,
    progress: Callable[[str, str], None],
    keep: Callable[[NDArray[Any]], NDArray[Any]] = lambda values: values,
) -> dict[str, Stored]:
    """Every part of every streamed matrix, packed, its streams where `keep` puts them; several at a time, since numpy works outside
    of Python's lock."""

    def packed_parts(name: str) -> dict[str, Stored]:
        weight = graph.weights[name]
        planner = planner_for(weight.elem, design)
        assert planner is not None, weight
        engine = design.engine(planner.kind)
        return {part.name: planner.store(weight, part, engine, scheme).kept(keep) for part in parts_of[name]}

    # The largest first, so that no worker is left alone with it at the end.
    order = sorted(parts_of, key=lambda name: -graph.weights[name].size)
    found: dict[str, dict[str, Stored]] = {}
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        for index, (name, made) in enumerate(zip(order, pool.map(packed_parts, order), strict=True)):
            progress("pack", f"matrix {index + 1}/{len(parts_of)}")
            found[name] = made
    return {part: p for name in parts_of for part, p in found[name].items()}
