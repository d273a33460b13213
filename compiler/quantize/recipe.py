# SPDX-License-Identifier: Apache-2.0
"""quantize: a float or 4-bit ONNX folder becomes one with INT8, INT4 or INT2 weights, in ONNX that onnxruntime runs.

Rounds to nearest: INT8 symmetric with a scale a tensor or row, for the INT8 array; INT4 and INT2 in groups with a scale and a
minimum each, for pacq_gemv, which computes with FP16 activations.  Before rounding to INT8 it may move range from activations to weights (SmoothQuant), which
changes nothing in exact arithmetic.  Activations stay float in the file; the wish for INT8 is metadata that
`compile` obeys, quantizing them per token at run time.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.evaluate import Evaluator, State
from meadow.compiler.graph.graph import Graph, Node, Op
from meadow.compiler.sources.convert import integer_zero_points, write_embedding, write_linear
from meadow.compiler.sources.onnx.file import find_model, save_model
from meadow.compiler.sources.onnx.read import ABSURD_SCALE, read, source_digest
from meadow.compiler.sources.onnx.write import Builder, build
from meadow.machine.errors import UsageError
from meadow.machine.folder import beside, refuse_target
from meadow.machine.package.read import COMPANIONS
from meadow.machine.storage.groups import GroupFormat
from meadow.machine.types import I8, Weight, grouped

Floats = NDArray[np.float32]
LEVELS = 127
CALIBRATION_TOKENS = 512
SMOOTHING = {"channel": 1.0, "tensor": 0.15}
"""Default strength.  With one scale a tensor, strong smoothing widens the range of the weights more than it narrows
the activations (measured on SmolLM2: docs/decisions/0005-smoothing.md)."""
CLIP_RATIOS = tuple(np.arange(1.0, 0.35, -0.05))
"""Fractions of the largest magnitude tried as the range of a per-tensor scale."""
GROUP_RATIOS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
"""Fractions of a group's range that are tried."""
HEAD_GROUP = 32
HEAD = "\0head"
"""A tied head that is given codes of its own."""


@dataclass(frozen=True)
class MatrixReport:
    """One row of the coverage table: relative error is ||W - W8|| / ||W||."""

    name: str
    rows: int
    cols: int
    relative_error: float
    smallest_scale: float
    largest_scale: float


@dataclass
class Statistics:
    """What each linear saw on the calibration text, by node name: the largest magnitude and mean square a channel."""

    peak: dict[str, Floats] = field(default_factory=dict)
    power: dict[str, Floats] = field(default_factory=dict)
    tokens: int = 0

    def observe(self, node: Node, x: Floats) -> None:
        peak, power = np.abs(x).max(axis=0), np.mean(x.astype(np.float64) ** 2, axis=0).astype(np.float32)
        self.peak[node.name] = np.maximum(self.peak.get(node.name, peak), peak)
        self.power[node.name] = self.power.get(node.name, np.zeros_like(power)) + power


def calibrate(graph: Graph, folder: Path) -> Statistics | None:
    """Statistics of `graph` in float on the bundled calibration text; None when the folder has no tokenizer
    that makes tokens of it."""
    file = folder / "tokenizer.json"
    if not file.exists():
        return None
    from tokenizers import Tokenizer

    text = resources.files("meadow.compiler.quantize").joinpath("calibration.txt").read_text()
    limit = min(CALIBRATION_TOKENS, graph.model.context or CALIBRATION_TOKENS)
    tokens = np.array(Tokenizer.from_file(str(file)).encode(text).ids[: 2 * CALIBRATION_TOKENS])
    if len(tokens) < 2 or tokens.max() >= graph.model.vocab:
        return None
    statistics = Statistics()
    evaluator = Evaluator(graph, quantized=False)
    for start in range(0, len(tokens) - 1, limit):
        window = tokens[start : start + limit]
        evaluator.run(window, State(), statistics.observe)
        statistics.tokens += len(window)
    return statistics


