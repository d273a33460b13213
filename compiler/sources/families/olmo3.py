# SPDX-License-Identifier: Apache-2.0
"""OLMo 3 (Ai2, 2025): OLMo 2's block, with a window in three of four layers, whose rotary positions are never stretched."""

from dataclasses import replace
from typing import Any

from meadow.compiler.sources.families import olmo2, rotary
from meadow.compiler.sources.families.decoder import Decoder

PERIOD = 4


def configure(decoder: Decoder, keys: Any) -> Decoder:
    windows = keys.windows(keys.size("sliding_window", 4096), lambda n: n % PERIOD != PERIOD - 1)
    plain = rotary.rounded(rotary.plain(decoder.model.head_dim, keys.positive("rope_theta", 10000.0))).frequencies
    local = {"frequencies": plain, "rotary_factor": 1.0}
    return decoder.per_layer(lambda n: {"window": windows[n], **(local if windows[n] else {})})


FAMILY = replace(
    olmo2.FAMILY,
    name="",
    title="OLMo 3",
    hugging_face="Olmo3ForCausalLM",
    model_types=("olmo3",),
    configure=configure,
)
