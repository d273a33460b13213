# SPDX-License-Identifier: Apache-2.0
"""Codes that stay in a file until they are asked for, and packed weights that wait on the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from random_gguf import write_gguf

from meadow.compiler.emit.spool import Spool
from meadow.compiler.graph.passes.fuse_glu import alternate
from meadow.compiler.sources.source import read_source
from meadow.machine.errors import ResourceExceeded
from meadow.machine.types import Deferred, Weight

PICKS = (slice(None), slice(3, 9), slice(None, None, 5), slice(0, 1), np.array([7, 2, 2, 11]))


def held(weight: Weight) -> Weight:
    """The same matrix in memory."""
    return Weight(weight.name, weight.elem, weight.codes.copy(), weight.scale, weight.minimum)


def same(a: Weight, b: Weight) -> None:
    assert a.shape == b.shape and str(a.elem) == str(b.elem)
    for rows in PICKS:
        assert np.array_equal(a.some_codes(rows), b.some_codes(rows))
        assert np.array_equal(a.take(rows), b.take(rows))


@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0"])
def test_rows_of_a_matrix_that_is_deferred_are_those_of_one_that_is_held(kind: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", kind)
    graph = read_source(tmp_path / "m.gguf")
    gate, up = (graph.weight_of(graph.node(role, 1)) for role in ("gate", "up"))
    assert isinstance(gate, Deferred)
    same(gate, held(gate))
    order = np.random.default_rng(0).permutation(gate.rows)
    same(gate.only(order, "turned"), held(gate).only(order, "turned"))
    joined = alternate(gate, up)
    assert isinstance(joined, Deferred)
    same(joined, alternate(held(gate), held(up)))


def test_what_is_kept_on_the_disk_comes_back_and_leaves_nothing(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    arrays = [random.integers(0, 255, n).astype(np.uint8) for n in (1, 4096, 5000, 0, 70000)]
    arrays += [random.normal(size=(3, 7)).astype(np.float32)]
    with Spool(tmp_path / "new") as spool:
        kept = [spool.keep(a) for a in arrays]
        for _ in range(2):
            assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(arrays, kept, strict=True))
            spool.release()
        assert not any((tmp_path / "new").iterdir())


def test_a_disk_that_is_full_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with Spool(tmp_path) as spool:
        monkeypatch.setattr("os.pwrite", full)
        with pytest.raises(ResourceExceeded, match=r"packing needs room in .*No space left"):
            spool.keep(np.zeros(10, np.uint8))
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceExceeded, match="cannot write in"):
        Spool(tmp_path / "file" / "below")
