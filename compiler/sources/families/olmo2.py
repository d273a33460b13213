# SPDX-License-Identifier: Apache-2.0
"""OLMo 2 (OLMo team, 2024): norms after attention and MLP alone, and norms of the whole rows of q and k."""

from meadow.compiler.sources.families.family import Family

FAMILY = Family(
    "olmo2",
    "OLMo 2",
    "Olmo2ForCausalLM",
    ("olmo2",),
    pre_norms=False,
    post_norms=True,
    head_norms="row",
    defaults={"rms_norm_eps": 1e-5},
    tensors={
        "attn_post_norm": "model.layers.{}.post_attention_layernorm",
        "ffn_post_norm": "model.layers.{}.post_feedforward_layernorm",
    },
)
