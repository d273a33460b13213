# SPDX-License-Identifier: Apache-2.0
"""Level 3, the artefact: a folder with manifest.json, program.bin, weights.bin, packing.json, hls/, tokenizer/, report/.

Reads and checks what is on disk; standard library and numpy only, so that a board can.  emit/save.py writes it.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from meadow.machine import isa
from meadow.machine.design import Design
from meadow.machine.engines.array import Array
from meadow.machine.engines.engine import Unpacked
from meadow.machine.engines.table import engine_of
from meadow.machine.errors import DeviceError, UsageError
from meadow.machine.guard import guard
from meadow.machine.instructions import table
from meadow.machine.package.embedding import Embedding, Head, Parted
from meadow.machine.package.entry import Entry, Region, Tensor
from meadow.machine.package.manifest import check_hardware, check_sizes
from meadow.machine.package.shape import PACKING, SUMMARY, check_shape
from meadow.machine.program import Chunk
from meadow.machine.step import Slot, Step
from meadow.machine.storage.embedding import EmbeddingLayout

COMPANIONS = ("tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json", "chat_template.jinja")
"""Files beside a model that go with it into the package."""
FORMAT_VERSION = 10
"""Of the folder.  Another version is refused with what to do."""
MANIFEST_LIMIT = 16 << 20
REQUIRED = (
    "format_version",
    "isa_version",
    "name",
    "model",
    "design",
    "design_id",
    "entries",
    "regions",
    "chunks",
    "embedding",
    "head",
    "ahead",
    "files",
    "source",
    "inputs",
    "hardware",
    "hardware_digest",
    "digest",
)


class Place(NamedTuple):
    """Where a step stands: its layer, its role there, and its number among the parts of one matrix (Step has the same)."""

    layer: int | None
    role: str
    part: int | None


@dataclass(frozen=True)
class Package:
    """A compiled model on disk, its manifest parsed and checked."""

    folder: Path
    manifest: dict[str, Any]
    design: Design
    chunks: tuple[Chunk, ...]
    entries: dict[str, Entry]

    @property
    def name(self) -> str:
        return str(self.manifest["name"])

    @property
    def model(self) -> dict[str, Any]:
        """layers, dim, heads, kv_heads, head_dim, ffn, vocab and so on."""
        made: dict[str, Any] = self.manifest["model"]
        return made

    def program(self, name: str) -> bytes:
        """The bytes of `prefill` or `decode`, END included."""
        entry = self.entries[name]
        return self.file("program.bin").read_bytes()[entry.offset : entry.offset + entry.bytes]

    def steps(self, name: str) -> tuple[Step, ...]:
        """The steps of `prefill` or `decode` as the engine finds them.  Only the weights' slots know their length."""
        lengths = {(c, offset): length for row in self.packing() for c, offset, length in row["streams"]}
        made = []
        for (opcode, fields), place in zip(table.decode(self.program(name)), self.places(name), strict=True):
            operands: dict[str, Slot | isa.Value] = dict(fields)
            for field in table.fields_of(opcode):
                if field.kind == "slot":
                    at = isa.unpack_slot(int(fields[field.name]))
                    operands[field.name] = Slot(*at, lengths.get(at, 0))
            made.append(Step(place.role, opcode, operands, place.layer, place.part))
        return tuple(made)

    def places(self, name: str) -> list[Place]:
        """Layer and role of each step of `prefill` or `decode`."""
        rows = json.loads(self.file("steps.json").read_text())[name]
        return [Place(*row) for row in rows]

    def layer_ends(self, name: str) -> list[int]:
        """For each layer of a program, the number of the step after its last."""
        layers = [place.layer for place in self.places(name)]
        return [len(layers) - layers[::-1].index(n) for n in range(int(self.model["layers"]))]

    def slot(self, name: str) -> Slot:
        """Where an input or output of the entries lies: `x`, `logits`."""
        return self.tensor(name).slot

    def tensor(self, name: str) -> Tensor:
        """The input or output `name` of the entries.  Raises DeviceError when none has it."""
        for entry in self.entries.values():
            for tensor in (*entry.inputs, *entry.outputs):
                if tensor.name == name:
                    return tensor
        raise DeviceError(f"{self.folder} has no input or output {name!r}")

    def region(self, name: str) -> Region:
        """The memory called `name`: weights, constants, kv, ...  Raises DeviceError when there is none."""
        row = self.manifest["regions"].get(name)
        if row is None:
            raise DeviceError(
                f"{self.folder} has no memory called {name!r}; it has {', '.join(self.manifest['regions'])}"
            )
        return Region(name, tuple(row["chunks"]), bool(row["changes"]))

    def file(self, name: str) -> Path:
        """A file of the package.  Raises DeviceError when the name leads outside it or the file is missing."""
        path = (self.folder / name).resolve()
        if not path.is_relative_to(self.folder.resolve()):
            raise DeviceError(f"{name!r} leads outside the package {self.folder}")
        if not path.is_file():
            raise DeviceError(f"{self.folder} has no {name}; compile the model again")
        return path

    def sources(self, folder: str) -> dict[str, Path]:
        """The files below hls/ or rtl/, by name.  Raises DeviceError for one that the manifest does not list, and for a link."""
        top, listed = self.folder / folder, self.manifest["files"]
        found: dict[str, Path] = {}
        for path in sorted(top.rglob("*")) if top.is_dir() and not top.is_symlink() else ():
            name = path.relative_to(self.folder).as_posix()
            if path.is_symlink() or (not path.is_dir() and (not path.is_file() or name not in listed)):
                raise DeviceError(
                    f"{self.folder} holds {name}, which is {'a link' if path.is_symlink() else 'not in its manifest'}: "
                    "it would be built into the simulation. Remove it, or compile the model again"
                )
            if path.is_file():
                found[name] = path
        return found

    def chunk_bytes(self) -> Iterator[tuple[Chunk, NDArray[np.uint8] | None]]:
        """Each chunk with the bytes it starts with (mapped from weights.bin), or None for one that starts empty."""
        file = self.file("weights.bin")
        for chunk, entry in zip(self.chunks, self.manifest["chunks"], strict=True):
            if entry["file_offset"] is None:
                yield chunk, None
            else:
                yield chunk, np.memmap(file, np.uint8, "r", entry["file_offset"], (chunk.length,))

    def summary(self) -> dict[str, Any]:
        """What compile found, with its modelled rates; empty when the file is not there or not whole."""
        try:
            found: dict[str, Any] = json.loads(self.file("report/summary.json").read_text())
            check_shape(found, SUMMARY)
        except (DeviceError, ValueError, RecursionError):
            return {}
        return found

    def figures(self) -> dict[str, Any]:
        """What compile found.  Raises DeviceError where the file is not there or not whole."""
        found = self.summary()
        if not found:
            raise DeviceError(f"{self.folder}/report/summary.json is damaged or missing; compile the model again")
        return found

    def packing(self) -> list[dict[str, Any]]:
        """The rows of packing.json: one for each streamed matrix part.  Raises DeviceError when it is damaged."""
        file = self.file("packing.json")
        try:
            found = json.loads(file.read_text())
            check_shape(found, PACKING)
        except (ValueError, RecursionError) as error:
            raise DeviceError(f"{file} is damaged ({error}); compile the model again") from None
        rows: list[dict[str, Any]] = found["matrices"]
        return rows

    def embedding(self) -> Embedding:
        """The table whose rows the host gathers, its factor, and learned positions."""
        entry, found = self.manifest["embedding"], self._embedding()
        found = found._replace(factor=float(entry.get("factor", 1.0)))
        if "positions" not in entry:
            return found
        where, dim = entry["positions"], int(self.model["dim"])
        whole = np.memmap(self.file("weights.bin"), np.uint8, "r")
        start, rows = int(where["file_offset"]), int(where["rows"])
        table = whole[start : start + rows * dim * 4].view(np.float32).reshape(rows, dim)
        return found._replace(positions=table, shift=int(where["shift"]))

    def head(self) -> Head:
        """What the host does to the logits."""
        entry = self.manifest["head"]
        return Head(float(entry.get("factor", 1.0)), float(entry.get("softcap", 0.0)))

    def _embedding(self) -> Embedding:
        """The table alone.

        It is the engine's own where it has one; a tied head's is taken from the weights that are streamed; another one lies behind
        them in weights.bin.
        """
        entry = self.manifest["embedding"]
        whole = np.memmap(self.file("weights.bin"), np.uint8, "r")
        vocab, dim = int(self.model["vocab"]), int(self.model["dim"])
        if "places" in entry:
            return self._parted(entry, whole)
        if not entry["tied"]:
            group, groups = int(entry["group"]), -(-dim // int(entry["group"])) if entry["group"] else 1
            start, scale_at = int(entry["file_offset"]), int(entry["scale_offset"])
            if entry.get("float"):
                kind = np.dtype(np.float16 if entry["float"] == 16 else np.float32)
                table = whole[start : start + vocab * dim * kind.itemsize].view(kind).reshape(vocab, dim)
                return Embedding(table, 0, None, None, dim)
            codes = (
                whole[start : start + vocab * dim].view(np.int8 if entry["signed"] else np.uint8).reshape(vocab, dim)
            )
            count = vocab * groups * 4
            scale = whole[scale_at : scale_at + count].view(np.float32).reshape(vocab, groups)
            least = None
            if entry["minimum"]:
                least = whole[scale_at + count : scale_at + 2 * count].view(np.float32).reshape(vocab, groups)
            return Embedding(codes, 0, scale, least, group or dim)
        rows = {row["name"]: row for row in self.packing()}
        made = [self.matrix(rows[name], whole) for name in entry["parts"]]
        minima = [m.minimum for m in made if m.minimum is not None]
        return Embedding(
            np.concatenate([m.codes for m in made])[:, :dim],
            made[0].zero,
            np.concatenate([m.scale for m in made]),
            np.concatenate(minima) if minima else None,
            made[0].group or dim,
        )

    def _parted(self, entry: dict[str, Any], whole: NDArray[np.uint8]) -> Embedding:
        """The table from which the engine gathers too."""
        shape = (int(self.model["vocab"]), int(self.model["dim"]), entry["group"], entry["form"])
        layout = EmbeddingLayout.parted(*shape, entry["shift"])
        parts = [layout.rows_of(self._take(place, whole)) for place in entry["places"]]
        minima = [part.minimum for part in parts if part.minimum is not None]
        return Embedding(
            Parted([part.codes for part in parts], layout.shift),
            0,
            Parted([part.scale for part in parts], layout.shift),
            Parted(minima, layout.shift) if minima else None,
            layout.group,
        )

    def _streams(self, row: dict[str, Any], data: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        """The bytes of each port of one row of packing.json.  Raises DeviceError when they are damaged."""
        streams = [self._take(place, data) for place in row["streams"]]
        sums = b"".join(zlib.crc32(np.ascontiguousarray(s).data).to_bytes(4, "little") for s in streams)
        if zlib.crc32(sums) != row["crc32"]:
            raise DeviceError(f"the weights of {row['name']} are damaged (their checksum differs); compile again")
        return streams

    def _take(self, place: list[int], data: NDArray[np.uint8]) -> NDArray[np.uint8]:
        chunk, offset, length = place
        start = self.manifest["chunks"][chunk]["file_offset"] + offset
        return data[start : start + length]

    def matrix(self, row: dict[str, Any], whole: NDArray[np.uint8] | None = None) -> Unpacked:
        """The matrix of one row of packing.json.  Raises DeviceError when it is damaged."""
        data = np.memmap(self.file("weights.bin"), np.uint8, "r") if whole is None else whole
        try:
            return engine_of(row["format"]).unpack(
                row, self._streams(row, data), lambda key: self._take(row[key], data)
            )
        except ValueError as error:
            raise DeviceError(f"the weights of {row['name']} are damaged ({error}); compile again") from None

    def packed_beats(self, fields: dict[str, Any], tiles: int) -> list[int]:
        """Beats of each port's stream of packed weights, as the directory in weights.bin says.  Raises ValueError when it cannot."""
        chunk, offset = isa.unpack_slot(int(fields["directory"]))
        count = tiles * self.design.engine(Array).ports
        entry: dict[str, Any] = self.manifest["chunks"][chunk] if chunk < len(self.chunks) else {"file_offset": None}
        if entry["file_offset"] is None or offset + 4 * count > entry["bytes"]:
            raise ValueError("the directory of its weights lies outside of them")
        data = np.memmap(self.file("weights.bin"), np.uint8, "r", entry["file_offset"] + offset, (4 * count,))
        return [int(n) for n in data.view(np.uint32).reshape(tiles, -1).sum(axis=0, dtype=np.int64)]

    def verify_files(self) -> list[str]:
        """The names of the files whose sha256 differs from the manifest's."""
        return [name for name, digest in self.manifest["files"].items() if sha256(self.file(name)) != digest]


def load(folder: Path) -> Package:
    """Open a package.  Raises UsageError when `folder` is none, DeviceError when it is damaged or of another version."""
    path = folder / "manifest.json"
    if not folder.is_dir() or not path.is_file():
        hint = "; to compile a model: meadowc compile MODEL.onnx --board zcu102" if not path.is_file() else ""
        raise UsageError(f"{folder} is not a package (no manifest.json in it){hint}")
    if path.stat().st_size > MANIFEST_LIMIT:
        raise DeviceError(f"{path} has {path.stat().st_size} bytes, which no manifest has; compile again")
    with guard(path, DeviceError, "compile the model again"):
        return _load(folder, path)


def _load(folder: Path, path: Path) -> Package:
    try:
        manifest = json.loads(path.read_text())
        version = manifest.get("format_version")
    except (ValueError, AttributeError, RecursionError):
        raise DeviceError(f"{path} is not a whole manifest; compile the model again") from None
    if version != FORMAT_VERSION or manifest.get("isa_version") != table.VERSION:
        raise DeviceError(
            f"{folder} is of package version {version} and program version {manifest.get('isa_version')}, this meadow reads "
            f"{FORMAT_VERSION} and {table.VERSION}; compile the model again (seconds, no new bitstream unless the design differs)"
        )
    missing = [key for key in REQUIRED if key not in manifest]
    if missing:
        raise DeviceError(f"{path} lacks {', '.join(missing)}; compile the model again")
    if manifest_digest(manifest) != manifest["digest"]:
        raise DeviceError(f"{path} was changed or damaged (its digest differs); compile the model again")
    try:
        check_shape(manifest)
        design = Design.of(manifest["design"])
        design.check()
        chunks = tuple(Chunk(c["index"], c["kind"], c["bytes"]) for c in manifest["chunks"])
        entries = {name: Entry.of(name, row) for name, row in manifest["entries"].items()}
        package = Package(folder, manifest, design, chunks, entries)
        check_hardware(manifest["hardware"])
        check_sizes(package)
    except (KeyError, TypeError, ValueError) as error:
        raise DeviceError(f"{path} is damaged ({error}); compile the model again") from None
    if design.id != manifest["design_id"]:
        raise DeviceError(
            f"{path}: the design's numbers give id {design.id}, the manifest says {manifest['design_id']}"
        )
    return package


def manifest_digest(manifest: dict[str, Any]) -> str:
    """sha256 over a manifest's fields but for the digest itself: finds damage, not malice."""
    rest = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def sha256(path: Path) -> str:
    """Hex sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 22), b""):
            digest.update(block)
    return digest.hexdigest()
