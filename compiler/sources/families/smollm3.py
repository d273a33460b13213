# SPDX-License-Identifier: Apache-2.0
"""SmolLM 3 (Hugging Face): LLaMA's block, every fourth layer without rotary positions."""

from typing import Any

from meadow.compiler.sources.families.decoder import Decoder
from meadow.compiler.sources.families.family import Family

EVERY = 4
"""Layers from one without rotary positions to the next; GGUF files do not say it."""


def without(decoder: Decoder, layers: set[int]) -> Decoder:
    """`decoder` with no rotary positions in `layers`."""
    return decoder.per_layer(lambda n: {"frequencies": ()} if n in layers else {})


def configure(decoder: Decoder, keys: Any) -> Decoder:
    if keys.flag("use_sliding_window", False) and keys.get("layer_types") is None:
        keys.refuse("layer_types", "a list is expected where use_sliding_window is true")
    every = keys.size("no_rope_layer_interval", EVERY) or EVERY
    turned = keys.numbers("no_rope_layers", decoder.model.layers)
    if turned is None:
        return without(decoder, set(range(every - 1, decoder.model.layers, every)))
    return without(decoder, {n for n, turns in enumerate(turned) if not turns})


def describe(decoder: Decoder, keys: Any) -> Decoder:
    return without(decoder, set(range(EVERY - 1, decoder.model.layers, EVERY)))


FAMILY = Family(
    "smollm3",
    "SmolLM 3",
    "SmolLM3ForCausalLM",
    ("smollm3",),
    permuted=True,
    tied=True,
    windowed=True,
    defaults={"use_sliding_window": False, "rope_theta": 2000000.0, "num_key_value_heads": 4},
    configure=configure,
    describe=describe,
)
