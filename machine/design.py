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
LARGEST_GROUP = 256
"""Columns that share a scale at most (storage/groups.py)."""
LANE_COLS = 32
"""Weights a weight port hands to its multipliers in one cycle: two raw beats, or one packed beat at 2x."""
LOOKUP_LANES = 16
"""Chunk ids that the look-up unit of the published scheme resolves in one cycle."""
CODE_BITS = 14
"""Bits of the longest prefix code.  A longer one gains 0.1 % of the bytes, 12 bits lose 0.4 % (docs/decisions/0010)."""
PACQ_LUT = {"fixed": 8_700, "port": 2_500, "column": 75, "lane": 35, "scale": 1_800}
"""LUT of pacq_gemv: once, a port, a column of a token lane, a lane of a column, a unit of pacq_scale (Yosys, make synth)."""
PREFIX_LUT = 17_300
"""LUT of the prefix decoder of one port: synthesized by Yosys (meadowc bench rtl)."""
LARGEST_CLOCK_MHZ = 600
DEFAULT_TILE_ROWS = 128
SETTABLE = (
    "clock_mhz",
    "weight_ports",
    "token_lanes",
    "float_lanes",
    "tile_rows",
    "block",
    "context",
    "prefix_codes",
    "lookup_entries",
    "pacq_ports",
    "pacq_lanes",
    "pacq_tokens",
    "pacq_fifo",
    "pacq_clock_mhz",
)
"""Numbers of a design that `meadowc compile --set` takes."""


