# SPDX-License-Identifier: Apache-2.0
"""Sizes that compiler, board and hardware share: of a beat, of a word of weights, of a block RAM."""

from __future__ import annotations

BEAT_BYTES = 16
"""Bytes of one beat of a 128-bit port, the width of HP and HPC ports (UG1085, chapter 35)."""
LARGEST_GROUP = 256
"""Columns that share a scale at most (storage/groups.py)."""
LANE_COLS = 32
"""Weights that a weight port hands to its multipliers in one cycle: two raw beats, or one packed beat at 2x."""
LOOKUP_LANES = 16
"""Chunk ids that the look-up unit of the published scheme resolves in one cycle."""
CODE_BITS = 14
"""Bits of the longest prefix code.  A longer one gains 0.1 % of the bytes, 12 bits lose 0.4 % (docs/decisions/0010)."""
COLUMN_SUMS = 8
"""INT32 sums that column_gemm gives in a cycle."""
LARGEST_CLOCK_MHZ = 600
"""No fabric of this kind is faster."""


def power_of_two(n: int) -> int:
    """The least power of two that is not below n."""
    return 1 << max(0, n - 1).bit_length()
