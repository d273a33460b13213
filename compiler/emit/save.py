# SPDX-License-Identifier: Apache-2.0
"""save: the package folder, deterministic to the byte, written beside and renamed.  Decides nothing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.emit.emit import BuildPlan
from meadow.compiler.engines.stored import Part, Stored
from meadow.compiler.graph.graph import Graph
from meadow.compiler.graph.ops import Embedding, Head, Linear
from meadow.compiler.program.ahead import Ahead
from meadow.compiler.program.constants import constants
from meadow.machine.design import Design
from meadow.machine.errors import DeviceError, ResourceExceeded, UsageError
from meadow.machine.folder import WORK, beside
from meadow.machine.instructions import table
from meadow.machine.package.entry import Entry, Tensor
from meadow.machine.package.read import FORMAT_VERSION, load, manifest_digest, sha256
from meadow.machine.program import Schedule
from meadow.machine.storage.rows import padded

if sys.version_info >= (3, 11):
    from importlib.resources.abc import Traversable
else:
    from importlib.abc import Traversable

HOST_ALIGN = 4096


def compiler_digest() -> str:
    """sha256 over every source that decides what a package holds, so that a newer meadow compiles again."""
    digest = hashlib.sha256()
    for name in ("boards", "compiler", "hls", "machine", "rtl"):
        for path, data in _sources(resources.files(f"meadow.{name}"), name):
            digest.update(f"{path}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()


def _sources(folder: Traversable, name: str) -> Iterator[tuple[str, bytes]]:
    """(path, contents) of every file below `folder`, in order, but for what Python makes."""
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        path = f"{name}/{entry.name}"
        if entry.is_dir():
            if entry.name != "__pycache__":
                yield from _sources(entry, path)
        elif not entry.name.endswith(".pyc"):
            yield path, entry.read_bytes()


def save(
    target: Path,
    graph: Graph,
    design: Design,
    schedule: Schedule,
    ahead: Ahead,
    packed: Mapping[str, Stored],
    parts_of: dict[str, list[Part]],
    plan: BuildPlan,
    facts: dict[str, Any],
    texts: Mapping[str, bytes],
    release: Callable[[], None] = lambda: None,
) -> None:
    """Write the package `target`.

    facts  the manifest's fields that only the pipeline knows
    texts  the tokenizer and what else goes with the model, by file name
    release  called after each buffer is written: what is packed may leave memory again
    """
    with beside(target, "package", (Path(graph.source),)) as folder:
        _write_texts(folder, plan, graph, schedule)
        entries = _write_programs(folder, graph, design, schedule)
        contents = _contents(graph, design, ahead, packed, parts_of)
        chunks, embedding = _write_weights(folder, graph, schedule, ahead, contents, packed, parts_of, release)
        rows = _packing_rows(graph, schedule, packed, parts_of, release)
        (folder / "packing.json").write_text(json.dumps({"matrices": rows}, indent=1) + "\n")
        places = {name: [[s.layer, s.role, s.part] for s in steps] for name, steps in schedule.programs.items()}
        (folder / "steps.json").write_text(json.dumps(places) + "\n")
        names = _write_companions(texts, folder / "tokenizer")
        files = {
            p.relative_to(folder).as_posix(): sha256(p)
            for p in sorted(folder.rglob("*"))
            if p.is_file() and p.name != WORK
        }
        manifest = {
            "format_version": FORMAT_VERSION,
            "isa_version": table.VERSION,
            "model": asdict(graph.model),
            "design": design.numbers(),
            "design_id": design.id,
            "entries": entries,
            "chunks": chunks,
            "regions": _regions(schedule),
            "embedding": embedding,
            "head": _head(graph),
            "ahead": _ahead(ahead, schedule),
            "tokenizer": names,
            "files": files,
            "dataflow": {phase: [list(row) for row in rows] for phase, rows in schedule.dataflow.items()},
            **facts,
        }
        manifest["digest"] = manifest_digest(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
        _load_once(folder)
        _keep_builds(target, folder, design.id)


def _write_texts(folder: Path, plan: BuildPlan, graph: Graph, schedule: Schedule) -> None:
    """The generated sources, and what a person reads of the model."""
    (folder / "report").mkdir()
    for name, text in plan.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "report" / "schedule.txt").write_text(str(schedule))
    (folder / "report" / "graph.txt").write_text(str(graph))


def _load_once(folder: Path) -> None:
    """Raise ResourceExceeded when the device would refuse what was written."""
    try:
        load(folder)
    except DeviceError as error:
        why = str(error).replace(str(folder), "it").removesuffix("; compile again")
        raise ResourceExceeded(
            f"this design cannot run this model, so nothing was saved: {why}. Drop --set, or set other numbers"
        ) from None


def _keep_builds(target: Path, folder: Path, design_id: str) -> None:
    """What `meadowc build` made in hours stays when a model is compiled again: at its place if the design is the same, else under
    a name of their own."""
    try:
        before = json.loads((target / "manifest.json").read_text())["design_id"]
    except (OSError, ValueError, KeyError):
        return
    for name in ("overlay", "work"):
        if (target / name).is_dir():
            kept = name if before == design_id else f"{name}-{before}"
            shutil.copytree(target / name, folder / kept, copy_function=os.link, symlinks=True)
    for path in [p for p in target.iterdir() if p.name.startswith(("overlay-", "work-"))]:
        if path.is_dir() and not (folder / path.name).exists():
            shutil.copytree(path, folder / path.name, copy_function=os.link, symlinks=True)


def _write_programs(folder: Path, graph: Graph, design: Design, schedule: Schedule) -> dict[str, dict[str, Any]]:
    """program.bin; returns the manifest's rows of its entries."""
    widths = graph.widths()
    tensors = [
        Tensor(name, "float32", ("tokens", width), padded(width, 4), schedule.placed[name])
        for name, width in (("x", widths[graph.nodes[0].name]), ("logits", widths[graph.nodes[-1].name]))
    ]
    entries, data = {}, b""
    for name, steps in schedule.programs.items():
        code = schedule.encode(name)
        most = 1 if name == "decode" else design.block
        entries[name] = Entry(
            name, len(data), len(code), len(steps), most, tuple(tensors[:1]), tuple(tensors[1:])
        ).row()
        data += code
    (folder / "program.bin").write_bytes(data)
    return entries


