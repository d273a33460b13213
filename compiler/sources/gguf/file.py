# SPDX-License-Identifier: Apache-2.0
"""Read a GGUF file of a known family: its numbers, its tensors as they are stored, its tokenizer and chat template.

Only reads.  The container is parsed by the `gguf` package; what is checked here is that the file is one we can serve.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.graph import Model
from meadow.compiler.sources.families import families
from meadow.compiler.sources.families.family import SOMETIMES, Family, Shape
from meadow.compiler.sources.gguf.formats import FORMATS
from meadow.compiler.sources.gguf.scan import scan
from meadow.machine.errors import UnsupportedModel, UsageError
from meadow.machine.types import Weight

MAX_LAYERS = 1024
LARGEST_SIZE = 1 << 20
"""Of any dimension and of the context: a larger one is damage."""
READ = {
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "vocab_size",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "rope.freq_base",
    "rope.dimension_count",
    "rope.scaling.factor",
    "rope.scaling.type",
    "rope.scale_linear",
    "attention.sliding_window",
}
"""Keys that are read, without the architecture."""


@dataclass(frozen=True, eq=False)
class GgufFile:
    """A parsed file.  `fields` are the metadata as Python values, `tensors` by GGUF name, still packed."""

    path: Path
    fields: dict[str, Any]
    tensors: dict[str, Any]
    family: Family
    model: Model
    shape: Shape

    def weight(self, name: str) -> Weight:
        """The matrix [N, K] as codes with scale and minimum, exactly as stored.

        Q4_1: uint8 codes 0..15 with a scale and a minimum; Q4_0: codes 0..15 with minimum = -8 scale; Q8_0: int8.
        """
        tensor = self.tensors[name]
        kind = tensor.tensor_type.name
        rows, cols = (int(d) for d in reversed(tensor.shape))
        return FORMATS[kind].weight(name, np.asarray(tensor.data), rows, cols)

    def _order(self, role: str, rows: int) -> NDArray[np.intp] | None:
        """The order of the rows of q and k, and of their biases, in which the graph rotates halves; None for the stored one."""
        matrix = role.partition(".")[0]
        if not self.family.permuted or matrix not in ("q", "k"):
            return None
        return unpermute(rows, self.model.heads if matrix == "q" else self.model.kv_heads)

    def role(self, layer: int, role: str) -> Weight:
        """The matrix that is `role` in `layer`."""
        name = self.family.tensor(layer, role)
        weight = self.weight(name)
        order = self._order(role, weight.rows)
        if order is not None:
            weight = Weight(
                name,
                weight.elem,
                weight.codes[order],
                None if weight.scale is None else weight.scale[order],
                None if weight.minimum is None else weight.minimum[order],
            )
        return weight

    def role_vector(self, layer: int, role: str) -> NDArray[np.float32]:
        """The gain or bias that is `role` in `layer`, float32 [n]."""
        values = self.vector(self.family.tensor(layer, role))
        order = self._order(role, values.size)
        return values if order is None else values[order]

    def vector(self, name: str) -> NDArray[np.float32]:
        """A norm's gain or a bias, float32 [n], as it is stored."""
        return np.asarray(self.tensors[name].data, np.float32).reshape(-1)

    def shape_of(self, layer: int) -> Shape:
        """The shape of one layer: every `local` one but the last of a period has a window, and a theta of its own."""
        local = self.family.local
        if local is None:
            return self.shape
        if layer % local[0] == local[0] - 1:
            return replace(self.shape, window=0)
        return replace(self.shape, frequencies=_frequencies(self.model.head_dim, local[1]))

    @property
    def head(self) -> str:
        """The name of the head's weight: the embedding's when the two are tied."""
        return "output.weight" if "output.weight" in self.tensors else "token_embd.weight"


def unpermute(rows: int, heads: int) -> NDArray[np.intp]:
    """Row order that undoes GGUF's rotary permutation.

    GGUF stores the rows of q and k so that rotary pairs are neighbours (2i, 2i+1); ONNX exports rotate halves
    (i, i + head_dim/2).  Row j of the result is row unpermute[j] of the stored matrix.
    """
    half = rows // heads // 2
    return np.arange(rows).reshape(heads, half, 2).swapaxes(1, 2).reshape(rows)


