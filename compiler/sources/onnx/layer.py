# SPDX-License-Identifier: Apache-2.0
"""One decoder layer of an ONNX graph, matched from its output back to its input, and confirmed by numbers.

Part of read.py, which walks from layer to layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray

from meadow.compiler.sources.families.family import Shape
from meadow.compiler.sources.families.llama import FAMILY as LLAMA
from meadow.compiler.sources.onnx.piece import Core
from meadow.compiler.sources.onnx.projection import Projection, projection
from meadow.compiler.sources.onnx.weight import Reject

if TYPE_CHECKING:
    from meadow.compiler.sources.onnx.read import Reader


class Layer:
    """One decoder layer, matched from its output back to its input."""

    def __init__(self, reader: Reader, layer: int):
        self.r = reader
        self.layer = layer
        self.linears: dict[str, Projection] = {}
        self.frequencies: list[tuple[float, ...]] = []  # of Q and K
        self.scale = 0.0  # of the scores
        self.passed: list[str] = []  # values that a residual sum adds, as they come

    def match(self, out: str) -> tuple[str, str, float]:
        """Match the layer that ends in `out`; returns the attention norm's (gain, x, eps), x being the layer's input."""
        r, where = self.r, f"layer {self.layer}"
        residual, down = self._residual(out, f"{where}, MLP")
        self.linears["down"] = down
        glu = r.node(down.input, {"Mul"}, f"{where}, silu(gate) * up")
        sides = [str(i) for i in glu.input]
        silu = next((s for s in sides if self._silu_input(s)), None)
        if silu is None:
            raise Reject(f"{where}: the MLP is not silu(gate) * up")
        up = next(s for s in sides if s != silu)
        self.linears["gate"] = r.linear(self._silu_input(silu) or "", f"{where}, gate")
        self.linears["up"] = r.linear(up, f"{where}, up")
        self.ffn_norm = r.norm_input(self.linears["up"].input, f"{where}, MLP norm")
        if r.strip(self.ffn_norm[1]) != r.strip(residual):
            raise Reject(f"{where}: the MLP's norm does not read the residual stream")
        residual, self.linears["o"] = self._residual(residual, f"{where}, attention")
        q, k, v = self._attention(self.linears["o"].input, where)
        self.linears["q"], self.linears["k"], self.linears["v"] = q, k, v
        self.attn_norm = r.norm_input(q.input, f"{where}, attention norm")
        if r.strip(self.attn_norm[1]) != r.strip(residual):
            raise Reject(f"{where}: the attention's norm does not read the residual stream")
        return self.attn_norm[0], residual, self.attn_norm[2]

    def _residual(self, out: str, what: str) -> tuple[str, Projection]:
        """(residual stream, linear) of x + linear(...)."""
        r = self.r
        add = r.node(out, {"Add"}, f"{what} residual")
        for index in (1, 0):
            found = projection(r, add.input[index])
            if found is not None:
                self.passed += [str(i) for i in add.input]
                return str(add.input[1 - index]), found
        raise Reject(f"{what}: the residual adds no linear layer")

    def _silu_input(self, name: str) -> str | None:
        r = self.r
        node = r.g.producer.get(r.strip(name))
        if node is None or node.op_type != "Mul":
            return None
        for x, s in ((node.input[0], node.input[1]), (node.input[1], node.input[0])):
            sigmoid = r.g.producer.get(r.strip(s))
            if sigmoid is not None and sigmoid.op_type == "Sigmoid" and r.strip(sigmoid.input[0]) == r.strip(x):
                return str(x)
        return None

    def _attention(self, name: str, where: str) -> tuple[Projection, Projection, Projection]:
        r = self.r
        node = r.node(name, {"MatMul", "Attention"}, f"{where}, softmax x V")
        if node.op_type == "Attention":
            scale = float(r.g.attributes(node).get("scale", r.head_dim**-0.5))
            queries, keys, values = (str(i) for i in node.input[:3])
        else:
            softmax = self._softmax(node.input[0], where)
            values = str(node.input[1])
            dot, scale = self._scores(softmax.input[0], where)
            queries, scale = self._unscale(dot.input[0], scale)
            keys, scale = self._unscale(dot.input[1], scale)
        usual = r.head_dim**-0.5  # exporters round it: the numbers decide (confirm.py)
        self.scale = usual if np.isclose(scale, usual, rtol=1e-3) else scale
        q = self._rope(queries, f"{where}, Q", heads="q")
        k = self._rope(self._cached(keys, "key", where), f"{where}, K", heads="k")
        v = r.linear(self._cached(values, "value", where), f"{where}, V")
        return q, k, v

    def _softmax(self, name: str, where: str) -> onnx.NodeProto:
        r = self.r
        node = r.node(name, {"Softmax", "Where"}, f"{where}, softmax")
        if node.op_type == "Where":  # rows that are wholly masked: where(isnan(p), 0, p)
            node = r.node(node.input[2], {"Softmax"}, f"{where}, softmax")
        return node

    def _scores(self, name: str, where: str) -> tuple[onnx.NodeProto, float]:
        """(the QK^T product, its scale), through the mask and constant factors."""
        r, scale = self.r, 1.0
        for _ in range(6):
            if (tanh := r.g.producer.get(r.strip(name))) is not None and tanh.op_type == "Tanh":
                raise Reject(f"{where}: scores pass through Tanh {tanh.name!r} (a softcap)")
            node = r.node(name, {"Add", "Mul", "Div", "MatMul"}, f"{where}, QK^T")
            if node.op_type == "MatMul":
                return node, scale
            if node.op_type == "Add":
                sides = [r.strip(i) for i in node.input]
                name = next(
                    (s for s in sides if s in r.g.producer and r.g.producer[s].op_type in ("MatMul", "Mul", "Div")),
                    sides[0],
                )
                continue
            name, constant = r.split_constant(node)
            if constant is None:
                raise Reject(f"{where}: QK^T is multiplied by a computed value")
            factor = float(constant.reshape(-1)[0])
            scale = scale / factor if node.op_type == "Div" else scale * factor
        raise Reject(f"{where}: QK^T was not found behind the softmax")

    def _unscale(self, name: str, scale: float) -> tuple[str, float]:
        r = self.r
        node = r.g.producer.get(r.strip(name))
        if node is not None and node.op_type in ("Mul", "Div"):
            inner, constant = r.split_constant(node)
            if constant is not None and constant.size == 1:
                factor = float(constant.reshape(-1)[0])
                return inner, scale / factor if node.op_type == "Div" else scale * factor
        return name, scale

    def _cached(self, name: str, kind: str, where: str) -> str:
        """What is appended to the cache: present = concat(past, new)."""
        r = self.r
        node = r.node(name, {"Concat"}, f"{where}, the {kind} cache")
        past = f"past_key_values.{self.layer}.{kind}"
        if len(node.input) != 2 or r.strip(node.input[0]) != past:
            raise Reject(f"{where}: the {kind} cache is not concat({past}, new)")
        return str(node.input[1])

    def _rope(self, name: str, what: str, heads: str) -> Projection:
        """Match x * cos + rotate_half(x) * sin (or RotaryEmbedding) and note the frequencies; returns the linear."""
        r = self.r
        node = r.node(name, {"Add", "RotaryEmbedding"}, f"{what}, rotary embedding")
        if node.op_type == "RotaryEmbedding":
            r.g.attributes(node)
            self.frequencies.append(self._frequencies(node.input[1], what))
            return r.linear(node.input[0], what)
        self._refuse_normed(node, what)
        for first, second in ((0, 1), (1, 0)):
            plain, turned = (r.g.producer.get(r.strip(node.input[i])) for i in (first, second))
            if plain is None or turned is None or plain.op_type != "Mul" or turned.op_type != "Mul":
                continue
            pair = self._rope_pair(plain, turned, what)
            if pair is not None:
                return pair
        raise Reject(f"{what}: not x * cos + rotate_half(x) * sin")

    def _refuse_normed(self, add: onnx.NodeProto, what: str) -> None:
        """Refuse a norm between a projection and its rotation (Qwen3)."""
        r = self.r
        for side in add.input:
            product = r.g.producer.get(r.strip(side))
            for name in product.input if product is not None and product.op_type == "Mul" else ():
                node = r.g.producer.get(r.strip(name))
                if node is None:
                    continue
                if node.op_type in ("Mul", "RMSNormalization", "SimplifiedLayerNormalization"):
                    try:
                        r.norm_input(name, what)
                    except Reject:
                        continue
                    raise Reject(f"{what} has a norm of its own {node.name!r} (Qwen3, Gemma 3), which is not served")

    def _rope_pair(self, plain: onnx.NodeProto, turned: onnx.NodeProto, what: str) -> Projection | None:
        r = self.r
        for x, cos in ((plain.input[0], plain.input[1]), (plain.input[1], plain.input[0])):
            linear = projection(r, x)
            if linear is None:
                continue
            for half in turned.input:
                concat = r.g.producer.get(r.strip(half))
                if concat is None or concat.op_type != "Concat" or len(concat.input) != 2:
                    continue
                neg = r.g.producer.get(concat.input[0])
                if neg is None or neg.op_type != "Neg":
                    continue
                self.frequencies.append(self._frequencies(cos, what))
                return linear
        return None

    def _frequencies(self, cos: str, what: str) -> tuple[float, ...]:
        """The constant [head_dim / 2] that the positions are multiplied with, behind Cos."""
        r = self.r
        name, scaled = cos, 1.0
        for _ in range(12):
            name = r.strip(name)
            node = r.g.producer.get(name)
            if node is None:
                break
            if node.op_type == "MatMul":
                for value in node.input:
                    array = r.g.array(r.strip(value))
                    if array is not None:
                        return self._check_frequencies(array, scaled, what)
                break
            if node.op_type == "Mul":  # the attention scaling of the exporter, 1.0 for plain rotary embeddings
                inner, constant = r.split_constant(node)
                if constant is None:
                    break
                if constant.size > 1:
                    return self._check_frequencies(constant, scaled, what)
                scaled *= float(constant.reshape(-1)[0])
                name = inner
            elif node.op_type in ("Cos", "Concat"):
                name = str(node.input[0])
            else:
                break
        raise Reject(f"{what}: the rotary frequencies were not found behind {cos!r}")

    def _check_frequencies(self, array: NDArray[np.generic], scaled: float, what: str) -> tuple[float, ...]:
        values = np.asarray(array, np.float64).reshape(-1)
        if scaled != 1.0 or values.size != self.r.head_dim // 2:
            raise Reject(f"{what}: {values.size} rotary frequencies scaled by {scaled} for heads of {self.r.head_dim}")
        return tuple(float(v) for v in values)

    def core(self) -> Core | str:
        """The names of the layer's parts for confirm.py, or in a sentence why they are not those of one layer."""
        r, lin = self.r, self.linears
        readers = {"q": "attn", "k": "attn", "v": "attn", "gate": "ffn", "up": "ffn"}
        inputs = {part: {r.strip(lin[k].input) for k, p in readers.items() if p == part} for part in ("attn", "ffn")}
        if any(len(names) != 1 for names in inputs.values()):
            return f"layer {self.layer}: Q, K and V, or gate and up, do not read one norm"
        norms = tuple(
            (x, lin[reader].input, r.vectors[gain], eps)
            for reader, (gain, x, eps) in (("q", self.attn_norm), ("up", self.ffn_norm))
        )
        moved = [
            p
            for name in (*self.passed, *(lin[k].input for k in readers), self.attn_norm[1], self.ffn_norm[1])
            for p in r.passed(name)
        ]
        return Core(
            self.layer,
            lin["q"].output,
            lin["k"].output,
            lin["v"].output,
            lin["o"].input,
            lin["gate"].output,
            lin["up"].output,
            lin["down"].input,
            norms,
            tuple(dict.fromkeys(moved)),
            frozenset(r.gain_inputs[gain] for gain, _, _ in (self.attn_norm, self.ffn_norm))
            | {name for p in lin.values() for name in (*p.node.input[1:], p.minima, p.bias)},
        )

    def emit(self, x: str) -> str:
        """Append the layer's nodes to the reader's, after the residual stream %x; returns the stream after the layer."""
        r = self.r
        r.nodes.layer = self.layer
        names = {role: r.weight(self.linears[role]) for role in ("down", "gate", "up", "o", "q", "k", "v")}
        names |= {f"{role}.bias": name for role, p in self.linears.items() if (name := r.bias(p))}
        heads = r.weights[names["q"]].rows // r.head_dim
        names |= {"attn_norm": self.attn_norm[0], "ffn_norm": self.ffn_norm[0]}
        q, k = self.frequencies
        if q != k:
            raise Reject(f"layer {self.layer}: Q and K turn by other frequencies")
        shape = Shape(heads, r.kv_heads, r.head_dim, (self.attn_norm[2], self.ffn_norm[2]), q, self.scale)
        x = LLAMA.block(r.nodes, shape, names, x)
        r.nodes.layer = None
        return x
