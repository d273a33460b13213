# SPDX-License-Identifier: Apache-2.0
"""Design: every number the hardware is built with, and what it is expected to cost.

Chosen by fit.py, printed into hls/config.hpp by emit.py, compared with the fabric by the runtime.
Knows no model: any model within the limits runs on the same bitstream.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

BEAT_BYTES = 16
"""Bytes of one beat of a 128-bit port, the width of HP and HPC ports (UG1085, chapter 35)."""
LANE_COLS = 32
"""Weights a weight port hands to its multipliers in one cycle: two raw beats, or one packed beat at 2x."""
LOOKUP_LANES = 16
"""Chunk ids that the look-up unit of the published scheme resolves in one cycle."""
CODE_BITS = 14
"""Bits of the longest prefix code.  A longer one gains 0.1 % of the bytes, 12 bits lose 0.4 % (docs/decisions/0010)."""
PREFIX_LUT = 17_300
"""LUT of the prefix decoder of one port: synthesized by Yosys (meadowc bench rtl)."""
LARGEST_CLOCK_MHZ = 600
DEFAULT_TILE_ROWS = 128


@dataclass(frozen=True)
class Design:
    """One configuration of meadow_engine.

    board, part      what it is made for
    clock_mhz        fabric clock; assumed, not closed
    weight_ports     128-bit AXI ports that stream weights: 1, 2 or 4
    token_lanes      tokens multiplied with one group of weights in a cycle (the parallel PEs of MEADOW)
    float_lanes      FP32 elements that norms, quantization and epilogues take in a cycle: whole beats
    tile_rows        output features between two stores, where a step does not ask for whole heads
    block            most tokens of one program run
    context          most tokens in the KV cache
    max_cols         longest input row of a linear layer, padded
    max_head_dim     largest head, padded to a beat
    prefix_codes     1 when the engine decodes prefix codes, else 0
    lookup_entries   entries of each chunk table of the published packing; 0 when the engine has no such unit
    """

    board: str
    part: str
    clock_mhz: int
    weight_ports: int
    token_lanes: int
    float_lanes: int
    tile_rows: int
    block: int
    context: int
    max_cols: int
    max_head_dim: int
    prefix_codes: int
    lookup_entries: int

    def check(self) -> None:
        """Raise ValueError when the numbers do not go together."""
        if self.weight_ports not in (1, 2, 4):
            raise ValueError(f"weight_ports is {self.weight_ports}; 1, 2 or 4 are possible")
        if self.float_lanes not in (4, 8, 16):
            raise ValueError(f"float_lanes is {self.float_lanes}; 4, 8 or 16 are possible")
        if self.tile_rows < 4 or self.tile_rows % 4:
            raise ValueError(f"tile_rows is {self.tile_rows}; a positive multiple of 4 is possible")
        for name in ("token_lanes", "block", "context", "clock_mhz", "max_cols", "max_head_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        if self.block > self.context:
            raise ValueError(f"block is {self.block} and context {self.context}; a block is at most the context")
        if self.clock_mhz > LARGEST_CLOCK_MHZ:
            raise ValueError(f"clock_mhz is {self.clock_mhz}; no engine of this kind runs above {LARGEST_CLOCK_MHZ}")
        if self.max_cols % LANE_COLS or self.max_head_dim % BEAT_BYTES:
            raise ValueError(f"max_cols {self.max_cols} and max_head_dim {self.max_head_dim} must be whole beats")
        if self.prefix_codes not in (0, 1):
            raise ValueError(f"prefix_codes is {self.prefix_codes}; 0 or 1 is possible")
        entries = self.lookup_entries
        if entries and (entries & (entries - 1) or not 256 <= entries <= 65536):
            raise ValueError(f"lookup_entries is {entries}; 0 or a power of two from 256 to 65536 is possible")

    @property
    def id(self) -> str:
        """A short digest of the numbers: the bitstream, the program and the manifest must agree on it."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def multipliers(self) -> int:
        """INT8 multipliers of the GEMM array."""
        return self.weight_ports * LANE_COLS * self.token_lanes

    @property
    def max_tile_rows(self) -> int:
        return max(self.tile_rows, self.max_head_dim)

    @property
    def port_bytes_per_second(self) -> float:
        return BEAT_BYTES * self.clock_mhz * 1e6

    def resources(self) -> dict[str, int]:
        """Estimated use of the fabric, by kind.  Formulas and their sources: docs/decisions/0006-resource-estimates.md."""
        half = (self.multipliers + 1) // 2  # two INT8 products a DSP48E2 (WP486)
        attention = self.token_lanes * (self.max_head_dim + self.max_head_dim // 2)
        dsp = half + attention + 5 * self.token_lanes + 30 * self.float_lanes
        bram = sum(_bram36(bits) for bits in self.memories().values())
        prefix = PREFIX_LUT * self.weight_ports * self.prefix_codes
        lut = (
            prefix
            + 16_000
            + 3_000 * self.float_lanes
            + 12 * self.multipliers
            + 30 * attention
            + 4_500 * self.weight_ports
            + 900 * self.token_lanes
        )
        return {"LUT": lut, "FF": int(1.3 * lut), "DSP": dsp, "BRAM36": bram}

    def memories(self) -> dict[str, int]:
        """Bits of each on-chip buffer."""
        kv = self.context * self.max_head_dim * 8
        tables = self.weight_ports * (LOOKUP_LANES // 2) * self.lookup_entries * 16  # dual-ported copies
        return {
            "activations": self.block * self.max_cols * 8 * 2,
            "results": 2 * self.block * self.max_tile_rows * 32,
            "keys": kv,
            "values": kv,
            "kv scales": 2 * self.context * 32,
            "score rows": self.token_lanes * self.context * 32,
            "score and probability rows by GEMM": self.token_lanes * self.context * (32 + 16 + 16),
            "rows of norms": self.max_cols * (5 * 32 + 2 * 8),
            "look-up tables": tables,
        }

    def __str__(self) -> str:
        return (
            f"design {self.id} for {self.board} at {self.clock_mhz} MHz: {self.weight_ports} weight ports x "
            f"{LANE_COLS} x {self.token_lanes} tokens = {self.multipliers} multipliers, blocks of {self.block} tokens, "
            f"context {self.context}"
        )


def _bram36(bits: int) -> int:
    return -(-bits // 36864)
