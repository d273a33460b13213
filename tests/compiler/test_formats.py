# SPDX-License-Identifier: Apache-2.0
"""Codes, scales and minima of every GGUF type dequantize to what the gguf package computes, bit for bit."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meadow.compiler.sources.gguf.formats import FORMATS

BLOCKED = [name for name, form in FORMATS.items() if form.block_bytes]


@pytest.mark.parametrize("name", BLOCKED)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_group_dequantizes_to_what_is_stored(name: str, seed: int) -> None:
    form, random = FORMATS[name], np.random.default_rng(seed)
    rows, blocks = 3, 2
    data = random.integers(0, 256, (rows, blocks, form.block_bytes), np.uint8)
    for start in form.halves:
        numbers = random.normal(0, 0.1, (rows, blocks, 1)).astype(np.float16)
        data[..., start : start + 2] = numbers.view(np.uint8)
    weight = form.weight("w", data.reshape(rows, -1), rows, blocks * form.values)
    wanted = gguf.dequantize(data.reshape(rows, -1), gguf.GGMLQuantizationType[name])
    assert weight.elem.bits in (2, 4, 8) and np.array_equal(weight.dequantize(), wanted)


def test_brain_floats_are_the_upper_halves_of_numbers() -> None:
    values = np.random.default_rng(0).normal(0, 1, (4, 64)).astype(np.float32)
    data = gguf.quantize(values, gguf.GGMLQuantizationType.BF16)
    wanted = gguf.dequantize(data, gguf.GGMLQuantizationType.BF16)
    assert np.array_equal(FORMATS["BF16"].weight("w", data, 4, 64).dequantize(), wanted)
