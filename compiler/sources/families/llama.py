# SPDX-License-Identifier: Apache-2.0
"""LLaMA (Touvron et al., 2023), and what is wired like it: SmolLM2, TinyLlama, Mistral without a window."""

from meadow.compiler.sources.families.family import Family

FAMILY = Family("llama", "LLaMA", "LlamaForCausalLM", permuted=True)
