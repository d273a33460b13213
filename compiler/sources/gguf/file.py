# SPDX-License-Identifier: Apache-2.0
"""Read a GGUF file of a known family: its numbers, its tensors as they are stored, its tokenizer and chat template.

Only reads.  The container is parsed by the `gguf` package; what is checked here is that the file is one we can serve.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.graph import Model
from meadow.compiler.sources.families import families, rotary
from meadow.compiler.sources.families.decoder import Decoder
from meadow.compiler.sources.families.family import GGUF, Family, Shape
from meadow.compiler.sources.gguf.formats import FORMATS
from meadow.compiler.sources.gguf.scan import scan
from meadow.machine.errors import UnsupportedModel, UsageError
from meadow.machine.types import Weight

Problem = tuple[str, str, str]
FACTORS, SHORT, LONG = "rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"
MAX_LAYERS = 1024
LARGEST_SIZE = 1 << 20
"""Of any dimension and of the context: a larger one is damage."""
WITHOUT_EFFECT = {"feed_forward_length", "vocab_size", "rope.scaling.original_context_length", "rope.scaling.finetuned"}
"""Keys that are read where they matter, or hold nothing that is computed with, without the architecture."""


@dataclass(frozen=True, eq=False)
class GgufFile:
    """A parsed file.  `fields` are the metadata as Python values, `tensors` by GGUF name, still packed."""

    path: Path
    fields: dict[str, Any]
    tensors: dict[str, Any]
    decoder: Decoder
    data: mmap.mmap | None = None
    """The whole file, of which the tensors are parts."""

    def release(self) -> None:
        """Give back the memory of what was read: it is read again from the file when it is asked for."""
        if self.data is not None:
            self.data.madvise(mmap.MADV_DONTNEED)

    def name(self, layer: int | None, role: str) -> str:
        """What the graph calls a tensor: blk.3.attn_q.weight; of a part of a fused one blk.3.attn_qkv.weight.q."""
        whole = self.decoder.family.whole(role)
        stored = stored_name(self.decoder.family, layer, whole)
        return stored if whole == role else f"{stored}.{role.partition('.')[0]}"

    def _rows(self, role: str) -> NDArray[np.intp] | slice | None:
        """The rows of the stored tensor that are `role`, in the order in which the graph rotates halves; None for all as stored."""
        shape, matrix = self.decoder.shapes[0], role.partition(".")[0]
        part = self.decoder.part(role)
        if not self.decoder.family.permuted or matrix not in ("q", "k"):
            return part
        heads = shape.heads if matrix == "q" else shape.kv_heads
        return unpermute(heads * shape.head_dim, heads) + (0 if part is None else part.start)

    def matrix(self, layer: int | None, role: str) -> Weight:
        """The matrix [N, K] as codes with scale and minimum, exactly as stored.

        Q4_1: uint8 codes 0..15 with a scale and a minimum; Q4_0: codes 0..15 with minimum = -8 scale; Q8_0: int8.
        """
        family = self.decoder.family
        stored = stored_name(family, layer, family.whole(role))
        tensor = self.tensors[stored]
        rows, cols = (int(d) for d in reversed(tensor.shape))
        found = FORMATS[tensor.tensor_type.name].weight(stored, np.asarray(tensor.data), rows, cols, self.release)
        chosen = self._rows(role)
        return found if chosen is None else found.only(chosen, self.name(layer, role))

    def vector(self, layer: int | None, role: str) -> NDArray[np.float32]:
        """A gain or a bias, float32 [n]."""
        family = self.decoder.family
        tensor = self.tensors[stored_name(family, layer, family.whole(role))]
        values = np.asarray(tensor.data, np.float32).reshape(-1)
        chosen = self._rows(role)
        return values if chosen is None else values[chosen]


def stored_name(family: Family, layer: int | None, role: str) -> str:
    """GGUF's name of a whole tensor."""
    module, _, kind = role.partition(".")
    return f"{({**GGUF, **family.gguf}[module]).format(layer)}.{kind or 'weight'}"


def unpermute(rows: int, heads: int) -> NDArray[np.intp]:
    """Row order that undoes GGUF's rotary permutation.

    GGUF stores the rows of q and k so that rotary pairs are neighbours (2i, 2i+1); ONNX exports rotate halves
    (i, i + head_dim/2).  Row j of the result is row unpermute[j] of the stored matrix.
    """
    half = rows // heads // 2
    return np.arange(rows).reshape(heads, half, 2).swapaxes(1, 2).reshape(rows)


