# SPDX-License-Identifier: Apache-2.0
"""read: an ONNX file becomes a Graph.  Inputs are bound by name, roles are found by structure, from the logits back.

Serves LLaMA-family decoders as `convert` and `quantize` write them, and as optimum-onnx and torch's dynamo exporter
do.  Computes nothing; what the file means is evaluate.py's business.  An unsupported graph gets all its problems.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from meadow.compiler.errors import UnsupportedModel
from meadow.compiler.graph import Graph, Model, Node, Op
from meadow.compiler.onnx_file import find_model, load_model
from meadow.compiler.onnx_weight import OnnxGraph, Reject, embedding_weight, linear_weight
from meadow.compiler.types import Weight

PAST = re.compile(r"past_key_values\.(\d+)\.(key|value)$")
PRESENT = re.compile(r"present(?:_key_values)?\.(\d+)\.(key|value)$")
TRANSPARENT = {"Identity", "Cast", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Expand", "Flatten"}
"""Operators that move values without changing them: structure is looked for through these."""
LINEAR = {"MatMul", "Gemm", "MatMulNBits"}
FOREIGN = {
    "Conv": "a convolution: this looks like a vision or audio model",
    "ConvTranspose": "a convolution: this looks like a vision or audio model",
    "MaxPool": "pooling: this looks like a vision model",
    "GlobalAveragePool": "pooling: this looks like a vision model",
    "BatchNormalization": "batch normalization: this looks like a vision model",
    "LSTM": "a recurrent network", "GRU": "a recurrent network",
    "If": "a branch", "Loop": "a loop", "Scan": "a scan",
    "TopK": "top-k routing (a mixture of experts?)",
    "LayerNormalization": "LayerNorm (OPT, GPT-2, BERT); the LLaMA family has RMS norms",
    "Gelu": "a GELU; the LLaMA family has SiLU", "Erf": "a GELU; the LLaMA family has SiLU",
    "DynamicQuantizeLinear": "dynamically quantized activations; quantize the float model with meadowc quantize",
    "MatMulInteger": "dynamically quantized weights; quantize the float model with meadowc quantize",
    "QLinearMatMul": "QOperator quantization; write it as QDQ or use meadowc quantize",
}  # fmt: skip


def read(path: Path) -> Graph:
    """The Graph of the ONNX file (or folder) `path`.

    Raises UsageError when it is not a whole ONNX file, UnsupportedModel with a table of every problem found.
    """
    file = find_model(path)
    proto = load_model(file)
    return Reader(OnnxGraph(proto, file.parent.resolve()), file).read()


def source_digest(path: Path) -> str:
    """sha256 of an ONNX file and of its external data, in the order of their names."""
    file = find_model(path)
    digest = hashlib.sha256()
    for part in [file, *sorted(p for p in file.parent.glob(f"{file.name}*") if p != file)]:
        with part.open("rb") as stream:
            for block in iter(lambda: stream.read(1 << 22), b""):
                digest.update(block)
    return digest.hexdigest()


class Reader:
    """One reading of one file.  Each `match` method takes the name of a value and walks back from it."""

    def __init__(self, g: OnnxGraph, file: Path):
        self.g = g
        self.file = file
        self.nodes: list[Node] = []
        self.weights: dict[str, Weight] = {}
        self.gains: dict[str, NDArray[np.float32]] = {}
        self.known: dict[str, str] = {}
        self.problems: list[tuple[str, str, str]] = []
        self.inv_freqs: list[tuple[float, ...]] = []
        self.eps: list[float] = []
        self.heads: dict[str, int] = {}
        self.layers = 0
        self.head_dim = self.kv_heads = 0

    # -- the whole -------------------------------------------------------------------------------------------------

    def read(self) -> Graph:
        self._check_interface()
        self._check_operators()
        if self.problems:
            self._refuse()
        try:
            self._match_model()
        except Reject as reject:
            self.problems.append(("structure", str(reject), "only LLaMA-family decoders are read"))
        if self.problems:
            self._refuse()
        graph = Graph(self._model(), tuple(self.nodes), self.weights, self.gains, str(self.file), self._metadata())
        graph.check()
        return graph

    def _refuse(self) -> None:
        raise UnsupportedModel(f"{self.file} cannot be compiled; every problem found:", tuple(self.problems))

    def _check_interface(self) -> None:
        inputs, outputs = self.g.inputs, [o.name for o in self.g.graph.output]
        pasts = {(int(m[1]), m[2]) for i in inputs if (m := PAST.match(i))}
        presents = {(int(m[1]), m[2]) for o in outputs if (m := PRESENT.match(o))}
        if "input_ids" not in inputs:
            guess = "an image model" if any("pixel" in i or "image" in i for i in inputs) else "not a language model"
            self.problems.append(("inputs", f"no input_ids among {', '.join(inputs[:4])}", f"this looks like {guess}"))
        if "logits" not in outputs:
            guess = "an encoder" if any("hidden_state" in o for o in outputs) else "not a language model"
            self.problems.append(("outputs", f"no logits among {', '.join(outputs[:4])}", f"this looks like {guess}"))
        if any("encoder" in i for i in inputs):
            self.problems.append(("inputs", "encoder states are read", "encoder-decoder models are not supported"))
        if not pasts:
            self.problems.append(("inputs", "no KV cache (past_key_values.N.key and .value)",
                                  "export with a cache: optimum-cli export onnx --task text-generation-with-past"))  # fmt: skip
        self.layers = len(pasts) // 2
        wanted = {(layer, kind) for layer in range(self.layers) for kind in ("key", "value")}
        if pasts and (pasts != wanted or presents != wanted):
            self.problems.append(("cache", f"{len(pasts)} past inputs and {len(presents)} present outputs",
                                  "each layer needs past and present, key and value"))  # fmt: skip
        for value in self.g.graph.input:
            match = PAST.match(value.name)
            dims = value.type.tensor_type.shape.dim
            if match and len(dims) == 4:
                self.kv_heads, self.head_dim = dims[1].dim_value, dims[3].dim_value
        if pasts and not (self.kv_heads and self.head_dim):
            self.problems.append(("cache", "the KV cache has no fixed heads and head size",
                                  "its shape must be [batch, kv_heads, past, head_dim]"))  # fmt: skip

    def _check_operators(self) -> None:
        counts: dict[str, list[str]] = {}
        for node in self.g.graph.node:
            counts.setdefault(node.op_type, []).append(node.name or node.output[0])
        for kind, why in FOREIGN.items():
            if kind in counts:
                names = counts[kind]
                self.problems.append((f"{kind} ({len(names)}, first {names[0]})", why, ""))

    def _match_model(self) -> None:
        head = self._node("logits", LINEAR, "the head")
        layers = []
        x = self._norm_input(self._data_input(head), "final norm")
        final = x
        for layer in reversed(range(self.layers)):
            block = _Block(self, layer)
            x = block.match(x[1])
            layers.append(block)
        self._match_embedding(x[1])
        for block in reversed(layers):
            block.emit()
        norm = self._emit_norm("norm", final, self._last())
        self._emit(Node("logits", Op.HEAD, (norm,), self._weight(head)))

    def _metadata(self) -> dict[str, str]:
        return {p.key: p.value for p in self.g.model.metadata_props}

    def _model(self) -> Model:
        embed = self.weights[self.nodes[0].weight or ""]
        if len(set(self.inv_freqs)) != 1 or len(set(self.eps)) != 1:
            raise UnsupportedModel(f"{self.file}: layers differ in rotary frequencies or norm epsilon")
        metadata = self._metadata()
        attend = next(n for n in self.nodes if n.op is Op.ATTEND)
        ffn = next(self.weights[n.weight or ""].rows for n in self.nodes if n.name.endswith("gate"))
        head = self.weights[self.nodes[-1].weight or ""]
        context = metadata.get("meadow.context", "0")
        return Model(
            name=re.sub(r"[^A-Za-z0-9_.-]+", "-", self.g.graph.name or self.file.stem), layers=self.layers,
            dim=embed.cols, heads=attend.heads, kv_heads=self.kv_heads, head_dim=self.head_dim, ffn=ffn,
            vocab=head.rows, eps=self.eps[0], inv_freq=self.inv_freqs[0],
            context=int(context) if context.isdigit() else 0,
            activations=metadata.get("meadow.activations", "float"),
        )  # fmt: skip

    # -- walking back ----------------------------------------------------------------------------------------------

    def strip(self, name: str) -> str:
        """`name` without the operators that only move values."""
        while name in self.g.producer and self.g.producer[name].op_type in TRANSPARENT:
            name = self.g.producer[name].input[0]
        return name

    def _node(self, name: str, kinds: set[str], what: str) -> onnx.NodeProto:
        name = self.strip(name)
        node = self.g.producer.get(name)
        if node is None or node.op_type not in kinds:
            found = f"{node.op_type} {node.name!r}" if node is not None else f"the input {name!r}"
            raise Reject(f"{what} should be {' or '.join(sorted(kinds))}, found {found}")
        return node

    def _data_input(self, node: onnx.NodeProto) -> str:
        return str(node.input[0])

    def split_constant(self, node: onnx.NodeProto) -> tuple[str, NDArray[np.generic] | None]:
        """(computed input, constant input) of a two-input node, in either order."""
        for index in (0, 1):
            value = self.g.array(self.strip_constant(node.input[index]))
            if value is not None:
                return str(node.input[1 - index]), value
        return str(node.input[0]), None

    def strip_constant(self, name: str) -> str:
        while name in self.g.producer and self.g.producer[name].op_type in ("Identity", "Cast", "Unsqueeze"):
            name = self.g.producer[name].input[0]
        return name

    def _norm_input(self, name: str, what: str) -> tuple[str, str, float]:
        """Match gain * x / sqrt(mean(x^2) + eps); returns (gain's name, x, eps)."""
        name = self.strip(name)
        node = self.g.producer.get(name)
        if node is not None and node.op_type in ("RMSNormalization", "SimplifiedLayerNormalization"):
            eps = float(self.g.attributes(node).get("epsilon", 1e-5))
            return self._gain(node.input[1]), str(node.input[0]), eps
        node = self._node(name, {"Mul"}, what)
        unit, gain = self.split_constant(node)
        if gain is None:
            raise Reject(f"{what}: Mul {node.name!r} has no constant gain")
        gain_name = next(i for i in node.input if i != unit)
        inner = self._node(unit, {"Mul", "Div"}, f"{what}, x over its root")
        x, root = (str(i) for i in inner.input)
        if inner.op_type == "Mul":
            if self._is_reciprocal(x):
                x, root = root, x
            if not self._is_reciprocal(root):
                raise Reject(f"{what}: {inner.name!r} does not multiply by one over a root")
            reciprocal = self.g.producer[self.strip(root)]
            root = str(reciprocal.input[-1])
        sqrt = self._node(root, {"Sqrt"}, f"{what}, the root")
        added, eps_value = self.split_constant(self._node(sqrt.input[0], {"Add"}, f"{what}, mean square plus eps"))
        if eps_value is None:
            raise Reject(f"{what}: epsilon is not constant")
        mean = self._node(added, {"ReduceMean"}, f"{what}, the mean")
        square = self._node(mean.input[0], {"Pow", "Mul"}, f"{what}, the square")
        if self.strip(square.input[0]) != self.strip(x):
            raise Reject(f"{what}: the norm's root is of another value than its input")
        return self._gain(gain_name), x, float(np.float32(eps_value.reshape(-1)[0]))

    def _is_reciprocal(self, name: str) -> bool:
        node = self.g.producer.get(self.strip(name))
        if node is None:
            return False
        return node.op_type == "Reciprocal" or (node.op_type == "Div" and self.g.scalar(node.input[0]) == 1.0)

    def _gain(self, name: str) -> str:
        value = self.g.array(self.strip_constant(name))
        if value is None:
            raise Reject(f"the gain {name!r} of a norm is not constant")
        source = self.g.source_name(self.strip_constant(name))
        self.gains[source] = np.asarray(value, np.float32).reshape(-1)
        return source

    def _weight(self, node: onnx.NodeProto) -> str:
        weight = linear_weight(self.g, node)
        return self._share(weight)

    def _share(self, weight: Weight) -> str:
        """The name under which `weight` is kept: that of an equal one already read, if there is one (tied head)."""
        for name, other in self.weights.items():
            if name == weight.name or (
                other.codes.shape == weight.codes.shape
                and other.elem == weight.elem
                and other.rows * other.cols > 1 << 12
                and np.array_equal(other.codes[:: max(1, other.rows // 64)], weight.codes[:: max(1, other.rows // 64)])
                and np.array_equal(other.codes, weight.codes)
                and (other.scale is None or np.array_equal(other.scale, weight.scale))  # type: ignore[arg-type]
            ):
                return name
        self.weights[weight.name] = weight
        return weight.name

    def _match_embedding(self, name: str) -> None:
        name = self.strip(name)
        node = self.g.producer.get(name)
        while node is not None and node.op_type == "Mul":  # codes times their gathered scales
            name = self.strip(node.input[0])
            node = self.g.producer.get(name)
        if node is None or node.op_type != "Gather" or self.strip(node.input[1]) != "input_ids":
            raise Reject("the first layer does not read a Gather of input_ids")
        table = str(node.input[0])
        if table in self.g.initializers and self.g.array(table).dtype == np.int8:  # type: ignore[union-attr]
            self._share_quantized_embedding(table)
        else:
            self._share(embedding_weight(self.g, table))
        self._emit(Node("embed", Op.EMBED, (), next(reversed(self.weights))))

    def _share_quantized_embedding(self, table: str) -> None:
        """Codes gathered before they are scaled: the DequantizeLinear of the tied head tells their scales."""
        for node in self.g.graph.node:
            if node.op_type == "DequantizeLinear" and node.input[0] == table:
                self._share(embedding_weight(self.g, node.output[0]))
                return
        codes, scale = self.g.array(table), self.g.array(f"{table}.scale")
        if codes is None or scale is None:
            raise Reject(f"the embedding {table!r} has int8 codes and no scales were found")
        from meadow.compiler.types import I8, grouped

        scales = np.asarray(scale, np.float32)
        if scales.ndim == 2:
            weight = Weight(table, grouped(8, codes.shape[1] // scales.shape[1]), codes, scales)
        else:
            weight = Weight(table, I8, codes, np.broadcast_to(scales.reshape(-1), (codes.shape[0],)).copy())
        self._share(weight)

    # -- emitting, in order ----------------------------------------------------------------------------------------

    def _emit(self, node: Node) -> str:
        self.nodes.append(node)
        return node.name

    def _last(self) -> str:
        return self.nodes[-1].name

    def _emit_norm(self, name: str, matched: tuple[str, str, float], x: str) -> str:
        self.eps.append(matched[2])
        return self._emit(Node(name, Op.NORM, (x,), matched[0]))


class _Block:
    """One decoder layer, matched from its output back to its input."""

    def __init__(self, reader: Reader, layer: int):
        self.r = reader
        self.layer = layer
        self.linears: dict[str, onnx.NodeProto] = {}

    def match(self, out: str) -> tuple[str, str, float]:
        """Match the layer that ends in `out`; returns the attention norm's (gain, x, eps), x being the layer's input."""
        r, where = self.r, f"layer {self.layer}"
        residual, down = self._residual(out, f"{where}, MLP")
        self.linears["down"] = down
        glu = r._node(down.input[0], {"Mul"}, f"{where}, silu(gate) * up")
        sides = [str(i) for i in glu.input]
        silu = next((s for s in sides if self._silu_input(s)), None)
        if silu is None:
            raise Reject(f"{where}: the MLP is not silu(gate) * up")
        up = next(s for s in sides if s != silu)
        self.linears["gate"] = r._node(self._silu_input(silu) or "", LINEAR, f"{where}, gate")
        self.linears["up"] = r._node(up, LINEAR, f"{where}, up")
        self.ffn_norm = r._norm_input(self.linears["up"].input[0], f"{where}, MLP norm")
        if r.strip(self.ffn_norm[1]) != r.strip(residual):
            raise Reject(f"{where}: the MLP's norm does not read the residual stream")
        residual, self.linears["o"] = self._residual(residual, f"{where}, attention")
        q, k, v = self._attention(self.linears["o"].input[0], where)
        self.linears["q"], self.linears["k"], self.linears["v"] = q, k, v
        self.attn_norm = r._norm_input(q.input[0], f"{where}, attention norm")
        if r.strip(self.attn_norm[1]) != r.strip(residual):
            raise Reject(f"{where}: the attention's norm does not read the residual stream")
        return self.attn_norm[0], residual, self.attn_norm[2]

    def _residual(self, out: str, what: str) -> tuple[str, onnx.NodeProto]:
        """(residual stream, linear) of x + linear(...)."""
        r = self.r
        add = r._node(out, {"Add"}, f"{what} residual")
        for index in (1, 0):
            node = r.g.producer.get(r.strip(add.input[index]))
            if node is not None and node.op_type in LINEAR:
                return str(add.input[1 - index]), node
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

    def _attention(self, name: str, where: str) -> tuple[onnx.NodeProto, onnx.NodeProto, onnx.NodeProto]:
        r = self.r
        node = r._node(name, {"MatMul", "Attention"}, f"{where}, softmax x V")
        if node.op_type == "Attention":
            scale = float(r.g.attributes(node).get("scale", r.head_dim**-0.5))
            queries, keys, values = (str(i) for i in node.input[:3])
        else:
            softmax = self._softmax(node.input[0], where)
            values = str(node.input[1])
            dot, scale = self._scores(softmax.input[0], where)
            queries, scale = self._unscale(dot.input[0], scale)
            keys, scale = self._unscale(dot.input[1], scale)
        if not np.isclose(scale, r.head_dim**-0.5, rtol=1e-3):
            raise Reject(f"{where}: scores are scaled by {scale:.5f}, not by 1/sqrt({r.head_dim})")
        q = self._rope(queries, f"{where}, Q", heads="q")
        k = self._rope(self._cached(keys, "key", where), f"{where}, K", heads="k")
        v = r._node(self._cached(values, "value", where), LINEAR, f"{where}, V")
        return q, k, v

    def _softmax(self, name: str, where: str) -> onnx.NodeProto:
        r = self.r
        node = r._node(name, {"Softmax", "Where"}, f"{where}, softmax")
        if node.op_type == "Where":  # rows that are wholly masked: where(isnan(p), 0, p)
            node = r._node(node.input[2], {"Softmax"}, f"{where}, softmax")
        return node

    def _scores(self, name: str, where: str) -> tuple[onnx.NodeProto, float]:
        """(the QK^T product, its scale), through the mask and constant factors."""
        r, scale = self.r, 1.0
        for _ in range(6):
            node = r._node(name, {"Add", "Mul", "Div", "MatMul"}, f"{where}, QK^T")
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
        node = r._node(name, {"Concat"}, f"{where}, the {kind} cache")
        past = f"past_key_values.{self.layer}.{kind}"
        if len(node.input) != 2 or r.strip(node.input[0]) != past:
            raise Reject(f"{where}: the {kind} cache is not concat({past}, new)")
        return str(node.input[1])

    def _rope(self, name: str, what: str, heads: str) -> onnx.NodeProto:
        """Match x * cos + rotate_half(x) * sin (or RotaryEmbedding) and note the frequencies; returns the linear."""
        r = self.r
        node = r._node(name, {"Add", "RotaryEmbedding"}, f"{what}, rotary embedding")
        if node.op_type == "RotaryEmbedding":
            attributes = r.g.attributes(node)
            if attributes.get("interleaved", 0) or attributes.get("rotary_embedding_dim", 0):
                raise Reject(f"{what}: an interleaved or partial rotary embedding")
            r.inv_freqs.append(self._frequencies(node.input[1], what))
            return r._node(node.input[0], LINEAR, what)
        for first, second in ((0, 1), (1, 0)):
            plain, turned = (r.g.producer.get(r.strip(node.input[i])) for i in (first, second))
            if plain is None or turned is None or plain.op_type != "Mul" or turned.op_type != "Mul":
                continue
            pair = self._rope_pair(plain, turned, what)
            if pair is not None:
                return pair
        raise Reject(f"{what}: not x * cos + rotate_half(x) * sin")

    def _rope_pair(self, plain: onnx.NodeProto, turned: onnx.NodeProto, what: str) -> onnx.NodeProto | None:
        r = self.r
        for x, cos in ((plain.input[0], plain.input[1]), (plain.input[1], plain.input[0])):
            linear = r.g.producer.get(r.strip(x))
            if linear is None or linear.op_type not in LINEAR:
                continue
            for half in turned.input:
                concat = r.g.producer.get(r.strip(half))
                if concat is None or concat.op_type != "Concat" or len(concat.input) != 2:
                    continue
                neg = r.g.producer.get(concat.input[0])
                if neg is None or neg.op_type != "Neg":
                    continue
                r.inv_freqs.append(self._frequencies(cos, what))
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

    def emit(self) -> None:
        """Append the layer's nodes in order."""
        r, n = self.r, f"l{self.layer}."
        x = r._last()
        weights = {role: r._weight(node) for role, node in self.linears.items()}
        heads = r.weights[weights["q"]].rows // r.head_dim
        a = r._emit_norm(n + "attn_norm", self.attn_norm, x)
        for role in "qkv":
            r._emit(Node(n + role, Op.LINEAR, (a,), weights[role], self.layer))
        r._emit(Node(n + "q_rope", Op.ROPE, (n + "q",), None, self.layer, heads))
        r._emit(Node(n + "k_rope", Op.ROPE, (n + "k",), None, self.layer, r.kv_heads))
        r._emit(Node(n + "attend", Op.ATTEND, (n + "q_rope", n + "k_rope", n + "v"), None, self.layer, heads))
        o = r._emit(Node(n + "o", Op.LINEAR, (n + "attend",), weights["o"], self.layer))
        x = r._emit(Node(n + "attn_add", Op.ADD, (x, o)))
        f = r._emit_norm(n + "ffn_norm", self.ffn_norm, x)
        gate = r._emit(Node(n + "gate", Op.LINEAR, (f,), weights["gate"], self.layer))
        up = r._emit(Node(n + "up", Op.LINEAR, (f,), weights["up"], self.layer))
        h = r._emit(Node(n + "glu", Op.GLU, (gate, up)))
        d = r._emit(Node(n + "down", Op.LINEAR, (h,), weights["down"], self.layer))
        r._emit(Node(n + "add", Op.ADD, (x, d)))