@dataclass(frozen=True)
class Design:
    """One configuration of meadow_engine, and of pacq_gemv beside it.  A design holds the engines that its program needs.

    board, part      what it is made for
    clock_mhz        fabric clock; assumed, not closed
    weight_ports     128-bit AXI ports that stream weights to the INT8 array: 1, 2 or 4; 0 when there is no array
    token_lanes      tokens multiplied with one group of weights in a cycle (the parallel PEs of MEADOW), and rows of queries
                     that attend at once
    float_lanes      FP32 elements that norms, quantization and epilogues take in a cycle: whole beats
    tile_rows        output features between two stores, where a step does not ask for whole heads
    block            most tokens of one program run
    context          most tokens in the KV cache
    max_cols         longest input row of a linear layer, padded
    max_head_dim     largest head, padded to a beat
    prefix_codes     1 when the engine decodes prefix codes, else 0
    lookup_entries   entries of each chunk table of the published packing; 0 when the engine has no such unit
    pacq_ports       128-bit AXI ports that stream grouped weights to pacq_gemv: 1, 2 or 4; 0 when there is no pacq_gemv
    pacq_lanes       codes of a port's column that it takes at once: 4, or 8 to take INT2 at the rate of the bus
    pacq_tokens      tokens that meet a beat of its weights in a cycle: 1, 2 or 4
    pacq_fifo        beats that each of its ports reads ahead
    pacq_clock_mhz   its clock; assumed, not closed
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
    pacq_ports: int = 0
    pacq_lanes: int = 4
    pacq_tokens: int = 1
    pacq_fifo: int = 512
    pacq_clock_mhz: int = 0

    def check(self) -> None:
        """Raise ValueError when the numbers do not go together."""
        for name, possible in (
            ("weight_ports", (0, 1, 2, 4)),
            ("pacq_ports", (0, 1, 2, 4)),
            ("pacq_lanes", (4, 8)),
            ("pacq_tokens", (1, 2, 4)),
            ("pacq_fifo", (128, 256, 512, 1024, 2048, 4096, 8192)),
        ):
            if getattr(self, name) not in possible:
                listed = ", ".join(str(n) for n in possible[:-1])
                raise ValueError(f"{name} is {getattr(self, name)}; {listed} or {possible[-1]} are possible")
        if not self.weight_ports + self.pacq_ports:
            raise ValueError("weight_ports and pacq_ports are both 0; an engine needs weights")
        if self.pacq_ports and not 0 < self.pacq_clock_mhz <= LARGEST_CLOCK_MHZ:
            raise ValueError(f"pacq_clock_mhz is {self.pacq_clock_mhz}; 1 to {LARGEST_CLOCK_MHZ} are possible")
        if self.pacq_ports and self.block > 64 * self.pacq_tokens:
            raise ValueError(
                f"block is {self.block}; pacq_gemv takes 64 tokens for each of its {self.pacq_tokens} token lanes"
            )
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
    def products_per_second(self) -> float:
        """Products of both engines at their best, of pacq_gemv with INT4 weights."""
        return 1e6 * (self.multipliers * self.clock_mhz + self.pacq_ports * 32 * self.pacq_tokens * self.pacq_clock_mhz)

    @property
    def weight_bytes_per_second(self) -> float:
        """What all ports that stream weights carry."""
        return BEAT_BYTES * 1e6 * (self.weight_ports * self.clock_mhz + self.pacq_ports * self.pacq_clock_mhz)

    @property
    def max_tile_rows(self) -> int:
        return max(self.tile_rows, self.max_head_dim)

    @property
    def caches(self) -> int:
        """KV heads on chip: beside pacq_gemv, which decodes as fast as DRAM gives, one is read while another attends."""
        return 2 if self.pacq_ports else 1

    @property
    def pacq_most_tokens(self) -> int:
        """Tokens of one command at most: a power of two for each token lane."""
        return self.pacq_tokens * _power_of_two(-(-self.block // self.pacq_tokens))

    @property
    def pacq_words(self) -> int:
        """Words of eight activations that each token lane of pacq_gemv keeps: a block's longest rows, and as much again of the
        next command while that is little."""
        rows = self.pacq_most_tokens // self.pacq_tokens * -(-self.max_cols // LARGEST_GROUP) * LARGEST_GROUP // 8
        return max(512, _power_of_two(rows))

    @property
    def port_bytes_per_second(self) -> float:
        return BEAT_BYTES * self.clock_mhz * 1e6

    def resources(self) -> dict[str, int]:
        """Estimated use of the fabric, by kind.  Formulas and their sources: docs/decisions/0006-resource-estimates.md."""
        half = (self.multipliers + 1) // 2  # two INT8 products a DSP48E2 (WP486)
        attention = self.token_lanes * (self.max_head_dim + self.max_head_dim // 2)
        dsp = half + attention + 5 * self.token_lanes + 30 * self.float_lanes
        bram = sum(bram36(bits) for bits in self.memories().values())
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
        for kind, n in self.pacq_resources().items():
            dsp, bram, lut = dsp + n * (kind == "DSP"), bram + n * (kind == "BRAM36"), lut + n * (kind == "LUT")
        return {"LUT": lut, "FF": int(1.3 * lut), "DSP": dsp, "BRAM36": bram}

    def pacq_resources(self) -> dict[str, int]:
        """Of pacq_gemv: DSP slices as they are written down, LUT as Yosys finds them (make synth), BRAM by its memories."""
        if not self.pacq_ports:
            return {}
        lanes, tokens, scales = self.pacq_ports * self.pacq_lanes, self.pacq_tokens, self.pacq_lanes // 4
        units = self.pacq_ports * scales * tokens  # of pacq_scale: two products of 24 x 24 bits
        ring = (128 + 45) * self.pacq_words  # words, and half as many sums of 90 bits
        return {
            "DSP": 8 * lanes * tokens + 4 * units + 13,
            "LUT": PACQ_LUT["fixed"]
            + PACQ_LUT["port"] * self.pacq_ports
            + tokens * (PACQ_LUT["column"] * 8 + PACQ_LUT["lane"] * 8 * lanes)
            + PACQ_LUT["scale"] * units,
            "BRAM36": self.pacq_ports * bram36(128 * self.pacq_fifo) + tokens * bram36(ring),
        }

    def memories(self) -> dict[str, int]:
        """Bits of each on-chip buffer."""
        kv = self.context * self.max_head_dim * 8 * self.caches
        tables = self.weight_ports * (LOOKUP_LANES // 2) * self.lookup_entries * 16  # dual-ported copies
        return {
            "activations": self.block * self.max_cols * 8 * 2 * (self.weight_ports > 0),
            "results": 2 * self.block * self.max_tile_rows * 32,
            "keys": kv,
            "values": kv,
            "kv scales": 2 * self.context * 32 * self.caches,
            "score rows": self.token_lanes * self.context * 32,
            "score and probability rows by GEMM": self.token_lanes * self.context * (32 + 16 + 16),
            "rows of norms": self.max_cols * (5 * 32 + 2 * 8),
            "look-up tables": tables,
        }

    def __str__(self) -> str:
        engines = []
        if self.weight_ports:
            engines.append(
                f"{self.weight_ports} weight ports x {LANE_COLS} x {self.token_lanes} tokens = {self.multipliers} multipliers"
            )
        if self.pacq_ports:
            engines.append(
                f"pacq_gemv at {self.pacq_clock_mhz} MHz with {self.pacq_ports} ports x 8 x {self.pacq_lanes} lanes x "
                f"{self.pacq_tokens} tokens"
            )
        return (
            f"design {self.id} for {self.board} at {self.clock_mhz} MHz: {', '.join(engines)}, blocks of {self.block} tokens, "
            f"context {self.context}"
        )


def _power_of_two(n: int) -> int:
    """The least power of two that is not below n."""
    return 1 << max(0, n - 1).bit_length()


def bram36(bits: int) -> int:
    """Block RAMs of 36 Kb that hold so many bits."""
    return -(-bits // 36864)
