# SPDX-License-Identifier: Apache-2.0
"""Gemma (Google, 2024): LLaMA's block with GeGLU, gains that are stored less one, and an embedding times sqrt(dim)."""

from typing import Any

from meadow.compiler.sources.families.decoder import Decoder
from meadow.compiler.sources.families.family import Family


def configure(decoder: Decoder, keys: Any) -> Decoder:
    """The first files say "gelu" and mean its approximation by tanh, with which Gemma was trained."""
    if keys.get("hidden_activation") is None and decoder.family.activation == "gelu":
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
    configure=configure,
)
