# SPDX-License-Identifier: Apache-2.0
"""Small random models of every family as Hugging Face folders, with what transformers computes of them.  Not a test."""

from __future__ import annotations

import json
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FILE = Path(__file__).parent / "fixtures" / "families.npz"
ROWS = 12
"""Logits that are compared: those of the last tokens."""
TOKENS = [int(t) for t in np.random.default_rng(5).integers(0, 64, 40)]
LESS_ONE = ("gemma", "gemma2", "gemma3_text", "nemotron")
"""Model types whose gains are stored less one."""


def drawn(name: str, shape: list[int], model_type: str) -> NDArray[np.float32]:
    """A tensor, by its name alone, with values that BF16 holds."""
    values = np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape)
    if len(shape) == 1:
        norm = name.endswith("weight")
        values = 0.3 * values + (norm and model_type not in LESS_ONE)
    elif any(part in name for part in ("embed", "wte", "wpe")):
        values = 0.7 * values
    else:
        values = 1.3 * values * shape[-1] ** -0.5
    bits = values.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    return bits.view(np.float32)


@cache
def _stored() -> dict[str, NDArray[np.generic]]:
    with np.load(FILE, allow_pickle=False) as found:
        return {key: found[key] for key in found.files}


def names() -> list[str]:
    return [key.removesuffix("/config") for key in _stored() if key.endswith("/config")]


def config_of(name: str) -> dict[str, object]:
    return dict(json.loads(str(_stored()[f"{name}/config"])))


def tensors_of(name: str) -> dict[str, NDArray[np.float32]]:
    kind = str(config_of(name)["model_type"])
    shapes = json.loads(str(_stored()[f"{name}/tensors"]))
    return {key: drawn(key, shape, kind) for key, shape in shapes.items()}


def logits_of(name: str) -> NDArray[np.float32]:
    """What transformers computes of the last ROWS of TOKENS, [ROWS, vocab]."""
    return np.asarray(_stored()[f"{name}/logits"], np.float32)


def write_folder(name: str, folder: Path, **changes: object) -> Path:
    """The model as save_pretrained writes it; `changes` of config.json, None to leave a key out."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = {key: value for key, value in {**config_of(name), **changes}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors_of(name), folder / "model.safetensors", metadata={"format": "pt"})
    return folder