def read_gguf(path: Path) -> GgufFile:
    """Parse `path`.  Raises UsageError for a file that is not whole, UnsupportedModel with every problem at once."""
    from gguf import GGUFReader

    if not path.is_file():
        raise UsageError(f"{path} is a folder, a GGUF file is expected" if path.is_dir() else f"{path} does not exist")
    with path.open("rb") as file:
        magic = file.read(64)
    if magic.startswith(b"version https://git-lfs"):
        raise UsageError(f"{path} is a Git LFS pointer, not the model itself; fetch the real file: git lfs pull")
    if magic[:4] != b"GGUF":
        raise UsageError(f"{path} is not a GGUF file (it starts with {magic[:4]!r}); convert reads GGUF only")
    scan(path)
    try:
        reader = GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {tensor.name: tensor for tensor in reader.tensors}
    except Exception as error:  # the parser raises whatever it trips over: IndexError, ValueError, struct.error
        raise UsageError(f"{path} is not a whole GGUF file (truncated or damaged): {error}") from None
    _refuse_split(path, fields)
    return GgufFile(path, fields, tensors, *_model(path, fields, tensors))


def _refuse_split(path: Path, fields: dict[str, Any]) -> None:
    """Raise UnsupportedModel for one part of a file that was split."""
    parts, place = fields.get("split.count", 1), fields.get("split.no", 0)
    if isinstance(parts, int) and isinstance(place, int) and parts > 1:
        raise UnsupportedModel(
            f"{path} is part {place + 1} of {parts} of a split file: join them first (llama-gguf-split --merge PART-1 OUT.gguf)"
        )


