# SPDX-License-Identifier: Apache-2.0
"""verify: the ladder.  The same tokens on every rung, and the same bits from the emulator down.

Compiles the package's own source for both dataflows, so that GEMM and TPHS are checked whichever it uses.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.sources.torch.model import TorchModel
from meadow.evidence.ladder import verilog as engine
from meadow.evidence.ladder.beside import require_side
from meadow.evidence.ladder.prompts import prompts
from meadow.evidence.ladder.reference import OnnxModel, reference_model, sources, torch_folder
from meadow.evidence.ladder.rewritten import compare, narrowest
from meadow.machine.errors import UsageError
from meadow.machine.package.read import Package
from meadow.runtime.session import Session

if TYPE_CHECKING:
    from meadow.compiler.graph.evaluate import Evaluator

BLOCKS = (64, 7, 1)
"""Prefill lengths whose digests must agree; the first is also the one that decodes."""
CLOSE_GAP = 0.1
"""Rungs 0 and 1 may part where rung 0's two best tokens are closer than this and both rungs take one of them."""
LOGITS_TOLERANCE = 0.5
"""Largest difference of rung 2's logits from rung 1's: root mean square after removing the mean (which no softmax sees),
in standard deviations of rung 1's.  A rounding that falls the other way in layer 0 moves INT8 codes in every layer
after it, so whole logits cannot be compared more closely; single layers are, in tests/runtime/test_emulator.py."""
Logits = NDArray[np.float32]


@dataclass
class Trace:
    """What one rung did with one prompt: its tokens, the logits that chose them, and a digest of all logits."""

    tokens: list[int] = field(default_factory=list)
    rows: list[Logits] = field(default_factory=list)
    digest: str = ""
    prefill_digest: str = ""


@dataclass
class Verdict:
    """Everything verify found; `problems` empty means that all agree."""

    prompts: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    bit_exact: bool = True
    same_tokens: bool = True
    flipped_bit_detected: bool | None = None
    digests: int = 0
    rtl: list[dict[str, Any]] = field(default_factory=list)
    rewritten: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)

    def fail(self, text: str, bits: bool) -> None:
        self.problems.append(text)
        if bits:
            self.bit_exact = False
        else:
            self.same_tokens = False


def decode(trace: Trace, row: Logits, step: Callable[[int], Logits], count: int, ends: frozenset[int]) -> Trace:
    """Greedy decoding from the logits `row`, up to `count` tokens or an end token (which is kept)."""
    while len(trace.tokens) < count:
        token = int(np.argmax(row))
        trace.tokens.append(token)
        trace.rows.append(row)
        if token in ends or len(trace.tokens) == count:
            break
        row = step(token)
    return trace


def follow(step: Callable[[list[int]], Logits], tokens: list[int], count: int, ends: frozenset[int]) -> Trace:
    """What `step`, which takes new tokens and returns their logits [T, vocab], makes of a prompt."""
    return decode(Trace(), step(tokens)[-1], lambda token: step([token])[-1], count, ends)


def follow_session(session: Session, tokens: list[int], count: int, block: int, ends: frozenset[int]) -> Trace:
    """Like `follow`, on a device, with the logits of every token in the digest."""
    session.reset()
    row = session.prefill(tokens, logits="all", block=min(block, session.package.design.block))[-1]
    trace = decode(Trace(prefill_digest=session.digest), row, session.step, count, ends)
    trace.digest = session.digest
    return trace


def parting(reference: Trace, other: Trace) -> tuple[int, float, bool] | None:
    """(step, top-2 gap of the reference, both tokens among its top 2) where two traces part, or None."""
    for index, (a, b) in enumerate(zip(reference.tokens, other.tokens, strict=False)):
        if a != b:
            best = np.argsort(-reference.rows[index])[:2]
            gap = float(reference.rows[index][best[0]] - reference.rows[index][best[1]])
            return index, gap, {a, b} <= {int(t) for t in best}
    return None


