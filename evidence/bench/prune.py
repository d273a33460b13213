# SPDX-License-Identifier: Apache-2.0
"""bench prune: one model without some of its heads, by several scores: perplexity in onnxruntime, and what the board saves by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from meadow.boards import Board
from meadow.compiler.models import quantize
from meadow.compiler.pipeline import Options, compile_model
from meadow.compiler.pruning import Wish, prune
from meadow.compiler.quantize.calibrate import Calibration
from meadow.compiler.sources.source import find_source
from meadow.evidence.bench import traffic
from meadow.evidence.ladder.reference import OnnxModel
from meadow.evidence.ladder.rewritten import surprise
from meadow.machine.package.read import load

Tell = Callable[[str, str], None]
COUNTED = 8
"""Tokens of the prompt whose bytes are counted, and of the token after it."""


def measure(
    source: Path,
    shares: Sequence[float],
    scores: Sequence[str],
    board: Board | None,
    folder: Path,
    pieces: Sequence[list[int]],
    calibration: Calibration,
    tell: Tell,
) -> Iterator[dict[str, Any]]:
    """A row for the whole model, then one for each share and score, and one more of the first score with its repair.

    board   compile the models of the first score in INT8 for it and count their bytes in C++; None leaves that out
    pieces  token ids of each window
    """
    tell("measuring", "the whole model")
    whole = perplexity_of(find_source(source), pieces)
    yield {"heads": 0.0, "score": "", "repaired": False, "perplexity": whole, "ratio": 1.0} | _board(
        source, board, folder / "whole", tell
    )
    for share in shares:
        for score, repaired in [(scores[0], False), (scores[0], True), *((name, False) for name in scores[1:])]:
            name = f"{score}{' with repair' if repaired else ''} at {share:g}"
            model = folder / f"{share:g}-{score}{'-repaired' if repaired else ''}"
            tell("pruning", name)
            made = prune(
                source,
                model,
                Wish(heads=share, score=score, repair=repaired),
                calibration,
                lambda text, name=name: tell("pruning", f"{text}; {name}"),  # type: ignore[misc]
            )
            tell("measuring", name)
            found = perplexity_of(model / "model.onnx", pieces)
            row = {
                "heads": share,
                "score": score,
                "repaired": repaired,
                "perplexity": found,
                "ratio": found / whole,
                "query_heads": made["after"]["heads"],
                "kv_heads": made["after"]["kv_heads"],
            }
            yield row | (_board(model, board, model, tell) if score == scores[0] and not repaired else {})


def perplexity_of(file: Path, pieces: Sequence[list[int]]) -> float:
    """Of a float model, in onnxruntime."""
    onnx = OnnxModel(file)
    total = sum(surprise(onnx.prefill(tokens), tokens) for tokens in pieces)
    return float(np.exp(total / sum(len(tokens) - 1 for tokens in pieces)))


def _board(source: Path, board: Board | None, name: Path, tell: Tell) -> dict[str, Any]:
    """The model in INT8 on a board: bytes and loops of a token, predicted and counted in C++, and the modelled rates."""
    if board is None:
        return {}
    model, package = name.with_name(f"{name.name}-int8"), name.with_name(f"{name.name}-{board.name}")
    tell("compiling", name.name)
    quantize(source, model)
    summary = compile_model(model, board, package, Options(settings=(("context", 1024),)))
    rows = traffic.measure(load(package), "auto", [COUNTED], lambda what: tell("counting", f"{what}; {name.name}"))
    decode = next(row for row in rows if row["phase"] == "decode")
    return {
        "predicted_bytes": decode["predicted_bytes"],
        "counted_bytes": decode["counted_bytes"],
        "equal": all(row["equal"] and row["cycles_equal"] for row in rows),
        "loop_iterations": sum(n for n, _ in decode["counted_cycles"].values()),
        "decode_tokens_per_s": summary["decode"]["tokens_per_s"],
        "prefill_tokens_per_s": summary["prefill"]["tokens_per_s"],
    }
