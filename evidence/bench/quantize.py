# SPDX-License-Identifier: Apache-2.0
"""bench quantize: one model by many recipes, each compiled and measured: bits, bytes per token, perplexity on two texts, distance to the
float model, and the board's rate."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.boards import Board
from meadow.compiler.graph.calibration import METHODS
from meadow.compiler.models import quantize
from meadow.compiler.pipeline import Options, compile_model
from meadow.compiler.quantize.calibrate import Calibration
from meadow.compiler.quantize.walk import Method
from meadow.compiler.sources.source import find_source
from meadow.evidence.ladder.perplexity import windows
from meadow.evidence.ladder.reference import OnnxModel
from meadow.evidence.ladder.rewritten import surprise
from meadow.machine.errors import UsageError
from meadow.runtime.display import quiet
from meadow.runtime.session import Session
from meadow.runtime.text.sampler import logprobs

RECIPES = (
    "int8-channel",
    "int8-tensor",
    "int8-tensor-shift",
    "int8-tensor-rotated-shift",
    "int4",
    "int4-gptq",
    "int4-shift",
    "int2",
    "int2-gptq",
    "int2-gptaq",
    "int2-shift",
    "int2-rotated-shift",
)
"""The table that is printed when none is asked for."""
Floats = NDArray[np.floating[Any]]
Tell = Callable[[str, str], None]


@dataclass(frozen=True)
class Wish:
    """A recipe by its name: WEIGHTS[-channel|-tensor|-gN][-head][-rotated][-METHOD], such as int2-g64-shift."""

    name: str
    weights: str
    granularity: str
    group: int
    head: str
    method: str
    turned: bool = False

    @classmethod
    def of(cls, name: str) -> Wish:
        """Raises UsageError for a name that is none."""
        weights, *parts = name.split("-")
        found: dict[str, Any] = {
            "granularity": "channel" if weights == "int8" else "group",
            "group": 32,
            "head": "int8",
            "method": "rtn",
        }
        wrong = [] if weights in ("int8", "int4", "int3", "int2") else [weights]
        for part in parts:
            if part in ("channel", "tensor") and weights == "int8":
                found["granularity"] = part
            elif part.startswith("g") and part[1:].isdecimal():
                found |= {"granularity": "group", "group": int(part[1:])}
            elif part == "head" and weights != "int8":
                found["head"] = "same"
            elif part == "rotated":
                found["turned"] = True
            elif part in METHODS:
                found["method"] = part
            else:
                wrong.append(part)
        if wrong:
            raise UsageError(
                f"{', '.join(wrong)} in the recipe {name!r}: recipes are WEIGHTS[-channel|-tensor|-gN][-head][-rotated][-METHOD] with int8, int4, int3, int2 and "
                f"{', '.join(METHODS)}"
            )
        return cls(name, weights, **found)


def measure(
    source: Path,
    recipes: Sequence[str],
    board: Board,
    folder: Path,
    count: int,
    length: int,
    texts: dict[str, str],
    calibration: Calibration,
    tell: Tell,
) -> Iterator[dict[str, Any]]:
    """A row for the float model, then one for each recipe.  What `folder` has of an earlier run is made anew.

    texts  two texts by name; the first is in the domain of the calibration
    """
    wishes = [Wish.of(name) for name in recipes]
    with tempfile.TemporaryDirectory(
        dir=folder
    ) as work:  # logits of the float model: some GB, which memory need not hold
        yield from _rows(source, wishes, board, folder, Path(work), count, length, texts, calibration, tell)


def _rows(
    source: Path,
    wishes: Sequence[Wish],
    board: Board,
    folder: Path,
    work: Path,
    count: int,
    length: int,
    texts: dict[str, str],
    calibration: Calibration,
    tell: Tell,
) -> Iterator[dict[str, Any]]:
    pieces: dict[str, list[list[int]]] = {}
    floats: dict[str, Floats] = {}
    for number, wish in enumerate(wishes):
        began = time.perf_counter()
        model, package = folder / wish.name, folder / f"{wish.name}-{board.name}"
        where = f"{wish.name}, recipe {number + 1} (of {len(wishes)})"  # no "1/8": the time left is of the stage
        tell("quantizing", where)
        method = None if wish.method == "rtn" else Method(wish.method)
        quantize(
            source,
            model,
            wish.granularity,
            "int8" if wish.granularity != "group" else "float",
            weights=wish.weights,
            group=wish.group,
            head=wish.head,
            method=method,
            calibration=calibration,
            turned=wish.turned,
            progress=lambda text, where=where: tell("quantizing", f"{text}; {where}"),  # type: ignore[misc]
        )
        seconds = time.perf_counter() - began
        tell("compiling", where)
        context = 64 * -(-(length + 1) // 64)
        summary = compile_model(model, board, package, Options(settings=(("context", context),)))
        with Session(package, "emulator", quiet) as session:
            if not pieces:
                pieces = {name: windows(session, text, count, length) for name, text in texts.items()}
                tell("measuring", "the float model in onnxruntime")
                onnx = OnnxModel(find_source(source))
                floats = {name: _kept(onnx, some, work / name) for name, some in pieces.items()}
                yield _float_row(pieces, floats)
            found = {}
            for name, some in pieces.items():
                tell("measuring", f"{where}, {name}")
                found[name] = _scores(session, some, floats[name])
        yield _row(wish.name, summary, list(found.values()), seconds)


def _row(name: str, summary: dict[str, Any], scores: list[tuple[float, float]], seconds: float) -> dict[str, Any]:
    """One recipe: (perplexity, KL) on both texts, and what compile says of it."""
    return {
        "recipe": name,
        "bits_per_weight": summary["weights"]["bits_per_weight"],
        "bytes_per_token": sum(summary["decode"]["bytes_per_token"].values()),
        "perplexity": scores[0][0],
        "perplexity_out_of_domain": scores[1][0],
        "kl": scores[0][1],
        "tokens_per_s": summary["decode"]["tokens_per_s"],
        "seconds": seconds,
    }


def _kept(onnx: OnnxModel, pieces: list[list[int]], file: Path) -> Floats:
    """Logits [windows, tokens, vocab] of the float model, in a file."""
    kept: Floats | None = None
    for number, tokens in enumerate(pieces):
        rows = np.asarray(onnx.prefill(tokens), np.float32)
        if kept is None:
            kept = np.memmap(file, np.float32, "w+", shape=(len(pieces), *rows.shape))
        kept[number] = rows
    assert kept is not None
    return kept


def _float_row(pieces: dict[str, list[list[int]]], floats: dict[str, Floats]) -> dict[str, Any]:
    """The user's own file in onnxruntime."""
    first, second = (_perplexity(floats[name], some) for name, some in pieces.items())
    return {
        "recipe": "float",
        "bits_per_weight": None,
        "bytes_per_token": None,
        "perplexity": first,
        "perplexity_out_of_domain": second,
        "kl": 0.0,
        "tokens_per_s": None,
        "seconds": 0.0,
    }


