# SPDX-License-Identifier: Apache-2.0
"""Command R (Cohere): one layer norm without bias for attention and MLP side by side, neighbours turn, the logits have a factor."""

from typing import Any

from meadow.compiler.sources.families.decoder import Decoder
from meadow.compiler.sources.families.family import Family


def configure(decoder: Decoder, keys: Any) -> Decoder:
    keys.must("use_qk_norm", (False,), "norms of q and k that differ by head are not read")
    return describe(decoder, keys)


def describe(decoder: Decoder, keys: Any) -> Decoder:
    return decoder.changed(logits_factor=keys.number("logit_scale", 0.0625))


FAMILY = Family(
    "command-r",
    "Command R",
    "CohereForCausalLM",
    ("cohere",),
    norm="layer",
    norm_bias=False,
    parallel="one norm",
    interleaved=True,
    tied=True,
    keys={"eps": "layer_norm_eps"},
    configure=configure,
    describe=describe,
)
