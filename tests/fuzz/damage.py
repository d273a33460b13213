# SPDX-License-Identifier: Apache-2.0
"""How an input is damaged: bytes, values of JSON, and the parts of an ONNX graph."""

from __future__ import annotations

import random
from typing import Any

import onnx
from onnx import helper

NUMBERS = (0, 1, -1, 2, 7, 255, 65536, 2**31 - 1, -(2**31), 2**40, 2**62, -(2**63))
TEXTS = ("", "x", "a\0b", "../x", "/etc/passwd", "9" * 300, "é\u202e\x1b[31m", "²", "NaN", "-1", "1e9", str(2**70))


def raw(random_: random.Random, data: bytes) -> bytes:
    """Bits flipped, bytes dropped or doubled, the end cut off, a number put in."""
    out = bytearray(data or b"\0")
    kind = random_.randrange(5)
    at = random_.randrange(len(out))
    if kind == 0:
        for _ in range(random_.choice((1, 4, 16))):
            out[random_.randrange(len(out))] ^= 1 << random_.randrange(8)
    elif kind == 1:
        del out[at:]
    elif kind == 2:
        del out[at : at + random_.choice((1, 2, 8, 100))]
    elif kind == 3:
        out[at:at] = out[at : at + random_.choice((1, 4, 64, 1000))]
    else:
        out[at : at + 8] = random_.choice(NUMBERS).to_bytes(8, "little", signed=True)
    return bytes(out)


def other(random_: random.Random, value: Any) -> Any:
    """A value of another type, or another size."""
    kinds: tuple[Any, ...] = (
        None,
        "x",
        [],
        {},
        3.5,
        [[1]],
        True,
        -1,
        2**63,
        0,
        [value],
        str(value),
        *NUMBERS[:6],
        *TEXTS[2:6],
    )
    return random_.choice(kinds)


ABSENT = "\0absent"
"""In place of a value: the key goes."""


def pick(random_: random.Random, value: Any) -> tuple[list[Any], Any]:
    """One place in `value`, and what shall be there."""
    if isinstance(value, dict) and value and random_.random() < 0.9:
        key = random_.choice(sorted(value))
        if random_.random() < 0.1:
            return [key], ABSENT
        path, new = pick(random_, value[key])
        return [key, *path], new
    if isinstance(value, list) and value and random_.random() < 0.9:
        place = random_.randrange(len(value))
        path, new = pick(random_, value[place])
        return [place, *path], new
    return [], other(random_, value)


def put(value: Any, path: list[Any], new: Any) -> Any:
    """`value` with `new` at `path`; as it is where the path leads nowhere."""
    if not path:
        return new
    key = path[0]
    if isinstance(value, dict):
        if new == ABSENT and len(path) == 1:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: put(value.get(key), path[1:], new)}
    if isinstance(value, list) and isinstance(key, int) and key < len(value):
        return [*value[:key], put(value[key], path[1:], new), *value[key + 1 :]]
    return value


def change(random_: random.Random, value: Any) -> Any:
    """`value` with one thing in it changed."""
    return put(value, *pick(random_, value))


def graph(random_: random.Random, model: onnx.ModelProto) -> None:
    """Change one thing of a graph."""
    node = random_.choice(model.graph.node)
    tensor = random_.choice(model.graph.initializer)
    kind = random_.randrange(15)
    if kind == 0:
        del node.input[:]
    elif kind == 1 and node.input:
        node.input.pop()
    elif kind == 2 and node.input:
        place = random_.randrange(len(node.input))
        node.input[place] = (random_.choice(model.graph.node).output or [""])[0]
    elif kind == 3:
        _attribute(random_, node)
    elif kind == 4:
        tensor.data_type = random_.choice((0, 1, 2, 7, 10, 16, 22, 99))
    elif kind == 5:
        del tensor.dims[:]
        tensor.dims.extend(random_.choices(NUMBERS[:9], k=random_.randrange(4)))
    elif kind == 6:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=random_.choice((*TEXTS, "model.onnx")))
        tensor.external_data.add(key="offset", value=random_.choice(TEXTS))
    elif kind == 7:
        for dim in random_.choice(model.graph.input).type.tensor_type.shape.dim:
            dim.dim_value = random_.choice(NUMBERS[:9])
    elif kind == 8:
        node.op_type = random_.choice((random_.choice(model.graph.node).op_type, "If", "Loop", "Scan", "Nothing", ""))
    elif kind == 9:
        node.domain = random_.choice(("", "com.microsoft", "ai.onnx.ml", "x"))
    elif kind == 10 and node.output:
        node.output[0] = random_.choice(model.graph.node).output[0] if random_.random() < 0.5 else ""
    elif kind == 11:
        model.metadata_props.add(
            key=random_.choice(("meadow.context", "meadow.origin.path", "meadow.name", "x")),
            value=random_.choice(TEXTS),
        )
    elif kind == 12 and model.opset_import:
        model.opset_import[0].version = random_.choice((0, 1, 7, 13, 24, 25, 1000, -1))
    elif kind == 13:
        data = bytes(random_.choice(b"\0\1\x7f\x80\xff\x3c") for _ in range(len(tensor.raw_data)))
        tensor.raw_data = data if random_.random() < 0.5 else random_.choice((b"", b"\xff" * len(data)))
    else:
        del model.graph.node[random_.randrange(len(model.graph.node))]


def _attribute(random_: random.Random, node: onnx.NodeProto) -> None:
    """One attribute in place of all, or one of those that it has with another value."""
    value = random_.choice((2, 2.5, "x", [1, 2], -5, 2**62, float("nan"), [], [2.5], ["x"]))
    names = [a.name for a in node.attribute]
    if names and random_.random() < 0.6:
        name = random_.choice(names)
        keep = [a for a in node.attribute if a.name != name]
        del node.attribute[:]
        node.attribute.extend(keep)
    else:
        del node.attribute[:]
        name = random_.choice(("axis", "perm", "epsilon", "to", "scale", "value", "K", "num_heads", "body"))
    if value == []:
        node.attribute.add(name=name, ref_attr_name="x", type=onnx.AttributeProto.INT)
    else:
        node.attribute.append(helper.make_attribute(name, value))
