# SPDX-License-Identifier: Apache-2.0
"""Mistral (Jiang et al., 2023): LLaMA's block, with a window in all layers where config.json says one; GGUF calls it llama."""

from meadow.compiler.sources.families.family import Family

FAMILY = Family(
    "",
    "Mistral",
    "MistralForCausalLM",
    ("mistral", "ministral"),
    windowed=True,
    defaults={"sliding_window": 4096, "num_key_value_heads": 8},
)