def smooth(graph: Graph, weights: dict[str, Floats], gains: dict[str, Floats], statistics: Statistics,
           strength: float) -> None:  # fmt: skip
    """Divide activation channels by s and multiply the weights that read them by s, in place.

    s = (peak of the activation / peak of the weight's column) ^ (strength / 2), SmoothQuant (Xiao et al., 2023,
    equation 4) at alpha = 0.5 for strength 1.  What divides an activation is folded into what produces it: a norm's
    gain, the rows of V (for the output projection, shared by the query heads of a KV head) or of up (for down).
    """
    model = graph.model
    by_name = {node.name: node for node in graph.nodes}
    group = model.heads // model.kv_heads

    def factor(peak: Floats, matrices: list[Floats]) -> Floats:
        column = np.max([np.abs(w).max(axis=0) for w in matrices], axis=0)
        ratio = np.maximum(peak, 1e-5) / np.maximum(column, 1e-5)
        s = ratio.astype(np.float64) ** (strength / 2)
        return (s / np.exp(np.mean(np.log(s)))).astype(np.float32)

    def per_kv_head(values: Floats) -> Floats:
        """[heads * head_dim] -> the largest over the query heads of a KV head, repeated for each of them."""
        split = values.reshape(model.kv_heads, group, model.head_dim).max(axis=1, keepdims=True)
        return np.repeat(split, group, axis=1).reshape(-1)

    for layer in range(model.layers):
        n = f"l{layer}."
        for norm, readers in ((n + "attn_norm", ("q", "k", "v")), (n + "ffn_norm", ("gate", "up"))):
            names = [by_name[n + r].weight or "" for r in readers]
            s = factor(statistics.peak[n + readers[0]], [weights[w] for w in names])
            for name in names:
                weights[name] = weights[name] * s
            gain = by_name[norm].weight or ""
            gains[gain] = (gains[gain] / s).astype(np.float32)
        up, down = (by_name[n + r].weight or "" for r in ("up", "down"))
        s = factor(statistics.peak[n + "down"], [weights[down]])
        weights[down], weights[up] = weights[down] * s, weights[up] / s[:, None]
        statistics.power[n + "down"] = statistics.power[n + "down"] / s**2
        v, o = (by_name[n + r].weight or "" for r in ("v", "o"))
        column = per_kv_head(np.abs(weights[o]).max(axis=0))
        s = factor(per_kv_head(statistics.peak[n + "o"]), [column[None, :]])
        weights[o] = weights[o] * s
        once = s.reshape(model.kv_heads, group, model.head_dim)[:, 0].reshape(-1)
        weights[v] = weights[v] / once[:, None]
        statistics.power[n + "o"] = statistics.power[n + "o"] / s**2
        for norm, readers in ((n + "attn_norm", ("q", "k", "v")), (n + "ffn_norm", ("gate", "up"))):
            ratio = (gains[by_name[norm].weight or ""] / graph.gains[by_name[norm].weight or ""]) ** 2
            for reader in readers:
                statistics.power[n + reader] = statistics.power[n + reader] * ratio


def round_to_nearest(w: Floats, granularity: str, power: Floats | None = None) -> tuple[NDArray[np.int8], Floats]:
    """INT8 codes [N, K] and scales [N], w ~ codes * scale, symmetric.

    `channel`: each row's largest magnitude becomes 127.  `tensor`: one scale, that of CLIP_RATIOS which makes the
    output error on the calibration text smallest (error of a column weighted by the mean square `power` of its input);
    without `power` the largest magnitude becomes 127.
    """
    peak = np.abs(w).max(axis=1) if granularity == "channel" else np.full(1, np.abs(w).max(), np.float32)
    scale = np.where(peak == 0, np.float32(1), (peak / np.float32(LEVELS)).astype(np.float32))
    if granularity == "tensor" and power is not None:
        errors = []
        for ratio in CLIP_RATIOS:
            s = scale * np.float32(ratio)
            difference = np.clip(np.rint(w / s), -LEVELS, LEVELS) * s - w
            errors.append(float(np.einsum("nk,nk,k->", difference, difference, power, dtype=np.float64, optimize=True)))
        scale = (scale * np.float32(CLIP_RATIOS[int(np.argmin(errors))])).astype(np.float32)
    codes = np.clip(np.rint(w / scale[:, None]), -LEVELS, LEVELS).astype(np.int8)
    return codes, np.broadcast_to(scale, (w.shape[0],)).astype(np.float32)


