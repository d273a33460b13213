# SPDX-License-Identifier: Apache-2.0
"""What the inputs and outputs of an ONNX file say: that it is a decoder with a KV cache, or what else it is."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from meadow.compiler.sources.onnx.graph import OnnxGraph

Problem = tuple[str, str, str]
"""Where, what was found, what to do."""
INTEGERS = "quantize the float model with meadowc quantize"
FEATURES = {
    "operator Conv": "a convolution: this looks like a vision or audio model, or a recurrent one",
    "operator ConvTranspose": "a convolution: this looks like a vision or audio model",
    "operator MaxPool": "pooling: this looks like a vision model",
    "operator GlobalAveragePool": "pooling: this looks like a vision model",
    "operator BatchNormalization": "batch normalization: this looks like a vision model",
    "operator LSTM": "a recurrent network",
    "operator GRU": "a recurrent network",
    "operator If": "a branch",
    "operator Loop": "a loop",
    "operator Scan": "a scan",
    "operator TopK": "top-k routing: a mixture of experts is not served",
    "operator NonZero": "routing: a mixture of experts is not served",
    "batched weights": "a mixture of experts is not served",
    "operator DynamicQuantizeLinear": INTEGERS,
    "operator MatMulInteger": INTEGERS,
    "operator QLinearMatMul": INTEGERS,
    "static activations": f"{INTEGERS}: its activations are INT8 with a scale per token",
    "bias by head": "ALiBi (BLOOM, MPT) and relative positions (T5) are not served",
    "cache shape": "heads and head size must be numbers: [batch, kv_heads, past, head_dim]",
}
"""What problems of a kind mean, by feature."""


def explained(feature: str) -> str:
    return FEATURES.get(feature, "")


def logits_of(g: OnnxGraph) -> str:
    """The output that holds the logits: called so, or the only one that is no cache."""
    names = [o.name for o in g.graph.output]
    if "logits" in names:
        return "logits"
    ranks = {o.name: len(o.type.tensor_type.shape.dim) for o in g.graph.output}
    others = [n for n in names if ranks[n] != 4 and not re.search(r"present|past|key|value", n)]
    return others[0] if len(others) == 1 else next((n for n in names if n.startswith("logits")), "")


def interface(g: OnnxGraph) -> list[Problem]:
    """What is wrong with the inputs and outputs, for a decoder with a KV cache."""
    inputs, outputs = g.inputs, [o.name for o in g.graph.output]
    problems: list[Problem] = []
    if "input_ids" not in inputs:
        guess = "an image model" if any("pixel" in i or "image" in i for i in inputs) else "no language model"
        problems.append(("inputs", f"no input_ids among {', '.join(inputs[:4])}", f"this looks like {guess}"))
    if any("hidden_state" in o for o in outputs) and "logits" not in outputs:
        problems.append(("outputs", f"no logits among {', '.join(outputs[:4])}", "this looks like an encoder"))
    elif not logits_of(g) or ("input_ids" not in inputs and "logits" not in outputs):
        problems.append(("outputs", f"no logits among {', '.join(outputs[:4])}", "this is no language model"))
    if any("encoder" in i for i in inputs):
        problems.append(("inputs", "encoder states are read", "encoder-decoder models are not supported"))
    problems += _states(g)
    return [*problems, *(_foreign(g) if problems else [])]


def _foreign(g: OnnxGraph) -> list[Problem]:
    """Operators that tell what else a model is."""
    counts: dict[str, list[str]] = {}
    for node in g.graph.node:
        counts.setdefault(node.op_type, []).append(node.name or node.output[0])
    known = {
        feature.removeprefix("operator "): why for feature, why in FEATURES.items() if feature.startswith("operator ")
    }
    return [
        (f"{kind} ({len(counts[kind])}, first {counts[kind][0]})", why, "")
        for kind, why in known.items()
        if kind in counts
    ]


def is_cache(value: onnx.ValueInfoProto) -> bool:
    """Whether a graph input is keys or values of a cache: four dimensions, and no picture."""
    return len(value.type.tensor_type.shape.dim) == 4 and not re.search(
        r"input_ids|pixel|image|audio|feature|mask", value.name
    )


def plain_input(name: str, rank: int, past: int, tokens: int) -> NDArray[Any] | None:
    """An input that is neither tokens nor a cache, with `past` cached tokens: a mask of ones, positions; None for any other."""
    if "mask" in name:
        return np.ones((1, past + tokens), np.int64)
    if "position" in name:
        made = np.arange(past, past + tokens, dtype=np.int64)
        return made if rank == 1 else made[None]
    if name == "use_cache_branch":
        return np.array([True] if rank else True)
    return np.array(0, np.int64) if name in ("num_logits_to_keep", "logits_to_keep") else None


def _states(g: OnnxGraph) -> list[Problem]:
    """What a model without a KV cache keeps instead."""
    if any(is_cache(v) for v in g.graph.input if v.name in g.inputs):
        return []
    states = [i for i in g.inputs if re.search(r"ssm|conv|recurrent|state", i) and "encoder" not in i]
    if states:
        found = f"a recurrent state ({states[0]}) and no KV cache"
        return [("inputs", found, "recurrent models (Mamba) are not served")]
    todo = "export with a cache: optimum-cli export onnx --task text-generation-with-past"
    return [("inputs", "no KV cache: no inputs of four dimensions such as past_key_values.0.key", todo)]


def number_of(name: str) -> tuple[int, bool]:
    """(layer, whether it holds values) of a cache's name, as exporters write it: past_key_values.3.value, present_value_3."""
    numbers = re.findall(r"\d+", name)
    return (int(numbers[-1]) if numbers else 0), bool(re.search(r"value(?!s)|\bv\b", name))
