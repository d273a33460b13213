# SPDX-License-Identifier: Apache-2.0
"""read: an ONNX file becomes a Graph.  Inputs are bound by name, roles are found by structure, from the logits back.

Serves LLaMA-family decoders as `convert` and `quantize` write them, and as optimum-onnx and torch's dynamo exporter
do.  Computes nothing; evaluate.py says what a graph means.  An unsupported graph gets all its problems.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from meadow.compiler.graph.graph import Graph, Model
from meadow.compiler.graph.ops import Attention
from meadow.compiler.sources.families.family import Nodes
from meadow.compiler.sources.families.llama import FAMILY as LLAMA
from meadow.compiler.sources.onnx.confirm import CONTEXT, MOST_CONTEXT, Stream, confirm
from meadow.compiler.sources.onnx.file import external_files, find_model, load_model
from meadow.compiler.sources.onnx.interface import Problem, foreign_operators, interface
from meadow.compiler.sources.onnx.layer import Layer
from meadow.compiler.sources.onnx.projection import LINEAR, Projection, projected_weight, projection
from meadow.compiler.sources.onnx.weight import TRANSPARENT, OnnxGraph, Reject, embedding_weight
from meadow.machine.errors import UnsupportedModel, UsageError
from meadow.machine.guard import guard
from meadow.machine.storage.groups import LARGEST
from meadow.machine.types import I8, Weight, grouped

ABSURD_SCALE = 1e4
"""No INT8 weight has such a scale."""


def read(path: Path, context: int | None = None) -> Graph:
    """The Graph of the ONNX file (or folder) `path`, confirmed by numbers up to position `context`.

    context  None: what the file says, at most MOST_CONTEXT; CONTEXT where it says nothing

    Raises UsageError when it is not a whole ONNX file, UnsupportedModel with a table of every problem found.
    """
    file = find_model(path)
    with guard(file, UsageError, "export or quantize the model again"):
        proto = load_model(file)
        return Reader(OnnxGraph(proto, file.parent.resolve()), file).read(context)


def absurd_numbers(graph: Graph) -> list[Problem]:
    """The weights, scales, minima and gains that hold NaN, infinity, or scales that no weight has."""
    problems = []
    for name, weight in graph.weights.items():
        if weight.scale is not None:
            magnitude = np.abs(weight.scale)
            least, most = float(magnitude.min()), float(magnitude.max())
            if not 0 <= least <= most < (LARGEST if weight.elem.group else ABSURD_SCALE):
                problems.append((name, f"has scales from {least:g} to {most:g}", "export or quantize it again"))
        for what, values in (("codes", weight.codes), ("minima", weight.minimum)):
            if values is not None and values.dtype.kind == "f" and not np.isfinite(values).all():
                problems.append((name, f"its {what} hold NaN or infinity", "export the model again"))
    for name, gain in graph.vectors.items():
        if not np.isfinite(gain).all():
            problems.append((name, "this gain or bias holds NaN or infinity", "export the model again"))
    return problems


def source_digest(path: Path) -> str:
    """sha256 of an ONNX file and of its external data, in the order of their names."""
    file = find_model(path)
    digest = hashlib.sha256()
    with guard(file, UsageError, "export or quantize the model again"):
        for part in [file, *external_files(file)]:
            with part.open("rb") as stream:
                for block in iter(lambda: stream.read(1 << 22), b""):
                    digest.update(block)
    return digest.hexdigest()


class Reader:
    """One reading of one file.  Each `match` method takes the name of a value and walks back from it."""

    def __init__(self, g: OnnxGraph, file: Path):
        self.g = g
        self.file = file
        self.nodes = Nodes()
        self.weights: dict[str, Weight] = {}
        self.vectors: dict[str, NDArray[np.float32]] = {}
        self.gain_inputs: dict[str, str] = {}  # of a gain's name: the value that its norm multiplies with
        self.problems: list[Problem] = []
        self.stream: list[str] = []
        self.layers = 0
        self.head_dim = self.kv_heads = self.dim = 0

    # -- the whole -------------------------------------------------------------------------------------------------

    def read(self, context: int | None) -> Graph:
        face, problems = interface(self.g)
        self.layers, self.kv_heads, self.head_dim = face.layers, face.kv_heads, face.head_dim
        self.problems += [*problems, *foreign_operators(self.g)]
        if self.problems:
            self._refuse()
        try:
            layers = self._match_model()
        except Reject as reject:
            self.problems.append(
                (
                    "structure",
                    str(reject),
                    "the first place that is no LLaMA-family decoder; what lies before it was not read",
                )
            )
            self._refuse()
        model = self._model()
        positions = context or min(model.context or CONTEXT, MOST_CONTEXT)
        graph = Graph(
            model, tuple(self.nodes.made), self.weights, self.vectors, str(self.file), self._metadata(), positions
        )
        graph.check()
        self.problems += absurd_numbers(graph)
        if not self.problems:
            self._confirm(graph, layers, positions)
        if self.problems:
            self._refuse()
        return graph

    def _confirm(self, graph: Graph, layers: list[Layer], positions: int) -> None:
        todo = {
            "meaning": "only plain LLaMA-family layers are compiled",
            "unchecked": "what was not checked is not compiled",
        }
        found = [layer.core() for layer in layers]
        cores = [core for core in found if not isinstance(core, str)]
        self.problems += [("meaning", core, todo["meaning"]) for core in found if isinstance(core, str)]
        if not self.problems:
            stream = Stream(tuple(self.stream), "logits")
            self.problems += [
                (kind, text, todo[kind]) for text, kind in confirm(self.g, graph, stream, cores, positions)
            ]

    def _refuse(self) -> None:
        raise UnsupportedModel(f"{self.file} cannot be compiled:", tuple(self.problems))

    def _match_model(self) -> list[Layer]:
        """The layers, first to last; their nodes and weights are emitted."""
        head = self._head()
        self.dim = projected_weight(self, head).cols
        layers = []
        x = self.norm_input(head.input, "final norm")
        final = x
        stream = [self.strip(x[1])]
        for layer in reversed(range(self.layers)):
            block = Layer(self, layer)
            x = block.match(x[1])
            stream.append(self.strip(x[1]))
            layers.append(block)
        self.stream = stream[::-1]
        last = self._match_embedding(x[1])
        for block in reversed(layers):
            last = block.emit(last)
        LLAMA.ends(
            self.nodes, final[0], final[2], self.share(projected_weight(self, head)), last, self.bias(head) or None
        )
        return layers[::-1]

    def _head(self) -> Projection:
        """The linear layer whose result the logits are."""
        node = self.g.producer.get(self.strip("logits"))
        for _ in range(4):
            if node is None or node.op_type not in ("Mul", "Div", "Tanh"):
                break
            if node.op_type == "Tanh":
                raise Reject(f"the logits pass through Tanh {node.name!r} (a softcap, as in Gemma)")
            inner, constant = self.split_constant(node)
            if constant is None:
                break
            factor, node = float(constant.reshape(-1)[0]), self.g.producer.get(self.strip(inner))
            if node is not None and node.op_type in LINEAR:
                raise Reject(f"the logits are multiplied by a constant ({factor:g}), which the LLaMA family has not")
        return self.linear("logits", "the head")

    def _metadata(self) -> dict[str, str]:
        return {p.key: p.value for p in self.g.model.metadata_props}

    def _model(self) -> Model:
        nodes = self.nodes.made
        embed, head = (self.weights[nodes[end].weight or ""] for end in (0, -1))
        metadata = self._metadata()
        attention = next(n.op for n in nodes if isinstance(n.op, Attention))
        ffn = next(self.weights[n.weight or ""].rows for n in nodes if n.role == "up")
        context = metadata.get("meadow.context", "0")
        return Model(
            name=re.sub(r"[^A-Za-z0-9_.-]+", "-", self.g.graph.name or self.file.stem),
            layers=self.layers,
            dim=embed.cols,
            heads=attention.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            ffn=ffn,
            vocab=head.rows,
            context=int(context) if re.fullmatch(r"[0-9]{1,7}", context) else 0,
            activations=metadata.get("meadow.activations", "float"),
        )

    # -- walking back ----------------------------------------------------------------------------------------------

    def strip(self, name: str) -> str:
        return self.g.strip(name)

    def passed(self, name: str) -> list[str]:
        """The operators that `strip` passes from `name` on, but for Identity."""
        found = []
        while name in self.g.producer and self.g.producer[name].op_type in TRANSPARENT:
            node = self.g.producer[name]
            if node.op_type != "Identity":
                found.append(f"{node.op_type} {node.name or node.output[0]!r}")
            name = node.input[0]
        return found

    def node(self, name: str, kinds: set[str], what: str) -> onnx.NodeProto:
        name = self.strip(name)
        node = self.g.producer.get(name)
        if node is None or node.op_type not in kinds:
            found = f"{node.op_type} {node.name!r}" if node is not None else f"the input {name!r}"
            raise Reject(f"{what} should be {' or '.join(sorted(kinds))}, found {found}")
        return node

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

    def norm_input(self, name: str, what: str) -> tuple[str, str, float]:
        """Match gain * x / sqrt(mean(x^2) + eps); returns (gain's name, x, eps)."""
        name = self.strip(name)
        node = self.g.producer.get(name)
        if node is not None and node.op_type in ("RMSNormalization", "SimplifiedLayerNormalization"):
            eps = float(self.g.attributes(node).get("epsilon", 1e-5))
            return self._gain(node.input[1]), str(node.input[0]), eps
        node = self.node(name, {"Mul", "Div"}, what)
        unit, gain = self.split_constant(node)
        if gain is None or node.op_type == "Div":  # simplifiers drop a gain of ones
            gain_name, inner = "", node
        else:
            gain_name = next(i for i in node.input if i != unit)
            inner = self.node(unit, {"Mul", "Div"}, f"{what}, x over its root")
        x, root = (str(i) for i in inner.input)
        if inner.op_type == "Mul":
            if self._is_reciprocal(x):
                x, root = root, x
            if not self._is_reciprocal(root):
                raise Reject(f"{what}: {inner.name!r} does not multiply by one over a root")
            reciprocal = self.g.producer[self.strip(root)]
            root = str(reciprocal.input[-1])
        sqrt = self.node(root, {"Sqrt"}, f"{what}, the root")
        added, eps_value = self.split_constant(self.node(sqrt.input[0], {"Add"}, f"{what}, mean square plus eps"))
        if eps_value is None or (eps_value != eps_value.reshape(-1)[0]).any():
            raise Reject(f"{what}: epsilon is not one constant")
        mean = self.node(added, {"ReduceMean"}, f"{what}, the mean")
        square = self.node(mean.input[0], {"Pow", "Mul"}, f"{what}, the square")
        if self.strip(square.input[0]) != self.strip(x):
            raise Reject(f"{what}: the norm's root is of another value than its input")
        return self._gain(gain_name), x, float(np.float32(eps_value.reshape(-1)[0]))

    def _is_reciprocal(self, name: str) -> bool:
        node = self.g.producer.get(self.strip(name))
        if node is None:
            return False
        return node.op_type == "Reciprocal" or (node.op_type == "Div" and self.g.scalar(node.input[0]) == 1.0)

    def _gain(self, name: str) -> str:
        """The name under which a norm's gain is kept, its own: exporters let equal gains share an initializer.  "" is ones."""
        value = self.g.array(self.strip_constant(name)) if name else np.ones(self.dim, np.float32)
        if value is None:
            raise Reject(f"the gain {name!r} of a norm is not constant")
        source = self.g.source_name(self.strip_constant(name)) if name else "ones"
        while source in self.vectors:
            source += "'"
        self.vectors[source] = np.asarray(value, np.float32).reshape(-1)
        self.gain_inputs[source] = name
        return source

    def linear(self, name: str, what: str) -> Projection:
        """The linear layer whose value is `name`.  Raises Reject."""
        found = projection(self, name)
        if found is None:
            self.node(name, LINEAR, what)
            raise Reject(f"{what} was not understood")
        return found

    def bias(self, p: Projection) -> str:
        """The name under which the bias of a linear layer is kept, its own; "" where it adds nothing."""
        value = self.g.array(self.strip_constant(p.bias)) if p.bias else np.zeros(1)
        if value is None:
            raise Reject(f"{p.node.op_type} {p.node.name!r} adds a computed bias")
        if not np.any(value):
            return ""
        name = self.g.source_name(self.strip_constant(p.bias))
        while name in self.vectors:
            name += "'"
        self.vectors[name] = np.asarray(value, np.float32).reshape(-1)
        return name

    def weight(self, p: Projection) -> str:
        """The name under which a layer's weight is kept, its own: exporters let equal matrices share an initializer."""
        weight = projected_weight(self, p)
        name = weight.name
        while name in self.weights:
            name += "'"
        self.weights[name] = replace(weight, name=name)
        return name

    def share(self, weight: Weight) -> str:
        """The name of the head or the embedding: that of an equal matrix already read, if there is one (tied)."""
        for name, other in self.weights.items():
            if other.codes.shape != weight.codes.shape or other.elem != weight.elem:
                continue
            if name == weight.name or (
                other.minimum is None
                and other.rows * other.cols > 1 << 12
                and np.array_equal(other.codes[:: max(1, other.rows // 64)], weight.codes[:: max(1, other.rows // 64)])
                and np.array_equal(other.codes, weight.codes)
                and (other.scale is None or np.array_equal(other.scale, weight.scale))  # type: ignore[arg-type]
            ):
                return name
        self.weights[weight.name] = weight
        return weight.name

    def _match_embedding(self, name: str) -> str:
        """Append the embedding; returns its node's name."""
        name = self.strip(name)
        node = self.g.producer.get(name)
        scaled = None
        if node is not None and node.op_type == "Mul":  # codes times their gathered scales
            scaled = str(node.input[1])
            name = self.strip(node.input[0])
            node = self.g.producer.get(name)
        if node is None or node.op_type != "Gather" or self.strip(node.input[1]) != "input_ids":
            raise Reject("the first layer does not read a Gather of input_ids")
        table = str(node.input[0])
        codes = self.g.array(table)
        if codes is not None and codes.dtype == np.int8:
            if scaled is None or self._scale_behind(scaled) != f"{table}.scale":
                raise Reject("the int8 embedding is not multiplied by its own scales")
            weight = self._quantized_embedding(table)
        elif scaled is not None:
            raise Reject("the embedding is multiplied by a factor (Gemma, MiniCPM), which the LLaMA family has not")
        else:
            weight = embedding_weight(self.g, table)
        return self.nodes.begin(self.share(weight))

    def _scale_behind(self, name: str) -> str:
        """The initializer that a scale, gathered or not, comes from."""
        name = self.strip(name)
        node = self.g.producer.get(name)
        return str(node.input[0]) if node is not None and node.op_type == "Gather" else name

    def _quantized_embedding(self, table: str) -> Weight:
        """Codes gathered before they are scaled: the DequantizeLinear of the tied head tells their scales."""
        for node in self.g.graph.node:
            if node.op_type == "DequantizeLinear" and node.input[0] == table:
                return embedding_weight(self.g, node.output[0])
        codes, scale = self.g.array(table), self.g.array(f"{table}.scale")
        if codes is None or scale is None:
            raise Reject(f"the embedding {table!r} has int8 codes and no scales were found")
        scales = np.asarray(scale, np.float32)
        if scales.ndim == 2:
            return Weight(table, grouped(8, codes.shape[1] // scales.shape[1]), codes, scales)
        return Weight(table, I8, codes, np.broadcast_to(scales.reshape(-1), (codes.shape[0],)).copy())
