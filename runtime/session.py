# SPDX-License-Identifier: Apache-2.0
"""Session: a conversation with a package on a device: tokens in, logits and text out, with marks to go back to.

loaded.py has the package on its device, text/ the tokenizer, the chat template and the sampler.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.machine.errors import DeviceError, UsageError
from meadow.machine.package.read import load
from meadow.machine.storage.rows import padded
from meadow.runtime.check.compare import Difference, compare
from meadow.runtime.check.selftest import selftest
from meadow.runtime.devices.device import Device
from meadow.runtime.devices.open import DEVICES, FPGA_MANAGER, open_device
from meadow.runtime.devices.replay import Recorder, Replay
from meadow.runtime.dialogue import Dialogue
from meadow.runtime.display import Shown, html, quiet, timeline, upload_bar
from meadow.runtime.generation import Generation
from meadow.runtime.loaded import Loaded
from meadow.runtime.stats import Mark, Stats

__all__ = ["DEVICES", "Mark", "Session", "Stats"]
Logits = NDArray[np.float32]


class Session(Generation, Dialogue):
    """A compiled model, ready to run.

    package   the package's folder
    device    "auto", "pynq", "emulated-pynq", "csim" or "emulator", or an open Device
    progress  called with (bytes done, bytes in all) while the weights are uploaded
    fault     injected into an emulated board, to see that it is found
    record    file that gets every transaction with the device
    replay    recording that answers in place of a device
    check     read back what was uploaded to a device with memory of its own, and compare
    Raises UsageError, DeviceError and ToolMissing.
    """

    def __init__(
        self,
        package: str | os.PathLike[str],
        device: str | Device = "auto",
        progress: Callable[[int, int], None] | None = None,
        fault: str = "",
        record: str | Path | None = None,
        replay: str | Path | None = None,
        check: bool = True,
    ):
        self.package = load(Path(package))
        damaged = self.package.verify_files()
        if damaged:
            raise DeviceError(
                f"{self.package.folder}: {', '.join(damaged)} changed since it was compiled; compile the model again"
            )
        opened: Device
        if replay is not None:
            opened = Replay(self.package, Path(replay))
        else:
            opened = open_device(device, self.package, fault) if isinstance(device, str) else device
        if record is not None:
            try:
                opened = Recorder(opened, self.package, Path(record))
            except BaseException:
                opened.close()
                raise
        self.device = opened
        self.notes: list[str] = list(opened.abilities.notes)
        if device == "auto" and opened.name == "emulator" and FPGA_MANAGER.exists():
            self.notes.append(
                f"this is a board, but the package has no bitstream (meadowc build {self.package.folder}): emulated"
            )
        super().__init__(self.package)
        self.stats = Stats()
        """What this session did, with its rates."""
        self.position = 0
        self._conversation = 0
        self._owner: int | None = None  # the thread that began the conversation
        self._digest = hashlib.sha256()
        self.unread = 0
        """Tokens of the conversation that the engine chose by itself: nobody read their logits."""
        self.loaded = Loaded(self.package, opened, progress or upload_bar(), check)
        """The package on its device: entries, tensors and memory."""
        self._lock = self.loaded.lock

    # -- life ------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the device's memory back.  Safe to call twice."""
        self.loaded.close()

    def __repr__(self) -> str:
        mark = "CLOSED, " * self.loaded.closed + "EMULATED " * self.device.emulated
        return (
            f"<Session {self.package.name}: {mark}{self.package.design.board} on {self.device.name}, "
            f"position {self.position} of {self.context}>"
        )

    def _repr_html_(self) -> str:
        return html(self)

    def plot_timeline(self, program: str = "decode") -> Any:
        """Where the modelled time of a run of `program` ("decode" or "prefill") goes: a matplotlib figure, or text."""
        return timeline(self, program)

    def compare(self, tokens: list[int] | None = None, layers: int | None = None) -> Shown[Difference]:
        """The residual stream after each layer, on this device and on the emulator: where do they part?"""
        with Session(self.package.folder, "emulator", quiet) as healthy:
            return compare(self, healthy, tokens, layers)

    def selftest(self) -> Shown[tuple[str, bool, str]]:
        """The ladder on this device: (rung, passed, what was seen), up to the first rung that fails."""
        with Session(self.package.folder, "emulator", quiet) as healthy:
            return selftest(self, healthy)

    @property
    def operations(self) -> dict[str, int]:
        """Register and buffer operations of a board, counted by its driver; empty for devices that have none."""
        return dict(self.device.abilities.operations)

    @property
    def context(self) -> int:
        """Most tokens that prompt and answer may have together."""
        return self.package.design.context

    # -- tokens ----------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Forget the conversation: the cache starts empty, and so does the digest.  The new one belongs to this thread."""
        with self._lock:
            self._conversation += 1
            self._owner = threading.get_ident()
            self.position = 0
            self._digest, self.unread = hashlib.sha256(), 0

    def resume(self, tokens: list[int]) -> int:
        """Begin a new conversation where the cache already has the keys and values of `tokens`: the position, at most that of their last.

        The rest is to be run by `prefill(tokens[position:])`.  Raises UsageError as prefill does.
        """
        self.check_tokens(tokens, 0)
        with self._lock:
            self.reset()
            same = next((n for n, (a, b) in enumerate(zip(tokens, self.loaded.cached, strict=False)) if a != b), None)
            self.position = min(len(tokens) - 1, len(self.loaded.cached) if same is None else same)
            self.stats.reused_tokens += self.position
            return self.position

    @property
    def digest(self) -> str:
        """sha256 over every row of logits that was read since the last reset, in order.

        Raises UsageError in a thread that did not begin the conversation, and where the engine chose tokens by itself.
        """
        with self._turn():
            if self.unread:
                raise UsageError(
                    f"the engine chose {self.unread} tokens by itself, and their logits were not read: there is no digest of them; "
                    "ask for the answer without ahead"
                )
            return self._digest.hexdigest()

    @contextmanager
    def _turn(self, conversation: int | None = None) -> Iterator[None]:
        """One thread at a time, and none in a conversation that another one began.

        conversation  the one that a generator belongs to, whichever thread asks it for more
        """
        with self._lock:
            if conversation is not None:
                if conversation != self._conversation:
                    raise UsageError(
                        "another conversation began on this Session while this one was given out; use a Session for each"
                    )
            elif self._owner is None:
                self._owner = threading.get_ident()
            elif self._owner != threading.get_ident():
                raise UsageError(
                    "another thread began the conversation on this Session; call reset() to begin one here, or use a Session per thread"
                )
            yield

    def prefill(self, tokens: list[int], logits: str = "last", block: int | None = None) -> Logits:
        """Run `tokens`; returns logits float32 [1, vocab] of the last, or [len(tokens), vocab] with logits="all".

        block  tokens of one program run, at most the design's; the result does not depend on it
        Raises UsageError for no tokens, unknown tokens, or more than the context holds.
        """
        if logits not in ("last", "all"):
            raise UsageError(f"logits is {logits!r}; 'last' or 'all' is possible")
        size = self.package.design.block if block is None else block
        if not 1 <= size <= self.package.design.block:
            raise UsageError(f"block is {size}; the design takes 1 to {self.package.design.block} tokens per run")
        with self._turn():
            return self._prefill(tokens, logits, size)

    def _prefill(self, tokens: list[int], logits: str, size: int) -> Logits:
        self.check_tokens(tokens)
        began, unpacked = time.perf_counter(), self.device.counters.unpacked
        rows = []
        for start in range(0, len(tokens), size):
            piece = tokens[start : start + size]
            last = start + size >= len(tokens)
            first = 0 if logits == "all" else len(piece) - 1 if last else len(piece)
            rows.append(self._run(piece, first))
        self.stats.prefill_tokens += len(tokens)
        once = self.device.counters.unpacked - unpacked
        self.stats.prefill_seconds += time.perf_counter() - began - once
        self.stats.unpack_seconds += once
        return np.concatenate(rows)

    def step(self, token: int) -> Logits:
        """Run one token after those before it; returns its logits float32 [vocab]."""
        with self._turn():
            return self._step(token)

    def _step(self, token: int) -> Logits:
        self.check_tokens([token])
        began = time.perf_counter()
        logits = self._run([token], 0)[0]
        self.stats.decode_tokens += 1
        self.stats.decode_seconds += time.perf_counter() - began
        return logits

    def check_tokens(self, tokens: list[int], position: int | None = None) -> None:
        """Raise UsageError for what cannot be run after `position` tokens, those of the conversation if it is None."""
        at = self.position if position is None else position
        vocab = int(self.package.model["vocab"])
        if not tokens:
            raise UsageError("the prompt has no tokens")
        kinds = next((t for t in tokens if not isinstance(t, (int, np.integer)) or isinstance(t, bool)), None)
        if kinds is not None:
            raise UsageError(f"a token is {str(kinds)[:40]!r}; whole numbers below {vocab} are expected")
        wrong = next((t for t in tokens if not 0 <= t < vocab), None)
        if wrong is not None:
            raise UsageError(f"token {wrong} is outside of the vocabulary of {vocab}")
        if at + len(tokens) > self.context:
            raise UsageError(
                f"{len(tokens)} tokens after {at} are more than the context of {self.context} that was compiled; "
                f"shorten the prompt, or compile with --set context={padded(at + len(tokens), 64)}"
            )

    def _run(self, tokens: list[int], first_logit: int) -> Logits:
        """One run of an entry; returns the logits [tokens - first_logit, vocab]."""
        with self._lock:
            rows, raw = self._rows(tokens, first_logit)
            self._digest.update(raw.data)
        return rows

    def _rows(self, tokens: list[int], first_logit: int) -> tuple[Logits, Logits]:
        """The same, and the rows as the device made them, which the digest does not count yet."""
        entry = "decode" if len(tokens) == 1 and "decode" in self.loaded.programs else "prefill"
        with self._lock:
            self.loaded.run(entry, tokens, self.position, first_logit)
            self.position += len(tokens)
            raw = self.loaded.take("logits", first_logit, max(0, len(tokens) - first_logit))
        return self.loaded.finished(raw), raw

    def mark(self) -> Mark:
        """This place in the conversation, for `rewind`.

        Raises UsageError in a thread that did not begin the conversation.
        """
        with self._turn():
            return Mark(self._conversation, self.position, self._digest.copy(), self.unread)

    def rewind(self, mark: Mark) -> None:
        """Forget what came after `mark`: the cache is written over from there, and the digest is what it was.

        Raises UsageError for a mark of another conversation, or of a place that was rewound over.
        """
        with self._turn():
            if mark.conversation != self._conversation or mark.position > self.position:
                raise UsageError(
                    f"the mark is of position {mark.position} in another conversation, or was rewound over; "
                    f"this one is at {self.position}"
                )
            self.position, self._digest, self.unread = mark.position, mark.digest.copy(), mark.unread
