# SPDX-License-Identifier: Apache-2.0
"""Gemma 3 (Google), text alone: norms before and after, norms of q and k, GeGLU, five layers with a window before each without."""

from meadow.compiler.sources.families.family import Family

FAMILY = Family(
    "gemma3",
    "Gemma 3",
    "Gemma3ForCausalLM",
    activation="gelu_tanh",
    head_norms=True,
    post_norms=True,
    scaled=True,
    local=(6, 10000.0),
)
