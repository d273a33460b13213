# SPDX-License-Identifier: Apache-2.0
"""Lifter: follows the operators of a graph on symbolic values, at a number of cached and new tokens.

Knows how to visit; what an operator means for a form is in the rules beside this file.  Problems are noted and the graph is followed
further, so that all of them are found at once.
"""

from __future__ import annotations

import hashlib
from collections import ChainMap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from meadow.compiler.sources.onnx.graph import OnnxGraph
from meadow.compiler.sources.onnx.interface import plain_input
from meadow.compiler.sources.onnx.lift.form import Array, Base, Form, Reject
from meadow.compiler.sources.onnx.lift.values import Const, Nothing, Past, Tokens, Unknown, Value
from meadow.compiler.sources.onnx.numeric import HALVES, QONNX, ROUNDED, attributes_of, compute, full
from meadow.compiler.sources.onnx.shapes import NotEvaluated

SMALL = 1 << 14
"""Elements of a constant that is computed at once, so that chains of constants stay short."""
Rule = Callable[["Lifter", onnx.NodeProto, dict[str, Any], list[Value]], Any]
RULES: dict[str, Rule] = {}
"""What an operator means for symbolic inputs, by its name.  Filled by the modules of this folder (rules.py)."""
LAZY = {"DequantizeLinear", "QuantizeLinear", "Quant", "Clip", "Transpose", "Cast", "Identity", "Reshape"}
"""Operators that stand between codes and the product that reads them: not computed unless asked for."""
SHAPES = {"Shape", "Size"}


def rule(*kinds: str) -> Callable[[Rule], Rule]:
    """Register a rule for operators of these kinds."""

    def register(function: Rule) -> Rule:
        for kind in kinds:
            RULES[kind] = function
        return function

    return register


@dataclass(frozen=True)
class Cut:
    """A value at which a graph is cut: its shape, and how it is made where it is read."""

    shape: tuple[int, ...]
    make: Callable[[], Value]


