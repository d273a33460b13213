# SPDX-License-Identifier: Apache-2.0
"""The types of the fields of manifest.json and packing.json, looked at before anything reads them: a package may come from anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

SHOWN = 5
"""Problems that are named; more say nothing new."""


class Maybe(NamedTuple):
    """Null, or this."""

    of: Any


class Each(NamedTuple):
    """An object of any keys, whose values are this."""

    of: Any


NUMBER = (int, float)
FILE = {"path": str, "sha256": str}
MANIFEST: dict[str, Any] = {
    "name": str,
    "board": str,
    "inputs": str,
    "digest": str,
    "design_id": str,
    "hardware_digest": str,
    "meadow_version": str,
    "model": {
        **dict.fromkeys(("layers", "dim", "heads", "kv_heads", "head_dim", "ffn", "vocab", "context"), int),
        "name": str,
    },
    "options": {**dict.fromkeys(("name", "dataflow", "packing", "optimize", "design"), str), "settings": [[str, int]]},
    "dataflow": Each([[str, str]]),
    "regions": Each({"chunks": [int], "changes": bool}),
    "chunks": [{"index": int, "kind": str, "bytes": int, "file_offset": Maybe(int)}],
    "embedding": {
        "tied": bool,
        "parts?": [str],
        **dict.fromkeys(("file_offset?", "scale_offset?", "group?", "float?"), int),
        "signed?": bool,
        "minimum?": bool,
        "factor?": NUMBER,
        "positions?": {"file_offset": int, "rows": int, "shift": int},
        "form?": int,
        "shift?": int,
        "places?": [[int, int, int]],
    },
    "head": {"factor?": NUMBER, "softcap?": NUMBER},
    "ahead": {"ring?": [int, int, int], "ends?": [int, int, int], "host?": str},
    "files": Each(str),
    "source": FILE,
    "origin?": Maybe(FILE),
    "tokenizer?": [str],
    "hardware": {
        "blocks": Each(int),
        "widths": Each(int),
        "ports": Each(str),
        "clocks_mhz": [NUMBER],
        "source_mhz": NUMBER,
        "interrupt": int,
        "ddr": [[int, int]],
    },
}
PACKING: dict[str, Any] = {
    "matrices": [
        {
            **dict.fromkeys(("name", "matrix", "role", "type"), str),
            **dict.fromkeys(("rows", "cols", "ports", "first_row", "bytes", "bus_cycles", "crc32", "format"), int),
            **dict.fromkeys(("bits_per_weight", "entropy_bits"), NUMBER),
            "layer": Maybe(int),
            "streams": [[int, int, int]],
            "tile_rows?": int,
            "entries?": int,
            "directory?": Maybe([int, int, int]),
            "table?": Maybe([int, int, int]),
            "scale?": [int, int, int],
        }
    ]
}
"""Fields by name, "?" after those that may be absent.  A list of one type has any length, of more as many as they are."""
RATE = {"tokens_per_s": NUMBER, "kind": str}
SUMMARY: dict[str, Any] = {
    "bandwidth_gb_s": NUMBER,
    "decode": {**RATE, "context": int},
    "prefill": {**RATE, "tokens": int},
    "passes?": {"seconds": [NUMBER]},
    "timeline": Each([[str, NUMBER, str]]),
}
"""What is read of report/summary.json without the report, which looks at the rest as it comes to it."""


def check_shape(value: Any, shape: Any = None) -> None:
    """Raise ValueError naming the fields whose value is of another type, or out of any range."""
    found = list(_wrong(value, MANIFEST if shape is None else shape, ""))
    if found:
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise ValueError(f"{'; '.join(found[:SHOWN])}{more}")


def _wrong(value: Any, shape: Any, where: str) -> Iterator[str]:
    if isinstance(shape, Maybe):
        if value is not None:
            yield from _wrong(value, shape.of, where)
    elif isinstance(shape, Each):
        if not isinstance(value, dict):
            yield f"{where} is no object"
            return
        for key, item in value.items():
            yield from _wrong(item, shape.of, f"{where}.{key}")
    elif isinstance(shape, dict):
        if not isinstance(value, dict):
            yield f"{where or 'it'} is no object"
            return
        for key, kind in shape.items():
            name = key.removesuffix("?")
            if name in value:
                yield from _wrong(value[name], kind, f"{where}.{name}".lstrip("."))
            elif name == key:
                yield f"{where}.{name}".lstrip(".") + " is missing"
    elif isinstance(shape, list):
        if not isinstance(value, list) or (len(shape) > 1 and len(value) != len(shape)):
            yield f"{where} is no list" + f" of {len(shape)}" * (len(shape) > 1)
            return
        for n, item in enumerate(value):
            yield from _wrong(item, shape[n] if len(shape) > 1 else shape[0], f"{where}[{n}]")
    else:
        yield from _wrong_scalar(value, shape, where)


def _wrong_scalar(value: Any, shape: Any, where: str) -> Iterator[str]:
    if shape is bool:
        if not isinstance(value, bool):
            yield f"{where} is neither true nor false"
    elif shape is str:
        if not isinstance(value, str) or not value.isprintable():
            yield f"{where} is no printable text"
    elif isinstance(value, bool) or not isinstance(value, shape):
        yield f"{where} is no number"
    elif not 0 <= value < 1 << 63:  # no field is negative, and NaN is refused too
        yield f"{where} is {value!r}"