def _regions(schedule: Schedule) -> dict[str, dict[str, Any]]:
    """The manifest's rows of regions, by kind of chunk; weights, constants and programs do not change."""
    found: dict[str, dict[str, Any]] = {}
    for chunk in schedule.chunks:
        row = found.setdefault(
            chunk.kind, {"chunks": [], "changes": chunk.kind not in ("weights", "constants", "program")}
        )
        row["chunks"].append(chunk.index)
    return found


def _contents(
    graph: Graph, design: Design, ahead: Ahead, packed: Mapping[str, Stored], parts_of: dict[str, list[Part]]
) -> dict[str, Callable[[], NDArray[Any]]]:
    """What each weights or constants buffer holds, made when it is written."""
    found = {name: c.values for name, c in constants(graph, design).items()} | ahead.contents(graph)
    for weight, parts in parts_of.items():
        scale = graph.weights[weight].scale
        assert scale is not None
        for part in parts:
            held = packed[part.name].contents(scale[part.first_row : part.first_row + part.layout.rows])
            found |= {f"{part.name}.{suffix}": partial(_same, values) for suffix, values in held.items()}
    return found


def _same(values: NDArray[Any]) -> NDArray[Any]:
    return values


def _write_weights(
    folder: Path,
    graph: Graph,
    schedule: Schedule,
    ahead: Ahead,
    contents: Mapping[str, Callable[[], NDArray[Any]]],
    packed: Mapping[str, Stored],
    parts_of: dict[str, list[Part]],
    release: Callable[[], None],
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    offset = 0
    with (folder / "weights.bin").open("wb") as file:
        for chunk in schedule.chunks:
            entry: dict[str, Any] = {
                "index": chunk.index,
                "kind": chunk.kind,
                "bytes": chunk.length,
                "file_offset": None,
            }
            if chunk.kind in ("weights", "constants"):
                entry["file_offset"] = offset
                for name, slot in schedule.placed.items():
                    if slot.space == chunk.index:
                        file.seek(offset + slot.offset)  # what is skipped reads as zeros
                        file.write(np.ascontiguousarray(contents[name]()).view(np.uint8).data)
                        release()
                offset += chunk.length
                file.truncate(offset)
                file.seek(offset)
            entries.append(entry)
        entry = _write_embedding(file, offset, graph, schedule, ahead, packed, parts_of)
    return entries, entry


def _place(schedule: Schedule, name: str) -> list[int]:
    """Chunk, offset and length of a buffer."""
    slot = schedule.placed[name]
    return [int(slot.space), slot.offset, slot.length]


def _ahead(ahead: Ahead, schedule: Schedule) -> dict[str, Any]:
    """Where the host gives and takes tokens that the engine chooses, or why there are none."""
    if ahead.layout is None:
        return {"host": ahead.why}
    return {name: _place(schedule, name) for name in ("ring", "ends")}


def _write_embedding(
    file: BinaryIO,
    offset: int,
    graph: Graph,
    schedule: Schedule,
    ahead: Ahead,
    packed: Mapping[str, Stored],
    parts_of: dict[str, list[Part]],
) -> dict[str, Any]:
    """Write what only the host reads behind the weights, from `offset` on: an untied embedding that the engine has not, and learned
    positions."""
    op, layout = graph.nodes[0].op, ahead.layout
    assert isinstance(op, Embedding)
    if layout is not None:
        places = [_place(schedule, f"embedding.{n}") for n in range(layout.parts)]
        entry: dict[str, Any] = {
            "tied": False,
            "group": layout.group,
            "form": layout.form,
            "shift": layout.shift,
            "places": places,
        }
    else:
        entry = _write_table(file, offset, graph, packed, parts_of)
    if op.factor != 1:
        entry["factor"] = op.factor
    if op.positions is not None:
        rows = np.ascontiguousarray(graph.weights[op.positions].dequantize(), np.float32)
        at = padded(file.tell(), HOST_ALIGN)
        file.write(b"\0" * (at - file.tell()))
        file.write(rows.data)
        entry["positions"] = {"file_offset": at, "rows": len(rows), "shift": op.shift}
    return entry


def _write_table(
    file: BinaryIO, offset: int, graph: Graph, packed: Mapping[str, Stored], parts_of: dict[str, list[Part]]
) -> dict[str, Any]:
    """The embedding's table: a tied head's, or one of its own."""
    embed, head = graph.nodes[0].weight or "", graph.nodes[-1].weight or ""
    if embed == head and all(packed[q.name].gatherable for q in parts_of[head]):
        return {"tied": True, "parts": [p.name for p in parts_of[head]]}
    weight = graph.weights[embed]
    codes = np.ascontiguousarray(weight.codes)
    file.write(codes.data)
    if weight.scale is None:  # the host's alone: gathered as it is
        return {
            "tied": False,
            "file_offset": offset,
            "scale_offset": 0,
            "group": 0,
            "signed": False,
            "minimum": False,
            "float": weight.elem.bits,
        }
    at = padded(offset + codes.size, HOST_ALIGN)
    file.write(b"\0" * (at - offset - codes.size))
    file.write(np.ascontiguousarray(weight.scale).data)
    if weight.minimum is not None:
        file.write(np.ascontiguousarray(weight.minimum).data)
    return {
        "tied": False,
        "file_offset": offset,
        "scale_offset": at,
        "group": weight.elem.group,
        "signed": codes.dtype == np.int8,
        "minimum": weight.minimum is not None,
    }


def _head(graph: Graph) -> dict[str, float]:
    """What the host does to the logits."""
    op = graph.nodes[-1].op
    assert isinstance(op, Head)
    return {k: v for k, v, none in (("factor", op.factor, 1.0), ("softcap", op.softcap, 0.0)) if v != none}


def _packing_rows(
    graph: Graph,
    schedule: Schedule,
    packed: Mapping[str, Stored],
    parts_of: dict[str, list[Part]],
    release: Callable[[], None],
) -> list[dict[str, Any]]:
    def where(name: str) -> list[int] | None:
        slot = schedule.placed.get(name)
        return [int(slot.space), slot.offset, slot.length] if slot is not None else None

    rows = []
    streams = {n.weight: n for n in graph.nodes if isinstance(n.op, Linear)}
    for weight, parts in parts_of.items():
        node = streams[weight]
        for part in parts:
            p = packed[part.name]
            checksums = b"".join(zlib.crc32(np.ascontiguousarray(s).data).to_bytes(4, "little") for s in p.streams)
            release()
            common: dict[str, Any] = {
                "name": part.name,
                "matrix": weight,
                "layer": node.layer,
                "role": node.role,
                "type": str(graph.weights[weight].elem),
                "rows": part.layout.rows,
                "cols": part.layout.cols,
                "ports": part.layout.ports,
                "first_row": part.first_row,
                "streams": [where(f"{part.name}.{port}") for port in range(len(p.streams))],
                "bytes": p.nbytes,
                "bits_per_weight": round(p.bits_per_weight, 4),
                "entropy_bits": round(p.entropy, 4),
                "bus_cycles": p.bus_cycles,
                "crc32": zlib.crc32(checksums),
            }
            rows.append({**common, **p.row(lambda suffix, name=part.name: where(f"{name}.{suffix}"))})  # type: ignore[misc]
    return rows


def _write_companions(texts: Mapping[str, bytes], target: Path) -> list[str]:
    """Raises UsageError for a text that is not whole JSON and should be."""
    if texts:
        target.mkdir()
    for name, text in texts.items():
        if name.endswith(".json"):
            try:
                json.loads(text)
            except ValueError:
                raise UsageError(
                    f"{name} beside the model is not whole JSON; export or convert the model again"
                ) from None
        (target / name).write_bytes(text)
    return list(texts)