def round_to_groups(w: Floats, bits: int, group: int) -> tuple[NDArray[np.uint8], Floats, Floats]:
    """Codes uint8 [N, K], scales and minima [N, ceil(K / group)], w ~ code * scale + minimum; both exact in FP16.

    The range of a group is its own, shrunk by that of GROUP_RATIOS which makes its squared error smallest.
    """
    rows, cols = w.shape
    groups = -(-cols // group)
    padded = np.pad(w, ((0, 0), (0, groups * group - cols)), mode="edge").reshape(rows, groups, group)
    top = np.float32((1 << bits) - 1)
    low, high = padded.min(axis=2), padded.max(axis=2)
    middle, reach = (high + low) / 2, (high - low) / 2
    best = np.full((rows, groups), np.inf, np.float32)
    codes = np.zeros(padded.shape, np.uint8)
    scale, minimum = np.zeros_like(low), np.zeros_like(low)
    for ratio in GROUP_RATIOS:
        s = (2 * reach * np.float32(ratio) / top).astype(np.float16).astype(np.float32)
        m = (middle - reach * np.float32(ratio)).astype(np.float16).astype(np.float32)
        found = np.clip(np.rint((padded - m[..., None]) / np.where(s == 0, 1, s)[..., None]), 0, top)
        error = ((found * s[..., None] + m[..., None] - padded) ** 2).sum(axis=2)
        better = error < best
        best[better], scale[better], minimum[better] = error[better], s[better], m[better]
        codes[better] = found[better].astype(np.uint8)
    return codes.reshape(rows, -1)[:, :cols], scale, minimum


def round_to_int8_groups(w: Floats, group: int) -> tuple[NDArray[np.int8], Floats]:
    """Codes int8 [N, K] and FP16-exact scales [N, ceil(K / group)], symmetric: what GGUF calls Q8_0."""
    rows, cols = w.shape
    groups = -(-cols // group)
    padded = np.pad(w, ((0, 0), (0, groups * group - cols))).reshape(rows, groups, group)
    scale = (np.abs(padded).max(axis=2) / np.float32(LEVELS)).astype(np.float16).astype(np.float32)
    codes = np.clip(np.rint(padded / np.where(scale == 0, 1, scale)[..., None]), -LEVELS, LEVELS)
    return codes.astype(np.int8).reshape(rows, -1)[:, :cols], scale


def quantize(source: Path, target: Path, granularity: str = "channel", activations: str = "int8",
             smoothing: float | None = None, progress: Callable[[str], None] = lambda _: None,
             weights: str = "int8", group: int = 32, head: str = "int8") -> dict[str, Any]:  # fmt: skip
    """Write `target`/ with quantized weights from the ONNX folder `source`; returns the coverage and error report.

    weights      int8, or int4 or int2 in groups of `group` columns; then activations stay float
    granularity  of int8: "channel", "tensor", or "group": 8 bits in groups of `group` columns, and activations stay float
    head         of int4 and int2: "int8" gives the head 8 bits in groups of HEAD_GROUP, "same" those of the linears

    smoothing  0 to 1, how much activation range is moved into the weights; None takes the default of the granularity
    Raises UnsupportedModel for a graph that is not understood or weights that are not finite, UsageError for options.
    """
    if weights != "int8" or granularity == "group":
        return _quantize_groups(source, target, int(weights.removeprefix("int")), group, head, progress)
    if granularity not in SMOOTHING or activations not in ("int8", "float"):
        raise UsageError(f"granularity {granularity!r} and activations {activations!r} are not known")
    file = find_model(source)
    refuse_target(target, "model", (file,))
    progress("reading")
    graph = read(file)
    strength = SMOOTHING[granularity] if smoothing is None else smoothing
    if not 0 <= strength <= 1:
        raise UsageError(f"smoothing is {strength}; it must lie between 0 and 1")
    floats = {name: w.dequantize() for name, w in graph.weights.items()}
    gains = dict(graph.gains)
    notes = []
    statistics = None
    if activations == "int8" and (strength or granularity == "tensor"):
        progress("calibrating")
        statistics = calibrate(graph, file.parent)
        if statistics is None:
            notes.append(
                "no tokenizer beside the model that knows the calibration text: not calibrated, so neither smoothed nor range-searched"
            )
        elif strength:
            smooth(graph, floats, gains, statistics, strength)
    quantized, rows = _round_all(graph, floats, granularity, statistics, progress)
    progress("writing")
    _save(graph, quantized, gains, target, file, activations, f"int8 per {granularity}", granularity == "tensor")
    original = sum(w.nbytes for w in graph.weights.values())
    made = sum(w.codes.size + (w.rows if granularity == "channel" else 1) * 4 for w in quantized.values())
    return {
        "folder": str(target), "matrices": len(rows), "matrices_total": len(graph.weights),
        "bytes_before": original, "bytes_after": made, "granularity": granularity, "activations": activations,
        "smoothing": strength if statistics is not None else 0.0,
        "calibration_tokens": statistics.tokens if statistics else 0,
        "worst": [vars(r) for r in sorted(rows, key=lambda r: -r.relative_error)[:5]],
        "mean_relative_error": float(np.mean([r.relative_error for r in rows])),
        "absurd_scales": [r.name for r in rows if not 0 < r.smallest_scale <= r.largest_scale < ABSURD_SCALE],
        "per_matrix": [vars(r) for r in rows], "notes": notes,
    }  # fmt: skip


def _quantize_groups(source: Path, target: Path, bits: int, group: int, head: str,
                     progress: Callable[[str], None]) -> dict[str, Any]:  # fmt: skip
    """quantize, for pacq_gemv.  Matrices that are grouped already and have no more bits arrive as they are."""
    try:
        GroupFormat(bits, group, bits < 8, False)
    except ValueError as error:
        raise UsageError(f"--weights int{bits} --group {group}: {error}") from None
    if head not in ("int8", "same"):
        raise UsageError(f"head {head!r} is not known; int8 and same are")
    file = find_model(source)
    refuse_target(target, "model", (file,))
    progress("reading")
    graph = read(file)
    quantized, rows = {}, []
    embed, last = graph.nodes[0].weight or "", graph.nodes[-1].weight or ""
    wanted = {name: bits for name in graph.weights if name not in (embed, last)} | {embed: 8}
    if last != embed or head == "same":
        wanted[last if last != embed else HEAD] = bits if head == "same" else 8
    for index, (name, width) in enumerate(wanted.items()):
        weight = graph.weights[last if name == HEAD else name]
        w = weight.dequantize()
        # 8-bit groups with minima that are no zero points have no form in ONNX (MatMulNBits' float zero points are for 4 bits
        # here): those are rounded anew.
        written = weight.elem.bits < 8 or weight.minimum is None or integer_zero_points(weight) is not None
        kept = weight.elem.group and weight.elem.bits <= width and written
        if kept:
            quantized[name] = weight
        elif width == 8:
            columns = group if bits == 8 else HEAD_GROUP
            codes, scale = round_to_int8_groups(w, columns)
            quantized[name] = Weight(name, grouped(8, columns), codes, scale)
        else:
            found, scale, minimum = round_to_groups(w, width, group)
            quantized[name] = Weight(name, grouped(width, group), found, scale, minimum)
        made = quantized[name]
        off = float(np.linalg.norm(made.dequantize() - w)) / max(float(np.linalg.norm(w)), 1e-30)
        assert made.scale is not None
        rows.append(
            MatrixReport(
                name.strip("\0"), w.shape[0], w.shape[1], off, float(made.scale.min()), float(made.scale.max())
            )
        )
        progress(f"rounding {index + 1}/{len(wanted)}")
    progress("writing")
    _save(graph, quantized, dict(graph.gains), target, file, "float", f"int{bits} in groups of {group}", False)
    return {
        "folder": str(target), "matrices": len(rows), "matrices_total": len(wanted), "weights": f"int{bits}", "group": group,
        "bytes_before": sum(w.nbytes for w in graph.weights.values()), "bytes_after": sum(w.nbytes for w in quantized.values()),
        "granularity": f"group of {group}", "activations": "float", "smoothing": 0.0, "calibration_tokens": 0, "head": head,
        "worst": [vars(r) for r in sorted(rows, key=lambda r: -r.relative_error)[:5]],
        "mean_relative_error": float(np.mean([r.relative_error for r in rows])),
        "absurd_scales": [r.name for r in rows if not abs(r.largest_scale) < ABSURD_SCALE],
        "per_matrix": [vars(r) for r in rows], "notes": [],
    }  # fmt: skip


def _save(graph: Graph, quantized: dict[str, Weight], gains: dict[str, Floats], target: Path, file: Path, activations: str,
          what: str, scalar: bool) -> None:  # fmt: skip
    """The folder `target`, with what belongs to the tokenizer copied from beside `file`."""
    origin = origin_of(graph, file, target)
    with beside(target, "model", (file,)) as folder:
        save_model(_write(graph, quantized, gains, what, activations, origin, scalar), folder)
        for name in COMPANIONS:
            if (file.parent / name).exists():
                shutil.copyfile(file.parent / name, folder / name)


def origin_of(graph: Graph, file: Path, target: Path) -> dict[str, str]:
    """Metadata that names the user's own file: `file`, or the one that it was quantized from; and how far that was tried."""
    path, digest = (graph.metadata.get(f"meadow.origin.{key}", "") for key in ("path", "sha256"))
    tried = graph.metadata.get("meadow.confirmed", "")
    first = (file.parent / path).resolve() if path and digest else file.resolve()
    return {
        "meadow.origin.path": os.path.relpath(first, target.resolve()),
        "meadow.origin.sha256": digest if path and digest else source_digest(file),
        "meadow.confirmed": str(min(graph.positions, int(tried)) if tried.isdecimal() else graph.positions),
    }


def _round_all(graph: Graph, weights: dict[str, Floats], granularity: str, statistics: Statistics | None,
               progress: Callable[[str], None]) -> tuple[dict[str, Weight], list[MatrixReport]]:  # fmt: skip
    readers: dict[str, str] = {node.weight or "": node.name for node in graph.nodes if node.op in (Op.LINEAR, Op.HEAD)}
    quantized, rows = {}, []
    for index, (name, w) in enumerate(weights.items()):
        power = statistics.power.get(readers.get(name, "")) if statistics else None
        codes, scale = round_to_nearest(w, granularity, power)
        quantized[name] = Weight(name, I8, codes, scale)
        difference = np.linalg.norm(codes.astype(np.float32) * scale[:, None] - w) / max(
            float(np.linalg.norm(w)), 1e-30
        )
        rows.append(
            MatrixReport(name, w.shape[0], w.shape[1], float(difference), float(scale.min()), float(scale.max()))
        )
        progress(f"rounding {index + 1}/{len(weights)}")
    return quantized, rows


def _write(graph: Graph, weights: dict[str, Weight], gains: dict[str, Floats], what: str, activations: str,
           origin: dict[str, str], scalar: bool) -> Any:  # fmt: skip
    by_name = {node.name: node for node in graph.nodes}
    roles = {"attn_q": "q", "attn_k": "k", "attn_v": "v", "attn_output": "o",
             "ffn_gate": "gate", "ffn_up": "up", "ffn_down": "down"}  # fmt: skip

    def renamed(name: str) -> Weight:
        """The weight that llama.build calls `name`, stored under that name; a tied head is the embedding itself."""
        if name in ("output.weight", "token_embd.weight"):
            found = graph.nodes[-1].weight if name == "output.weight" else graph.nodes[0].weight
            found = HEAD if name == "output.weight" and HEAD in weights else found
        else:
            _, layer, role, _ = name.split(".")
            found = by_name[f"l{layer}.{roles[role]}"].weight
        weight = weights[found or ""]
        scale = weight.scale[:1] if scalar and weight.scale is not None else weight.scale
        return Weight(name, weight.elem, weight.codes, scale, weight.minimum)

    def gain(name: str) -> Floats:
        if name == "output_norm.weight":
            return gains[by_name["norm"].weight or ""]
        _, layer, role, _ = name.split(".")
        return gains[by_name[f"l{layer}.{role}"].weight or ""]

    def linear(b: Builder, x: str, name: str, out: str) -> str:
        return write_linear(b, x, renamed(name), out)

    def embed(b: Builder, ids: str, out: str) -> str:
        return write_embedding(b, ids, renamed("token_embd.weight"), out)

    tied = graph.nodes[0].weight == graph.nodes[-1].weight and HEAD not in weights
    metadata = {"meadow.activations": activations, "meadow.context": str(graph.model.context),
                "meadow.weights": what, **origin}  # fmt: skip
    return build(graph.model, gain, linear, embed, "token_embd.weight" if tied else "output.weight", metadata)
