# SPDX-License-Identifier: Apache-2.0
"""Granite (IBM): LLaMA's block with factors of the embedding, the scores, what each block adds, and the logits."""

from typing import Any

from meadow.compiler.sources.families.decoder import Decoder
from meadow.compiler.sources.families.family import Family


def scaled(decoder: Decoder, embedding: float, scores: float, added: float, logits: float) -> Decoder:
    changed = decoder.changed(
        embedding_factor=embedding or 1.0, residual_factor=added or 1.0, logits_factor=1.0 / logits if logits else 1.0
    )
    return changed.per_layer(lambda n: {"scale": scores})


def configure(decoder: Decoder, keys: Any) -> Decoder:
    names = ("embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling")
    for key in ("attention_bias", "mlp_bias"):
        keys.must(key, (False,), "biases together with a factor of what a block adds are not read")
    return scaled(decoder, *(keys.positive(name, 1.0) for name in names))


def describe(decoder: Decoder, keys: Any) -> Decoder:
    names = ("embedding_scale", "attention.scale", "residual_scale", "logit_scale")
    return scaled(decoder, *(keys.number(name, 0.0) for name in names))


FAMILY = Family(
    "granite", "Granite", "GraniteForCausalLM", ("granite",), permuted=True, configure=configure, describe=describe
)
