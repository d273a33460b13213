# SPDX-License-Identifier: Apache-2.0
"""Qwen 3 (Qwen team): LLaMA's block with norms of q and k, head by head."""

from meadow.compiler.sources.families.family import Family
from meadow.compiler.sources.families.qwen2 import WINDOWS

FAMILY = Family(
    "qwen3",
    "Qwen 3",
    "Qwen3ForCausalLM",
    ("qwen3",),
    head_norms="heads",
    may_bias=frozenset(("q", "k", "v", "o")),
    windowed=True,
    defaults={**WINDOWS, "num_key_value_heads": 32, "head_dim": 128},
)
