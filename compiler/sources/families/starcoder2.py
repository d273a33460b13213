# SPDX-License-Identifier: Apache-2.0
"""StarCoder 2 (BigCode, 2024): layer norms, biases, an MLP without a gate, a window."""

from typing import Any

from meadow.compiler.sources.families.decoder import Decoder
from meadow.compiler.sources.families.family import Family


def configure(decoder: Decoder, keys: Any) -> Decoder:
    return decoder if keys.flag("use_bias", True) else decoder.wired(biases=frozenset())


FAMILY = Family(
    "starcoder2",
    "StarCoder 2",
    "Starcoder2ForCausalLM",
    ("starcoder2",),
    norm="layer",
    biases=frozenset(("q", "k", "v", "o", "up", "down")),
    activation="gelu_tanh",
    gated=False,
    tied=True,
    tensors={"up": "model.layers.{}.mlp.c_fc", "down": "model.layers.{}.mlp.c_proj"},
    keys={"eps": "norm_epsilon"},
    windowed=True,
    defaults={"num_key_value_heads": 2},
    configure=configure,
)
