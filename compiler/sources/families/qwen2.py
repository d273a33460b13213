# SPDX-License-Identifier: Apache-2.0
"""Qwen 2 (Qwen team): LLaMA's block with biases on q, k and v; Qwen 2.5 and its coders are wired alike."""

from meadow.compiler.sources.families.family import Family

WINDOWS = {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28}
FAMILY = Family(
    "qwen2",
    "Qwen 2",
    "Qwen2ForCausalLM",
    ("qwen2",),
    biases=frozenset("qkv"),
    windowed=True,
    defaults={**WINDOWS, "num_key_value_heads": 32},
)
