# SPDX-License-Identifier: Apache-2.0
"""GPT-2 (Radford et al., 2019): layer norms, GELU without a gate, biases, learned positions; checkpoints hold [K, N] matrices."""

from typing import Any

from meadow.compiler.sources.families.decoder import Decoder
from meadow.compiler.sources.families.family import Family


def configure(decoder: Decoder, keys: Any) -> Decoder:
    keys.must("scale_attn_weights", (True,), "scores without a scale are not read")
    keys.must("scale_attn_by_inverse_layer_idx", (False,), "scores scaled by their layer are not read")
    keys.must("add_cross_attention", (False,), "a decoder that reads an encoder is not served")
    return describe(decoder, keys)


def describe(decoder: Decoder, keys: Any) -> Decoder:
    return decoder.changed(places=decoder.model.context)


KEYS = {
    "dim": "n_embd",
    "layers": "n_layer",
    "heads": "n_head",
    "ffn": "n_inner",
    "context": "n_positions",
    "activation": "activation_function",
    "eps": "layer_norm_epsilon",
}
FAMILY = Family(
    "gpt2",
    "GPT-2",
    "GPT2LMHeadModel",
    ("gpt2",),
    norm="layer",
    biases=frozenset(("q", "k", "v", "o", "up", "down")),
    activation="gelu_tanh",
    gated=False,
    fused=frozenset(("qkv",)),
    transposed=True,
    positions=0,
    tied=True,
    tensors={
        "embed": "transformer.wte",
        "positions": "transformer.wpe",
        "attn_norm": "transformer.h.{}.ln_1",
        "qkv": "transformer.h.{}.attn.c_attn",
        "o": "transformer.h.{}.attn.c_proj",
        "ffn_norm": "transformer.h.{}.ln_2",
        "up": "transformer.h.{}.mlp.c_fc",
        "down": "transformer.h.{}.mlp.c_proj",
        "norm": "transformer.ln_f",
    },
    keys=KEYS,
    configure=configure,
    describe=describe,
)
