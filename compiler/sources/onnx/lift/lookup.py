# SPDX-License-Identifier: Apache-2.0
"""Embeddings: rows of a table that the tokens name, of floats, or of codes that are scaled after they are looked up."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from meadow.compiler.sources.onnx.lift.form import Form, Reject, uniform
from meadow.compiler.sources.onnx.lift.lifter import Lifter
from meadow.compiler.sources.onnx.lift.values import Const, Embedded, Looked, Tokens, Value
from meadow.compiler.sources.onnx.nbits import gathered_weight
from meadow.compiler.sources.onnx.weight import constant_matrix
from meadow.machine.types import I8, Weight, grouped


def embedding(lift: Lifter, node: onnx.NodeProto, axis: int, table: Const, tokens: Value) -> Form | Looked:
    """The rows of a table that the tokens name."""
    if not isinstance(tokens, Form) or not all(isinstance(b, Tokens) for b in tokens.bases()) or axis:
        raise Reject("rows of a constant that computed values name", feature="lookup")
    count = lift.tokens
    if not np.array_equal(tokens.terms[0].index.reshape(-1), np.arange(count)) or tokens.terms[0].coef != 1.0:
        raise Reject("tokens in another order than they come", feature="tokens moved")
    if node.op_type == "GatherBlockQuantized":
        cols = gathered_weight(lift.g, node).cols
    else:
        name = node.input[0]
        kind = lift.g.initializers[name].data_type if name in lift.g.initializers else 0
        shape = lift.g.shape(name) or table.array.shape
        if len(shape) != 2 or kind in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8):
            return Looked(name, (*tokens.shape, *shape[1:]))
        cols = shape[1]
    return Form.of(Embedded(node.output[0], count, cols, node.input[0], node), (*tokens.shape, cols))


def looked_product(lift: Lifter, x: Value, y: Value, name: str) -> Form:
    """Codes times their scales, both looked up."""
    codes, scales = (x, y) if isinstance(x, Looked) and not _is_scale(lift, x) else (y, x)
    if not isinstance(codes, Looked):
        raise Reject("scales of an embedding that are not multiplied with its codes", feature="embedding")
    table = lift.g.array(codes.table)
    assert table is not None
    if table.ndim != 2 or table.dtype != np.int8:
        raise Reject(f"an embedding of {table.dtype} codes {list(table.shape)}", feature="embedding")
    weight = _weight(codes.table, table, _scales(lift, scales))
    base = Embedded(name, lift.tokens, weight.cols, codes.table, None, weight)
    return Form.of(base, codes.shape)


def _is_scale(lift: Lifter, x: Looked) -> bool:
    found = lift.g.array(x.table)
    return found is not None and found.dtype.kind == "f"


def _scales(lift: Lifter, value: Value) -> NDArray[Any]:
    """The scales that codes are multiplied with: one, one per row, or one per group."""
    if isinstance(value, Const):
        number = uniform(value.array)
        if number is None:
            raise Reject("codes of an embedding times constants by feature", feature="embedding")
        return np.asarray(value.array, np.float32).reshape(-1)[:1]
    if isinstance(value, Looked):
        found = lift.g.array(value.table)
        assert found is not None
        return np.asarray(found, np.float32)
    if isinstance(value, Form) and len(value.terms) == 1 and isinstance(value.terms[0].base, Embedded):
        matrix = constant_matrix(lift.g, value.terms[0].base.table)
        if matrix is not None and not matrix.elem.quantized:
            return np.asarray(matrix.codes, np.float32)
    raise Reject("codes of an embedding times computed values", feature="embedding")


def _weight(name: str, codes: NDArray[Any], scales: NDArray[Any]) -> Weight:
    rows, cols = codes.shape
    if scales.size == 1:
        return Weight(name, I8, codes, np.broadcast_to(scales.reshape(-1), (rows,)).copy())
    if (scales.ndim == 1 and scales.size == rows) or scales.shape == (rows, 1):
        return Weight(name, I8, codes, scales.reshape(-1))
    if scales.ndim != 2 or scales.shape[0] != rows or cols % scales.shape[1]:
        raise Reject(f"scales {list(scales.shape)} for codes {list(codes.shape)}", feature="embedding")
    return Weight(name, grouped(8, cols // scales.shape[1]), codes, scales)
