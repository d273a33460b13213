# SPDX-License-Identifier: Apache-2.0
"""Phi 1.5 and 2 (Microsoft): one layer norm for attention and MLP side by side, biases everywhere, a head that turns in part."""

from typing import Any

from meadow.compiler.sources.families.decoder import Decoder
from meadow.compiler.sources.families.family import Family


def configure(decoder: Decoder, keys: Any) -> Decoder:
    keys.must("qk_layernorm", (False,), "norms of q and k that are layer norms are not read")
    return decoder


FAMILY = Family(
    "phi2",
    "Phi 2",
    "PhiForCausalLM",
    ("phi",),
    norm="layer",
    parallel="one norm",
    biases=frozenset(("q", "k", "v", "o", "up", "down", "head")),
    activation="gelu_tanh",
    gated=False,
    tensors={
        "o": "model.layers.{}.self_attn.dense",
        "up": "model.layers.{}.mlp.fc1",
        "down": "model.layers.{}.mlp.fc2",
        "norm": "model.final_layernorm",
    },
    turned=0.5,
    keys={"eps": "layer_norm_eps"},
    configure=configure,
)
