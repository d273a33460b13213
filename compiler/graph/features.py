# SPDX-License-Identifier: Apache-2.0
"""What a model's layers are made of, in words: for people, and to tell its family."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from meadow.compiler.graph.graph import Graph, Node
from meadow.compiler.graph.ops import Activation, Attention, Embedding, Head, Linear, Norm, Rotary, Threshold

PLAIN = ("rms norms", "silu with a gate", "rotary positions")
"""The features of LLaMA's block."""


def features(graph: Graph) -> dict[str, int]:
    """Every feature, and in how many layers it is; 0 for those outside of layers."""
    found: Counter[str] = Counter()
    outside: dict[str, int] = {}
    for number in range(graph.model.layers):
        found.update({text for node in graph.layer(number) for text in _of(node)})
    for node in graph.nodes:
        if node.layer is None:
            outside.update(dict.fromkeys(_of(node), 0))
    return dict(sorted(found.items())) | {text: n for text, n in sorted(outside.items()) if text not in found}


def family_of(graph: Graph) -> str:
    """What its file says; or LLaMA where nothing else is there, and else what the block has besides."""
    if said := graph.metadata.get("meadow.family"):
        return said
    extra = [text for text in features(graph) if text not in PLAIN]
    return "LLaMA" if not extra else "decoder with " + ", ".join(extra[:4]) + (", ..." if len(extra) > 4 else "")


def parameters(graph: Graph) -> int:
    """Elements of all matrices and vectors."""
    return sum(w.rows * w.cols for w in graph.weights.values()) + sum(v.size for v in graph.vectors.values())


def _of(node: Node) -> Iterator[str]:
    match node.op:
        case Norm() as op:
            if node.role in ("q_norm", "k_norm"):
                yield "norms of q and k"
            elif node.role.endswith("post_norm"):
                yield "norms after linears"
            else:
                yield f"{op.kind} norms"
        case Activation() as op:
            yield f"{op.kind} {'with' if op.gated else 'without'} a gate"
        case Threshold():
            yield "sparse inputs of linears"
        case Rotary() as op:
            if op.interleaved:
                yield "rotary pairs that are neighbours"
            part = 2 * len(op.frequencies)
            yield "rotary positions" if part == op.head_dim else f"rotary positions of {part} of {op.head_dim}"
        case Attention() as op:
            if op.window:
                yield f"a window of {op.window} tokens"
            if op.softcap:
                yield f"a softcap of {op.softcap:g} on scores"
            if abs(op.scale * op.head_dim**0.5 - 1) > 1e-3:
                yield f"a scale of {op.scale:g}"
        case Embedding() as op:
            yield from ["learned positions"] * (op.positions is not None)
            yield from [f"a factor of {op.factor:g} on the embedding"] * (op.factor != 1)
        case Head() as op:
            yield from [f"a softcap of {op.softcap:g} on logits"] * (op.softcap != 0)
            yield from [f"a factor of {op.factor:g} on logits"] * (op.factor != 1)
        case Linear() as op:
            yield from [f"a bias of {node.role}"] * (op.bias is not None)
            yield from [f"a factor of {op.factor:g} on {node.role}"] * (op.factor != 1)
