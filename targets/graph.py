# SPDX-License-Identifier: Apache-2.0
"""A model file as a target: the float meaning of its graph, for many boards at once, with exits in the middle.

A row of logits depends on its own text alone, bit for bit, not on how many others are computed beside it: matrices meet rows in tiles of
one size, and tokens attend one by one.  So a text is the same whether it was verified, decoded, or computed again after a restart.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from meadow.compiler.graph.evaluate import Evaluator, Floats, State
from meadow.compiler.graph.graph import Graph, Node
from meadow.compiler.graph.ops import Attention
from meadow.compiler.sources.source import companions_of, find_source, format_of, read_source
from meadow.machine.errors import UsageError
from meadow.runtime.text.tokenizer import Tokenizer
from meadow.targets.exits import TAU, Exits, ends_of_layers, load_exits
from meadow.targets.target import Ask, Early, Rows

CONTEXT = 2048
"""Tokens of a model that says nothing of it."""
TILE = 8
"""Rows that a matrix meets at once."""
FORMATS = {"ONNX": "onnx", "GGUF": "gguf", "Hugging Face": "hf"}


class Rowwise(Evaluator):
    """An Evaluator whose rows do not depend on each other."""

    def _product(self, x: Floats, name: str) -> Floats:
        weight = self.weights[name].T
        tiles = []
        for start in range(0, len(x), TILE):
            tile = np.zeros((TILE, x.shape[1]), np.float32)
            some = x[start : start + TILE]
            tile[: len(some)] = some
            tiles.append((tile @ weight)[: len(some)])
        return np.concatenate(tiles)

    def _attend(self, op: Attention, layer: int, inputs: list[Floats], state: State) -> Floats:
        before, rows = state.position, []
        for n in range(len(inputs[0])):
            state.position = before + n
            rows.append(super()._attend(op, layer, [x[n : n + 1] for x in inputs], state))
        state.position = before
        return np.concatenate(rows)

    def together(self, nodes: Sequence[Node], values: dict[str, Floats], pieces: Sequence[Piece]) -> None:
        """Compute `nodes` for the rows of all pieces, one behind another, into `values`."""
        tokens = np.concatenate([p.tokens for p in pieces])
        place = np.concatenate([p.state.position + np.arange(len(p.tokens)) for p in pieces])
        with np.errstate(over="ignore", invalid="ignore"):
            for node in nodes:
                inputs = [values[name] for name in node.inputs]
                if isinstance(node.op, Attention):
                    found, at = [], 0
                    for p in pieces:
                        part = [x[at : at + len(p.tokens)] for x in inputs]
                        found.append(self._attend(node.op, node.layer or 0, part, p.state))
                        at += len(p.tokens)
                    values[node.name] = np.concatenate(found)
                else:
                    values[node.name] = self._node(node, inputs, tokens, place, State())


class Piece:
    """Tokens that one text runs, and the cache before them."""

    def __init__(self, state: State, tokens: Sequence[int]):
        self.state, self.tokens = state, np.array(tokens, np.int64)


class GraphTarget:
    """A graph in float.

    exits  of `meadowc exits fit`, those that are to tell
    """

    def __init__(
        self, graph: Graph, name: str, tokenizer: Tokenizer | None = None, context: int = 0, exits: Exits | None = None
    ):
        self.graph, self.name, self.tokenizer = graph, name, tokenizer
        self.vocab, self.layers = graph.model.vocab, graph.model.layers
        most = min((n for n in (graph.model.context, graph.positions) if n), default=CONTEXT)
        if context > most:
            raise UsageError(f"--target-context {context}: {name} was made for, and tried with, {most} tokens")
        self.context = context or most
        self.ends = tokenizer.end_tokens if tokenizer is not None else frozenset()
        self._evaluator = Rowwise(graph, quantized=graph.model.activations == "int8")
        self._after = ends_of_layers(graph)
        self._exits = exits
        self.exits = exits.layers if exits is not None else ()
        self.tau = exits.tau if exits is not None else TAU

    def verify(self, asks: Sequence[Ask], early: Early | None = None) -> list[Rows]:
        """All of them in one pass over the weights."""
        pieces = [self._piece(ask) for ask in asks]
        nodes, values = self.graph.nodes, dict[str, Floats]()
        at = 0
        for layer in self.exits if early is not None else ():
            stop = self._after[layer] + 1
            self._evaluator.together(nodes[at:stop], values, pieces)
            at = stop
            self._tell(layer, self._wanted(values[nodes[stop - 1].name], asks, pieces), asks, early)
        end = self._after[self.layers] + 1
        self._evaluator.together(nodes[at:end], values, pieces)
        logits = self._tail(self._wanted(values[nodes[end - 1].name], asks, pieces))
        for ask, piece in zip(asks, pieces, strict=True):
            piece.state.position += len(piece.tokens)
            ask.kept.tokens = [*ask.text, *ask.drafts]
        return _cut(logits, asks)

    def _piece(self, ask: Ask) -> Piece:
        """What is not kept yet; at least the text's last token, whose logits are wanted."""
        kept, tokens = ask.kept, [*ask.text, *ask.drafts]
        start = min(kept.same(tokens), len(ask.text) - 1)
        state = kept.state if isinstance(kept.state, State) else State()
        for cache in (state.keys, state.values):
            for layer in cache:
                cache[layer] = cache[layer][:start]
        kept.state, state.position = state, start
        del kept.tokens[start:]
        return Piece(state, tokens[start:])

    @staticmethod
    def _wanted(x: Floats, asks: Sequence[Ask], pieces: Sequence[Piece]) -> Floats:
        """The rows of which logits are wanted: the last ones of each piece."""
        found, at = [], 0
        for ask, piece in zip(asks, pieces, strict=True):
            at += len(piece.tokens)
            found.append(x[at - ask.rows : at])
        return np.concatenate(found)

    def _tail(self, x: Floats) -> Rows:
        """What follows the last layer: the norm and the head."""
        end = self._after[self.layers]
        values = {self.graph.nodes[end].name: x}
        tail = self.graph.nodes[end + 1 :]
        self._evaluator.together(tail, values, [Piece(State(), [0] * len(x))])
        return values[tail[-1].name]

    def _tell(self, layer: int, x: Floats, asks: Sequence[Ask], early: Early | None) -> None:
        assert self._exits is not None and early is not None
        for number, rows in enumerate(_cut(self._tail(self._exits.mapped(layer, x)), asks)):
            early(number, layer, rows)

    @property
    def kept_bytes(self) -> int:
        """Of keys and values, for a token."""
        ops = [n.op for n in self.graph.nodes if isinstance(n.op, Attention) and n.op.keys_from is None]
        return sum(2 * 4 * op.kv_heads * op.head_dim for op in ops)

    def close(self) -> None:
        """Nothing is held."""


