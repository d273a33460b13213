# SPDX-License-Identifier: Apache-2.0
"""The model of MEADOW's configuration against arithmetic done by hand from the paper's facts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meadow.evidence.bench import paper as bench
from meadow.evidence.bench.outline import outline
from meadow.evidence.bench.published import (
    ASSUMPTIONS,
    SHAPES,
    Machine,
    dataflow_gain,
    first_token_gain,
    latency,
    layer,
    next_token_gain,
)

OPT = SHAPES["OPT-125M"]


def test_decoder_weights_are_those_of_the_models() -> None:
    assert OPT.layers * OPT.layer_weights == pytest.approx(84.9e6, rel=0.001)
    assert 24 * SHAPES["OPT-1.3B"].layer_weights == pytest.approx(1208e6, rel=0.001)


def test_a_decoded_token_by_gemm_is_bound_by_its_bytes() -> None:
    """84.9 MB at 12.8 Gb/s are 53 ms; 1,208 MB 755 ms."""
    one_port = Machine(gbit_s=12.8)
    assert latency(OPT, one_port, 1, 1, False, False) == pytest.approx(0.053, rel=0.02)
    assert latency(SHAPES["OPT-1.3B"], one_port, 1, 1, False, False) == pytest.approx(0.755, rel=0.02)


@pytest.mark.parametrize(("tokens", "megabytes"), [(64, 0.34), (128, 1.08), (256, 3.7), (512, 13.8)])
def test_the_traffic_that_tphs_deletes_is_that_of_q_s_and_p(tokens: int, megabytes: float) -> None:
    """Q, S and P written and read, and the context written, INT8, a layer of OPT-125M."""
    gemm = {p.name: p for p in layer(OPT, Machine(), tokens, tokens, False, False)}
    kv = 2 * tokens * OPT.dim
    moved = gemm["Q"].store + sum(gemm[n].fetch + gemm[n].store for n in ("QK^T", "softmax", "softmax x V")) - kv
    assert moved == pytest.approx(megabytes * 1e6, rel=0.02)
    tphs = {p.name: p for p in layer(OPT, Machine(), tokens, tokens, True, False)}["TPHS"]
    assert tphs.fetch + tphs.store == OPT.dim**2 + 2 * tokens * OPT.dim + kv


def test_low_bandwidth_favours_tphs_and_high_bandwidth_gemm() -> None:
    gains = [dataflow_gain(OPT, Machine(gbit_s=b), 512) for b in (1, 3, 6, 12, 25, 51)]
    assert gains == sorted(gains, reverse=True) and gains[0] > 1.5 and gains[-1] < 1


def test_gains_grow_as_bandwidth_falls_and_packing_grows() -> None:
    assert first_token_gain(OPT, Machine(gbit_s=1), 512) > first_token_gain(OPT, Machine(gbit_s=12), 512)
    assert next_token_gain(OPT, Machine(packing=2.63), 64) > next_token_gain(OPT, Machine(), 64) > 1.4


def test_every_figure_is_inside_or_says_why() -> None:
    rows = bench.rows()
    assert len(rows) == 14
    for row in rows:
        assert row["inside"] or row["reason"], row["figure"]
        assert row["published"][0] <= row["published"][1]


def test_every_assumption_is_varied() -> None:
    named = {row["assumption"] for row in bench.sensitivity()}
    assert named == {"as assumed"} | {field for field, _, _, _ in ASSUMPTIONS}
    for field, value, others, why in ASSUMPTIONS:
        assert getattr(Machine(), field) == value and value not in others and why
        assert replace(Machine(), **{field: others[0]}) != Machine()  # type: ignore[arg-type]


def test_an_outline_is_a_graph_of_the_shapes_bytes() -> None:
    graph = outline(OPT)
    sizes = [w.rows * w.cols for name, w in graph.weights.items() if name.startswith("l0.")]
    assert sum(sizes) == pytest.approx(OPT.layer_weights, rel=0.02)
    assert all(w.codes.strides[0] == 0 for w in graph.weights.values())  # no memory
