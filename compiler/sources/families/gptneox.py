# SPDX-License-Identifier: Apache-2.0
"""GPT-NeoX and Pythia (EleutherAI): two layer norms of one x for attention and MLP side by side, a head that turns in part."""

from typing import Any

from meadow.compiler.sources.families.decoder import Decoder
from meadow.compiler.sources.families.family import Family


def describe(decoder: Decoder, keys: Any) -> Decoder:
    return decoder.wired(parallel="two norms" if keys.flag("use_parallel_residual", True) else "")


FAMILY = Family(
    "gptneox",
    "GPT-NeoX",
    "GPTNeoXForCausalLM",
    ("gpt_neox",),
    norm="layer",
    parallel="two norms",
    biases=frozenset(("q", "k", "v", "o", "up", "down")),
    activation="gelu",
    gated=False,
    fused=frozenset(("qkv",)),
    by_head=True,
    tensors={
        "embed": "gpt_neox.embed_in",
        "attn_norm": "gpt_neox.layers.{}.input_layernorm",
        "qkv": "gpt_neox.layers.{}.attention.query_key_value",
        "o": "gpt_neox.layers.{}.attention.dense",
        "ffn_norm": "gpt_neox.layers.{}.post_attention_layernorm",
        "up": "gpt_neox.layers.{}.mlp.dense_h_to_4h",
        "down": "gpt_neox.layers.{}.mlp.dense_4h_to_h",
        "norm": "gpt_neox.final_layer_norm",
        "head": "embed_out",
    },
    turned=0.25,
    keys={"eps": "layer_norm_eps", "turned": "rotary_pct", "base": "rotary_emb_base"},
    configure=describe,
    describe=describe,
)
