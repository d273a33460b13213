# SPDX-License-Identifier: Apache-2.0
"""The safetensors files of a Hugging Face folder: where each tensor is, its shape and type, and its values as they are stored.

Only reads.  The safetensors library parses the files; a file of pickles is never opened.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.sources.hugging_face import keys
from meadow.machine.errors import ToolMissing, UsageError

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED = ("pytorch_model*.bin", "*.pth", "*.pt", "*.ckpt")
FLOATS = ("F32", "F16", "BF16")


def find(folder: Path) -> Path | None:
    """The file of the folder that names its tensors; None where there is no safetensors file."""
    for name in (WHOLE, INDEX):
        if (folder / name).is_file():
            return folder / name
    found = sorted(folder.glob("*.safetensors"))
    return found[0] if len(found) == 1 else None


def pickles(folder: Path) -> list[Path]:
    """Checkpoints of the folder that are pickles."""
    return [path for pattern in PICKLED for path in sorted(folder.glob(pattern))]


def files(path: Path) -> list[Path]:
    """The files that hold the tensors, in the order of their names.  Raises UsageError for one that is missing or elsewhere."""
    if path.name != INDEX:
        return [path]
    parts = keys.load(path).get("weight_map")
    if not isinstance(parts, dict) or not parts or not all(isinstance(p, str) for p in parts.values()):
        raise UsageError(f"{path} names no files")
    found = []
    for name in sorted(set(parts.values())):
        file = path.parent / name
        if Path(name).name != name:
            raise UsageError(f"{path} names {name!r}, which is not a file of its folder")
        if not file.is_file():
            raise UsageError(f"{path} names {name}, which is not there; download the whole folder again")
        found.append(file)
    return found


@dataclass(eq=False)
class Checkpoint:
    """Open files, by the names of their tensors."""

    path: Path
    handles: dict[str, Any] = field(default_factory=dict)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.handles[name].get_slice(name).get_shape())

    def kind(self, name: str) -> str:
        """F32, F16, BF16, I32, ... as safetensors calls it."""
        return str(self.handles[name].get_slice(name).get_dtype())

    def array(self, name: str) -> NDArray[Any]:
        """The values; BF16 as FP32, which holds them all."""
        values = self.handles[name].get_tensor(name)
        return np.asarray(values.astype(np.float32) if self.kind(name) == "BF16" else values)

    def floats(self, name: str) -> NDArray[np.float32]:
        return self.array(name).astype(np.float32)


def open_checkpoint(path: Path) -> Checkpoint:
    """Raises UsageError for a file that is not whole, or tensors that are in two files."""
    try:
        import ml_dtypes  # noqa: F401  numpy knows bfloat16 by it
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise ToolMissing("a Hugging Face folder needs safetensors: pip install 'meadow-fpga[compile]'") from None
    made, twice = Checkpoint(path), Counter[str]()
    for file in files(path):
        with file.open("rb") as stream:
            if stream.read(64).startswith(b"version https://git-lfs"):
                raise UsageError(
                    f"{file} is a Git LFS pointer, not the model itself; fetch the real file: git lfs pull"
                )
        try:
            handle = safe_open(file, framework="numpy")
        except (SafetensorError, OSError) as error:
            raise UsageError(f"{file} is not a whole safetensors file: {str(error)[:120]}; get it again") from None
        for name in handle.offset_keys():  # type: ignore[no-untyped-call]
            twice[name] += 1
            made.handles[name] = handle
    again = [name for name, n in twice.items() if n > 1]
    if again:
        raise UsageError(f"{path}: {len(again)} tensors are in two files ({again[0]}); which one counts cannot be told")
    return made
