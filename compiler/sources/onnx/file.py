# SPDX-License-Identifier: Apache-2.0
"""ONNX files on disk: recognised by their magic, loaded without trusting them, and saved.

Knows the file format only; read.py knows what the nodes mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import external_data_helper, numpy_helper

from meadow.machine.errors import UsageError
from meadow.machine.guard import guard

PROTO_LIMIT = 2 << 30
"""Protobuf refuses messages of 2 GiB and more; larger weights must be external data."""
EXTERNAL_THRESHOLD = 1024
"""Tensors of at least this many bytes go to the external data file."""
FP32_ACCURACY = 1
"""accuracy_level of MatMulNBits that computes in FP32; 4 rounds activations to INT8."""

_MAGICS = (
    (b"version https://git-lfs", "a Git LFS pointer{size}, not the model itself", "fetch the real file: git lfs pull"),
    (
        b"PK\x03\x04",
        "a PyTorch or zip archive",
        "export it to ONNX first (optimum-cli export onnx, or torch.onnx.export)",
    ),
    (b"\x80\x02", "a Python pickle (an old PyTorch file)", "export it to ONNX first"),
    (b"\x89HDF", "an HDF5 (Keras) file", "export it to ONNX first"),
)


def refuse_wrong_kind(path: Path) -> None:
    """Raise UsageError when `path` is recognisably something other than an ONNX file."""
    if not path.exists():
        raise UsageError(f"{path} does not exist")
    if not path.is_file():
        raise UsageError(f"{path} is no regular file; an .onnx file is expected")
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(64)
    if size == 0:
        raise UsageError(f"{path} is empty")
    for magic, what, todo in _MAGICS:
        if head.startswith(magic):
            text = what.format(size=f" of {size} bytes")
            raise UsageError(f"{path} is {text}; {todo.format(path=path)}")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size:
        raise UsageError(f"{path} is a safetensors file; export it to ONNX first (optimum-cli export onnx)")


def find_model(path: Path) -> Path:
    """The .onnx file that `path` names: itself, or the one inside a folder."""
    if not path.is_dir():
        return path
    for candidate in (path / "model.onnx", path / "onnx" / "model.onnx"):
        if candidate.exists():
            return candidate
    if (path / "manifest.json").is_file():
        raise UsageError(f"{path} is a compiled package, not a model; about it: meadowc report {path}")
    found = sorted(path.glob("*.onnx"))
    if len(found) == 1:
        return found[0]
    raise UsageError(
        f"{path} holds {len(found) or 'no'} .onnx files and none is called model.onnx; name the file itself"
    )


def load_model(path: Path) -> onnx.ModelProto:
    """Load an ONNX file with its external data mapped in.  External data must lie inside the file's own folder.

    Raises UsageError for the wrong kind of file, a truncated one, and external data missing, too short or outside.
    """
    with guard(path, UsageError, "export or quantize the model again"):
        return _load_model(path)


def _load_model(path: Path) -> onnx.ModelProto:
    refuse_wrong_kind(path)
    if path.stat().st_size >= PROTO_LIMIT:
        raise UsageError(f"{path} is over 2 GiB; ONNX allows that only with external data")
    try:
        model = onnx.load_model(path, format="protobuf", load_external_data=False)
    except DecodeError:
        raise UsageError(f"{path} is not a whole ONNX file (truncated, or another format)") from None
    if not model.graph.node or not model.graph.output:
        raise UsageError(f"{path} is not a whole ONNX file: it parses, but holds no graph")
    refuse_disorder(str(path), model)
    folder = path.parent.resolve()
    problems = []
    for tensor in tensors_of(model.graph):
        if external_data_helper.uses_external_data(tensor):
            problem = _check_external(tensor, folder)
            if problem and problem not in problems:
                problems.append(problem)
    if problems:
        raise UsageError(f"external data of {path}: " + "; ".join(problems[:5]))
    return model


def refuse_disorder(path: str, model: onnx.ModelProto) -> None:
    """Raise UsageError unless every node reads what is there before it and every value is made once, as ONNX demands: so there
    are no cycles, and no name means two things."""
    known = {"", *(t.name for t in model.graph.initializer), *(i.name for i in model.graph.input)}
    tensors = [t.name for t in model.graph.initializer]
    if len(tensors) != len(set(tensors)):
        twice = next(name for name in tensors if tensors.count(name) > 1)
        raise UsageError(f"{path}: two initializers are called {twice!r}: not a valid graph")
    for node in model.graph.node:
        for name in node.input:
            if name not in known:
                raise UsageError(
                    f"{path}: {node.op_type} {node.name!r} reads {name!r} before it is computed: not a valid graph"
                )
        for name in node.output:
            if name and name in known:
                raise UsageError(
                    f"{path}: {node.op_type} {node.name!r} computes {name!r}, which is there already: not a valid graph"
                )
            known.add(name)


def _check_external(tensor: onnx.TensorProto, folder: Path) -> str:
    try:
        info = external_data_helper.ExternalDataInfo(tensor)
    except ValueError:
        return f"{tensor.name!r} has an offset or length that is no number"
    location = Path(info.location)
    target = (folder / location).resolve()
    blobs = folder.parent.parent / "blobs"  # of a hub's cache, whose snapshots are folders of links
    linked = (folder / location).is_symlink() and len(location.parts) == 1 and target.parent == blobs
    if location.is_absolute() or not (target.is_relative_to(folder) or linked):
        return f"{info.location!r} lies outside the model's folder, which is not allowed"
    if not target.is_file():
        return f"{info.location!r} is missing; it must lie beside the .onnx file"
    if (info.offset or 0) < 0 or (info.length or 0) < 0:
        return f"{tensor.name!r} has a negative offset or length"
    length = info.length or _bytes_of(tensor)
    end = (info.offset or 0) + length
    if end > target.stat().st_size:
        return f"{info.location!r} has {target.stat().st_size} bytes and {tensor.name!r} ends at {end}: truncated"
    return ""


def _bytes_of(tensor: onnx.TensorProto) -> int:
    """What a tensor takes whose length is not stated."""
    kind = tensor.data_type
    if any(d < 0 for d in tensor.dims) or kind in (onnx.TensorProto.STRING, onnx.TensorProto.UNDEFINED):
        return 0
    count = math.prod(int(d) for d in tensor.dims)
    bits = {onnx.TensorProto.INT4: 4, onnx.TensorProto.UINT4: 4}.get(kind)
    return -(-count * bits // 8) if bits else count * int(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)).itemsize)


def tensor_array(tensor: onnx.TensorProto, folder: Path) -> NDArray[np.generic]:
    """The values of an initializer; external data is memory-mapped, not copied."""
    if any(d < 0 for d in tensor.dims):
        raise UsageError(f"the tensor {tensor.name!r} has a negative size: the file is damaged")
    if not external_data_helper.uses_external_data(tensor):
        try:
            return np.asarray(numpy_helper.to_array(tensor))
        except (ValueError, TypeError) as error:
            raise UsageError(f"the tensor {tensor.name!r} is damaged: {error}") from None
    problem = _check_external(tensor, folder.resolve())
    if problem:
        raise UsageError(f"external data of {tensor.name!r}: {problem}")
    info = external_data_helper.ExternalDataInfo(tensor)
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    if tensor.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4):
        loaded = onnx.TensorProto()
        loaded.CopyFrom(tensor)
        external_data_helper.load_external_data_for_tensor(loaded, str(folder))
        return np.asarray(numpy_helper.to_array(loaded))
    count = int(np.prod(tensor.dims)) if tensor.dims else 1
    if count * dtype.itemsize > (info.length or count * dtype.itemsize):
        raise UsageError(f"{tensor.name!r} needs {count * dtype.itemsize} bytes and its data has {info.length}")
    start = info.offset or 0
    data = _mapped(folder / info.location)[start : start + count * dtype.itemsize]
    if start % dtype.itemsize:
        data = data.copy()
    return data.view(dtype).reshape(tuple(tensor.dims))


def _mapped(path: Path) -> NDArray[np.uint8]:
    """A whole file, mapped once however many tensors lie in it: each mapping holds a file descriptor."""
    status = path.stat()
    return _mapping(path, status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4)
def _mapping(path: Path, inode: int, size: int, changed: int) -> NDArray[np.uint8]:
    return np.memmap(path, dtype=np.uint8, mode="r", shape=(size,)).view(np.ndarray)


def external_files(path: Path) -> list[Path]:
    """The external data files that an ONNX file names, inside its folder or not, in the order of their names."""
    try:
        model = onnx.load_model(path, format="protobuf", load_external_data=False)
    except DecodeError:
        return []  # load_model says what is wrong; a digest is of whatever is there
    tensors = [t for t in tensors_of(model.graph) if external_data_helper.uses_external_data(t)]
    return sorted({path.parent / external_data_helper.ExternalDataInfo(t).location for t in tensors})


def tensors_of(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """The initializers and Constants of a graph and of its branches."""
    graphs = [graph]
    while graphs:
        one = graphs.pop()
        yield from one.initializer
        for attribute in (a for node in one.node for a in node.attribute):
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("g"):
                graphs.append(attribute.g)


def in_full(path: Path) -> bytes | None:
    """The file's bytes with every MatMulNBits computed in FP32; None where none asks for less, or the file is not whole."""
    try:
        model = onnx.load_model(path, format="protobuf", load_external_data=False)
    except DecodeError:
        return None
    nodes = (n for n in model.graph.node if n.op_type == "MatMulNBits")
    levels = [a for n in nodes for a in n.attribute if a.name == "accuracy_level" and a.i > FP32_ACCURACY]
    for attribute in levels:
        attribute.i = FP32_ACCURACY
    return bytes(model.SerializeToString()) if levels else None


def save_model(model: onnx.ModelProto, folder: Path) -> Path:
    """Write `folder`/model.onnx with its larger tensors in model.onnx.data.  Deterministic; returns the file."""
    path = folder / "model.onnx"
    onnx.save_model(
        model,
        str(path),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location="model.onnx.data",
        size_threshold=EXTERNAL_THRESHOLD,
        convert_attribute=False,
    )
    for written in folder.glob("model.onnx*"):
        written.chmod(0o644)  # onnx creates them private
    return path
