# SPDX-License-Identifier: Apache-2.0
"""Gemma 3 (Google), text alone: norms before and after, norms of q and k, GeGLU, five layers with a window before each without."""

from typing import Any

from meadow.compiler.sources.families import rotary
from meadow.compiler.sources.families.decoder import Decoder
from meadow.compiler.sources.families.family import Family
from meadow.compiler.sources.families.gemma2 import NAMES

PERIOD = 6
LARGE = 62
"""Layers of Gemma 3 27B, whose scores are scaled by dim / heads; GGUF files do not say it."""
LOCAL = 10000.0
"""Base of the rotary positions of layers with a window; GGUF files do not say it."""


def mixed(decoder: Decoder, windows: list[int], base: float) -> Decoder:
    """`decoder` with windows, and other rotary positions where there is one."""
    local = rotary.rounded(rotary.plain(decoder.model.head_dim, base)).frequencies
    return decoder.per_layer(
        lambda n: {"window": windows[n], **({"frequencies": local, "rotary_factor": 1.0} if windows[n] else {})}
    )


def configure(decoder: Decoder, keys: Any) -> Decoder:
    scalar, period = keys.positive("query_pre_attn_scalar", 256), keys.size("sliding_window_pattern", PERIOD) or PERIOD
    windows = keys.windows(keys.size("sliding_window", 4096), lambda n: n % period != period - 1)
    keys.must("attn_logit_softcapping", (), "transformers leaves it out of Gemma 3's scores, and others do not")
    decoder = decoder.changed(logits_softcap=keys.number("final_logit_softcapping", 0))
    decoder = decoder.per_layer(lambda n: {"scale": scalar**-0.5})
    return mixed(decoder, windows, keys.local_base(keys.positive("rope_local_base_freq", LOCAL)))


def describe(decoder: Decoder, keys: Any) -> Decoder:
    model = decoder.model
    if model.layers == LARGE:
        decoder = decoder.per_layer(lambda n: {"scale": (model.dim / model.heads) ** -0.5})
    windows = [0 if n % PERIOD == PERIOD - 1 else s.window for n, s in enumerate(decoder.shapes)]
    return mixed(decoder, windows, LOCAL)


FAMILY = Family(
    "gemma3",
    "Gemma 3",
    "Gemma3ForCausalLM",
    ("gemma3_text",),
    activation="gelu_tanh",
    offset=1.0,
    head_norms="heads",
    post_norms=True,
    scaled=True,
    tied=True,
    tensors=NAMES,
    defaults={"num_key_value_heads": 4, "head_dim": 256, "rope_theta": 1000000.0, "sliding_window": 4096},
    configure=configure,
    describe=describe,
)
