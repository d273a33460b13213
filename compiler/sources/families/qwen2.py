# SPDX-License-Identifier: Apache-2.0
"""Qwen 2 (Qwen team): LLaMA's block with biases on q, k and v; Qwen 2.5 and its coders are wired alike."""

from meadow.compiler.sources.families.family import Family

FAMILY = Family("qwen2", "Qwen 2", "Qwen2ForCausalLM", ("qwen2",), biases=frozenset("qkv"))
