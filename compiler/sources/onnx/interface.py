# SPDX-License-Identifier: Apache-2.0
"""What an ONNX file says before its structure is looked at: its inputs, outputs and operators, and what they rule out."""

from __future__ import annotations

import re
from dataclasses import dataclass

import onnx

from meadow.compiler.sources.onnx.weight import OnnxGraph

Problem = tuple[str, str, str]
"""Where, what was found, what to do."""
HALF_TYPES = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
PAST = re.compile(r"past_key_values\.(\d+)\.(key|value)$")
PRESENT = re.compile(r"present(?:_key_values)?\.(\d+)\.(key|value)$")
FUSED = "an operator that onnxruntime fused; export without fusion (or undo the optimizer: give it the exported file)"
FOREIGN = {
    "Conv": "a convolution: this looks like a vision or audio model",
    "ConvTranspose": "a convolution: this looks like a vision or audio model",
    "MaxPool": "pooling: this looks like a vision model",
    "GlobalAveragePool": "pooling: this looks like a vision model",
    "BatchNormalization": "batch normalization: this looks like a vision model",
    "LSTM": "a recurrent network",
    "GRU": "a recurrent network",
    "If": "a branch",
    "Loop": "a loop",
    "Scan": "a scan",
    "TopK": "top-k routing (a mixture of experts?)",
    "LayerNormalization": "LayerNorm (OPT, GPT-2, BERT); the LLaMA family has RMS norms",
    "Gelu": "a GELU; the LLaMA family has SiLU",
    "Erf": "a GELU; the LLaMA family has SiLU",
    "DynamicQuantizeLinear": "dynamically quantized activations; quantize the float model with meadowc quantize",
    "MatMulInteger": "dynamically quantized weights; quantize the float model with meadowc quantize",
    "QuantizeLinear": "statically quantized activations (QDQ); quantize the float model with meadowc quantize",
    "GroupQueryAttention": FUSED,
    "MultiHeadAttention": FUSED,
    "SkipSimplifiedLayerNormalization": FUSED,
    "SkipLayerNormalization": FUSED,
    "QuickGelu": FUSED,
    "BiasGelu": FUSED,
    "FastGelu": FUSED,
    "QLinearMatMul": "QOperator quantization; write it as QDQ or use meadowc quantize",
}


@dataclass(frozen=True)
class Interface:
    """What the inputs and outputs say: layers, and the heads and head size of the KV cache; 0 where they do not."""

    layers: int = 0
    kv_heads: int = 0
    head_dim: int = 0


def interface(g: OnnxGraph) -> tuple[Interface, list[Problem]]:
    """The interface of a decoder with a KV cache, and what is wrong with this one."""
    inputs, outputs = g.inputs, [o.name for o in g.graph.output]
    problems = [*_tokens_and_logits(inputs, outputs), *_states(inputs)]
    pasts = {(int(m[1]), m[2]) for i in inputs if (m := PAST.match(i))}
    presents = {(int(m[1]), m[2]) for o in outputs if (m := PRESENT.match(o))}
    layers = len(pasts) // 2
    wanted = {(layer, kind) for layer in range(layers) for kind in ("key", "value")}
    if pasts and (pasts != wanted or presents != wanted):
        problems.append(
            (
                "cache",
                f"{len(pasts)} past inputs and {len(presents)} present outputs",
                "each layer needs past and present, key and value",
            )
        )
    kv_heads = head_dim = 0
    caches = [value for value in g.graph.input if PAST.match(value.name)]
    for value in caches:
        dims = value.type.tensor_type.shape.dim
        if len(dims) == 4:
            kv_heads, head_dim = dims[1].dim_value, dims[3].dim_value
    if caches and not (kv_heads and head_dim):
        dims = [str(d.dim_value or d.dim_param or "?") for d in caches[0].type.tensor_type.shape.dim]
        problems.append(
            (
                "cache",
                f"the shape of {caches[0].name} is [{', '.join(dims)}]",
                "heads and head size must be numbers: [batch, kv_heads, past, head_dim]",
            )
        )
    return Interface(layers, kv_heads, head_dim), problems


def _tokens_and_logits(inputs: list[str], outputs: list[str]) -> list[Problem]:
    problems = []
    if "input_ids" not in inputs:
        guess = "an image model" if any("pixel" in i or "image" in i for i in inputs) else "not a language model"
        problems.append(("inputs", f"no input_ids among {', '.join(inputs[:4])}", f"this looks like {guess}"))
    named = next((o for o in outputs if o.startswith("logits")), "")
    if "logits" not in outputs and named:
        problems.append(("outputs", f"the logits are called {named!r}", "call the output logits: a tool renamed it"))
    elif "logits" not in outputs:
        guess = "an encoder" if any("hidden_state" in o for o in outputs) else "not a language model"
        problems.append(("outputs", f"no logits among {', '.join(outputs[:4])}", f"this looks like {guess}"))
    if any("encoder" in i for i in inputs):
        problems.append(("inputs", "encoder states are read", "encoder-decoder models are not supported"))
    return problems


def _states(inputs: list[str]) -> list[Problem]:
    """What a model without a KV cache keeps instead."""
    if any(PAST.match(i) for i in inputs):
        return []
    states = [i for i in inputs if re.search(r"ssm|conv|recurrent|state", i) and "encoder" not in i]
    if states:
        found = f"a recurrent state ({states[0]}) and no KV cache"
        return [("inputs", found, "recurrent models (Mamba) are not served")]
    todo = "export with a cache: optimum-cli export onnx --task text-generation-with-past"
    return [("inputs", "no KV cache (past_key_values.N.key and .value)", todo)]


def foreign_operators(g: OnnxGraph) -> list[Problem]:
    """Operators that no decoder served here has, and tokens or positions that are rounded."""
    problems: list[Problem] = []
    counts: dict[str, list[str]] = {}
    for node in g.graph.node:
        counts.setdefault(node.op_type, []).append(node.name or node.output[0])
    for node in g.graph.node:
        halves = any(a.name == "to" and a.i in HALF_TYPES for a in node.attribute)
        if node.op_type == "Cast" and halves and g.strip(node.input[0]) in ("position_ids", "input_ids"):
            problems.append(
                (
                    f"Cast {node.name!r}",
                    f"rounds {g.strip(node.input[0])} to 16 bits",
                    "positions and tokens must stay whole",
                )
            )
    for kind, why in FOREIGN.items():
        if kind in counts:
            names = counts[kind]
            problems.append((f"{kind} ({len(names)}, first {names[0]})", why, ""))
    return problems
