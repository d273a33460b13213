# SPDX-License-Identifier: Apache-2.0
"""StableLM (Stability AI): LLaMA's block with layer norms, a quarter of each head that turns, and perhaps attention and MLP side by side."""

from typing import Any

from meadow.compiler.sources.families.decoder import Decoder
from meadow.compiler.sources.families.family import Family


def configure(decoder: Decoder, keys: Any) -> Decoder:
    keys.must("qk_layernorm", (False,), "norms of q and k that differ by head are not read")
    if keys.flag("use_qkv_bias", False):
        decoder = decoder.wired(biases=frozenset("qkv"))
    return describe(decoder, keys)


def describe(decoder: Decoder, keys: Any) -> Decoder:
    return decoder.wired(parallel="one norm" if keys.flag("use_parallel_residual", False) else "")


FAMILY = Family(
    "stablelm",
    "StableLM",
    "StableLmForCausalLM",
    ("stablelm",),
    norm="layer",
    may_bias=frozenset("qkv"),
    turned=0.25,
    keys={"eps": "layer_norm_eps"},
    defaults={"num_key_value_heads": 32},
    configure=configure,
    describe=describe,
)
