# SPDX-License-Identifier: Apache-2.0
"""Weights of GPTQ and AWQ checkpoints: codes of 2, 4 or 8 bits in 32-bit words, with zero points and scales by groups.

Both mean w[k, n] = (code - zero) * scale, of the group of row k.  Formats: AutoGPTQ and GPTQModel (QuantLinear), AutoAWQ (WQLinear_GEMM).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.sources.hugging_face.checkpoint import Checkpoint
from meadow.machine.types import F32, Weight, grouped

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Column that each nibble of a word of AWQ holds, the lowest first."""
PARTS = ("qweight", "qzeros", "scales")
Codes = NDArray[np.uint8]


@dataclass(frozen=True)
class Packing:
    """What quantization_config says.

    method   "gptq" or "awq"
    group    rows of K per group; 0: all
    offset   what GPTQ's files leave out of the zero points: 1, or 0 in its second format
    """

    method: str
    bits: int
    group: int
    offset: int

    @property
    def each(self) -> int:
        """Codes per word."""
        return 32 // self.bits


def packing_of(found: Any) -> Packing | tuple[str, str, str] | None:
    """The packing that a quantization_config describes, None where there is none, or the problem."""
    if found is None:
        return None
    what = "config.json quantization_config"
    if not isinstance(found, dict):
        return what, "is no object", ""
    method = str(found.get("quant_method", "")).lower()
    if method not in ("gptq", "awq"):
        return (
            what,
            f"says {method[:40]!r}",
            "gptq and awq are read, and folders of floats; take the float model and quantize it here",
        )
    bits: Any = found.get("bits", found.get("w_bit", 4))
    group: Any = found.get("group_size", found.get("q_group_size", 128))
    if bits not in ((2, 4, 8) if method == "gptq" else (4,)) or not isinstance(group, int):
        return what, f"says {bits} bits in groups of {group}", "2, 4 and 8 bits of GPTQ are read, and 4 of AWQ"
    version = str(found.get("version", "gemm")).lower()
    if method == "awq" and version != "gemm":
        return what, f"says version {version[:20]!r}", "AWQ's version gemm is read"
    form = str(found.get("checkpoint_format", "gptq")).lower()
    if method == "gptq" and (form not in ("gptq", "gptq_v2") or found.get("dynamic")):
        said = (
            "bits of their own for some layers (dynamic)"
            if found.get("dynamic")
            else f"checkpoint_format {form[:20]!r}"
        )
        return what, f"says {said}", "gptq and gptq_v2 are read, with the same bits everywhere"
    second = str(found.get("checkpoint_format", "gptq")).lower() == "gptq_v2"
    return Packing(method, int(bits), max(group, 0), 0 if second or method == "awq" else 1)


def _spread(words: NDArray[Any], bits: int, axis: int) -> Codes:
    """Codes of `bits` along `axis` of 32-bit words, the lowest bits first."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    moved = np.moveaxis(words.view(np.uint32), axis, -1)
    codes = (moved[..., None] >> shifts) & np.uint32((1 << bits) - 1)
    return np.moveaxis(codes.astype(np.uint8).reshape(*moved.shape[:-1], -1), -1, axis)


def _awq(words: NDArray[Any]) -> Codes:
    """[R, N / 8] words as codes [R, N]."""
    codes = _spread(words, 4, 1).reshape(words.shape[0], -1, 8)
    made = np.empty_like(codes)
    made[:, :, list(AWQ_ORDER)] = codes
    return made.reshape(words.shape[0], -1)


def size(packing: Packing, checkpoint: Checkpoint, name: str) -> tuple[int, int]:
    """(N, K) of the linear `name`."""
    rows, cols = checkpoint.shape(f"{name}.qweight")
    return (cols, rows * packing.each) if packing.method == "gptq" else (cols * packing.each, rows)


def weight(packing: Packing, checkpoint: Checkpoint, name: str) -> tuple[Weight, str]:
    """The matrix of the linear `name` as W[N, K], and a note.  Raises ValueError for parts that do not fit.

    Groups of rows that are scattered over K (act-order) have no groups along K: they are read as floats, which lose nothing.
    """
    words, zeros, scales = (checkpoint.array(f"{name}.{part}") for part in PARTS)
    if words.dtype.itemsize != 4 or zeros.dtype.itemsize != 4:
        raise ValueError("its codes are no 32-bit words")
    if packing.method == "gptq":
        codes, points = _spread(words, packing.bits, 0), _spread(zeros, packing.bits, 1)
    else:
        codes, points = _awq(words), _awq(zeros)
    cols, rows = codes.shape
    group = packing.group or cols
    groups = -(-cols // group)
    if scales.shape != (groups, rows) or points.shape != (groups, rows):
        raise ValueError(
            f"scales {list(scales.shape)} and zero points {list(points.shape)} for {rows} x {cols} in groups of {group}"
        )
    zero = ((points.astype(np.int32) + packing.offset) & ((1 << packing.bits) - 1)).astype(
        np.float32
    )  # 16 is 0: AutoGPTQ
    scale = scales.astype(np.float32)
    order = np.arange(cols) // group
    given = checkpoint.array(f"{name}.g_idx") if f"{name}.g_idx" in checkpoint.handles else order
    if given.shape != order.shape or given.min() < 0 or given.max() >= groups:
        raise ValueError(f"its g_idx does not name one of {groups} groups for each of {cols} rows")
    if not (given == order).all():
        w = (codes.astype(np.float32) - zero[given]) * scale[given]
        return Weight(
            f"{name}.weight", F32, np.ascontiguousarray(w.T)
        ), "act-order: groups that are scattered are read as floats"
    minimum = (-zero * scale).T.astype(np.float32)
    elem = grouped(packing.bits, group)
    return Weight(f"{name}.weight", elem, np.ascontiguousarray(codes.T), np.ascontiguousarray(scale.T), minimum), ""
