# SPDX-License-Identifier: Apache-2.0
"""convert: a LLaMA-family GGUF file becomes a folder with model.onnx, its tokenizer and its configuration.

Lossless: 4-bit codes, scales and minima arrive as they are.  Quantizes nothing; that is quantize.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.sources.gguf.file import read_gguf
from meadow.compiler.sources.gguf.tokenizer import config_files, tokenizer
from meadow.compiler.sources.onnx.file import save_model
from meadow.compiler.sources.onnx.write import Builder, build, float_zero_point, packed_codes
from meadow.machine.errors import UsageError
from meadow.machine.folder import beside, refuse_target
from meadow.machine.guard import guard
from meadow.machine.types import Weight


def convert(source: Path, target: Path) -> dict[str, Any]:
    """Write `target`/ from the GGUF file `source`; returns a summary for the command line.

    Raises UsageError for a damaged file, UnsupportedModel (with every problem) for one that cannot be served.
    """
    refuse_target(target, "model", (source,))
    with guard(source, UsageError, "get the file again, or convert the model to GGUF again"):
        return _convert(source, target)


def _convert(source: Path, target: Path) -> dict[str, Any]:
    file = read_gguf(source)
    fields = file.fields
    made = tokenizer(fields)
    tied = file.head == "token_embd.weight"
    tokens = fields["tokenizer.ggml.tokens"]
    if len(tokens) > file.model.vocab:
        raise UsageError(f"{source} names {len(tokens)} tokens for an embedding of {file.model.vocab} rows")
    types: dict[str, int] = {}

    def linear(b: Builder, x: str, name: str, out: str) -> str:
        weight = file.weight(name)
        types[str(weight.elem)] = types.get(str(weight.elem), 0) + 1
        return write_linear(b, x, weight, out)

    def embed(b: Builder, ids: str, out: str) -> str:
        return write_embedding(b, ids, file.weight("token_embd.weight"), out)

    metadata = {"meadow.source": source.name, "meadow.context": str(file.model.context)}
    proto = build(file.model, file.gain, linear, embed, file.head, metadata)
    with beside(target, "model", (source,)) as folder:
        save_model(proto, folder)
        made.save(str(folder / "tokenizer.json"), pretty=False)
        for name, content in config_files(fields, file.model, tied, tokens).items():
            (folder / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        template = fields.get("tokenizer.chat_template")
        if isinstance(template, str):
            (folder / "chat_template.jinja").write_text(template)
    return {"model": str(file.model), "types": types, "tied": tied, "chat_template": isinstance(template, str),
            "folder": str(target), "bytes": sum(p.stat().st_size for p in target.iterdir())}  # fmt: skip


def write_linear(b: Builder, x: str, weight: Weight, out: str) -> str:
    """y = x @ W.T for a weight in whatever type it has.  [.., K] -> [.., N]"""
    name, kind = weight.name, str(weight.elem)
    if weight.elem.group and weight.elem.bits < 8:
        return _matmul_nbits(b, x, weight, out)
    if kind in ("f32", "f16"):
        source = b.const(name, weight.codes)
        if kind == "f16":
            source = _once(b, "Cast", name, f"{name}.float", source, to=1)
    else:
        source = dequantize_linear(b, weight)
    source = _once(b, "Transpose", name, f"{name}.transposed", source, perm=[1, 0])
    return b.node("MatMul", x, source, name=out)


def dequantize_linear(b: Builder, weight: Weight) -> str:
    """float32 [N, K] of an int8 weight, by DequantizeLinear: per row, per tensor (one scale), or blocked along K."""
    assert weight.scale is not None
    codes = b.const(weight.name, weight.codes)
    if weight.elem.group:
        inputs = [codes, b.const(f"{weight.name}.scale", weight.scale)]
        if weight.minimum is not None:
            zero = integer_zero_points(weight)
            assert zero is not None, "quantize rounds such weights anew"
            inputs.append(b.const(f"{weight.name}.zero", zero))
        return _once(b, "DequantizeLinear", weight.name, f"{weight.name}.float", *inputs,
                     axis=1, block_size=weight.elem.group)  # fmt: skip
    scalar = weight.scale.size == 1
    scale = b.const(f"{weight.name}.scale", weight.scale.reshape(()) if scalar else weight.scale)
    extra: dict[str, Any] = {} if scalar else {"axis": 0}
    return _once(b, "DequantizeLinear", weight.name, f"{weight.name}.float", codes, scale, **extra)


def integer_zero_points(weight: Weight) -> NDArray[np.uint8] | None:
    """The zero points of 8 bits of which -zero * scale is the minimum bit for bit, [N, groups]; None where there are none."""
    assert weight.scale is not None and weight.minimum is not None
    safe = np.where(weight.scale == 0, np.float32(1), weight.scale)
    zero = np.clip(np.rint(-weight.minimum / safe), 0, 255).astype(np.uint8)
    same = bool((-zero.astype(np.float32) * weight.scale == weight.minimum).all())
    return zero if same and weight.codes.dtype == np.uint8 else None


def _once(b: Builder, op: str, name: str, out: str, *inputs: str, **attributes: Any) -> str:
    """A node on a weight, written once even when embedding and head share it."""
    if out in b.names:
        return out
    b.names.add(out)
    return b.node(op, *inputs, name=out, **attributes)


def _matmul_nbits(b: Builder, x: str, weight: Weight, out: str) -> str:
    """com.microsoft MatMulNBits with a float zero point per group, so that scale and minimum survive bit for bit."""
    assert weight.scale is not None and weight.minimum is not None
    groups = weight.scale.shape[1]
    missing = groups * weight.elem.group - weight.cols
    codes = np.pad(np.asarray(weight.codes, np.uint8), ((0, 0), (0, missing))).reshape(weight.rows, groups, -1)
    scale, zero = float_zero_point(weight.scale, weight.minimum)
    return b.node(
        "MatMulNBits", x, b.const(weight.name, packed_codes(codes, weight.elem.bits)), b.const(f"{weight.name}.scale", scale),
        b.const(f"{weight.name}.zero", zero), name=out, domain="com.microsoft",
        K=weight.cols, N=weight.rows, bits=weight.elem.bits, block_size=weight.elem.group,
    )  # fmt: skip


def write_embedding(b: Builder, ids: str, weight: Weight, out: str) -> str:
    """The rows that `ids` name, in float32: the codes are gathered first, so that a step never unpacks the table."""
    if weight.elem.group and (weight.elem.bits < 8 or weight.minimum is not None):
        # Written as floats, which are the products and sums of what was stored.
        return b.node("Gather", b.const(f"{weight.name}.table", weight.dequantize()), ids, name=out)
    codes = b.const(weight.name, weight.codes)
    if not weight.elem.quantized:
        rows = b.node("Gather", codes, ids, name=f"{out}.rows")
        return b.node("Cast", rows, name=out, to=1) if str(weight.elem) == "f16" else rows
    assert weight.scale is not None
    rows = b.node("Cast", b.node("Gather", codes, ids, name=f"{out}.codes"), name=f"{out}.rows", to=1)
    if weight.scale.size == 1:
        return b.node("Mul", rows, b.const(f"{weight.name}.scale", weight.scale.reshape(())), name=out)
    scale = b.const(f"{weight.name}.scale", weight.scale)
    scales = b.node("Gather", scale, ids, name=f"{out}.scales")
    if not weight.elem.group:
        scales = b.node("Unsqueeze", scales, b.ints(-1), name=f"{out}.scale_column")
        return b.node("Mul", rows, scales, name=out)
    groups, group = weight.cols // weight.elem.group, weight.elem.group
    split = b.node("Reshape", rows, b.ints(0, 0, groups, group), name=f"{out}.groups")
    column = b.node("Unsqueeze", scales, b.ints(-1), name=f"{out}.scale_column")
    product = b.node("Mul", split, column, name=f"{out}.product")
    return b.node("Reshape", product, b.ints(0, 0, weight.cols), name=out)
