# SPDX-License-Identifier: Apache-2.0
"""MEADOW's published configuration as a cost model: time to first token and between tokens, by GEMM and by TPHS.

After Moitra et al., MEADOW, MLSys 2025 (arXiv 2503.11663).  The paper's engine, not ours: cost.py prices ours.  No number here
was chosen to meet a published figure; ASSUMPTIONS has what the paper leaves open, and what else it might be.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Shape:
    """A transformer: `tokens` is 0 for a language model, else the sequence of an encoder that sees it whole."""

    name: str
    layers: int
    dim: int
    heads: int
    ffn: int
    vocab: int
    tokens: int = 0

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def layer_weights(self) -> int:
        """INT8 bytes of one layer: Q, K, V, the projection and two MLP matrices."""
        return 4 * self.dim * self.dim + 2 * self.dim * self.ffn


SHAPES = {
    "OPT-125M": Shape("OPT-125M", 12, 768, 12, 3072, 50272),
    "OPT-1.3B": Shape("OPT-1.3B", 24, 2048, 32, 8192, 50272),
    "DeiT-S": Shape("DeiT-S", 12, 384, 6, 1536, 0, 197),
    "DeiT-B": Shape("DeiT-B", 12, 768, 12, 3072, 0, 197),
}
"""OPT: Zhang et al. 2022, table 1.  DeiT: Touvron et al. 2021, table 1; 196 patches and a class token."""

NAIVE_RATIO = 16 / 11
"""Two INT8 weights by an id of 11 bits: 1,272 unique chunks are reported, chunks of two are inferred from them and from the
reported 1.4 (chunks of four would give 2.9)."""
REPORTED_RATIOS = {"naive": 1.4, "packets": 1.54, "frequency": 2.63}
"""Weight transfer of OPT-125M's first MLP matrix (Fig. 10a), by a reader's note of the paper, as every figure here."""


@dataclass(frozen=True)
class Machine:
    """MEADOW's engine and what it is attached to.

    gbit_s              DRAM bandwidth, gigabits per second
    parallel, broadcast processing elements of the two kinds
    multipliers         INT8 products per cycle of one of them
    overlap             fetch and store run beside compute (double buffering); else after one another
    score_bytes         of one score or probability in DRAM
    causal              attention stops at the token's own position; else it runs over the whole block
    head                the vocabulary projection is counted
    """

    gbit_s: float = 12.0
    parallel: int = 84
    broadcast: int = 12
    clock_mhz: float = 100.0
    multipliers: int = 32
    overlap: bool = True
    score_bytes: int = 1
    causal: bool = False
    head: bool = False
    packing: float = NAIVE_RATIO

    @property
    def elements(self) -> int:
        return self.parallel + self.broadcast

    def with_elements(self, count: int) -> Machine:
        """The same split of seven parallel to one broadcasting over `count` elements."""
        broadcast = max(1, round(count / 8))
        return replace(self, parallel=count - broadcast, broadcast=broadcast)


ASSUMPTIONS = (
    (
        "multipliers",
        32,
        (16, 64),
        "multipliers of a processing element: the largest power of two for which 96 of them fit 2,520 DSP48E2 "
        "at two INT8 products each; 64 is remembered from the paper and would not fit",
    ),
    (
        "overlap",
        True,
        (False,),
        "fetch and store overlap with compute, step by step; the paper shows the three as parts of a bar",
    ),
    ("score_bytes", 1, (2, 4), "scores and probabilities cross DRAM as INT8, like all activations"),
    ("causal", False, (True,), "attention is computed over the whole block, masked"),
    ("head", False, (True,), "the vocabulary projection is not part of the latency"),
    (
        "packing",
        NAIVE_RATIO,
        tuple(REPORTED_RATIOS.values()),
        "all weights shrink as chunks of two by ids of 11 bits; the chunk size is not stated, and the ratios are reported for one matrix",
    ),
)
"""(field of Machine, value, others it might be, why)."""


@dataclass(frozen=True)
class Part:
    """One step of a layer: bytes in and out of DRAM, and cycles of compute."""

    name: str
    fetch: float
    store: float
    cycles: float


def seconds(parts: list[Part], m: Machine) -> float:
    """Time of steps that follow one another."""
    rate, clock = m.gbit_s * 1e9 / 8, m.clock_mhz * 1e6
    total = 0.0
    for p in parts:
        bus, compute = (p.fetch + p.store) / rate, p.cycles / clock
        total += max(bus, compute) if m.overlap else bus + compute
    return total


def layer(s: Shape, m: Machine, tokens: int, seen: int, tphs: bool, packed: bool) -> list[Part]:
    """The steps of one layer for `tokens` tokens that see `seen` in all.

    tphs    Q, QK^T, softmax and softmax x V as one pipeline; else each by GEMM through DRAM
    packed  weights cross the bus divided by the packing ratio
    """
    ratio = m.packing if packed else 1.0
    parts = []

    def linear(name: str, rows: int, cols: int) -> None:
        parts.append(
            Part(
                name,
                rows * cols / ratio + tokens * cols,
                tokens * rows,
                tokens * rows * cols / (m.elements * m.multipliers),
            )
        )

    linear("K", s.dim, s.dim)
    linear("V", s.dim, s.dim)
    if tphs:
        parts.append(_tphs(s, m, tokens, seen, ratio))
    else:
        linear("Q", s.dim, s.dim)
        parts += _gemm(s, m, tokens, seen)
    linear("projection", s.dim, s.dim)
    linear("MLP 1", s.ffn, s.dim)
    linear("MLP 2", s.dim, s.ffn)
    return parts


def _share(s: Shape, m: Machine, tokens: int) -> float:
    """What causality leaves of a square of scores."""
    return 0.5 if m.causal and tokens > 1 and not s.tokens else 1.0


def _gemm(s: Shape, m: Machine, tokens: int, seen: int) -> list[Part]:
    scores = s.heads * tokens * seen * _share(s, m, tokens)
    macs = scores * s.head_dim / (m.elements * m.multipliers)
    table = scores * m.score_bytes
    return [
        Part("QK^T", (tokens + seen) * s.dim, table, macs),
        Part("softmax", table, table, scores / m.broadcast),  # a softmax unit for each row of elements
        Part("softmax x V", table + seen * s.dim, tokens * s.dim, macs),
    ]


def _tphs(s: Shape, m: Machine, tokens: int, seen: int, ratio: float) -> Part:
    """As many tokens at once as there are broadcasting elements, each with its share of the parallel ones; head after head.

    A token's parallel elements are split between Q and QK^T so that the slower of the two is fastest; its broadcasting element
    multiplies probabilities with V; its softmax takes a score a cycle.  The slowest stage sets the pace.
    """
    per_token = max(2, m.parallel // m.broadcast)
    length = seen * _share(s, m, tokens)
    q, k = s.dim * s.head_dim / m.multipliers, length * s.head_dim / m.multipliers
    split = min(max(q / n, k / (per_token - n)) for n in range(1, per_token))
    pace = max(split, k, length)
    groups = -(-tokens // m.broadcast)
    cycles = s.heads * (groups * pace + split + length)  # and filling the pipeline once per head
    return Part("TPHS", s.dim * s.dim / ratio + tokens * s.dim + 2 * seen * s.dim, tokens * s.dim, cycles)


def latency(s: Shape, m: Machine, tokens: int, seen: int, tphs: bool, packed: bool) -> float:
    """Seconds of a whole pass."""
    total = s.layers * seconds(layer(s, m, tokens, seen, tphs, packed), m)
    if m.head and s.vocab:
        head = Part(
            "head",
            s.vocab * s.dim / (m.packing if packed else 1.0) + s.dim,
            s.vocab,
            s.vocab * s.dim / (m.elements * m.multipliers),
        )
        total += seconds([head], m)
    return total


def first_token_gain(s: Shape, m: Machine, tokens: int) -> float:
    """Time to first token by GEMM over that of MEADOW: TPHS and packing."""
    return latency(s, m, tokens, tokens, False, False) / latency(s, m, tokens, tokens, True, True)


def next_token_gain(s: Shape, m: Machine, seen: int) -> float:
    """Time between tokens by GEMM over that of MEADOW."""
    return latency(s, m, 1, seen, False, False) / latency(s, m, 1, seen, True, True)


def dataflow_gain(s: Shape, m: Machine, tokens: int) -> float:
    """Prefill by GEMM over prefill by TPHS, both with packed weights: above 1 TPHS wins."""
    return latency(s, m, tokens, tokens, False, True) / latency(s, m, tokens, tokens, True, True)