def read_gguf(path: Path) -> GgufFile:
    """Parse `path`.  Raises UsageError for a file that is not whole, UnsupportedModel with every problem at once."""
    if not path.is_file():
        raise UsageError(f"{path} is a folder, a GGUF file is expected" if path.is_dir() else f"{path} does not exist")
    with path.open("rb") as file:
        magic = file.read(64)
    if magic.startswith(b"version https://git-lfs"):
        raise UsageError(f"{path} is a Git LFS pointer, not the model itself; fetch the real file: git lfs pull")
    if magic[:4] != b"GGUF":
        raise UsageError(f"{path} is not a GGUF file (it starts with {magic[:4]!r}); convert reads GGUF only")
    found = path.stat()
    return _parsed(path, (found.st_ino, found.st_size, found.st_mtime_ns))


@lru_cache(maxsize=1)  # the graph and the tokenizer are read of one parse, which takes seconds of a large vocabulary
def _parsed(path: Path, stamp: tuple[int, ...]) -> GgufFile:
    scan(path)
    try:
        fields, tensors, data = _contents(path)
    except Exception as error:  # the parser raises whatever it trips over: IndexError, ValueError, struct.error
        raise UsageError(f"{path} is not a whole GGUF file (truncated or damaged): {error}") from None
    _refuse_split(path, fields)
    file = GgufFile(path, fields, tensors, _decoder(path, fields, tensors, data), data)
    file.release()
    return file


def _contents(path: Path) -> tuple[dict[str, Any], dict[str, Any], mmap.mmap | None]:
    """Metadata, tensors and the map of the file, by the gguf package."""
    from gguf import GGUFReader

    class Reader(GGUFReader):  # type: ignore[misc]
        """With a plain array over the map: slices of numpy's memmap are slow, and there is one per word of the vocabulary."""

        mapped: NDArray[Any]

        @property
        def data(self) -> NDArray[Any]:
            return self.plain

        @data.setter
        def data(self, values: NDArray[Any]) -> None:
            self.mapped, self.plain = values, np.asarray(values)

    reader = Reader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    return fields, {tensor.name: tensor for tensor in reader.tensors}, getattr(reader.mapped, "_mmap", None)


def _refuse_split(path: Path, fields: dict[str, Any]) -> None:
    """Raise UnsupportedModel for one part of a file that was split."""
    parts, place = fields.get("split.count", 1), fields.get("split.no", 0)
    if isinstance(parts, int) and isinstance(place, int) and parts > 1:
        raise UnsupportedModel(
            f"{path} is part {place + 1} of {parts} of a split file: join them first (llama-gguf-split --merge PART-1 OUT.gguf)"
        )


class Keys:
    """The keys of one architecture, without its name; collects every problem."""

    def __init__(self, family: Family, fields: dict[str, Any]):
        self.family, self.fields = family, fields
        self.problems: list[Problem] = []
        self.read: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        return self.fields.get(f"{self.family.name}.{key}", default)

    def number(self, key: str, default: float | None = None, most: float = LARGEST_SIZE) -> float:
        """A number from 0 to `most`, the same for all layers."""
        value = self.get(key, default)
        if isinstance(value, list) and value and all(v == value[0] for v in value):
            value = value[0]
        if isinstance(value, list):
            self._refuse(key, str(value)[:60], "one number for all layers is served")
            return 1
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= most:
            self._refuse(key, repr(value), f"a number from 0 to {most:g} is expected")
            return 1
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            self._refuse(key, repr(value), "true or false is expected")
        return bool(value)

    def _refuse(self, key: str, found: str, needs: str) -> None:
        self.problems.append((f"{self.family.name}.{key}", f"is {found}", needs))


