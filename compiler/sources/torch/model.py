# SPDX-License-Identifier: Apache-2.0
"""A transformers model with its cache, token by token: what a Hugging Face folder itself computes."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.machine.errors import ToolMissing, UnsupportedModel, UsageError

VERSIONS = {"torch": "2.13.0", "transformers": "4.57.6"}
"""What is tested (the extra `torch` of pyproject.toml)."""


def versions() -> str:
    """The installed versions, in words.  Raises ToolMissing without torch and transformers."""
    try:
        found = {name: metadata.version(name) for name in VERSIONS}
    except metadata.PackageNotFoundError as missing:
        raise ToolMissing(f"PyTorch models need {missing.name}: pip install 'meadow-fpga[torch]'") from None
    others = [name for name, version in found.items() if version.partition("+")[0] != VERSIONS[name]]
    text = ", ".join(f"{name} {version}" for name, version in found.items())
    tested = ", ".join(f"{name} {version}" for name, version in VERSIONS.items())
    return text + (f" (tested is {tested})" if others else "")


def load(folder: Path) -> Any:
    """The model of a Hugging Face folder in FP32, with eager attention.  No code of the folder is run, and nothing is fetched.

    Raises UsageError for what transformers cannot load, UnsupportedModel for a model that generates no text.
    """
    versions()
    import transformers

    transformers.logging.set_verbosity_error()
    try:
        # Eager attention computes what the file says; torch's fused kernels leave out softcaps without a word.
        return transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype="float32", attn_implementation="eager", local_files_only=True, use_safetensors=True
        ).eval()
    except (ImportError, OSError, ValueError, KeyError, RuntimeError) as error:
        text = " ".join(str(error).split())[:200]
        kind = UnsupportedModel if "Unrecognized" in text else UsageError
        raise kind(f"transformers cannot load {folder}: {text}") from None


class TorchModel:
    """The verbs of a rung: prefill and step, logits [T, vocab]."""

    def __init__(self, folder: Path):
        self.path = folder
        self.model = load(folder)
        self.reset()

    def reset(self) -> None:
        """An empty cache."""
        from transformers import DynamicCache

        self.past: Any = DynamicCache()

    def prefill(self, tokens: list[int]) -> NDArray[np.float32]:
        """Logits [T, vocab] of a prompt from an empty cache."""
        self.reset()
        return self.step(tokens)

    def step(self, tokens: list[int]) -> NDArray[np.float32]:
        """Logits [T, vocab] of the next tokens."""
        import torch

        with torch.no_grad():
            found = self.model(input_ids=torch.tensor([tokens]), past_key_values=self.past, use_cache=True)
        self.past = found.past_key_values
        return np.asarray(found.logits[0].float().numpy(), np.float32)