def dataflow_packages(package: Package, source: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """The package itself when all its attention runs by one dataflow, and the same source compiled for the other."""
    from meadow import boards
    from meadow.compiler.pipeline import Options, compile_model

    used = {mode for rows in package.manifest["dataflow"].values() for mode, _ in rows}
    options = package.manifest["options"]
    for mode in ("tphs", "gemm"):
        if used == {mode}:
            yield mode, package.folder
            continue
        target = folder / mode
        settings = tuple((str(k), int(v)) for k, v in options["settings"])
        compile_model(
            source,
            boards.load(package.manifest["board"]),
            target,
            Options(mode, options["packing"], options["design"], settings, mode),
        )
        yield mode, target


def compare_tokens(
    verdict: Verdict, title: str, name: str, reference: Trace, other: Trace, first: str = "onnx"
) -> dict[str, Any] | None:
    """Apply the rule of CLOSE_GAP; notes a parting in the prompt's row.  `first` is the rung of the reference."""
    found = parting(reference, other)
    if found is None:
        return None
    step, gap, both = found
    allowed = gap < CLOSE_GAP and both
    if not allowed:
        verdict.fail(
            f"{title!r}: {first} and {name} part at token {step} where the top-2 gap of {first} is {gap:.3f}",
            bits=False,
        )
    return {"rung": name, "step": step, "gap": gap, "allowed": allowed}


def flip_changes_digest(session: Session, tokens: list[int], before: str) -> bool:
    """Flip one bit of a weight that every token meets, and see whether the digest changes; the bit is put back."""
    row = session.package.packing()[-1]  # the head: a query or a key is not seen in the logits of a single token
    chunk, offset, _ = row["streams"][0]
    address = (
        session.loaded.addresses[chunk] + offset
    )  # a stream begins with weights, or a group's scale: never with padding
    original = session.device.read(address, 16)
    changed = original.copy()
    changed[1] ^= 0x40
    session.device.write(address, changed)
    session.reset()
    session.prefill(tokens, logits="all")
    after = session.digest
    session.device.write(address, original)
    session.loaded.cached.clear()  # keys and values of other weights
    return after != before


def verify(
    package: Package,
    rungs: tuple[str, ...],
    count: int,
    file: Path | None,
    limit: int,
    reference: Path | None,
    tell: Callable[[int, int, str], None],
) -> Verdict:
    """Run every prompt on every rung.  tell(prompts done, prompts in all, what comes next)."""
    verdict = Verdict()
    if "rtl" in rungs:
        require_side(package)
    with ExitStack() as stack:
        ladder = _ladder(stack, package, rungs, reference)
        first = next(iter(ladder.sessions.values()))
        asked = prompts(first, file, limit)
        if file is None and not first.has_tokenizer:
            verdict.notes.append("no tokenizer in the package: the prompts are random token ids")
        sequences: list[list[int]] = []
        for done, (title, tokens) in enumerate(asked):
            tell(done, len(asked), f"{title!r} ({len(tokens)} tokens)")
            sequences += _climb(verdict, ladder, title, tokens, count)
        if ladder.user is not None and ladder.onnx is not None and ladder.onnx is not ladder.user:
            tell(len(asked), len(asked), "comparing with the user's own file")
            _check_rewriting(verdict, package, ladder.user, ladder.onnx, sequences)
        _, shortest = min(asked, key=lambda p: len(p[1]))
        tell(len(asked), len(asked), "flipping a bit")
        verdict.flipped_bit_detected = all(_flip(s, shortest) for s in ladder.sessions.values())
        if not verdict.flipped_bit_detected:
            verdict.fail("a flipped weight bit did not change the digest", bits=True)
        if "rtl" in rungs:
            verdict.rtl = engine.check(package, lambda text: tell(len(asked), len(asked), text))
            for row in verdict.rtl:
                if not row["same"]:
                    verdict.fail(f"{row['phase']}: {row['matrix']} differs in the Verilog from the emulator", bits=True)
    return verdict


@dataclass(frozen=True)
class Ladder:
    """What stands on each rung.

    torch     the model of the user's Hugging Face folder, by transformers; None without the rung "torch"
    user      the user's own file, and onnx the file that quantize wrote of it, or the same; None without the rung "onnx"
    graph     the evaluator of rung 1, or None
    sessions  by (dataflow, device)
    """

    torch: TorchModel | None
    user: OnnxModel | None
    onnx: OnnxModel | None
    graph: Evaluator | None
    sessions: dict[tuple[str, str], Session]


def _ladder(stack: ExitStack, package: Package, rungs: tuple[str, ...], reference: Path | None) -> Ladder:
    """Every rung that was asked for; `stack` closes them."""
    from meadow.compiler.graph.evaluate import Evaluator
    from meadow.compiler.sources.source import read_source

    devices = [r for r in rungs if r in ("emulator", "csim")]
    if not devices:
        raise UsageError("--rungs needs emulator or csim to verify")
    work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meadow-verify-")))
    files = sources(package, reference) if {"onnx", "torch"} & set(rungs) else None
    source = files.source if files else reference_model(package, reference)
    torch = TorchModel(torch_folder(files.user)) if files and "torch" in rungs else None
    user = OnnxModel(files.user) if files else None
    onnx = OnnxModel(files.source) if files and files.rewritten else user
    evaluator = Evaluator(read_source(source), quantized=True) if "graph" in rungs else None
    sessions = {
        (mode, device): stack.enter_context(Session(folder, device))
        for mode, folder in dataflow_packages(package, source, work)
        for device in devices
    }
    return Ladder(torch, user, onnx, evaluator, sessions)


def _climb(verdict: Verdict, ladder: Ladder, title: str, tokens: list[int], count: int) -> list[list[int]]:
    """One prompt on every rung, and its row; returns the sequences to compare a rewritten file on."""
    from meadow.compiler.graph.evaluate import State

    first = next(iter(ladder.sessions.values()))
    ends = first.tokenizer.end_tokens if first.has_tokenizer else frozenset[int]()
    traces = _traces(ladder.sessions, tokens, count, ends)
    mine = traces[next(iter(ladder.sessions)), BLOCKS[0]]
    _check_bits(verdict, title, traces, mine)
    row: dict[str, Any] = {"prompt": title, "prompt_tokens": len(tokens), "digest": mine.digest, "partings": []}
    rung0 = rung1 = None
    if ladder.onnx is not None:
        ladder.onnx.reset()
        rung0 = users = follow(ladder.onnx.step, tokens, count, ends)
        row["rewritten"] = rung0.tokens
        if ladder.user is not None and ladder.user is not ladder.onnx:
            ladder.user.reset()
            users = follow(ladder.user.step, tokens, count, ends)
        row["onnx"] = users.tokens
        if ladder.torch is not None:
            ladder.torch.reset()
            top = follow(ladder.torch.step, tokens, count, ends)
            row["torch"] = top.tokens
            part = compare_tokens(verdict, title, "onnx", top, users, "torch")
            row["partings"] += [part] if part is not None else []
    if ladder.graph is not None:
        graph, state = ladder.graph, State()
        rung1 = follow(lambda t: graph.run(np.array(t), state), tokens, count, ends)
        row["graph"] = rung1.tokens
        _check_logits(verdict, title, rung1, mine, row)
    row["emulator"] = mine.tokens
    for name, other in (("graph", rung1), ("emulator", mine)):
        if rung0 is not None and other is not None:
            part = compare_tokens(verdict, title, name, rung0, other)
            if part is not None:
                row["partings"].append(part)
    row["text"] = first.tokenizer.decode(mine.tokens) if first.has_tokenizer else " ".join(map(str, mine.tokens))
    verdict.prompts.append(row)
    return [[*tokens, *rung0.tokens]] if rung0 is not None else []


def _check_rewriting(
    verdict: Verdict, package: Package, user: OnnxModel, rewritten: OnnxModel, sequences: list[list[int]]
) -> None:
    """What quantize wrote must be what the user's own file means, up to what rounding costs."""
    found = compare(user, rewritten, sequences, narrowest(package))
    verdict.rewritten = {
        **vars(found),
        "user": str(user.path),
        "rewritten": str(rewritten.path),
        "kind": "measured",
        "text": str(found),
    }
    for problem in found.problems():
        verdict.fail(problem, bits=False)


def _flip(session: Session, tokens: list[int]) -> bool:
    session.reset()
    session.prefill(tokens, logits="all")
    return flip_changes_digest(session, tokens, session.digest)


def _traces(
    sessions: dict[tuple[str, str], Session], tokens: list[int], count: int, ends: frozenset[int]
) -> dict[tuple[tuple[str, str], int], Trace]:
    """Every session at every block size; each kind of device in a thread of its own (a C simulation is not reentrant)."""

    def run(device: str) -> dict[tuple[tuple[str, str], int], Trace]:
        return {
            (key, block): follow_session(session, tokens, count if block == BLOCKS[0] else 0, block, ends)
            for key, session in sessions.items()
            if key[1] == device
            for block in BLOCKS
        }

    found: dict[tuple[tuple[str, str], int], Trace] = {}
    devices = list(dict.fromkeys(device for _, device in sessions))
    with ThreadPoolExecutor(max_workers=len(devices)) as pool:
        for part in pool.map(run, devices):
            found |= part
    return found


def _check_bits(verdict: Verdict, title: str, traces: dict[tuple[tuple[str, str], int], Trace], mine: Trace) -> None:
    for ((mode, device), block), trace in traces.items():
        verdict.digests += 1
        wanted, found = (
            (mine.digest, trace.digest) if block == BLOCKS[0] else (mine.prefill_digest, trace.prefill_digest)
        )
        if wanted != found:
            verdict.fail(
                f"{title!r}: {device} by {mode} in blocks of {block} gives {found[:16]}, not {wanted[:16]}", bits=True
            )


def _check_logits(verdict: Verdict, title: str, rung1: Trace, mine: Trace, row: dict[str, Any]) -> None:
    """Rung 2's logits against rung 1's, as long as both have seen the same tokens."""
    worst = 0.0
    for a, b, x, y in zip(rung1.rows, mine.rows, rung1.tokens, mine.tokens, strict=False):
        worst = max(worst, float(np.std(a - b) / np.std(a)))
        if x != y:
            break
    row["logits_difference"] = worst
    if worst > LOGITS_TOLERANCE:
        verdict.fail(
            f"{title!r}: the emulator's logits differ from the graph's by {worst:.3f} standard deviations", bits=False
        )
