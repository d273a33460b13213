# SPDX-License-Identifier: Apache-2.0
"""The buffers that a design counts are the arrays that its C++ declares, by banks, depth and width; and what such a memory takes."""

from __future__ import annotations

import shutil
from math import prod
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meadow import boards
from meadow.machine.design import ULTRA_BUFFERS
from meadow.machine.memories import Memory

pytest.importorskip("clang", reason="libclang is not installed")
if shutil.which("clang++") is None:
    pytest.skip("clang is not installed: apt-get install clang", allow_module_level=True)

from clang import cindex
from rules.check import SHAPES, base_design, emitted, shaped
from rules.source import Source
from rules.storage import partitions

ARRAYS = {
    "results": "bank",
    "keys": "key",
    "values": "value",
    "scales of keys": "key_scale",
    "scales of values": "value_scale",
    "rows of scores": "score",
    "rows of probabilities": "weight",
    "heads, turned": "turned",
    "heads, codes": "code",
    "rotary factors": "factor",
    "activations": "activation",
}
STRUCTS = ("Array", "Cache", "HeadRows", "results_t")


def declared(source: Source) -> dict[str, Memory]:
    """Each array of the records that live on chip, as it is parted."""
    layouts, found = partitions(source), {}
    for cursor in source.unit.cursor.get_children():
        if cursor.kind is not cindex.CursorKind.STRUCT_DECL or cursor.spelling not in STRUCTS:
            continue
        for member in cursor.get_children():
            kind, dims = member.type.get_canonical(), []
            while kind.kind is cindex.TypeKind.CONSTANTARRAY:
                dims.append(kind.get_array_size())
                kind = kind.get_array_element_type().get_canonical()
            if dims:
                layout = layouts.get(("", member.spelling), {})
                factors = [layout.get(n, 1) or size for n, size in enumerate(dims, 1)]
                depth = prod(-(-size // factor) for size, factor in zip(dims, factors, strict=True))
                found[member.spelling] = Memory(prod(factors), depth, 8 * kind.get_size())
    return found


@pytest.mark.csim
@pytest.mark.parametrize("shape", SHAPES)
def test_every_buffer_is_counted_by_its_shape(shape: str, tmp_path: Path) -> None:
    design = shaped(base_design("zcu102"), SHAPES[shape])
    arrays = declared(Source(emitted(design, boards.load("zcu102"), tmp_path)))
    memories = design.memories()
    for name, array in ARRAYS.items():
        if name in memories:
            assert memories[name] == arrays[array], name
    large = {name for name, array in arrays.items() if array.bram36 and array.bits > 36 << 10}
    assert large <= set(ARRAYS.values())


@pytest.mark.csim
@pytest.mark.parametrize("ultra", [0, 1])
def test_ultraram_is_bound_and_counted_where_the_design_says_so(ultra: int, tmp_path: Path) -> None:
    design = shaped(base_design("kv260"), {**SHAPES["INT4"], "uram": ultra})
    folder = emitted(design, boards.load("kv260"), tmp_path)
    assert f"#define MEADOW_URAM {ultra}" in (folder / "config.hpp").read_text()
    assert f".ULTRA({ultra})" in (tmp_path / "rtl" / "pacq_top.v").read_text()
    bound = design.memories()
    assert design.resources().get("URAM", 0) == ultra * sum(bound[name].uram for name in ULTRA_BUFFERS)
    without = design.changed({"uram": 1 - ultra}).resources()
    assert (without["BRAM36"] > design.resources()["BRAM36"]) == bool(ultra)


@pytest.mark.parametrize(
    ("memory", "bram36", "uram"),
    [
        (Memory(1, 512, 72), 1.0, 1),
        (Memory(1, 1024, 36), 1.0, 1),
        (Memory(1, 2048, 32), 2.0, 1),  # a bit of each word in half a block would be 16 of them
        (Memory(1, 2049, 32), 2.5, 1),
        (Memory(4, 4096, 128), 60.0, 8),
        (Memory(2, 64, 512), 0.0, 16),
        (Memory(1, 32768, 1), 1.0, 8),
    ],
)
def test_what_a_memory_takes(memory: Memory, bram36: float, uram: int) -> None:
    """By the modes of a block RAM and an UltraRAM (UG573)."""
    assert (memory.bram36, memory.uram) == (bram36, uram)


@given(st.integers(1, 8), st.integers(65, 20000), st.integers(1, 600))
def test_blocks_hold_their_bits(banks: int, depth: int, width: int) -> None:
    memory = Memory(banks, depth, width)
    assert memory.bram36 * 36864 >= memory.bits and memory.uram * 4096 * 72 >= memory.bits
    assert memory.bram36 == banks * Memory(1, depth, width).bram36
