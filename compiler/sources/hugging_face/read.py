# SPDX-License-Identifier: Apache-2.0
"""A Hugging Face folder becomes a Graph: config.json says how its family is wired, safetensors files hold the tensors.

No code of the folder is run, and torch is not needed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.graph import Graph
from meadow.compiler.sources.families.decoder import Decoder
from meadow.compiler.sources.families.family import FUSED, HUGGING_FACE, LINEARS, NORMS
from meadow.compiler.sources.hugging_face import packed
from meadow.compiler.sources.hugging_face.checkpoint import FLOATS, Checkpoint, files, open_checkpoint
from meadow.compiler.sources.hugging_face.config import decoder_of
from meadow.compiler.sources.hugging_face.keys import LARGEST, load
from meadow.machine.errors import UnsupportedModel, UsageError
from meadow.machine.guard import guard
from meadow.machine.types import F16, F32, Weight

REMEDY = "download the folder again, or save the model with save_pretrained"
BUFFERS = ("rotary_emb.inv_freq", "attn.bias", "attn.masked_bias", "attention.bias", "attention.masked_bias", "g_idx")
"""Ends of the names of tensors that older versions saved, and that are computed anew."""
OLDER_TOKENIZERS = ("tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
Problem = tuple[str, str, str]


def digest(path: Path) -> str:
    """sha256 of config.json and of the safetensors files, in the order of their names."""
    found = hashlib.sha256()
    for part in [path.parent / "config.json", *files(path)]:
        with part.open("rb") as stream:
            for block in iter(lambda: stream.read(1 << 22), b""):
                found.update(block)
    return found.hexdigest()


def read(path: Path) -> Graph:
    """The Graph of the folder whose tensors `path` names.

    Raises UsageError for damaged files, UnsupportedModel with every problem for a model that is not understood.
    """
    with guard(path, UsageError, REMEDY):
        decoder = decoder_of(path.parent)
        store = _Store(decoder, open_checkpoint(path), load(path.parent / "config.json").get("quantization_config"))
        store.check()
        metadata = {"meadow.source": path.parent.resolve().name, "meadow.context": str(decoder.model.context)}
        graph = decoder.graph(store, str(path), metadata, LARGEST)
        if store.problems:
            raise UnsupportedModel(f"{path.parent} cannot be read:", tuple(store.problems))
        return graph.replace(notes=(*graph.notes, *dict.fromkeys(store.notes), *_without_tokenizer(path.parent)))


def _without_tokenizer(folder: Path) -> list[str]:
    """A note where the folder has a tokenizer in an older form alone."""
    older = [name for name in OLDER_TOKENIZERS if (folder / name).is_file()]
    if not older or (folder / "tokenizer.json").is_file():
        return []
    return [
        f"{older[0]} is there and tokenizer.json is not, so the package takes token ids alone; to write it: "
        f"transformers.AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
    ]


class _Store:
    """The tensors of a checkpoint by layer and role."""

    def __init__(self, decoder: Decoder, checkpoint: Checkpoint, quantization: Any):
        self.decoder, self.checkpoint = decoder, checkpoint
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        packing = packed.packing_of(quantization)
        if isinstance(packing, tuple):
            raise UnsupportedModel(f"{checkpoint.path.parent} cannot be read:", (packing,))
        self.packing = packing
        self.names = {**HUGGING_FACE, **decoder.family.tensors}
        base = self.names["embed"].partition(".")[0] + "."
        self.base = base if f"{self.names['embed']}.weight" not in checkpoint.handles else ""
        """What is left off, where the checkpoint is of the model without its head."""

    def _module(self, layer: int | None, role: str) -> str:
        """The module that has a whole tensor."""
        return self.names[role].format(layer).removeprefix(self.base)

    def stored(self, layer: int | None, role: str) -> str:
        """The checkpoint's name of a whole tensor: model.layers.3.mlp.up_proj.weight."""
        module, _, kind = role.partition(".")
        return f"{self._module(layer, module)}.{kind or 'weight'}"

    def name(self, layer: int | None, role: str) -> str:
        whole = self.decoder.family.whole(role)
        stored = self.stored(layer, whole)
        return stored if whole == role else f"{stored}.{role.partition('.')[0]}"

    def _is_packed(self, layer: int | None, role: str) -> bool:
        return self.packing is not None and f"{self._module(layer, role)}.qweight" in self.checkpoint.handles

    # -- checks ----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise UnsupportedModel unless every tensor is there with its shape and type, and no other is."""
        used: set[str] = set()
        for layer, role in self.decoder.tensors():
            module = self._module(layer, role.partition(".")[0])
            if "." not in role and self._is_packed(layer, role):
                used |= {f"{module}.{part}" for part in (*packed.PARTS, "g_idx")}
                self._check_packed(layer, role, module)
                continue
            name = self.stored(layer, role)
            used.add(name)
            self._check_plain(name, self._expected(role))
        self._check_rest(used)
        if self.problems:
            raise UnsupportedModel(f"{self.checkpoint.path.parent} cannot be read:", tuple(_first(self.problems)))

    def _is_transposed(self, role: str) -> bool:
        return self.decoder.family.transposed and role in (*LINEARS, *FUSED)

    def _expected(self, role: str) -> tuple[int, ...]:
        size = self.decoder.size(role)
        return size[::-1] if self._is_transposed(role) else size

    def _check_plain(self, name: str, wanted: tuple[int, ...]) -> None:
        if name not in self.checkpoint.handles:
            self.problems.append((name, "is missing", f"a {self.decoder.family.title} has it"))
            return
        shape, kind = self.checkpoint.shape(name), self.checkpoint.kind(name)
        if shape != wanted:
            self.problems.append(
                (name, f"has shape {list(shape)}, not {list(wanted)}", "config.json and tensors disagree")
            )
        if kind not in FLOATS:
            self.problems.append((name, f"is of type {kind}", f"{', '.join(FLOATS)} are read"))

    def _check_packed(self, layer: int | None, role: str, module: str) -> None:
        assert self.packing is not None
        lacking = [f"{module}.{part}" for part in packed.PARTS if f"{module}.{part}" not in self.checkpoint.handles]
        if lacking:
            self.problems.append((module, f"has no {', '.join(lacking)}", "a quantized linear has all three"))
        elif len(self.checkpoint.shape(f"{module}.qweight")) != 2 or (
            packed.size(self.packing, self.checkpoint, module) != self.decoder.size(role)
        ):
            found = list(self.checkpoint.shape(f"{module}.qweight"))
            self.problems.append(
                (module, f"has words {found} for {list(self.decoder.size(role))}", "config.json and tensors disagree")
            )

    def _check_rest(self, used: set[str]) -> None:
        """Tensors that nothing reads: buffers, a tied head, biases of zeros that AutoGPTQ saves; others are problems."""
        tied = f"{self._module(None, 'head')}.weight" if self.decoder.tied and "head" in self.names else ""
        for name in sorted(set(self.checkpoint.handles) - used):
            if name.endswith(BUFFERS):
                continue
            if name == tied:
                embedding = self.stored(None, "embed")
                if embedding in self.checkpoint.handles and not np.array_equal(
                    self.checkpoint.array(name), self.checkpoint.array(embedding)
                ):
                    self.problems.append(
                        (name, "is another matrix than the embedding", "config.json says that they are one")
                    )
                continue
            if self.packing is not None and name.endswith(".bias") and not self.checkpoint.array(name).any():
                continue
            self.problems.append(
                (name, f"is not a tensor of a {self.decoder.family.title}", "it may change what is computed")
            )

    # -- tensors ---------------------------------------------------------------------------------------------------

    def matrix(self, layer: int | None, role: str) -> Weight:
        family = self.decoder.family
        whole, name = family.whole(role), self.name(layer, role)
        if self._is_packed(layer, whole):
            assert self.packing is not None
            module = self._module(layer, whole)
            try:
                found, note = packed.weight(self.packing, self.checkpoint, module)
            except ValueError as error:
                raise UnsupportedModel(
                    f"{self.checkpoint.path.parent} cannot be read:", ((module, str(error), REMEDY),)
                ) from None
            self.notes += [note] * bool(note)
            self._finite(name, found.scale if found.scale is not None else found.codes)
        else:
            stored = self.stored(layer, whole)
            values = self.checkpoint.array(stored)
            values = np.ascontiguousarray(values.T) if self._is_transposed(whole) else values
            self._finite(stored, values)
            found = Weight(name, F16 if values.dtype == np.float16 else F32, values)
        return found.only(self._rows(role), name) if whole != role else found

    def vector(self, layer: int | None, role: str) -> NDArray[np.float32]:
        family = self.decoder.family
        whole = family.whole(role)
        values = self.checkpoint.floats(self.stored(layer, whole))
        self._finite(self.name(layer, role), values)
        if whole != role:
            values = values[self._rows(role)]
        return values + np.float32(family.offset) if role in (*NORMS, "norm") and family.offset else values

    def _rows(self, role: str) -> Any:
        """The rows of a part of a fused matrix."""
        if not self.decoder.family.by_head:
            return self.decoder.part(role)
        shape, part = self.decoder.shapes[0], "qkv".index(role[0])
        rows = np.arange(3 * shape.heads * shape.head_dim).reshape(shape.heads, 3, shape.head_dim)
        return rows[:, part].reshape(-1)

    def _finite(self, name: str, values: NDArray[Any]) -> None:
        if not np.isfinite(values).all():
            self.problems.append((name, "holds NaN or infinity", "the file is damaged; get or train it again"))


def _first(problems: list[Problem], count: int = 20) -> list[Problem]:
    return problems[:count] + [("...", f"{len(problems) - count} more", "")] * (len(problems) > count)
