# SPDX-License-Identifier: Apache-2.0
"""Target: what a server asks of a model that verifies drafts, whatever runs it; and which target a command line names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from meadow.machine.errors import UsageError
from meadow.runtime.text.tokenizer import Tokenizer

Rows = NDArray[np.float32]
KINDS = ("onnx", "gguf", "hf", "package")


@dataclass
class Kept:
    """What a target keeps of one board's text between rounds: the tokens whose keys and values are there, and these."""

    tokens: list[int] = field(default_factory=list)
    state: Any = None

    def same(self, tokens: Sequence[int]) -> int:
        """How many of `tokens`, from the first on, are kept."""
        pairs = zip(tokens, self.tokens, strict=False)
        return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(tokens), len(self.tokens)))


@dataclass(frozen=True)
class Ask:
    """Logits are wanted after `text` and after each of `drafts`."""

    kept: Kept
    text: tuple[int, ...]
    drafts: tuple[int, ...]

    @property
    def rows(self) -> int:
        return len(self.drafts) + 1


Early = Callable[[int, int, Rows], None]
"""early(number of the ask, layer, logits [rows, vocab]): what an exit after so many layers says."""


class Target(Protocol):
    """A model that verifies.

    name             for people
    vocab, context   of the model
    layers, exits    how many it has, and after which it may tell early
    tau              how sure an exit is of each token that it names, where nobody says otherwise
    ends             tokens that end an answer
    tokenizer        None where the model has none
    kept_bytes       of memory for each token that it keeps of a text
    """

    name: str
    vocab: int
    context: int
    layers: int
    exits: tuple[int, ...]
    tau: float
    ends: frozenset[int]
    tokenizer: Tokenizer | None

    @property
    def kept_bytes(self) -> int: ...

    def verify(self, asks: Sequence[Ask], early: Early | None = None) -> list[Rows]:
        """Logits [rows, vocab] of each ask, in one pass over the weights where the target can."""
        ...

    def close(self) -> None:
        """Give memory and devices back."""
        ...


def split(spec: str) -> tuple[str, Path]:
    """(kind, path) of onnx:FILE, gguf:FILE, hf:DIR or package:DIR.  Raises UsageError."""
    kind, colon, path = spec.partition(":")
    if not colon or kind not in KINDS or not path:
        raise UsageError(f"--target {spec!r}: a kind and a path are expected: {', '.join(f'{k}:PATH' for k in KINDS)}")
    return kind, Path(path)


def open_target(
    spec: str, exits: Sequence[int] = (), maps: Path | None = None, context: int = 0, device: str = "emulator"
) -> Target:
    """The target that a command line names.

    exits    layers after which it tells early; `maps` is the file of `meadowc exits fit` (exits.safetensors beside the model)
    context  tokens that it holds at most; 0: as many as the model was made for
    device   of a package
    Raises UsageError, UnsupportedModel, DeviceError.
    """
    kind, path = split(spec)
    if kind == "package":
        from meadow.targets.package import PackageTarget

        if exits:
            raise UsageError(
                "a package has no exits: its engine runs the whole program; name the model itself (onnx:FILE)"
            )
        if context:
            raise UsageError("--target-context: a package holds the context that it was compiled for; drop it")
        return PackageTarget(path, device)
    from meadow.targets.graph import open_graph

    return open_graph(kind, path, tuple(exits), maps, context)
