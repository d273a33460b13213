# SPDX-License-Identifier: Apache-2.0
"""Arcee's AFM: LLaMA's block with an MLP of squared ReLU without a gate."""

from meadow.compiler.sources.families.family import Family

FAMILY = Family(
    "arcee",
    "Arcee",
    "ArceeForCausalLM",
    ("arcee",),
    activation="relu2",
    gated=False,
    permuted=True,
    defaults={"rms_norm_eps": 1e-5},
)
