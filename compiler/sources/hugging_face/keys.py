# SPDX-License-Identifier: Apache-2.0
"""The keys of a config.json, read one by one: which were read, which have no effect, and what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meadow.compiler.sources.families.family import Family
from meadow.machine.errors import UsageError

LARGEST = 1 << 20
"""Of any dimension, and of the context: a larger one is damage."""
CONFIG_LIMIT = 4 << 20
NAMES = {
    "dim": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "ffn": "intermediate_size",
    "vocab": "vocab_size",
    "context": "max_position_embeddings",
    "activation": "hidden_act",
    "eps": "rms_norm_eps",
    "turned": "partial_rotary_factor",
    "base": "rope_theta",
}
HARMLESS = (
    *("architectures", "model_type", "torch_dtype", "dtype", "transformers_version", "_name_or_path", "use_cache"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "tokenizer_class", "prefix"),
    *(
        "pretraining_tp",
        "auto_map",
        "is_llama_config",
        "transformers.js_config",
        "id2label",
        "label2id",
        "problem_type",
    ),
    *("cache_implementation", "task_specific_params", "is_decoder", "chunk_size_feed_forward", "return_dict", "n_ctx"),
    *(
        "max_window_layers",
        "use_sliding_window",
        "_attn_implementation",
        "attn_implementation",
        "layerdrop",
        "_attn_implementation_autoset",
    ),
    *("_sliding_window_pattern", "reorder_and_upcast_attn", "quantization_config", "rotary"),
    *("init_std", "rescale_prenorm_residual", "min_length", "max_length", "temperature", "top_k", "top_p", "num_beams"),
    *(
        "length_penalty",
        "repetition_penalty",
        "diversity_penalty",
        "num_beam_groups",
        "num_return_sequences",
        "typical_p",
    ),
    *(
        "hidden_activation",
        "partial_rotary_factor",
        "rope_theta",
        "output_past",
    ),
)
"""Keys that change nothing of what is computed, or are read with others."""
SCALING = (
    *("rope_type", "type", "factor", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings"),
    *("low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "attention_factor"),
    *("truncate", "short_factor", "long_factor", "full_attention", "sliding_attention"),
)
"""Keys of rope_scaling and rope_parameters that some way of stretching reads."""
HARMLESS_PARTS = (
    "dropout",
    "pdrop",
    "init",
    "summary_",
    "pipeline",
    "tensor_parallel",
    "base_model_",
    "loss",
    "unsloth",
    "router_",
)
NOTHING: tuple[Any, ...] = (None, False, 0, "", [], {})


@dataclass(frozen=True)
class Scaling:
    """How rotary positions are stretched; `problems` is where those of a file are collected."""

    values: dict[str, Any]
    problems: list[tuple[str, str, str]]

    def number(self, key: str, default: float | None = None) -> float:
        """A number above 0; null stands for the default."""
        value = self.values.get(key)
        value = default if value is None else value
        if not is_positive(value):
            self.problems.append((f"config.json rope_scaling {key}", f"is {str(value)[:40]!r}", "a number is expected"))
            return 2.0
        return float(value)  # type: ignore[arg-type]


def is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e12


class Keys:
    """The keys of one config.json; remembers which were read, and every problem."""

    def __init__(self, path: Path, values: dict[str, Any], family: Family):
        self.path, self.values, self.family = path, values, family
        self.read: set[str] = set()
        self.problems: list[tuple[str, str, str]] = []

    def get(self, key: str) -> Any:
        self.read.add(key)
        return self.values[key] if key in self.values else self.family.defaults.get(key)

    def refuse(self, key: str, needs: str) -> None:
        self.problems.append((f"config.json {key}", f"is {str(self.values.get(key))[:60]}", needs))

    def number(self, key: str, default: float | None = None, most: float = 1e12) -> float:
        """A number from 0 to `most`; null stands for the default."""
        value = self.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
            self.refuse(key, f"a number from 0 to {most:g} is expected")
            return 1.0
        return value

    def positive(self, key: str, default: float) -> float:
        """A number above 0."""
        value = self.number(key, default)
        if not value:
            self.refuse(key, "a number above 0 is expected")
        return value or 1.0

    def size(self, key: str, default: int | None = None) -> int:
        value = self.number(key, default, LARGEST)
        if value != int(value):
            self.refuse(key, "a whole number is expected")
        return int(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key)
        if value is not None and not isinstance(value, bool):
            self.refuse(key, "true or false is expected")
        return default if value is None else bool(value)

    def must(self, key: str, allowed: tuple[Any, ...], why: str) -> None:
        """Refuse any value but those of `allowed` and null."""
        value = self.get(key)
        if value is not None and value not in allowed:
            self.refuse(key, why)

    def numbers(self, key: str, count: int) -> list[float] | None:
        """A list of `count` numbers, or None where there is none."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != count or not all(isinstance(v, (int, float)) for v in value):
            self.refuse(key, f"a list of {count} numbers is expected")
            return None
        return value

    def windows(self, window: int, usual: Callable[[int], bool]) -> list[int]:
        """Of every layer: `window` where layer_types says so, or else where `usual` does; 0 is none."""
        layers, kinds = self.size(NAMES["layers"]), self.get("layer_types")
        if kinds is None:
            return [window if usual(n) else 0 for n in range(layers)]
        known = {"full_attention": 0, "sliding_attention": window}
        if (
            not isinstance(kinds, list)
            or len(kinds) != layers
            or not all(isinstance(k, str) and k in known for k in kinds)
        ):
            self.refuse("layer_types", f"full_attention and sliding_attention are read, for each of {layers} layers")
            return [0] * layers
        return [known[k] for k in kinds]

    def local_base(self, default: float) -> float:
        """The base of the rotary positions of layers with a window, as transformers 5 writes it by kind of layer."""
        said = self.get("rope_parameters")
        local = said.get("sliding_attention") if isinstance(said, dict) else None
        if local is None:
            return default
        if not isinstance(local, dict) or local.get("rope_type", "default") != "default":
            self.refuse("rope_parameters", "sliding_attention without scaling is read")
            return default
        return Scaling(local, self.problems).number("rope_theta", default)

    def unknown(self) -> list[str]:
        """Keys that were not read, are not known to be without effect, and say something."""
        found = [
            key
            for key, value in self.values.items()
            if key not in self.read
            and key not in HARMLESS
            and not any(part in key for part in HARMLESS_PARTS)
            and not _says_nothing(value)
        ]
        for name in ("rope_scaling", "rope_parameters"):
            scaling = self.values.get(name)
            entries = scaling.items() if isinstance(scaling, dict) else ()
            found += [f"{name}.{key}" for key, value in entries if key not in SCALING and not _says_nothing(value)]
        return sorted(found)


def _says_nothing(value: Any) -> bool:
    """Whether a value is null, false, 0 or empty; 0.0 is a number that may mean something."""
    return any(value is n or (value == n and type(value) is type(n)) for n in NOTHING)


def load(path: Path) -> dict[str, Any]:
    """The object in `path`.  Raises UsageError when it is none."""
    if not path.is_file():
        raise UsageError(f"{path} does not exist; a Hugging Face folder holds config.json beside its safetensors files")
    if path.stat().st_size > CONFIG_LIMIT:
        raise UsageError(f"{path} is over {CONFIG_LIMIT >> 20} MB, which no configuration is")
    try:
        found = json.loads(path.read_text())
    except (ValueError, RecursionError, OSError) as error:
        raise UsageError(f"{path} is no JSON object: {error}") from None
    if not isinstance(found, dict):
        raise UsageError(f"{path} is no JSON object")
    return found
