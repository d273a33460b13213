# SPDX-License-Identifier: Apache-2.0
"""config.json of a Hugging Face folder as a Decoder: every key is read, has no effect on what is computed, or is named.

Knows the keys that most families have; what one family says besides is in its own file (families/).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from meadow.compiler.graph.graph import Model
from meadow.compiler.graph.ops import KINDS
from meadow.compiler.sources.families import model_types, rotary
from meadow.compiler.sources.families.decoder import Decoder
from meadow.compiler.sources.families.family import Family, Shape
from meadow.compiler.sources.hugging_face.keys import NAMES, Keys, Scaling, is_positive, load
from meadow.machine.errors import UnsupportedModel

ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "swish": "silu",
    **{kind: kind for kind in KINDS},
}
"""Names of transformers' ACT2FN, and ours."""
BIASES = {"attention_bias": ("q", "k", "v", "o"), "mlp_bias": ("gate", "up", "down"), "lm_head_bias": ("head",)}
"""Keys that give linears a bias, in the families that have them."""


class Config(Keys):
    """A config.json of one family."""

    def name(self, what: str) -> str:
        return self.family.keys.get(what, NAMES[what])

    def decoder(self, name: str) -> Decoder:
        """Raises UnsupportedModel with every problem."""
        family = self.family
        dim, layers, heads = (self.size(self.name(k)) for k in ("dim", "layers", "heads"))
        kv_heads = self.size(self.name("kv_heads"), heads)
        if not (dim > 0 and 0 < layers <= 1024 and 0 < kv_heads <= heads and heads % kv_heads == 0):
            found = f"{layers} layers, dim {dim}, {heads} heads over {kv_heads} KV heads"
            self.problems.append(("config.json", found, "no model has such sizes"))
            self._raise()
        head_dim = self.size(self.name("head_dim"), dim // heads)
        if not head_dim or head_dim % 2:
            self.problems.append(("config.json", f"has heads of {head_dim}", "an even number is expected"))
            self._raise()
        ffn_key = self.name("ffn")
        ffn = self.size(ffn_key, 4 * dim if ffn_key == "n_inner" else None)
        context = self.size(self.name("context"))
        eps_key = self.name("eps")
        usual = 1e-6 if eps_key == "rms_norm_eps" else 1e-5
        eps = float(np.float32(self.number(eps_key, usual))) if eps_key else 1e-5
        family = self._activation(self._biases(family))
        turning = rotary.Turning(())
        if family.positions is None:
            turning = self._turning(head_dim, context)
        shape = Shape(heads, kv_heads, head_dim, (eps, eps), turning.frequencies, rotary_factor=turning.factor)
        vocab = self.size(self.name("vocab"))
        notes: tuple[str, ...] = ()
        if turning.until and turning.until < context:
            notes = (
                f"the rotary positions are others in texts of more than {turning.until} tokens: a context of {turning.until} is read",
            )
            context = turning.until
        elif turning.until:
            notes = (f"the rotary positions are others in texts of more than {turning.until} tokens",)
        model = Model(name, layers, dim, heads, kv_heads, head_dim, ffn, vocab, context)
        tied = self.flag("tie_word_embeddings", family.tied)
        factor = float(np.sqrt(np.float32(dim))) if family.scaled else 1.0
        made = Decoder(
            family,
            model,
            (shape,) * layers,
            eps,
            embedding_factor=factor,
            tied=tied,
            notes=notes,
            longest=turning.until,
        )
        made = self._windows(made)
        made = family.configure(made, self)
        self.must("use_bidirectional_attention", (False,), "tokens that see later ones are not read")
        self.must("rope_interleaved", (False,), "the order of rotary pairs is that of the family")
        unknown = self.unknown()
        if unknown:
            made = made.changed(
                notes=(*made.notes, f"config.json: {', '.join(unknown)}: not known here, and not read"),
            )
        self._raise()
        return made

    def _raise(self) -> None:
        if self.problems:
            raise UnsupportedModel(f"{self.path} cannot be read:", tuple(dict.fromkeys(self.problems)))

    def _biases(self, family: Family) -> Family:
        found = set(family.biases)
        for key, roles in BIASES.items():
            if key in self.values:
                found = found | set(roles) if self.flag(key, False) else found - set(roles)
        if not family.gated:
            found.discard("gate")
        return replace(family, biases=frozenset(found))

    def _activation(self, family: Family) -> Family:
        key = self.name("activation")
        self.read |= {key, "hidden_act"}
        value = self.values.get("hidden_activation") or self.values.get(key)
        if value is None:
            return family
        if not isinstance(value, str) or value not in ACTIVATIONS:
            self.refuse(key, f"read are {', '.join(sorted(ACTIVATIONS))}")
            return family
        return replace(family, activation=ACTIVATIONS[value])

    def _windows(self, decoder: Decoder) -> Decoder:
        """A window in all layers, from max_window_layers on, or as layer_types says."""
        if not self.family.windowed:
            return decoder
        window = self.size("sliding_window", 0)
        sometimes = "use_sliding_window" in self.family.defaults
        if sometimes and not self.flag("use_sliding_window", False):
            window = 0
        if not window and "layer_types" not in self.values:
            return decoder
        first = self.size("max_window_layers", 0) if sometimes else 0
        windows = self.windows(window, lambda n: n >= first)
        return decoder.per_layer(lambda n: {"window": windows[n]})

    def _turning(self, head_dim: int, context: int) -> rotary.Turning:
        """The rotary positions that rope_theta and rope_scaling, or rope_parameters of transformers 5, say."""
        scaling = self._scaling()
        base = scaling.number("rope_theta", self.number(self.name("base"), 10000.0))
        part = scaling.number("partial_rotary_factor", self.number(self.name("turned"), self.family.turned))
        turned = int(head_dim * part)
        if not 0 < turned <= head_dim or turned % 2:
            self.refuse(self.name("turned"), f"{part:g} of a head of {head_dim} cannot turn")
        if self.problems:
            return rotary.Turning(())
        return self._scaled(scaling, turned, base, context)

    def _scaling(self) -> Scaling:
        """rope_scaling, or rope_parameters, of the layers without a window where they differ."""
        found: dict[str, Any] = {}
        for key in ("rope_scaling", "rope_parameters"):
            said = self.get(key) or {}
            if isinstance(said, dict) and "full_attention" in said:
                said = said["full_attention"]
            if not isinstance(said, dict):
                self.refuse(key, "an object is expected")
                continue
            found |= said
        return Scaling(found, self.problems)

    def _scaled(self, scaling: Scaling, turned: int, base: float, context: int) -> rotary.Turning:
        plain, number = rotary.plain(turned, base), scaling.number
        kind = scaling.values.get("rope_type") or scaling.values.get("type") or "default"
        original = number("original_max_position_embeddings", context)
        if kind == "default":
            return rotary.rounded(plain)
        if kind == "linear":
            return rotary.rounded(plain / number("factor"))
        if kind == "dynamic":  # as they are, up to the context that the model was made for
            return rotary.rounded(plain, until=context)
        if kind == "llama3":
            low, high = number("low_freq_factor"), number("high_freq_factor")
            return rotary.rounded(rotary.llama3(plain, number("factor"), low, high, original))
        if kind == "yarn":
            factor, whole = number("factor"), scaling.values.get("truncate", True) is not False
            fast, slow = number("beta_fast", 32), number("beta_slow", 1)
            return rotary.rounded(
                rotary.yarn(turned, base, factor, original, fast, slow, whole), self._yarn_factor(scaling)
            )
        if kind in ("longrope", "su"):
            short = scaling.values.get("short_factor")
            if not isinstance(short, list) or len(short) != turned // 2 or not all(is_positive(v) for v in short):
                what = f"is no list of {turned // 2} numbers, one per pair"
                self.problems.append(("config.json rope_scaling short_factor", what, ""))
                return rotary.rounded(plain)
            return self._longrope(scaling, rotary.divided(plain, short), context)
        known = "default, linear, dynamic, llama3, yarn and longrope"
        self.problems.append(("config.json rope_scaling", f"is of type {str(kind)[:40]!r}", f"read are {known}"))
        return rotary.rounded(plain)

    def _longrope(self, scaling: Scaling, found: rotary.Frequencies, context: int) -> rotary.Turning:
        """The original context stands beside rope_scaling, and within rope_parameters of transformers 5; else it is the model's own."""
        beside = self.number("original_max_position_embeddings", 0)
        within = "rope_parameters" in self.values and scaling.values.get("original_max_position_embeddings")
        original = beside or (scaling.number("original_max_position_embeddings") if within else context)
        stretch = context / original if beside else scaling.number("factor", context / original)
        usual = rotary.longrope_factor(stretch, original) if original > 1 else 1.0
        return rotary.rounded(found, scaling.number("attention_factor", usual), until=int(original))

    def _yarn_factor(self, scaling: Scaling) -> float:
        values, number = scaling.values, scaling.number
        if values.get("attention_factor") is not None:
            return number("attention_factor")
        factor = number("factor")
        if values.get("mscale") and values.get("mscale_all_dim"):
            return rotary.yarn_factor(factor, number("mscale")) / rotary.yarn_factor(factor, number("mscale_all_dim"))
        return rotary.yarn_factor(factor)


WHAT_THEY_ARE = {
    "mixtral": "a mixture of experts",
    "qwen2_moe": "a mixture of experts",
    "qwen3_moe": "a mixture of experts",
    "olmoe": "a mixture of experts",
    "gpt_oss": "a mixture of experts",
    "deepseek_v2": "a mixture of experts",
    "deepseek_v3": "a mixture of experts",
    "mamba": "a state-space model (Mamba)",
    "mamba2": "a state-space model (Mamba)",
    "falcon_mamba": "a state-space model (Mamba)",
    "jamba": "a state-space model (Mamba) and a mixture of experts",
    "rwkv": "a recurrent model",
    "bloom": "a model with a bias on the scores that differs by head (ALiBi)",
    "mpt": "a model with a bias on the scores that differs by head (ALiBi)",
    "t5": "an encoder and a decoder",
    "bart": "an encoder and a decoder",
    "whisper": "an encoder and a decoder",
    "bert": "an encoder",
    "vit": "a model of images",
    "gemma3": "a model of text and images",
    "llava": "a model of text and images",
}


def decoder_of(folder: Path) -> Decoder:
    """What the folder's config.json says.  Raises UnsupportedModel for a family that is not known, and for every problem."""
    path = folder / "config.json"
    values, known = load(path), model_types()
    kind = values.get("model_type")
    family = known.get(kind) if isinstance(kind, str) else None
    if family is None:
        what = f", {WHAT_THEY_ARE[kind]}" if isinstance(kind, str) and kind in WHAT_THEY_ARE else ""
        raise UnsupportedModel(f"{path} says model_type {kind!r}{what}; read are {', '.join(sorted(known))}")
    name = "".join(c if c.isalnum() or c in "._-" else "-" for c in folder.resolve().name) or "model"
    made = Config(path, values, family).decoder(name)
    if not made.model.vocab:
        raise UnsupportedModel(f"{path} says a vocabulary of {made.model.vocab} tokens")
    return made