def _cut(rows: Rows, asks: Sequence[Ask]) -> list[Rows]:
    stops = np.cumsum([ask.rows for ask in asks])[:-1]
    return np.split(rows, stops)


def open_graph(kind: str, path: Path, exits: tuple[int, ...], maps: Path | None, context: int) -> GraphTarget:
    """The target of a model file or folder.  Raises UsageError and UnsupportedModel."""
    if not path.exists():
        raise UsageError(f"--target {kind}:{path}: {path} is not there")
    file = find_source(path)
    found = FORMATS.get(format_of(file), format_of(file))
    if found != kind:
        raise UsageError(f"--target {kind}:{path}: this is {format_of(file)}; say {found}:{path}")
    graph = read_source(file, context or None)
    chosen = None
    if exits:
        chosen = load_exits(maps or file.parent / "exits.safetensors", graph).only(exits)
    return GraphTarget(
        graph,
        file.stem if file.suffix == ".gguf" else file.parent.name or file.stem,
        tokenizer_of(file),
        context,
        chosen,
    )


def tokenizer_of(file: Path) -> Tokenizer | None:
    """The tokenizer beside a model file; None where there is none."""
    texts = companions_of(file)
    if "tokenizer.json" not in texts:
        return None
    with tempfile.TemporaryDirectory() as folder:
        for name, text in texts.items():
            (Path(folder) / name).write_bytes(text)
        return Tokenizer(Path(folder))
