# SPDX-License-Identifier: Apache-2.0
"""Nemotron and Minitron (NVIDIA): layer norms whose gains are stored less one, squared ReLU without a gate, half a head that turns."""

from meadow.compiler.sources.families.family import Family

FAMILY = Family(
    "nemotron",
    "Nemotron",
    "NemotronForCausalLM",
    ("nemotron",),
    norm="layer",
    offset=1.0,
    activation="relu2",
    gated=False,
    turned=0.5,
    keys={"eps": "norm_eps"},
)
