# SPDX-License-Identifier: Apache-2.0
"""GPT-J (EleutherAI, 2021): one layer norm for attention and MLP side by side, and rotary pairs that are neighbours."""

from typing import Any

from meadow.compiler.sources.families import rotary
from meadow.compiler.sources.families.decoder import Decoder
from meadow.compiler.sources.families.family import Family
from meadow.compiler.sources.families.gpt2 import KEYS


def configure(decoder: Decoder, keys: Any) -> Decoder:
    turned = keys.size("rotary_dim", 64)
    if not 0 < turned <= decoder.model.head_dim or turned % 2:
        keys.refuse("rotary_dim", "an even part of a head is expected")
        return decoder
    found = rotary.rounded(rotary.plain(turned, 10000.0)).frequencies
    return decoder.per_layer(lambda n: {"frequencies": found})


FAMILY = Family(
    "",
    "GPT-J",
    "GPTJForCausalLM",
    ("gptj",),
    norm="layer",
    parallel="one norm",
    biases=frozenset(("up", "down", "head")),
    activation="gelu_tanh",
    gated=False,
    interleaved=True,
    tensors={
        "embed": "transformer.wte",
        "attn_norm": "transformer.h.{}.ln_1",
        "q": "transformer.h.{}.attn.q_proj",
        "k": "transformer.h.{}.attn.k_proj",
        "v": "transformer.h.{}.attn.v_proj",
        "o": "transformer.h.{}.attn.out_proj",
        "up": "transformer.h.{}.mlp.fc_in",
        "down": "transformer.h.{}.mlp.fc_out",
        "norm": "transformer.ln_f",
    },
    keys=KEYS,
    configure=configure,
)
