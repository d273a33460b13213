# SPDX-License-Identifier: Apache-2.0
"""Gemma (Google, 2024): LLaMA's block with GeGLU, gains that are stored less one, and an embedding times sqrt(dim)."""

from typing import Any

from meadow.compiler.sources.families.decoder import Decoder
from meadow.compiler.sources.families.family import Family


def configure(decoder: Decoder, keys: Any) -> Decoder:
    """The first files say "gelu" and mean its approximation by tanh, with which Gemma was trained."""
    first, second = keys.get("hidden_act"), keys.get("hidden_activation")
    legacy = first == "gelu" and second == "gelu_pytorch_tanh"  # as the published files say it: the second is meant
    if first is not None and second is not None and first != second and not legacy:
        keys.refuse(
            "hidden_activation", f"hidden_act says {first!r}, and versions of transformers follow one or the other"
        )
    if second is None and decoder.family.activation == "gelu":
        note = "config.json says hidden_act gelu: read as gelu_pytorch_tanh, with which Gemma was trained"
        return decoder.wired(activation="gelu_tanh").changed(notes=(*decoder.notes, note))
    return decoder


FAMILY = Family(
    "gemma",
    "Gemma",
    "GemmaForCausalLM",
    ("gemma",),
    activation="gelu_tanh",
    offset=1.0,
    scaled=True,
    tied=True,
    defaults={"num_key_value_heads": 16, "head_dim": 256},
    configure=configure,
)