def _decoder(path: Path, fields: dict[str, Any], tensors: dict[str, Any], data: mmap.mmap | None = None) -> Decoder:
    known, architecture = families(), fields.get("general.architecture")
    if architecture is None:
        raise UsageError(f"{path} names no architecture (general.architecture): it is damaged, or holds no model")
    if architecture not in known:
        raise UnsupportedModel(f"{path} is of architecture {architecture!r}; read are {', '.join(sorted(known))}")
    family = known[architecture]
    keys, problems = Keys(family, fields), []
    layers, dim = int(keys.number("block_count", most=MAX_LAYERS)), int(keys.number("embedding_length"))
    heads = int(keys.number("attention.head_count"))
    kv_heads = int(keys.number("attention.head_count_kv", heads))
    if not (layers > 0 and 0 < kv_heads <= heads and heads % kv_heads == 0 and dim > 0):
        problems.append(("shape", f"{layers} layers, dim {dim}, {heads} heads over {kv_heads} KV heads", "not a model"))
    head_dim = int(keys.number("attention.key_length", dim // max(heads, 1)))
    base, context = keys.number("rope.freq_base", 10000.0, 1e12), int(keys.number("context_length", 0))
    turned = int(keys.number("rope.dimension_count", head_dim))
    if turned > head_dim or turned % 2 or not turned or head_dim % 2:
        problems.append(
            (
                f"{family.name}.rope.dimension_count",
                f"is {turned} of a head of {head_dim}",
                "an even part of the head is expected",
            )
        )
    ffn, eps = int(keys.number("feed_forward_length")), float(np.float32(keys.number(family.epsilon_key, 1e-5)))
    problems += keys.problems
    embedding = tensors.get("token_embd.weight")
    vocab = int(embedding.shape[1]) if embedding is not None and len(embedding.shape) == 2 else 0
    if not base:
        problems.append((f"{family.name}.rope.freq_base", "is 0", "no rotary frequencies come of it"))
    if problems:  # the sizes are used from here on
        raise UnsupportedModel(f"{path} cannot be read:", tuple(problems))
    family = _as_stored(family, tensors)
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", str(fields.get("general.name", path.stem)))
    model = Model(name, layers, dim, heads, kv_heads, head_dim, ffn, vocab, context)
    window = int(keys.number("attention.sliding_window", 0))
    shape = Shape(
        heads, kv_heads, head_dim, (eps, eps), (1.0,) * (turned // 2), window=0 if window >= context > 0 else window
    )
    factor = float(np.sqrt(np.float32(dim))) if family.scaled else 1.0
    decoder = Decoder(
        family, model, (shape,) * layers, eps, embedding_factor=factor, tied="output.weight" not in tensors
    )
    problems = keys.problems + _check_rotary(decoder, tensors)
    if not problems:
        decoder = family.describe(_turning(decoder, keys, tensors, turned, base), keys)
        problems = keys.problems + _check_keys(keys, head_dim) + _check_tensors(decoder, tensors)
        problems = problems or _check_values(tensors, data)
    if problems:
        raise UnsupportedModel(f"{path} cannot be read:", tuple(problems))
    return decoder


def _as_stored(family: Family, tensors: dict[str, Any]) -> Family:
    """The family with the biases that this file has of those that not all have, and its matrices fused or not."""
    biases = {role for role in family.may_bias if stored_name(family, 0, f"{role}.bias") in tensors}
    fused = {whole for whole in family.fused if whole != "qkv" or stored_name(family, 0, "qkv") in tensors}
    return replace(family, biases=family.biases | biases, fused=frozenset(fused))


def _turning(decoder: Decoder, keys: Keys, tensors: dict[str, Any], turned: int, base: float) -> Decoder:
    """With rotary positions, over the file's own factors (Llama 3, LongRoPE's short ones)."""
    if decoder.family.positions is not None:
        return decoder.per_layer(lambda n: {"frequencies": ()})
    factors, factor, context = tensors.get(FACTORS), 1.0, decoder.model.context
    slower, kind = (
        keys.number("rope.scaling.factor", keys.number("rope.scale_linear", 1.0)) or 1.0,
        keys.get("rope.scaling.type"),
    )
    if kind == "yarn":
        original = keys.number("rope.scaling.original_context_length", context)
        fast, slow = (
            keys.number(f"rope.scaling.yarn_beta_{name}", usual) for name, usual in (("fast", 32), ("slow", 1))
        )
        found = rotary.yarn(turned, base, slower, original, fast, slow)
        factor = keys.number("rope.scaling.attn_factor", 1.0) * rotary.yarn_factor(slower)
    else:
        found = rotary.plain(turned, base) / slower
    if SHORT in tensors:
        factors, original = tensors[SHORT], int(keys.number("rope.scaling.original_context_length", context))
        stretched = rotary.longrope_factor(context / original, original) if 1 < original < context else 1.0
        factor = keys.number("rope.scaling.attn_factor", stretched)
        if original < context:
            note = f"the rotary positions are others in texts of more than {original} tokens: a context of {original} is read"
            decoder = decoder.changed(model=replace(decoder.model, context=original), notes=(note,), longest=original)
    if factors is not None:
        found = rotary.divided(found, np.asarray(factors.data, np.float64).reshape(-1).tolist())
    turning = rotary.rounded(found, factor)
    return decoder.per_layer(lambda n: {"frequencies": turning.frequencies, "rotary_factor": turning.factor})


def _check_keys(keys: Keys, head_dim: int) -> list[Problem]:
    """Every key of the architecture was read, says nothing new, or is refused: most change what is computed."""
    off, one = (lambda v: not v), (lambda v: v in (0, 1))
    nothing: dict[str, Callable[[Any], bool]] = {
        **dict.fromkeys(("expert_count", "expert_used_count", "attention.clamp_kqv", "attention.max_alibi_bias"), off),
        **dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping", "use_parallel_residual"), off),
        **dict.fromkeys(("rope.scaling.attn_factor", "logit_scale", "embedding_scale", "residual_scale"), one),
        "attention.causal": lambda v: v is True,
        "attention.scale": lambda v: not v or bool(np.isclose(v, head_dim**-0.5, rtol=1e-6)),
        "attention.value_length": lambda v: v == head_dim,
        "tensor_data_layout": lambda v: v == "Meta AI original pth",
    }
    problems, prefix = [], f"{keys.family.name}."
    for key, value in keys.fields.items():
        name = key.removeprefix(prefix)
        if name == "rope.scaling.type" and value not in ("none", "linear", "yarn", "longrope"):
            problems.append((key, f"is {str(value)[:60]}", "none, linear, yarn and longrope are read"))
        if name == key or name in WITHOUT_EFFECT or name in keys.read:
            continue
        what = nothing.get(name)
        if what is None:
            problems.append(
                (key, f"is {str(value)[:60]}", "this key is not known here, and may change what is computed")
            )
        elif isinstance(value, list) or not what(value):
            problems.append((key, f"is {str(value)[:60]}", "it changes what is computed, which is not supported"))
    return problems


def expected_shapes(decoder: Decoder) -> dict[str, tuple[int, ...]]:
    """Every tensor that a file of the decoder has and its shape, [N, K] as numpy has it."""
    return {stored_name(decoder.family, layer, role): decoder.size(role) for layer, role in decoder.tensors()}


def _check_rotary(decoder: Decoder, tensors: dict[str, Any]) -> list[Problem]:
    """Factors of the rotary positions: FP32, one per pair."""
    problems, pairs = [], len(decoder.shapes[0].frequencies)
    for name in (FACTORS, SHORT, LONG):
        factors = tensors.get(name)
        if factors is not None and (int(np.prod(factors.shape)) != pairs or factors.tensor_type.name != "F32"):
            problems.append((name, f"has shape {list(factors.shape)}", f"{pairs} numbers are expected"))
    return problems


def _check_tensors(decoder: Decoder, tensors: dict[str, Any]) -> list[Problem]:
    problems, family = [], decoder.family
    shapes = expected_shapes(decoder)
    for name, shape in shapes.items():
        if name not in tensors:
            problems.append((name, "is missing", f"the file is not a whole model of the family {family.name}"))
        elif tuple(int(d) for d in reversed(tensors[name].shape)) != shape:
            problems.append((name, f"has shape {list(reversed(tensors[name].shape))}, not {list(shape)}", ""))
    for name in sorted(set(tensors) - set(shapes) - {FACTORS, SHORT, LONG}):
        problems.append((name, f"is not a tensor of the family {family.name}", "it may change what is computed"))
    wrong: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        if tensor.tensor_type.name not in FORMATS:
            wrong.setdefault(tensor.tensor_type.name, []).append(name)
    for kind, names in sorted(wrong.items()):
        what = f"of {len(names)} tensors ({names[0]}, ...)"
        problems.append((f"type {kind}", what, f"supported are {', '.join(FORMATS)}"))
    return problems


def _check_values(tensors: dict[str, Any], data: mmap.mmap | None) -> list[Problem]:
    """Scales, minima, gains and floats must be finite."""
    problems = []
    for name, tensor in tensors.items():
        form = FORMATS[tensor.tensor_type.name]
        if data is not None:
            data.madvise(mmap.MADV_DONTNEED)  # what was looked at may leave memory
        if not form.finite(np.asarray(tensor.data)):
            what = "scales" if form.block_bytes else "values"
            problems.append((name, f"its {what} hold NaN or infinity", "the file is damaged; get or export it again"))
    return problems
