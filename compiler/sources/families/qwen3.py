# SPDX-License-Identifier: Apache-2.0
"""Qwen 3 (Qwen team): LLaMA's block with norms of q and k, head by head."""

from meadow.compiler.sources.families.family import Family

FAMILY = Family(
    "qwen3", "Qwen 3", "Qwen3ForCausalLM", ("qwen3",), head_norms="heads", may_bias=frozenset(("q", "k", "v", "o"))
)
