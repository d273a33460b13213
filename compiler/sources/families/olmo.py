# SPDX-License-Identifier: Apache-2.0
"""OLMo (Groeneveld et al., 2024): LLaMA's block with layer norms that have neither gain nor bias."""

from typing import Any

from meadow.compiler.sources.families.decoder import Decoder
from meadow.compiler.sources.families.family import Family


def configure(decoder: Decoder, keys: Any) -> Decoder:
    keys.must("clip_qkv", (None, 0), "q, k and v that are clipped are not read")
    return decoder


FAMILY = Family(
    "olmo",
    "OLMo",
    "OlmoForCausalLM",
    ("olmo",),
    norm="layer",
    norm_gain=False,
    permuted=True,
    keys={"eps": ""},
    configure=configure,
)
