# SPDX-License-Identifier: Apache-2.0
"""A model file of any format: found, read as a Graph, its digest, and the texts that belong beside it.

Each format has a folder here; this file only asks which it is.
"""

from __future__ import annotations

from pathlib import Path

from meadow.compiler.graph.graph import Graph
from meadow.compiler.sources.hugging_face import checkpoint
from meadow.compiler.sources.hugging_face import read as folder_read
from meadow.compiler.sources.onnx import file as onnx_file
from meadow.compiler.sources.onnx import read as onnx_read
from meadow.machine.errors import UnsupportedModel, UsageError
from meadow.machine.package.read import COMPANIONS, sha256


def is_gguf(file: Path) -> bool:
    """Whether `file` begins as a GGUF file does."""
    if not file.is_file():
        return file.suffix == ".gguf"
    with file.open("rb") as stream:
        return stream.read(4) == b"GGUF" or file.suffix == ".gguf"


def is_hugging_face(file: Path) -> bool:
    """Whether `file` names the tensors of a Hugging Face folder."""
    return file.name.endswith((".safetensors", ".safetensors.index.json"))


def format_of(file: Path) -> str:
    """What a model file is, for people: ONNX, GGUF or Hugging Face."""
    return "GGUF" if is_gguf(file) else "Hugging Face" if is_hugging_face(file) else "ONNX"


def name_of(file: Path) -> str:
    """What a model is called: its file, or its folder where the file has a name that all have."""
    general = file.stem == "model" or is_hugging_face(file)
    return file.parent.resolve().name if general else file.stem


def find_source(path: Path) -> Path:
    """The model file that `path` names: itself, or the one inside a folder.  Raises UsageError for a folder without one.

    Of a folder with several formats the ONNX file counts, then the GGUF file, then the safetensors files beside config.json.
    """
    if path.is_dir() and not list(path.glob("*.onnx")) and not (path / "onnx" / "model.onnx").exists():
        if len(found := sorted(path.glob("*.gguf"))) == 1:
            return found[0]
        tensors = checkpoint.find(path)
        if tensors is not None:
            return tensors
        pickled = checkpoint.pickles(path)
        if pickled:
            raise UsageError(
                f"{pickled[0]} is a pickle, which can run any code when it is opened, so it is not read; "
                "save the model again with save_pretrained, which writes safetensors"
            )
    return path if is_gguf(path) or is_hugging_face(path) else onnx_file.find_model(path)


def read_source(path: Path, context: int | None = None) -> Graph:
    """The Graph of a model file.

    context  positions up to which an ONNX file is tried; None: what the file says (sources/onnx/read.py)
    Raises UsageError when it is no whole file, UnsupportedModel with a table of every problem found.
    """
    file = find_source(path)
    if format_of(file) == "ONNX":
        return onnx_read.read(file, context)
    if is_hugging_face(file):
        found = folder_read.read(file)
    else:
        from meadow.compiler.sources.gguf import graph  # it needs the tokenizers library

        found = graph.read(file)
    if context is not None and context > found.positions:
        raise UnsupportedModel(
            f"{file}: the rotary positions are others in texts of more than {found.positions} tokens, and a context of {context} is "
            f"asked for; --set context={found.positions} at most"
        )
    return found


def digest_of(file: Path) -> str:
    """sha256 over a model file and the data files it names."""
    if is_hugging_face(file):
        return folder_read.digest(file)
    return sha256(file) if is_gguf(file) else onnx_read.source_digest(file)


def companions_of(file: Path) -> dict[str, bytes]:
    """The texts that belong to a model (COMPANIONS), by file name: inside a GGUF file, beside an ONNX file.

    An ONNX file in a folder `onnx`, as model hubs lay repositories out, has those that are not beside it one level up.
    """
    if not is_gguf(file):
        places = [file.parent, *([file.parent.parent] if file.parent.name == "onnx" else [])]
        found = {name: next((p / name for p in places if (p / name).is_file()), None) for name in COMPANIONS}
        return {name: path.read_bytes() for name, path in found.items() if path is not None}
    from meadow.compiler.sources.gguf import graph

    return {name: text.encode() for name, text in graph.companions(file).items()}