class Lifter:
    """One walk through a graph.

    past, tokens  cached and new tokens
    cuts          shapes of values by ONNX name at which the graph is cut: a value is made when it is read, its shape alone is not one
    """

    def __init__(self, g: OnnxGraph, past: int, tokens: int, cuts: dict[str, Cut] | None = None):
        self.g, self.past, self.tokens = g, past, tokens
        self.values: dict[str, Value] = {}
        self.cuts: dict[str, Cut] = dict(cuts or {})
        self.appended: dict[str, str] = {}  # by cache input: the ONNX value that is appended to it
        self.problems: list[Reject] = []
        self.notes: dict[str, int] = {}
        self.settled: dict[int, tuple[Value, Form]] = {}
        """Functions that became a known activation, by the identity of what they were."""
        self.attentions: list[Any] = []
        self.cache_factors: dict[str, float] = {}
        self.coarse = False  # angles were rounded to 16 bits
        self.factors: dict[str, Const] = {}  # constants by position that values are multiplied with: cosines and sines
        self.features: set[str] = set()  # constants by feature: gains and biases
        for value in g.graph.input:
            if value.name not in g.initializers and value.name not in self.cuts:
                found = self._input(value)
                if found is not None:
                    self.values[value.name] = found

    # -- inputs and constants --------------------------------------------------------------------------------------

    def _input(self, value: onnx.ValueInfoProto) -> Value:
        """What a graph input is: tokens, a cache, or something that is the same for every prompt."""
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
        name, past, tokens = value.name, self.past, self.tokens
        if name == "input_ids":
            return Form.of(Tokens(name, 1, tokens), (1, tokens))
        if len(dims) == 4:
            heads, head_dim = dims[1], dims[3]
            if not heads or not head_dim:
                return Past(name, 0, 0)
            base, shape = Past(name, heads * past, head_dim), (1, heads, past, head_dim)
            self.cuts[name] = Cut(shape, lambda: Form.of(base, shape))
            return None
        made = plain_input(name, len(dims), past, tokens)
        return Nothing() if made is None else Const(name, lambda: made, True)

    def const(self, array: Any, name: str = "") -> Const:
        made = np.asarray(array)
        return Const(name, lambda: made, True)

    def _initializer(self, name: str) -> Const:
        def make() -> Array:
            found = self.g.array(name)
            assert found is not None
            return full(found)

        return Const(name, make, False)

    # -- visiting --------------------------------------------------------------------------------------------------

    def value(self, name: str) -> Value:
        """The value called `name`.  Raises Reject where it depends on something that is not there."""
        if not name:
            return None
        if name not in self.values and name not in self.cuts:
            self._visit([name])
        return self._known(name)

    def _known(self, name: str) -> Value:
        """A value that was visited, or at which the graph is cut."""
        if name not in self.values:
            self.values[name] = self.cuts[name].make()
        return self.values[name]

    def _visit(self, names: Iterable[str]) -> None:
        """Follow everything that `names` are computed from, in the graph's order."""
        needed: set[int] = set()
        for name in self.g.behind(names, ChainMap(self.values, self.cuts)):
            if name in self.values or name in self.cuts:
                continue
            if name in self.g.index:
                needed.add(self.g.index[name])
            elif name in self.g.initializers:
                self.values[name] = self._initializer(name)
            else:
                raise Reject(f"the value {name!r} is nowhere computed", name)
        for index in sorted(needed):
            node = self.g.graph.node[index]
            if all(not out or out in self.values or out in self.cuts for out in node.output):
                continue
            found = self._follow(node)
            for place, out in enumerate(node.output):
                if out and out not in self.values and out not in self.cuts:
                    self.values[out] = found[place] if place < len(found) else Nothing()

    def _follow(self, node: onnx.NodeProto) -> list[Value]:
        attributes = attributes_of(node)
        attributes["outputs"] = len(node.output)
        if node.op_type in SHAPES:
            return self._shape(node, attributes, node.input[0])
        inputs = [self._known(i) if i else None for i in node.input]
        if all(v is None or isinstance(v, Const) for v in inputs):
            if self._rounds_positions(node, inputs):
                self.problem(
                    Reject(
                        f"rounds {self.g.strip(node.input[0])} to 16 bits",
                        where_of(node),
                        "rounded positions",
                        "an FP16 graph whose positions are no whole numbers any more: export in float32",
                    )
                )
            if (
                node.op_type in ROUNDED and inputs[0] is not None and inputs[0].varies
            ):  # a table of angles that is rounded like an activation
                self.note(f"{node.op_type} of values that depend on positions is left out")
                return [inputs[0]]
            return self._constant(node, inputs)
        if any(isinstance(v, Nothing) for v in inputs):
            return [Nothing()] * len(node.output)
        rule = RULES.get(node.op_type) if node.domain in ("", "ai.onnx", "com.microsoft", *QONNX) else None
        where = where_of(node)
        try:
            if rule is None:
                name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
                raise Reject(f"the operator {name}", where, f"operator {node.op_type}")
            found = rule(self, node, attributes, inputs)
        except Reject as reject:
            reject.where = reject.where or where
            self._note_problem(reject, inputs)
            found = self._unknown(node, inputs)
        except (NotEvaluated, ValueError, IndexError, TypeError, KeyError, AttributeError) as error:
            self._note_problem(Reject(f"could not be followed: {error}", where, "not followed"), inputs)
            found = self._unknown(node, inputs)
        return list(found) if isinstance(found, (list, tuple)) else [found]

    def problem(self, reject: Reject) -> None:
        self.problems.append(reject)

    def _note_problem(self, reject: Reject, inputs: list[Value]) -> None:
        """Note a problem, unless it follows from another one."""
        if not any(isinstance(b, Unknown) for v in inputs for b in bases_of(v)):
            self.problem(reject)

    def appended_name(self, past: str) -> str:
        """The ONNX value that is appended to a cache.  Raises Reject."""
        if past not in self.appended:
            raise Reject(f"the cache {past!r} is not concat(cache, new)", past, "cache")
        return self.appended[past]

    def note(self, text: str) -> None:
        """Something that was read otherwise than written, and how often."""
        self.notes[text] = self.notes.get(text, 0) + 1

    def _unknown(self, node: onnx.NodeProto, inputs: list[Value]) -> list[Value]:
        """Something of the shape of the first form, so that the rest can be followed."""
        shape = next((v.shape for v in inputs if isinstance(v, Form)), None)
        if shape is None or not node.output:
            return [Nothing()] * len(node.output)
        if node.op_type in ("MatMul", "FusedMatMul") and isinstance(inputs[1], Form):
            shape = (*shape[:-1], inputs[1].shape[-2 if node.op_type == "FusedMatMul" else -1])
        base = Unknown(node.output[0], int(np.prod(shape[:-1])) or 1, shape[-1])
        return [Form.of(base, shape)] + [Nothing()] * (len(node.output) - 1)

    def _shape(self, node: onnx.NodeProto, attributes: dict[str, Any], name: str) -> list[Value]:
        if name not in self.values:
            return self._shape_of(node, attributes, self.cuts[name].shape)
        value = self.values[name]
        if isinstance(value, Nothing) or value is None:
            return [Nothing()]
        if isinstance(value, Past):  # its heads are known when something is appended to it
            shape = np.array([1, -1, self.past, -1][slice(attributes.get("start", 0), attributes.get("end"))], np.int64)
            return [Const(node.output[0], lambda: shape, True)]
        return self._shape_of(node, attributes, value.array.shape if isinstance(value, Const) else value.shape)

    @staticmethod
    def _shape_of(node: onnx.NodeProto, attributes: dict[str, Any], shape: tuple[int, ...]) -> list[Value]:
        found = np.array(shape[slice(attributes.get("start", 0), attributes.get("end"))], np.int64)
        made = np.array(int(np.prod(found)), np.int64) if node.op_type == "Size" else found
        return [Const(node.output[0], lambda: made, True)]

    @staticmethod
    def _rounds_positions(node: onnx.NodeProto, inputs: list[Value]) -> bool:
        """Whether whole numbers that are more than 0 and 1 become floats of 16 bits."""
        if (
            node.op_type != "Cast"
            or not inputs[0].varies
            or not any(a.name == "to" and a.i in HALVES for a in node.attribute)
        ):
            return False
        found = inputs[0].array
        return found.dtype.kind in "iu" and found.size > 0 and int(found.max()) > 1

    def _constant(self, node: onnx.NodeProto, inputs: list[Value]) -> list[Value]:
        """An operator on constants: computed when it is asked for."""
        made: list[list[Array | None]] = []

        def outputs() -> list[Array | None]:
            if not made:
                made.append(self._compute(node, inputs))
            return made[0]

        varies = any(v is not None and v.varies for v in inputs)

        def output(place: int) -> Callable[[], Array]:
            return lambda: np.asarray(outputs()[place])

        found = [Const(out, output(place), varies) for place, out in enumerate(node.output)]
        ready = [v for v in inputs if v is not None]
        if node.op_type not in LAZY and all(v.computed is not None and v.computed.size <= SMALL for v in ready):
            for constant in found:
                constant.array  # noqa: B018  computed now
        return list(found)

    def _compute(self, node: onnx.NodeProto, inputs: list[Value]) -> list[Array | None]:
        try:
            return compute(node, [None if v is None else v.array for v in inputs], self.g.opset)
        except NotEvaluated as problem:
            raise Reject(str(problem), node.name or node.output[0], "not evaluated") from None

    def array(self, value: Value) -> Array:
        """The array of a constant.  Raises Reject for what depends on tokens."""
        if not isinstance(value, Const):
            raise Reject("a parameter that is computed from the tokens")
        return value.array

    def optional(self, xs: list[Value], place: int) -> Array | None:
        """The array of a constant input; None where there is none."""
        value = given(xs, place)
        return None if value is None else self.array(value)

    def number(self, value: Value) -> float:
        """A constant that is one number."""
        found = self.array(value).reshape(-1)
        if not found.size or (found != found[0]).any():
            raise Reject("a constant that is not one number")
        return float(found[0])

    def fingerprint(self, names: Iterable[str], stop: set[str]) -> str:
        """What `names` are computed by, but for the values of constants that do not vary: layers with one fingerprint are alike."""
        digest = hashlib.sha256()
        number = {name: n for n, name in enumerate(self.g.behind(names, stop))}
        for name in number:
            digest.update(self._mark(name, stop, number).encode())
        return digest.hexdigest()

    def _mark(self, name: str, stop: set[str], number: dict[str, int]) -> str:
        value = self.values.get(name)
        if name in stop or name in self.cuts or (isinstance(value, Form) and name not in self.g.index):
            return f"{number[name]} cut\n"
        if name in self.g.index:
            node = self.g.graph.node[self.g.index[name]]
            attributes = sorted(a.SerializeToString(deterministic=True) for a in node.attribute)
            inputs = [number[i] if i else -1 for i in node.input]
            return f"{number[name]} {node.op_type} {inputs} {list(node.output).index(name)} {attributes}\n"
        if name in self.g.initializers:
            tensor = self.g.initializers[name]
            content = ""
            if int(np.prod(tensor.dims)) <= SMALL:
                content = hashlib.sha256(np.ascontiguousarray(self.g.array(name)).tobytes()).hexdigest()
            return f"{number[name]} constant {tensor.data_type} {list(tensor.dims)} {content}\n"
        return f"{number[name]} input {name}\n"


def given(xs: list[Value], place: int) -> Value:
    """An input of an operator; None where it has none there."""
    return xs[place] if len(xs) > place else None


def where_of(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {node.name or node.output[0]!r}"


def bases_of(value: Value) -> list[Base]:
    """The values that a symbolic value is made of."""
    x = getattr(value, "x", value)
    x = getattr(x, "x", x)
    return x.bases() if isinstance(x, Form) else []
