# SPDX-License-Identifier: Apache-2.0
"""Gemma 2 (Google, 2024): norms before and after, softcaps on scores and logits, a window in every other layer."""

from typing import Any

from meadow.compiler.sources.families.decoder import Decoder
from meadow.compiler.sources.families.family import Family

LARGE = 46
"""Layers of Gemma 2 27B, whose scores are scaled by the width of a head that it does not have: dim / heads."""


def configure(decoder: Decoder, keys: Any) -> Decoder:
    cap, scalar = keys.number("attn_logit_softcapping", 0.0), keys.positive("query_pre_attn_scalar", 256)
    window = keys.size("sliding_window", 4096)
    windows = keys.windows(window, lambda n: n % 2 == 0)
    decoder = decoder.changed(logits_softcap=keys.number("final_logit_softcapping", 0.0))
    return decoder.per_layer(lambda n: {"softcap": cap, "scale": scalar**-0.5, "window": windows[n]})


def describe(decoder: Decoder, keys: Any) -> Decoder:
    cap, model = keys.number("attn_logit_softcapping", 50.0), decoder.model
    wide = model.dim / model.heads if model.layers == LARGE else model.head_dim
    decoder = decoder.changed(logits_softcap=keys.number("final_logit_softcapping", 30.0))
    return decoder.per_layer(
        lambda n: {"softcap": cap, "scale": wide**-0.5, "window": 0 if n % 2 else decoder.shapes[n].window}
    )


NAMES = {
    "attn_post_norm": "model.layers.{}.post_attention_layernorm",
    "ffn_norm": "model.layers.{}.pre_feedforward_layernorm",
    "ffn_post_norm": "model.layers.{}.post_feedforward_layernorm",
}
FAMILY = Family(
    "gemma2",
    "Gemma 2",
    "Gemma2ForCausalLM",
    ("gemma2",),
    activation="gelu_tanh",
    offset=1.0,
    post_norms=True,
    scaled=True,
    tied=True,
    tensors=NAMES,
    defaults={
        "num_key_value_heads": 4,
        "head_dim": 256,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "sliding_window": 4096,
    },
    configure=configure,
    describe=describe,
)
