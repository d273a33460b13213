# SPDX-License-Identifier: Apache-2.0
"""Session: a package on a device.  Prefill, step, stream, statistics.

Knows no device by its workings: only the five verbs of device.py.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from meadow.machine.errors import DeviceError, UsageError
from meadow.machine.guard import guard
from meadow.machine.isa import INSTRUCTION_BYTES
from meadow.machine.package.read import Package, load
from meadow.machine.storage.rows import padded
from meadow.runtime.devices.device import Device, Run
from meadow.runtime.devices.replay import Recorder, Replay
from meadow.runtime.display import html, timeline, upload_bar
from meadow.runtime.text.tokenizer import Streamer, Tokenizer

DEVICES = ("auto", "emulator", "csim", "emulated-pynq", "pynq")
FPGA_MANAGER = Path("/sys/class/fpga_manager/fpga0")
if TYPE_CHECKING:
    from meadow.runtime.check.compare import Difference

UPLOAD_BYTES = 8 << 20
Logits = NDArray[np.float32]


@dataclass
class Stats:
    """What a session did.  Rates are of this machine, measured; the board's are in the package's report, modelled."""

    prefill_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_tokens: int = 0
    decode_seconds: float = 0.0

    @property
    def prefill_rate(self) -> float:
        """Tokens a second."""
        return self.prefill_tokens / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def decode_rate(self) -> float:
        """Tokens a second."""
        return self.decode_tokens / self.decode_seconds if self.decode_seconds else 0.0


def open_device(name: str, package: Package, fault: str = "") -> Device:
    """The device called `name`; `fault` is injected into an emulated board (emulated_board.FAULTS).

    auto is the board where there is one and the package has its bitstream, else the emulator: it needs nothing installed and
    gives the board's bits.
    """
    if name not in DEVICES:
        raise UsageError(f"device {name!r} is not known; known are {', '.join(DEVICES)}")
    if fault and name != "emulated-pynq":
        raise UsageError(f"faults are injected into the device emulated-pynq, not into {name}")
    if name == "auto" and FPGA_MANAGER.exists() and (package.folder / "overlay" / "meadow.bit").is_file():
        name = "pynq"
    if name == "pynq":
        from meadow.runtime.devices.zynq import Zynq

        return Zynq(package)
    if name == "emulated-pynq":
        from meadow.runtime.devices.zynq import emulated

        return emulated(package, fault)
    if name == "csim":
        from meadow.runtime.devices.csim import CSim

        return CSim(package)
    from meadow.runtime.devices.emulator import Emulator

    return Emulator(package.design)


class Session:
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

    def __init__(self, package: str | Path, device: str | Device = "auto",
                 progress: Callable[[int, int], None] | None = None, fault: str = "", record: str | Path | None = None,
                 replay: str | Path | None = None, check: bool = True):  # fmt: skip
        self.package = load(Path(package))
        damaged = self.package.verify_files()
        if damaged:
            raise DeviceError(f"{package}: {', '.join(damaged)} changed since it was compiled; compile the model again")
        if replay is not None:
            self.device: Device = Replay(self.package, Path(replay))
        else:
            self.device = open_device(device, self.package, fault) if isinstance(device, str) else device
        if record is not None:
            try:
                self.device = Recorder(self.device, self.package, Path(record))
            except BaseException:
                self.device.close()
                raise
        self.notes: list[str] = list(getattr(self.device, "notes", ()))
        if device == "auto" and self.device.name == "emulator" and FPGA_MANAGER.exists():
            self.notes.append(f"this is a board, but the package has no bitstream (meadowc build {package}): emulated")
        self.stats = Stats()
        """What this session did, with its rates."""
        self.closed = False
        self.position = 0
        self._lock = threading.RLock()
        self._conversation = 0
        self._owner: int | None = None  # the thread that began the conversation
        self._digest = hashlib.sha256()
        self._tokenizer: Tokenizer | None = None
        self._scratch: int | None = None
        self._spare: int | None = None
        try:
            self._upload(progress or upload_bar())
            if check:
                self._check_upload()
        except BaseException:
            self.device.close()
            raise
        with guard(self.package.folder, DeviceError, "compile the model again"):
            self._embedding = self.package.embedding()

    # -- life ------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the device's memory back.  Safe to call twice."""
        self.closed = True
        self.device.close()

    def __repr__(self) -> str:
        mark = "CLOSED, " * self.closed + "EMULATED " * self.device.emulated
        return (f"<Session {self.package.name}: {mark}{self.package.design.board} on {self.device.name}, "
                f"position {self.position} of {self.context}>")  # fmt: skip

    def _repr_html_(self) -> str:
        return html(self)

    def plot_timeline(self, program: str = "decode") -> Any:
        """Where the modelled time of a run of `program` ("decode" or "prefill") goes: a matplotlib figure, or text."""
        return timeline(self, program)

    def compare(self, tokens: list[int] | None = None, layers: int | None = None) -> list[Difference]:
        """The residual stream after each layer, on this device and on the emulator: where do they part?"""
        from meadow.runtime.check.compare import compare

        return compare(self, tokens, layers)

    @property
    def operations(self) -> dict[str, int]:
        """Register and buffer operations of a board, counted by its driver; empty for devices that have none."""
        return dict(getattr(self.device, "operations", {}))

    @property
    def context(self) -> int:
        """Most tokens that prompt and answer may have together."""
        return self.package.design.context

    @property
    def has_tokenizer(self) -> bool:
        """Whether the package holds a tokenizer."""
        return (self.package.folder / "tokenizer" / "tokenizer.json").is_file()

    @property
    def tokenizer(self) -> Tokenizer:
        """The package's tokenizer; ToolMissing or UsageError when there is none."""
        if self._tokenizer is None:
            self._tokenizer = Tokenizer(self.package.folder / "tokenizer")
        return self._tokenizer

    def _upload(self, progress: Callable[[int, int], None]) -> None:
        package = self.package
        total = sum(c.length for c in package.chunks if c.kind in ("weights", "constants"))
        addresses, done = [], 0
        for chunk, data in package.chunk_bytes():
            address = self.device.alloc(chunk.length)
            addresses.append(address)
            for start in range(0, chunk.length if data is not None else 0, UPLOAD_BYTES):
                assert data is not None
                piece = data[start : start + UPLOAD_BYTES]
                self.device.write(address + start, piece)
                done += piece.size
                progress(done, total)
        self.addresses = addresses
        self._programs, offset = {}, 0
        for name in package.manifest["programs"]:
            code = np.frombuffer(package.program(name), np.uint8)
            self.device.write(addresses[0] + offset, code)
            self._programs[name] = addresses[0] + offset
            offset += code.size
        table = np.array(addresses, np.uint64).view(np.uint8)
        self._bases = self.device.alloc(table.size)
        self.device.write(self._bases, table)

    def _check_upload(self) -> None:
        """Raise DeviceError unless the device's memory holds the package's weights and programs."""
        device = self.device.device if isinstance(self.device, Recorder) else self.device
        if device.shares_memory:
            return
        wanted = [
            (address, data)
            for address, (_, data) in zip(self.addresses, self.package.chunk_bytes(), strict=True) if data is not None
        ]  # fmt: skip
        wanted += [
            (self._programs[name], np.frombuffer(self.package.program(name), np.uint8)) for name in self._programs
        ]
        for address, data in wanted:
            for start in range(0, data.size, UPLOAD_BYTES):
                piece = data[start : start + UPLOAD_BYTES]
                different = np.flatnonzero(device.read(address + start, piece.size) != piece)
                if different.size:
                    raise DeviceError(
                        f"{device.name}: memory differs from what was written there, in {different.size} of {piece.size} bytes from "
                        f"{address + start + int(different[0]):#x} on: a cache line that was not flushed, or damaged memory. "
                        f"For more: meadowc selftest {self.package.folder} --device {device.name}"
                    )

    # -- tokens ----------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Forget the conversation: the cache starts empty, and so does the digest.  The new one belongs to this thread."""
        with self._lock:
            self._conversation += 1
            self._owner = threading.get_ident()
            self.position = 0
            self._digest = hashlib.sha256()

    @property
    def digest(self) -> str:
        """sha256 over every row of logits that was read since the last reset, in order.

        Raises UsageError in a thread that did not begin the conversation.
        """
        with self._turn():
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
            raise UsageError(f"block is {size}; the design takes 1 to {self.package.design.block} tokens a run")
        with self._turn():
            return self._prefill(tokens, logits, size)

    def _prefill(self, tokens: list[int], logits: str, size: int) -> Logits:
        self._check_tokens(tokens)
        began = time.perf_counter()
        rows = []
        for start in range(0, len(tokens), size):
            piece = tokens[start : start + size]
            last = start + size >= len(tokens)
            first = 0 if logits == "all" else len(piece) - 1 if last else len(piece)
            rows.append(self._run(piece, first))
        self.stats.prefill_tokens += len(tokens)
        self.stats.prefill_seconds += time.perf_counter() - began
        return np.concatenate(rows)

    def step(self, token: int) -> Logits:
        """Run one token after those before it; returns its logits float32 [vocab]."""
        with self._turn():
            return self._step(token)

    def _step(self, token: int) -> Logits:
        self._check_tokens([token])
        began = time.perf_counter()
        logits = self._run([token], 0)[0]
        self.stats.decode_tokens += 1
        self.stats.decode_seconds += time.perf_counter() - began
        return logits

    def _check_tokens(self, tokens: list[int]) -> None:
        vocab = int(self.package.model["vocab"])
        if not tokens:
            raise UsageError("the prompt has no tokens")
        kinds = next((t for t in tokens if not isinstance(t, (int, np.integer)) or isinstance(t, bool)), None)
        if kinds is not None:
            raise UsageError(f"a token is {str(kinds)[:40]!r}; whole numbers below {vocab} are expected")
        wrong = next((t for t in tokens if not 0 <= t < vocab), None)
        if wrong is not None:
            raise UsageError(f"token {wrong} is outside of the vocabulary of {vocab}")
        if self.position + len(tokens) > self.context:
            raise UsageError(
                f"{len(tokens)} tokens after {self.position} are more than the context of {self.context} that was compiled; "
                f"shorten the prompt, or compile with --set context={padded(self.position + len(tokens), 64)}"
            )

    def _run(self, tokens: list[int], first_logit: int) -> Logits:
        """One program run; returns the logits [tokens - first_logit, vocab]."""
        vocab = int(self.package.model["vocab"])
        program = "decode" if len(tokens) == 1 and "decode" in self._programs else "prefill"
        self.run_program(self._programs[program], tokens, first_logit)
        self.position += len(tokens)
        if first_logit >= len(tokens):
            return np.zeros((0, vocab), np.float32)
        stride = padded(vocab, 4) * 4
        data = self.device.read(self._at("logits") + first_logit * stride, (len(tokens) - first_logit) * stride)
        logits = np.ascontiguousarray(data.view(np.float32).reshape(-1, stride // 4)[:, :vocab])
        self._digest.update(logits.data)
        return logits

    def spare(self, length: int) -> int:
        """Address of memory that nothing else uses, the same at each call: for tests of the memory itself."""
        if self._spare is None:
            self._spare = self.device.alloc(length)
        return self._spare

    def run_code(self, code: NDArray[np.uint8], tokens: list[int], embed: bool = True) -> None:
        """Run the instructions `code` (END is added) on `tokens`, whose logits nobody wants; for self-test and comparison."""
        whole = np.concatenate([code, np.zeros(INSTRUCTION_BYTES, np.uint8)])  # opcode 0 is END
        if self._scratch is None:
            longest = max(entry["bytes"] for entry in self.package.manifest["programs"].values())
            self._scratch = self.device.alloc(longest + INSTRUCTION_BYTES)
        self.device.write(self._scratch, whole)
        self.run_program(self._scratch, tokens, len(tokens), embed)

    def run_program(self, address: int, tokens: list[int], first_logit: int, embed: bool = True) -> None:
        """Gather the embeddings of `tokens` (or leave the activations as they are) and run the program at `address` to its
        end; the position stays."""
        if self.closed:
            raise UsageError("this Session is closed; open a new one")
        with self._lock:
            self._run_program(address, tokens, first_logit, embed)

    def _run_program(self, address: int, tokens: list[int], first_logit: int, embed: bool) -> None:
        if embed:
            dim = int(self.package.model["dim"])
            x = np.zeros((len(tokens), padded(dim, 4)), np.float32)
            x[:, :dim] = self._embedding.rows(np.array(tokens))
            self.device.write(self._at("x"), x.view(np.uint8))
        self.device.start(Run(address, self._bases, len(self.addresses), self.position, len(tokens), first_logit))
        self.device.wait()

    def _at(self, name: str) -> int:
        slot = self.package.slot(name)
        assert isinstance(slot.space, int)
        return int(self.addresses[slot.space] + slot.offset)

    # -- text ------------------------------------------------------------------------------------------------------

    def generate(self, tokens: list[int], max_new_tokens: int = 64, choose: Callable[[Logits], int] | None = None,
                 end_tokens: frozenset[int] = frozenset()) -> Iterator[int]:  # fmt: skip
        """New tokens after the prompt `tokens`, until an end token (not given out), the limit, or the context's end."""
        with self._turn():
            mine = self._conversation
        return self._generate(mine, tokens, max_new_tokens, choose or (lambda row: int(np.argmax(row))), end_tokens)

    def _generate(self, mine: int, tokens: list[int], max_new_tokens: int, pick: Callable[[Logits], int],
                  end_tokens: frozenset[int]) -> Iterator[int]:  # fmt: skip
        """`generate` of the conversation `mine`, whichever thread asks for the next token."""
        with self._turn(mine):
            token = pick(self._prefill(tokens, "last", self.package.design.block)[-1])
        for count in range(max_new_tokens):
            if token in end_tokens:
                return
            yield token
            with self._turn(mine):
                if count + 1 == max_new_tokens or self.position >= self.context:
                    return
                token = pick(self._step(token))

    def prompt(self, text: str, raw: bool = False) -> list[int]:
        """Token ids of `text` as a user's message by the chat template; as it is where there is none.

        raw  no template: plain completion, and special tokens that are written in `text` count as such
        """
        if raw:
            return self.tokenizer.encode(text)
        if self.tokenizer.template is None:
            return self.tokenizer.message(text)
        return self.tokenizer.conversation([{"role": "user", "content": text}])

    def stream(self, prompt: str, max_new_tokens: int = 64, raw: bool = False,
               choose: Callable[[Logits], int] | None = None) -> Iterator[str]:  # fmt: skip
        """Text as it comes, a new conversation.  Stopping the iteration stops the device between two tokens."""
        streamer = Streamer(self.tokenizer)
        tokens = self.prompt(prompt, raw)
        with self._lock:  # no other conversation between the reset and the prompt
            self.reset()
            answer = self.generate(tokens, max_new_tokens, choose, self.tokenizer.end_tokens)
            first = next(answer, None)
        for token in itertools.chain([] if first is None else [first], answer):
            piece = streamer.push(token)
            if piece:
                yield piece
        tail = streamer.finish()
        if tail:
            yield tail

    def selftest(self) -> list[tuple[str, bool, str]]:
        """The ladder on this device: (rung, passed, what was seen), up to the first rung that fails."""
        from meadow.runtime.check.selftest import selftest

        return selftest(self)


def sampler(temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0, seed: int = 0) -> Callable[[Logits], int]:
    """How the next token is chosen: greedily at temperature 0, else by chance from a seeded generator.

    Raises UsageError for settings out of range.
    """
    if not 0 <= temperature < float("inf") or not 0 < top_p <= 1 or top_k < 0 or seed < 0:
        raise UsageError(
            f"temperature {temperature}, top_k {top_k}, top_p {top_p}, seed {seed}; temperature, top_k and seed are 0 or more, top_p is "
            "above 0 and at most 1"
        )
    if temperature < 1e-6:
        return lambda logits: int(np.argmax(logits))
    random = np.random.default_rng(seed)

    def choose(logits: Logits) -> int:
        order = np.argsort(-logits)[: top_k or None]
        p = np.exp((logits[order] - logits[order[0]]).astype(np.float64) / temperature)
        p /= p.sum()
        keep = np.cumsum(p) - p < top_p
        p = p[keep] / p[keep].sum()
        return int(random.choice(order[keep], p=p))

    return choose