def _model(path: Path, fields: dict[str, Any], tensors: dict[str, Any]) -> tuple[Family, Model, Shape]:
    known, architecture = families(), fields.get("general.architecture")
    if architecture not in known:
        raise UnsupportedModel(f"{path} is of architecture {architecture!r}; read are {', '.join(sorted(known))}")
    family = known[architecture]
    problems: list[tuple[str, str, str]] = []

    def number(key: str, default: float | None = None, most: float = LARGEST_SIZE) -> float:
        value = fields.get(f"{family.name}.{key}", default)
        if isinstance(value, list) and value and all(v == value[0] for v in value):
            value = value[0]
        if isinstance(value, list):
            problems.append((f"{family.name}.{key}", f"is {str(value)[:60]}", "one number for all layers is served"))
            return 1
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= most:
            problems.append((f"{family.name}.{key}", f"is {value!r}", f"a number from 0 to {most:g} is expected"))
            return 1
        return value

    layers, dim = int(number("block_count", most=MAX_LAYERS)), int(number("embedding_length"))
    heads = int(number("attention.head_count"))
    kv_heads = int(number("attention.head_count_kv", heads))
    if not (layers > 0 and 0 < kv_heads <= heads and heads % kv_heads == 0 and dim > 0):
        problems.append(("shape", f"{layers} layers, dim {dim}, {heads} heads over {kv_heads} KV heads", "not a model"))
    head_dim = int(number("attention.key_length", dim // max(heads, 1)))
    base, context = number("rope.freq_base", 10000.0, 1e12), int(number("context_length", 0))
    if int(number("rope.dimension_count", head_dim)) != head_dim or head_dim % 2 or not head_dim:
        problems.append((f"{family.name}.rope.dimension_count", "rotates a part of the head only", "not supported"))
    ffn, eps = int(number("feed_forward_length")), float(np.float32(number(family.epsilon_key, 1e-5)))
    problems += _check_keys(family, fields, context, head_dim)
    embedding = tensors.get("token_embd.weight")
    vocab = int(embedding.shape[1]) if embedding is not None and len(embedding.shape) == 2 else 0
    if not base:
        problems.append((f"{family.name}.rope.freq_base", "is 0", "no rotary frequencies come of it"))
    if problems:  # the sizes are used from here on
        raise UnsupportedModel(f"{path} cannot be read:", tuple(problems))
    model = Model(
        name=str(fields.get("general.name", path.stem)),
        layers=layers,
        dim=dim,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=ffn,
        vocab=vocab,
        context=context,
    )
    problems = _check_tensors(family, model, tensors) or _check_values(tensors)
    if problems:
        raise UnsupportedModel(f"{path} cannot be read:", tuple(problems))
    slower = number("rope.scaling.factor", number("rope.scale_linear", 1.0))
    frequencies = _frequencies(head_dim, base, slower or 1.0, tensors.get("rope_freqs.weight"))
    window = int(number("attention.sliding_window", 0))
    return (
        family,
        model,
        Shape(heads, kv_heads, head_dim, (eps, eps), frequencies, window=0 if window >= context > 0 else window),
    )


def _frequencies(head_dim: int, base: float, slower: float = 1.0, factors: Any = None) -> tuple[float, ...]:
    """Radians per position of each pair, over `slower` and over the file's own factors (Llama 3).

    In FP32, as the ONNX file has them that is written of the graph: both are the same function.
    """
    found = 1.0 / base ** (np.arange(head_dim // 2) / (head_dim // 2)) / slower
    if factors is not None:
        found = found / np.asarray(factors.data, np.float64).reshape(-1)
    return tuple(float(np.float32(v)) for v in found)


def _check_keys(family: Family, fields: dict[str, Any], context: int, head_dim: int) -> list[tuple[str, str, str]]:
    """Every key of the architecture is read, says nothing new, or is refused: most change what is computed."""
    nothing: dict[str, Callable[[Any], bool]] = {
        **dict.fromkeys(
            (
                "expert_count",
                "expert_used_count",
                "attn_logit_softcapping",
                "final_logit_softcapping",
                "use_parallel_residual",
                "attention.clamp_kqv",
                "attention.max_alibi_bias",
            ),
            lambda v: not v,
        ),
        **dict.fromkeys(
            (
                "rope.scaling.attn_factor",
                "logit_scale",
                "embedding_scale",
                "residual_scale",
            ),
            lambda v: v in (0, 1),
        ),
        "rope.scaling.original_context_length": lambda v: True,
        "rope.scaling.finetuned": lambda v: True,  # of YaRN alone
        "attention.causal": lambda v: v is True,
        "attention.scale": lambda v: not v or bool(np.isclose(v, head_dim**-0.5, rtol=1e-6)),
        "attention.value_length": lambda v: v == head_dim,
        "tensor_data_layout": lambda v: v == "Meta AI original pth",
    }
    problems = []
    for key, value in fields.items():
        name = key.removeprefix(f"{family.name}.")
        if name == "rope.scaling.type" and value not in ("none", "linear"):
            problems.append((key, f"is {str(value)[:60]}", "none and linear are read; YaRN and LongRoPE are not"))
        if name == key or name in READ or name == family.epsilon_key:
            continue
        what = nothing.get(name)
        if what is None:
            problems.append(
                (key, f"is {str(value)[:60]}", "this key is not known here, and may change what is computed")
            )
        elif isinstance(value, list) or not what(value):
            problems.append((key, f"is {str(value)[:60]}", "it changes what is computed, which is not supported"))
    return problems


def expected_shapes(family: Family, model: Model) -> dict[str, tuple[int, ...]]:
    """Every tensor of a file of the family and its shape, [N, K] as numpy has it."""
    q, kv, dim, ffn = model.heads * model.head_dim, model.kv_heads * model.head_dim, model.dim, model.ffn
    matrices = {
        "q": (q, dim),
        "k": (kv, dim),
        "v": (kv, dim),
        "o": (dim, q),
        "gate": (ffn, dim),
        "up": (ffn, dim),
        "down": (dim, ffn),
    }
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (model.vocab, dim), "output_norm.weight": (dim,)}
    if family.norm == "layer":
        shapes["output_norm.bias"] = (dim,)
    for layer in range(model.layers):
        for role in family.roles():
            matrix, _, bias = role.partition(".")
            shape = matrices.get(matrix, (model.head_dim,) if matrix in SOMETIMES["head_norms"] else (dim,))
            shapes[family.tensor(layer, role)] = shape[:1] if bias else shape
    return shapes


def _check_values(tensors: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Scales, minima, gains and floats must be finite."""
    problems = []
    for name, tensor in tensors.items():
        form = FORMATS[tensor.tensor_type.name]
        if not form.finite(np.asarray(tensor.data)):
            what = "scales" if form.block_bytes else "values"
            problems.append((name, f"its {what} hold NaN or infinity", "the file is damaged; get or export it again"))
    return problems


def _check_tensors(family: Family, model: Model, tensors: dict[str, Any]) -> list[tuple[str, str, str]]:
    problems = []
    shapes = expected_shapes(family, model)
    if "output.weight" in tensors:
        shapes["output.weight"] = (model.vocab, model.dim)
    for name, shape in shapes.items():
        if name not in tensors:
            problems.append((name, "is missing", f"the file is not a whole model of the family {family.name}"))
        elif tuple(int(d) for d in reversed(tensors[name].shape)) != shape:
            problems.append((name, f"has shape {list(reversed(tensors[name].shape))}, not {list(shape)}", ""))
    for name in sorted(set(tensors) - set(shapes) - {"rope_freqs.weight"}):
        problems.append((name, f"is not a tensor of the family {family.name}", "it may change what is computed"))
    factors = tensors.get("rope_freqs.weight")
    if factors is not None and (
        int(np.prod(factors.shape)) != model.head_dim // 2 or factors.tensor_type.name != "F32"
    ):
        problems.append(
            ("rope_freqs.weight", f"has shape {list(factors.shape)}", f"{model.head_dim // 2} numbers are expected")
        )
    wrong: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        if tensor.tensor_type.name not in FORMATS:
            wrong.setdefault(tensor.tensor_type.name, []).append(name)
    for kind, names in sorted(wrong.items()):
        problems.append(
            (
                f"type {kind}",
                f"of {len(names)} tensors ({names[0]}, ...)",
                f"supported are {', '.join(FORMATS)}",
            )
        )
    return problems
