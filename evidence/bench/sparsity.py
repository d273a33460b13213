# SPDX-License-Identifier: Apache-2.0
"""bench sparsity: one model with thresholds of several shares: what they cost in perplexity, how many weights its linear layers need, and what
column_gemm reads and how fast it decodes, beside dense models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.boards import Board
from meadow.compiler.graph.evaluate import Evaluator, State
from meadow.compiler.graph.graph import Graph, Node
from meadow.compiler.graph.thresholds import sparse_inputs
from meadow.compiler.models import quantize
from meadow.compiler.pipeline import Options, compile_model
from meadow.compiler.price.traffic import step_beats
from meadow.compiler.quantize.calibrate import Calibration
from meadow.compiler.sources.source import find_source, read_source
from meadow.compiler.sparsity import Survey, Wish, sparsify
from meadow.evidence.bench import decode, traffic
from meadow.evidence.bench.prune import perplexity_of
from meadow.machine.instructions.instruction import Tokens
from meadow.machine.package.read import Package, load
from meadow.machine.step import Step
from meadow.runtime.session import Session

Tell = Callable[[str, str], None]
CONTEXT = 512
"""Tokens before the one whose time is counted."""


def measure(
    source: Path,
    shares: Sequence[float],
    shapes: Sequence[str],
    folder: Path,
    pieces: Sequence[list[int]],
    calibration: Calibration,
    tell: Tell,
    board: Board | None = None,
) -> Iterator[dict[str, Any]]:
    """A row for the whole model, then one for each share and shape.

    pieces  token ids of each window
    board   compile the models in INT8 for it: bytes of decoded tokens predicted, and counted in C++; tokens per second in Verilog; None
            leaves that out
    """
    dense = (
        [] if board is None else [_dense(source, folder, weights, pieces, board, tell) for weights in ("int4", "int8")]
    )
    known: dict[str, Survey] = {}  # what groups cost is the same for all shares
    tell("measuring", "the whole model")
    whole = perplexity_of(find_source(source), pieces)
    nothing = {"share": 0.0, "shape": "", "perplexity": whole, "ratio": 1.0, "weights_cut": 0.0}
    yield nothing | ({"dense": dense} if dense else {})
    for share in shares:
        for shape in shapes:
            name = f"{share:g} {shape}"
            model = folder / f"{share:g}-{shape}"
            tell("sparsifying", name)
            sparsify(
                source,
                model,
                Wish(share, shape),
                calibration,
                lambda text, name=name: tell("sparsifying", f"{text}; {name}"),  # type: ignore[misc]
                known,
            )
            tell("measuring", name)
            found = perplexity_of(model / "model.onnx", pieces)
            yield {
                "share": share,
                "shape": shape,
                "perplexity": found,
                "ratio": found / whole,
                "weights_cut": weights_cut(read_source(model / "model.onnx"), pieces),
            } | ({} if board is None else _sparse(model, folder, dense, pieces, board, tell))


PROMPTS, PROMPT, DECODED = 16, 24, 2
"""Prompts whose decoded tokens are counted, tokens of each, tokens that are decoded after it."""


def _compiled(model: Path, folder: Path, weights: str, board: Board, tell: Tell) -> tuple[Path, Package]:
    """(the model with such weights, its package); INT8 for column_gemm."""
    name = f"{model.name}-{weights}"
    made, target = folder / name, folder / f"{name}-{board.name}"
    tell("compiling", name)
    quantize(model, made, weights=weights, activations="int8" if weights == "int8" else "float")
    settings = (("column_ports", 4),) if weights == "int8" else ()
    compile_model(made, board, target, Options(settings=settings))
    return made / "model.onnx", load(target)


def _dense(
    source: Path, folder: Path, weights: str, pieces: Sequence[list[int]], board: Board, tell: Tell
) -> dict[str, Any]:
    """The whole model with such weights."""
    made, package = _compiled(source, folder, weights, board, tell)
    tell("measuring", made.parent.name)
    perplexity = perplexity_of(made, pieces)
    tell("simulating", made.parent.name)
    return {"weights": weights, "perplexity": perplexity, **_decoded(package, board)}


def _decoded(package: Package, board: Board) -> dict[str, Any]:
    found = decode.measure(package, board, min(CONTEXT, package.design.context - 1))
    return {"tokens_per_s": found["tokens_per_s"], "bytes_per_token": sum(found["bytes_per_token"].values())}


def _sparse(
    model: Path, folder: Path, dense: Sequence[dict[str, Any]], pieces: Sequence[list[int]], board: Board, tell: Tell
) -> dict[str, Any]:
    """What the model does in INT8 on a board, beside the fastest dense one that is as good."""
    made, package = _compiled(model, folder, "int8", board, tell)
    tell("measuring", made.parent.name)
    perplexity = perplexity_of(made, pieces)
    tell("counting", made.parent.name)
    counted = count(package, pieces)
    tell("simulating", made.parent.name)
    as_good = [d for d in dense if d["perplexity"] <= perplexity]
    return {
        "perplexity_int8": perplexity,
        "perplexity_ratio": perplexity / dense[-1]["perplexity"],
        **counted,
        **_decoded(package, board),
        "dense_at_equal_perplexity": max(as_good, key=lambda d: float(d["tokens_per_s"]), default=None),
    }


def count(package: Package, pieces: Sequence[list[int]]) -> dict[str, Any]:
    """Bytes of the decoded tokens after PROMPTS short prompts: as the emulator's codes predict them, and as the C++ counts them at its
    ports; and the share of the layers' weights that is not fetched."""
    predicted = counted = fetched = whole = 0
    steps = [s for s in package.steps("decode") if "format" in s.numbers]
    layers = [s for s in steps if s.layer is not None]
    with Session(package.folder, "csim") as session, traffic.live_columns(package) as follow:
        for number in range(PROMPTS):
            piece = pieces[number % len(pieces)]
            first = number // len(pieces) * PROMPT
            prompt = piece[first : first + PROMPT] or piece[:PROMPT]
            session.reset()
            follow.reset()
            row = session.prefill(prompt, logits="last")[-1]
            follow.prefill(prompt)
            for _ in range(DECODED):
                token, position, before = int(np.argmax(row)), session.position, session.device.counters.bytes
                row = session.step(token)
                live = follow.step(token)
                predicted += sum(traffic.predict(package, "decode", position, 1, live).values())
                counted += sum(n - before[name] for name, n in session.device.counters.bytes.items())
                groups = iter(live)
                for s in traffic.informed(tuple(steps), groups):
                    if s.layer is not None:
                        fetched += _matrix_beats(s, package)
                whole += sum(_matrix_beats(s, package) for s in layers)
    return {"predicted_bytes": predicted, "counted_bytes": counted, "bytes_not_fetched": 1 - fetched / whole}


def _matrix_beats(step: Step, package: Package) -> int:
    """Beats of the weights of a step, over all ports."""
    moved = step_beats(step, package.design, Tokens(1, 0))
    return sum(n for (port, _, role), n in moved.items() if role == "weights" and port != "constants")


def weights_cut(graph: Graph, pieces: Sequence[list[int]]) -> float:
    """The share of the layers' weights whose input is 0, over all tokens."""
    readers = {node.name for some in sparse_inputs(graph).values() for node in some}
    cut = whole = 0.0

    def observe(node: Node, x: NDArray[np.float32]) -> None:
        nonlocal cut, whole
        if node.name in readers:
            size = graph.weight_of(node).size * len(x)
            cut, whole = cut + size * float((x == 0).mean()), whole + size

    evaluator = Evaluator(graph, quantized=False)
    for tokens in pieces:
        evaluator.follow(graph.nodes[:-1], {}, np.asarray(tokens), State(), observe)
    return cut / whole
