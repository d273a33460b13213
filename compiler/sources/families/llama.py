# SPDX-License-Identifier: Apache-2.0
"""LLaMA (Touvron et al., 2023), and what is wired like it: SmolLM2, TinyLlama."""

from meadow.compiler.sources.families.family import LINEARS, Family

FAMILY = Family("llama", "LLaMA", "LlamaForCausalLM", ("llama",), permuted=True, may_bias=frozenset(LINEARS))
