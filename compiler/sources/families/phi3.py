# SPDX-License-Identifier: Apache-2.0
"""Phi 3 and 4 (Microsoft): LLaMA's block with fused matrices, a window, and rotary positions by LongRoPE."""

from meadow.compiler.sources.families.family import Family

FAMILY = Family(
    "phi3",
    "Phi 3",
    "Phi3ForCausalLM",
    ("phi3",),
    windowed=True,
    defaults={"rms_norm_eps": 1e-5},
    fused=frozenset(("qkv", "gate_up")),
    tensors={"qkv": "model.layers.{}.self_attn.qkv_proj", "gate_up": "model.layers.{}.mlp.gate_up_proj"},
)