def _perplexity(logits: Floats, pieces: Sequence[list[int]]) -> float:
    total = sum(surprise(rows.astype(np.float32), tokens) for rows, tokens in zip(logits, pieces, strict=True))
    return float(np.exp(total / sum(len(tokens) - 1 for tokens in pieces)))


def _scores(session: Session, pieces: list[list[int]], floats: Floats) -> tuple[float, float]:
    """(perplexity, KL of the float model's distribution from the device's, in nats per token)."""
    loss = distance = 0.0
    tokens = 0
    for piece, wanted in zip(pieces, floats, strict=True):
        session.reset()
        rows = session.prefill(piece, logits="all")
        loss += surprise(rows, piece)
        distance += divergence(wanted, rows)
        tokens += len(piece)
    return float(np.exp(loss / (tokens - len(pieces)))), distance / tokens


def divergence(wanted: Floats, found: Floats) -> float:
    """The sum over rows of KL(softmax(wanted) || softmax(found)), in nats."""
    total = 0.0
    for start in range(0, len(wanted), 64):
        p, q = (logprobs(rows[start : start + 64]) for rows in (wanted, found))
        total += float((np.exp(p) * (p - q)).sum())
    return total


def front(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Recipes that no other beats in both bytes per token and perplexity, from the fewest bytes on."""
    best, found = np.inf, []
    for row in sorted((r for r in rows if r["bytes_per_token"]), key=lambda r: (r["bytes_per_token"], r["perplexity"])):
        if row["perplexity"] < best:
            best = row["perplexity"]
            found.append(row["recipe"])
    return found


def other_text() -> str:
    """English of another kind than an encyclopedia: the language reference that every Python brings (pydoc)."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))
