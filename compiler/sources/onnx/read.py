# SPDX-License-Identifier: Apache-2.0
"""read: an ONNX file of any exporter becomes a Graph, confirmed by numbers.

    normalize   functions, merged branches and Constants go      (normalize.py)
    interface   what inputs and outputs say                      (interface.py)
    lift        operators are followed on symbolic values        (lift/)
    positions   windows and rotations, at many positions         (lift/positions.py)
    assemble    values become nodes, layers and roles            (lift/assemble.py)
    confirm     the whole model against the user's graph         (confirm.py)

Says nothing of engines.  An unsupported graph gets all its problems.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from meadow.compiler.graph.graph import Graph, Model, Node
from meadow.compiler.graph.ops import Attention, Embedding
from meadow.compiler.sources.onnx.confirm import CONTEXT, MOST_CONTEXT, Lifted, confirm, noise_of
from meadow.compiler.sources.onnx.file import external_files, find_model, load_model
from meadow.compiler.sources.onnx.graph import OnnxGraph
from meadow.compiler.sources.onnx.interface import Problem, explained, interface, logits_of, number_of
from meadow.compiler.sources.onnx.lift import rules  # noqa: F401  they register themselves
from meadow.compiler.sources.onnx.lift.assemble import Assembly
from meadow.compiler.sources.onnx.lift.attention import cached
from meadow.compiler.sources.onnx.lift.form import Form, Reject
from meadow.compiler.sources.onnx.lift.lifter import Lifter
from meadow.compiler.sources.onnx.lift.positions import Positions
from meadow.compiler.sources.onnx.lift.roles import finished
from meadow.compiler.sources.onnx.lift.tensors import Tensors
from meadow.compiler.sources.onnx.lift.values import Attended, Past, Turned, Value
from meadow.compiler.sources.onnx.normalize import normalize
from meadow.compiler.sources.onnx.rounding import Rounding, without_rounding
from meadow.compiler.sources.onnx.shapes import NotEvaluated
from meadow.machine.errors import UnsupportedModel, UsageError
from meadow.machine.guard import guard
from meadow.machine.storage.groups import LARGEST

ABSURD_SCALE = 1e4
"""No INT8 weight has such a scale."""


MOST_NOISE = 0.35
"""Of the logits' standard deviation, that a file's own roundings of activations may cost: more is another function."""
ANGLES = "leave the rotary embedding and the mask out of quantization (nodes_to_exclude), or give the float model: meadowc quantize"
FROM_A_MASK = (
    "quantize MatMul and Gemm alone, symmetric and per channel (op_types_to_quantize of onnxruntime's quantize_static), "
    "or give the float model: meadowc quantize"
)


def read(path: Path, context: int | None = None) -> Graph:
    """The Graph of the ONNX file (or folder) `path`, confirmed by numbers up to position `context`.

    context  None: what the file says, at most MOST_CONTEXT; CONTEXT where it says nothing

    Raises UsageError when it is not a whole ONNX file, UnsupportedModel with a table of every problem found.
    """
    file = find_model(path)
    with guard(file, UsageError, "export or quantize the model again"):
        proto = load_model(file)
        model, folder = normalize(proto, str(file)), file.parent.resolve()
        plain, rounding = without_rounding(model)
        reader = Reader(OnnxGraph(plain, folder), file)
        graph = reader.read(context)
        return graph if rounding is None else reader.rounded(graph, OnnxGraph(model, folder), rounding)


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


PAST_TOKENS, TOKENS = 2, 3
"""Cached and new tokens with which a graph is followed."""


class Reader:
    """One reading of one file."""

    def __init__(self, g: OnnxGraph, file: Path):
        self.g, self.file = g, file
        self.problems: list[Problem] = []
        self.lifted: Lifted | None = None

    def read(self, context: int | None) -> Graph:
        """The Graph, confirmed up to position `context`.  Raises UnsupportedModel."""
        self.problems += interface(self.g)
        if self.problems:
            self._refuse()
        lift, logits = self._followed()
        metadata = {p.key: p.value for p in self.g.model.metadata_props}
        stated = metadata.get("meadow.context", "0")
        known = int(stated) if re.fullmatch(r"[0-9]{1,7}", stated) else 0
        if not lift.attentions:
            self.problems.append(("attention", "no attention over a KV cache was found", "this is no decoder"))
            self._refuse()
        wanted = context or min(known or CONTEXT, MOST_CONTEXT)
        tried = self._reachable(lift, wanted, given=context is not None)
        try:
            graph, lifted = self._assembled(lift, logits, known, tried, metadata)
            self.lifted = lifted
        except Reject as reject:
            self.problems.append(_problem([reject]))
            self._refuse()
        except (IndexError, ValueError) as error:
            what = f"could not be followed up to position {tried} ({str(error).splitlines()[0][:80]})"
            self.problems.append(
                ("positions", what, "they mean something that is not known here: a floor, a modulo, a clamp?")
            )
            self._refuse()
        self.problems += absurd_numbers(graph)
        if not self.problems:
            self._confirm(graph, lifted, tried)
        if self.problems:
            self._refuse()
        return graph

    def rounded(self, graph: Graph, original: OnnxGraph, rounding: Rounding) -> Graph:
        """The Graph with what is to be known of the roundings that were taken out.  Refuses where they make another function."""
        for node, scale in rounding.absurd:
            self.problems.append((node, f"rounds activations by a scale of {scale:.3g}", FROM_A_MASK))
        if self.problems:
            self._refuse()
        assert self.lifted is not None
        try:
            noise = noise_of(original, graph, self.lifted)
        except NotEvaluated as error:
            self.problems.append(("the file's roundings of activations", f"cannot be run: {error}", FROM_A_MASK))
            self._refuse()
        if not noise <= MOST_NOISE:
            what = f"change the logits by {noise:.2f} standard deviations, measured on random tokens"
            for node in rounding.positional:
                self.problems.append(
                    (
                        node,
                        f"rounds positions or a mask (activations are quantized by {rounding.kinds}), which {what}",
                        ANGLES,
                    )
                )
            if not rounding.positional:
                self.problems.append(("activations", f"are quantized by {rounding.kinds}, which {what}", FROM_A_MASK))
            self._refuse()
        note = f"{rounding} (the file's own change the logits by {noise:.2f} standard deviations, measured on random tokens)"
        activations = "int8" if rounding.bits == 8 else graph.model.activations
        return graph.replace(notes=(*graph.notes, note), model=replace(graph.model, activations=activations))

    def _reachable(self, lift: Lifter, wanted: int, given: bool) -> int:
        """The most positions up to `wanted` for which the file has tables.  Refuses when that many are asked for and it has fewer."""
        positions = Positions(lift, wanted)
        if positions.reach(wanted):
            return wanted
        low, high = 1, wanted
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if positions.reach(middle) else (low, middle)
        if low < PAST_TOKENS + TOKENS:
            return wanted  # something else is wrong, which positions.py will say
        if given:
            self.problems.append(
                ("positions", f"the file has {low} positions, and {wanted} are asked for", f"--set context={low}")
            )
            self._refuse()
        return low

    def _followed(self) -> tuple[Lifter, Value]:
        """The graph followed, and its logits.  Refuses with every problem on the way."""
        lift = Lifter(self.g, PAST_TOKENS, TOKENS)
        found = self._follow(lift)
        if any(
            p.feature == "not evaluated" for p in lift.problems
        ):  # a mask for prompts or for single tokens, no mixture
            single = Lifter(self.g, PAST_TOKENS, 1)
            found_single = self._follow(single)
            if not single.problems:
                return single, found_single
        if lift.problems:
            clear = [p for p in lift.problems if p.feature != "not followed"]  # the others follow from these
            self.problems += [_problem(alike) for alike in _grouped(clear or lift.problems)]
            self._refuse()
        return lift, found

    def _follow(self, lift: Lifter) -> Value:
        """The logits, and every output."""
        found = None
        for name in (logits_of(self.g), *(o.name for o in self.g.graph.output)):
            try:
                value = lift.value(name)
                found = value if found is None else found
            except Reject as reject:
                lift.problem(reject)
        return found

    def _assembled(
        self, lift: Lifter, logits: Value, context: int, tried: int, metadata: dict[str, str]
    ) -> tuple[Graph, Lifted]:
        positions = Positions(lift, tried)
        turned: dict[int, tuple[float, ...]] = {}

        def places(attention: Attended) -> tuple[float, int]:
            found = positions.of(attention)
            return found.scale, found.window

        for attention in lift.attentions:
            for role, found in positions.of(attention).frequencies.items():
                turned[getattr(attention, role).base.order] = found

        def frequencies(base: Turned) -> tuple[float, ...]:
            if base.order not in turned:
                raise Reject("a rotary embedding of something else than queries and keys", base.name, "rotary")
            return turned[base.order]

        assembly = Assembly(lift, Tensors(self.g), places, frequencies)
        head = assembly.head(logits)
        nodes = finished(assembly, head)
        weights, vectors = assembly.tensors.weights, assembly.tensors.vectors
        model = self._model(nodes, assembly.tensors, context, metadata)
        notes = tuple(f"{text} ({times} times)" for text, times in sorted(lift.notes.items()))
        notes += ("cosines and sines of the rotary positions are rounded to 16 bits: kept in FP32",) * lift.coarse
        graph = Graph(model, nodes, weights, vectors, str(self.file), metadata, tried, notes)
        graph.check()
        _check_places(graph, tried)
        return graph, self._lifted(lift, nodes, assembly, logits)

    def _lifted(self, lift: Lifter, nodes: tuple[Node, ...], assembly: Assembly, logits: Value) -> Lifted:
        made = {m.base.order: m for m in assembly.made}
        attentions = sorted((a for a in lift.attentions if a.order in made), key=lambda a: _layer(made, a))
        caches = tuple((a.past_k.name, a.past_v.name) for a in attentions)
        kept = {}
        for output in self.g.graph.output:
            value = lift.values.get(output.name)
            if isinstance(value, Form) and any(isinstance(b, Past) for b in value.bases()):
                past, _, heads, factor = cached(lift, value, f"the output {output.name!r}: keys or values")
                if factor != 1.0 or not np.array_equal(heads, np.arange(len(heads))):
                    raise Reject(
                        "the cache is given back with a factor, or its heads in another order",
                        output.name,
                        "cache order",
                    )
                if number_of(past.name) != number_of(output.name):
                    raise Reject(
                        f"the output {output.name!r} gives back the cache {past.name!r}", output.name, "cache names"
                    )
                kept[past.name] = output.name
        read_ones = {name for pair in caches for name in pair}
        inputs = [i for i in self.g.graph.input if i.name not in self.g.initializers]
        rank_four = (i.name for i in inputs if len(i.type.tensor_type.shape.dim) == 4)
        idle = [name for name in rank_four if name not in read_ones]
        if idle:
            raise Reject(
                f"the logits do not depend on the layer of the cache {idle[0]!r} ({len(idle)} such inputs): the export is broken",
                idle[0],
                "idle layers",
            )
        missing = [n for pair in caches for n in pair if n not in kept]
        if missing:
            raise Reject(f"no output gives back the cache {missing[0]!r} with the new tokens", missing[0], "cache")
        shape = getattr(logits, "shape", (lift.tokens, 0))
        values = {}
        for node, one in zip(nodes, assembly.order, strict=True):
            value = lift.values.get(one.value)
            if (
                one.cols is None
                and not isinstance(one.base, Turned)
                and isinstance(value, Form)
                and value.shape[-1] == one.base.width
                and node.op.title != "norm"
            ):
                values[node.name] = one.value
        return Lifted(
            logits_of(self.g),
            caches,
            kept,
            dict(lift.cache_factors),
            values,
            lift.tokens > 1 and shape[-2] == 1,
            lift.tokens == 1,
            lift.coarse,
        )

    def _model(self, nodes: tuple[Node, ...], tensors: Tensors, context: int, metadata: dict[str, str]) -> Model:
        attentions = [n.op for n in nodes if isinstance(n.op, Attention)]
        weight = {n.name: tensors.weights[n.weight] for n in nodes if n.weight is not None}
        embed = next(n for n in nodes if n.role == "embed")
        return Model(
            name=re.sub(r"[^A-Za-z0-9_.-]+", "-", self.g.graph.name or self.file.stem),
            layers=len(attentions),
            dim=weight[embed.name].cols,
            heads=max(a.heads for a in attentions),
            kv_heads=max(a.kv_heads for a in attentions),
            head_dim=attentions[0].head_dim,
            ffn=max((weight[n.name].rows for n in nodes if n.role == "up"), default=0),
            vocab=weight[nodes[-1].name].rows,
            context=context,
            activations=metadata.get("meadow.activations", "float"),
        )

    def _confirm(self, graph: Graph, lifted: Lifted, tried: int) -> None:
        try:
            found = confirm(self.g, graph, lifted, tried)
        except NotEvaluated as problem:
            self.problems.append(
                ("unchecked", f"the model could not be checked: {problem}", "what was not checked is not compiled")
            )
            return
        if found:
            self.problems.append(("meaning", f"the file computes something else than it looks like: {found}", ""))

    def _refuse(self) -> None:
        raise UnsupportedModel(f"{self.file} cannot be compiled:", tuple(self.problems))


def _check_places(graph: Graph, tried: int) -> None:
    """Raise Reject for a file that takes more positions than its learned ones have rows: it does something else with them."""
    op = graph.nodes[0].op
    if not isinstance(op, Embedding) or op.positions is None:
        return
    most = graph.weights[op.positions].rows - op.shift
    if tried > most:
        raise Reject(
            f"there are {most} learned positions, and the file takes {tried} (does it clamp them?)",
            op.positions,
            "positions by length",
            f"up to {most} positions it is served: --set context={most}",
        )


def _layer(made: Mapping[int, object], attention: Attended) -> int:
    layer = getattr(made.get(attention.order), "layer", None)
    return -1 if layer is None else int(layer)


def _grouped(problems: list[Reject]) -> list[list[Reject]]:
    """Problems of one kind together, in the order of their first."""
    found: dict[str, list[Reject]] = {}
    for problem in problems:
        found.setdefault(problem.feature or problem.found, []).append(problem)
    return list(found.values())


def _problem(alike: list[Reject]) -> Problem:
    """One row of a table for problems of one kind."""
    first = alike[0]
    where = first.where if len(alike) == 1 else f"{first.where} and {len(alike) - 1} more"
    return where or "graph", first.found, first.todo or explained(first.feature)
