# SPDX-License-Identifier: Apache-2.0
"""OPT (Zhang et al., 2022): layer norms, ReLU without a gate, biases everywhere, positions that are learned and begin at row 2."""

from typing import Any

from meadow.compiler.sources.families.decoder import Decoder
from meadow.compiler.sources.families.family import Family


def configure(decoder: Decoder, keys: Any) -> Decoder:
    keys.must("word_embed_proj_dim", (decoder.model.dim,), "an embedding of another width than the layers is not read")
    keys.must("_remove_final_layer_norm", (False,), "a decoder without its last norm is not read")
    keys.must("layer_norm_elementwise_affine", (True,), "norms without gains are not read")
    if not keys.flag("enable_bias", True):
        decoder = decoder.wired(biases=frozenset())
    if not keys.flag("do_layer_norm_before", True):
        decoder = decoder.wired(pre_norms=False, after_norms=True)
    return decoder.changed(places=decoder.model.context + 2)


FAMILY = Family(
    "",
    "OPT",
    "OPTForCausalLM",
    ("opt",),
    norm="layer",
    biases=frozenset(("q", "k", "v", "o", "up", "down")),
    activation="relu",
    gated=False,
    positions=2,
    tied=True,
    tensors={
        "embed": "model.decoder.embed_tokens",
        "positions": "model.decoder.embed_positions",
        "attn_norm": "model.decoder.layers.{}.self_attn_layer_norm",
        "q": "model.decoder.layers.{}.self_attn.q_proj",
        "k": "model.decoder.layers.{}.self_attn.k_proj",
        "v": "model.decoder.layers.{}.self_attn.v_proj",
        "o": "model.decoder.layers.{}.self_attn.out_proj",
        "ffn_norm": "model.decoder.layers.{}.final_layer_norm",
        "up": "model.decoder.layers.{}.fc1",
        "down": "model.decoder.layers.{}.fc2",
        "norm": "model.decoder.final_layer_norm",
    },
    keys={"ffn": "ffn_dim", "activation": "activation_function", "eps": ""},
    configure=configure,
)
