# SPDX-License-Identifier: Apache-2.0
"""Tokens that the engine chooses and goes on to by itself: the same as those that the host chooses, on every rung that can; and what
happens where somebody stops in the middle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meadow import boards
from meadow.compiler.pipeline import Options, compile_model
from meadow.compiler.price.traffic import step_beats
from meadow.machine import isa
from meadow.machine.errors import DeviceError, MeadowError, UsageError
from meadow.machine.instructions import table
from meadow.machine.instructions.instruction import Tokens, on_port
from meadow.machine.instructions.next import ENDS, NO_TOKEN
from meadow.machine.isa import Opcode
from meadow.machine.package.read import load
from meadow.machine.storage.embedding import MINIMA, SIGNED, EmbeddingLayout, Rows
from meadow.runtime.devices.device import Run
from meadow.runtime.session import Session

PROMPT = [1, 17, 300, 5]
DEVICES = ["csim", "emulated-pynq"]


def by_host(package: Path, count: int, ends: frozenset[int] = frozenset()) -> list[int]:
    with Session(package, "emulator") as session:
        return list(session.generate(PROMPT, count, end_tokens=ends))


@pytest.mark.csim
@pytest.mark.parametrize("device", DEVICES)
def test_one_start_makes_the_tokens_that_the_host_makes_step_by_step(device: str, tiny_package: Path) -> None:
    wanted = by_host(tiny_package, 32)
    with Session(tiny_package, device) as session:
        assert list(session.generate(PROMPT, 32, ahead=True)) == wanted
        assert session.loaded.starts == 2, "the prompt, and all tokens"
        assert session.position == len(PROMPT) + 31 and session.unread == 31
        with pytest.raises(UsageError, match="chose 31 tokens by itself.*no digest"):
            _ = session.digest


@pytest.mark.csim
@pytest.mark.parametrize("device", DEVICES)
def test_an_end_token_ends_the_run_and_is_not_given_out(device: str, tiny_package: Path) -> None:
    every = by_host(tiny_package, 32)
    end = frozenset({every[9], 70_000})
    wanted = by_host(tiny_package, 32, end)
    with Session(tiny_package, device) as session:
        assert list(session.generate(PROMPT, 32, end_tokens=end, ahead=True)) == wanted
        assert session.loaded.starts == 2
        assert list(session.generate([5], 4, ahead=True)) == list(session.generate([5], 4)) or session.position


@pytest.mark.csim
@pytest.mark.parametrize("device", ["emulator", *DEVICES])
def test_the_engine_ends_at_an_end_token_by_itself(device: str, tiny_package: Path) -> None:
    every = by_host(tiny_package, 12)
    end = next(n for n in range(2, 12) if every[n] not in every[:n])
    with Session(tiny_package, device) as session:
        session.prefill(PROMPT)
        loaded, where = session.loaded, load(tiny_package).manifest["ahead"]
        ring, ends = (loaded.addresses[chunk] + offset for chunk, offset, _ in (where["ring"], where["ends"]))
        words = np.full(ENDS, NO_TOKEN, np.uint32)
        words[-1] = every[end]
        session.device.write(ends, words.view(np.uint8))
        session.device.write(ring, np.zeros(12 * 16, np.uint8))
        loaded.embed([every[0]], session.position)
        run = Run(loaded.programs["decode"], loaded.bases, len(loaded.addresses), session.position, 1, 0, 12)
        session.device.start(run)
        session.device.wait()
        found = session.device.read(ring, 12 * 16).view(np.uint32).reshape(12, 4)
        assert found[:end, 0].tolist() == every[1 : end + 1] and found[:end, 1].tolist() == list(range(1, end + 1))
        assert not found[end:].any(), "nothing comes behind it"


@pytest.mark.csim
def test_a_run_ends_where_the_context_does(tiny_package: Path) -> None:
    context = load(tiny_package).design.context
    prompt = [int(n) for n in np.random.default_rng(0).integers(0, 1000, context - 6)]
    with Session(tiny_package, "emulator") as session:
        wanted = list(session.generate(prompt, 50))
    with Session(tiny_package, "csim") as session:
        assert list(session.generate(prompt, 50, ahead=True)) == wanted
        assert session.position == context and len(wanted) == 7


@pytest.mark.csim
@pytest.mark.parametrize("device", DEVICES)
def test_what_is_asked_in_the_middle_ends_the_run_and_the_answer_goes_on(device: str, tiny_package: Path) -> None:
    with Session(tiny_package, "emulator") as session:
        wanted = list(session.generate(PROMPT, 24))
    with Session(tiny_package, device) as session:
        answer = session.generate(PROMPT, 24, ahead=True)
        found = [next(answer) for _ in range(5)]
        assert session.position == len(PROMPT) + 4, "the engine may be further, and nobody sees it"
        mark = session.mark()
        session.step(found[-1])
        session.rewind(mark)
        assert [*found, *answer] == wanted
        assert session.loaded.starts == 4


@pytest.mark.csim
@pytest.mark.parametrize("device", DEVICES)
def test_an_answer_that_is_left_leaves_the_device_free(device: str, tiny_package: Path) -> None:
    with Session(tiny_package, device) as session:
        for _ in range(3):
            session.reset()
            answer = session.generate(PROMPT, 60, ahead=True)
            next(answer), next(answer)
            answer.close()
            assert session.device.ended()
        session.reset()
        assert list(session.generate(PROMPT, 6)) == by_host(tiny_package, 6)
        assert session.digest


@pytest.mark.csim
def test_what_the_cache_holds_after_a_run_is_known(tiny_package: Path) -> None:
    with Session(tiny_package, "csim") as session:
        tokens = list(session.generate(PROMPT, 8, ahead=True))
        assert session.loaded.cached == PROMPT + tokens[:-1]
        assert session.resume(PROMPT + tokens) == len(PROMPT) + 7


def test_the_emulator_goes_on_by_itself_too(tiny_package: Path) -> None:
    with Session(tiny_package, "emulator") as session:
        session.device.abilities.beside = True
        assert list(session.generate(PROMPT, 20, ahead=True)) == by_host(tiny_package, 20)
        assert session.loaded.starts == 2


@pytest.mark.csim
@pytest.mark.parametrize("device", ["emulator", *DEVICES])
@pytest.mark.parametrize(
    ("position", "tokens", "first", "ahead"), [(0, 2, 0, 1), (0, 1, 1, 1), (120, 1, 0, 9), (0, 1, 0, 1 << 31)]
)
def test_registers_that_go_on_beyond_what_is_possible_are_refused(
    device: str, position: int, tokens: int, first: int, ahead: int, tiny_package: Path
) -> None:
    with Session(tiny_package, device) as session:
        assert session.context == 128
        loaded = session.loaded
        run = Run(loaded.programs["decode"], loaded.bases, len(loaded.addresses), position, tokens, first, ahead)
        with pytest.raises(DeviceError, match="registers|tokens ahead"):
            session.device.start(run)
            session.device.wait()
        assert session.prefill(PROMPT).shape[0] == 1, "the next run is right"


@pytest.mark.csim
def test_the_bytes_of_a_choice_are_those_predicted(tiny_package: Path) -> None:
    package = load(tiny_package)
    step = package.steps("decode")[-1]
    assert step.opcode is Opcode.NEXT
    predicted = step_beats(step, package.design, Tokens(1, 8, 1, True))
    counted = []
    for count in (2, 3):
        with Session(tiny_package, "csim") as session:
            session.prefill(PROMPT)
            before = session.device.counters.bytes
            session.loaded.embed([7], session.position)
            loaded = session.loaded
            run = Run(loaded.programs["decode"], loaded.bases, len(loaded.addresses), session.position, 1, 0, count)
            session.device.start(run)
            session.device.wait()
            after = session.device.counters.bytes
            counted.append({key: after[key] - before[key] for key in after})
    more = {key: counted[1][key] - counted[0][key] for key in counted[0]}
    rest = [s for s in package.steps("decode") if s.opcode is not Opcode.NEXT]
    for port in ("constants", "memory"):
        wanted = on_port(predicted, port) + sum(
            on_port(step_beats(s, package.design, Tokens(1, len(PROMPT) + 1)), port) for s in rest
        )
        found = sum(n for key, n in more.items() if key.startswith(port)) // 16
        assert 0 <= found - wanted <= len(rest), port  # a position later reads a row more of each cache


def choose(session: Session, logits: list[float], form: int, row: Rows, factor: float) -> tuple[int, bytes]:
    """What a program of NEXT alone chooses of these logits, and the row that it leaves."""
    loaded, package = session.loaded, session.package
    dim = int(package.model["dim"])
    f = dict(table.decode(package.program("decode"))[-1][1])
    f |= {"form": form, "vocab": len(logits), "factor": factor}
    chunk, offset = isa.unpack_slot(int(f["ends"]))
    session.device.write(loaded.addresses[chunk] + offset, np.full(ENDS, NO_TOKEN, np.uint32).view(np.uint8))
    chunk, offset = isa.unpack_slot(int(f["table0"]))
    layout = EmbeddingLayout.parted(len(logits), dim, int(f["group"]), form, int(f["shift"]))
    session.device.write(loaded.addresses[chunk] + offset, layout.pack(row).reshape(-1))
    session.device.write(loaded.at("logits"), np.array(logits, np.float32).view(np.uint8))
    chunk, offset, _ = package.manifest["ahead"]["ring"]
    ring = loaded.addresses[chunk] + offset
    session.device.write(ring, np.zeros(32, np.uint8))
    code = np.frombuffer(table.encode(isa.Opcode.NEXT, f), np.uint8)
    at = loaded.spare(4096)
    session.device.write(at, np.concatenate([code, np.zeros(isa.INSTRUCTION_BYTES, np.uint8)]))
    session.device.start(Run(at, loaded.bases, len(loaded.addresses), 0, 1, 0, 2))
    session.device.wait()
    beat = session.device.read(ring, 16).view(np.uint32)
    return int(beat[0]), session.device.read(loaded.at("x"), 4 * dim).tobytes()


@pytest.mark.csim
def test_of_equal_logits_the_first_is_taken_as_numpy_does(tiny_package: Path) -> None:
    random = np.random.default_rng(3)
    dim = int(load(tiny_package).model["dim"])
    with Session(tiny_package, "csim") as session:
        for case in (
            [-0.0, 0.0, -1.0],
            [-1.0, -0.0, 0.0],
            [0.0, -0.0],
            [-3.0, -2.0, -2.0],
            [-1e38, -1e-38],
            [5.0] * 9,
            [1.0, 2.0, 2.0, 2.0, 2.0],
        ):
            count = len(case)
            row = Rows(random.integers(-128, 128, (count, dim)).astype(np.int8), np.ones((count, 1), np.float32), None)
            assert choose(session, case, SIGNED, row, 1.0)[0] == int(np.argmax(np.array(case, np.float32))), case
        for count in (1, 2, 3, 5, 64, 1001):
            some = random.integers(-4, 5, count).astype(np.float32) / 4
            row = Rows(np.zeros((count, dim), np.int8), np.ones((count, 1), np.float32), None)
            assert choose(session, list(some), SIGNED, row, 1.0)[0] == int(np.argmax(some))


@pytest.mark.csim
@pytest.mark.parametrize("form", [0, SIGNED, MINIMA, SIGNED | MINIMA])
def test_rows_of_every_form_are_gathered_as_numpy_does(form: int, tiny_package: Path) -> None:
    dim = int(load(tiny_package).model["dim"])
    random = np.random.default_rng(form)
    codes = random.integers(0, 256, (8, dim)).astype(np.uint8)
    codes[0, :3] = (0, 255, 128)
    row = Rows(
        codes.view(np.int8) if form & SIGNED else codes,
        random.normal(size=(8, 1)).astype(np.float32),
        random.normal(size=(8, 1)).astype(np.float32) if form & MINIMA else None,
    )
    for token in (0, 7):
        logits = [0.0] * 8
        logits[token] = 1.0
        wanted = row.codes[token].astype(np.float32) * row.scale[token]
        wanted = wanted if row.minimum is None else wanted + row.minimum[token]
        wanted = wanted * np.float32(1.7)
        for device in ("emulator", "csim"):
            with Session(tiny_package, device) as session:
                found = choose(session, logits, form, row, float(np.float32(1.7)))
                assert found == (token, wanted.tobytes()), device


ROWS = st.integers(1, 40).flatmap(
    lambda rows: st.tuples(
        st.just(rows), st.integers(1, 70), st.sampled_from([0, 16, 32]), st.booleans(), st.booleans(), st.integers(0, 3)
    )
)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(0, 2**32 - 1))
def test_a_table_is_read_as_it_was_packed(shape: tuple[int, int, int, bool, bool, int], seed: int) -> None:
    rows, dim, group, signed, minima, shift = shape
    random = np.random.default_rng(seed)
    form = SIGNED * signed | MINIMA * minima
    group = group or -(-dim // 4) * 4
    layout = EmbeddingLayout.parted(rows, dim, group, form, shift)
    codes = random.integers(-128, 128, (rows, dim)).astype(np.int8)
    values = random.normal(size=(2, rows, layout.groups)).astype(np.float32)
    packed = layout.pack(Rows(codes if signed else codes.view(np.uint8), values[0], values[1] if minima else None))
    assert packed.shape == (rows, layout.stride) and layout.shift == shift
    assert [last - first for first, last in layout.spans()] == [n // layout.stride for n in layout.lengths()]
    found = layout.rows_of(packed.reshape(-1))
    assert (found.codes.view(np.int8) == codes).all() and (found.scale == values[0]).all()
    assert (found.minimum is None) == (not minima)
    assert found.minimum is None or (found.minimum == values[1]).all()


@pytest.fixture(scope="module")
def parted(tiny_int8: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with its table in four parts."""
    from meadow.compiler.program import ahead

    folder = tmp_path_factory.mktemp("parted") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ahead, "CHUNK_LIMIT", 48 << 10)
        compile_model(tiny_int8, boards.load("zcu102"), folder, Options())
    return folder


@pytest.mark.csim
def test_a_table_in_parts_is_gathered_from_all_of_them(parted: Path, tiny_package: Path) -> None:
    package = load(parted)
    assert len(package.manifest["embedding"]["places"]) == 4
    rows = package.embedding()
    assert (rows.rows(np.arange(1024)) == load(tiny_package).embedding().rows(np.arange(1024))).all()
    wanted = by_host(parted, 40)
    assert len({token >> 8 for token in wanted}) > 1, "tokens of several parts"
    with Session(parted, "csim") as session:
        assert list(session.generate(PROMPT, 40, ahead=True)) == wanted


@pytest.mark.csim
def test_run_says_how_often_the_engine_was_started(tiny_package: Path, meadowc: Any) -> None:
    how = ("run", tiny_package, "--raw", "-p", "a", "-n", "12", "--device", "emulated-pynq", "--json")
    step, ahead = (json.loads(meadowc(*how, *more).out) for more in ((), ("--ahead",)))
    assert step["tokens_digest"] == ahead["tokens_digest"] and step["text"] == ahead["text"]
    assert ahead["starts"] == 2 and step["starts"] == len(step["tokens"]) + (step["finish_reason"] == "stop")
    assert ahead["digest"] is None and step["digest"]
    assert ahead["operations"]["register writes"] < step["operations"]["register writes"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--temperature", "0.5"), "the host's"),
        (("--repeat-penalty", "1.2"), "the host's"),
        ((), "computes a run while the host waits"),
    ],
)
def test_run_says_why_the_engine_cannot_go_on(
    more: tuple[str, ...], said: str, tiny_package: Path, meadowc: Any
) -> None:
    device = "csim" if more else "emulator"
    result = meadowc("run", tiny_package, "--raw", "-p", "a", "--ahead", "--device", device, *more)
    assert result.code == 2 and said in result.err


@pytest.mark.csim
def test_answers_go_ahead_where_they_can_and_the_host_is_asked_for_the_rest(tiny_package: Path) -> None:
    with Session(tiny_package, "csim") as session:
        quick = session.answer("a", 10, raw=True, ahead=None)
        text = quick.read()
        assert session.unread == len(quick.tokens) - (quick.finish_reason != "stop") and session.loaded.starts == 2
        session.reset()
        for how in (
            {"logprobs": 2, "ahead": None},
            {"temperature": 0.7, "ahead": None},
            {"choose": lambda row: int(np.argmax(row)), "ahead": None},
            {},
        ):
            slow = session.answer("a", 10, raw=True, **how)
            slow.read()
            assert session.unread == 0 and session.digest
            assert slow.text == text or "temperature" in how
        with pytest.raises(UsageError, match="the host's"):
            session.answer("a", 10, raw=True, temperature=0.7, ahead=True)
        with pytest.raises(UsageError, match="drop one of them"):
            session.generate(PROMPT, 10, choose=lambda row: 0, ahead=True)


@pytest.mark.csim
def test_more_end_tokens_than_the_engine_knows_are_the_hosts(tiny_package: Path) -> None:
    ends = frozenset(range(900, 900 + ENDS + 1))
    with Session(tiny_package, "csim") as session:
        found = list(session.generate(PROMPT, 12, end_tokens=ends, ahead=True))
        assert session.unread == 0
    assert found == by_host(tiny_package, 12, ends)


@pytest.mark.csim
def test_a_recording_replays_a_run_that_goes_on_by_itself(tiny_package: Path, tmp_path: Path) -> None:
    tape = tmp_path / "tape"
    with Session(tiny_package, "csim", record=tape) as session:
        wanted = list(session.generate(PROMPT, 12, ahead=True))
    with Session(tiny_package, replay=tape) as session:
        assert list(session.generate(PROMPT, 12, ahead=True)) == wanted


@pytest.mark.csim
def test_an_engine_that_hangs_in_the_middle_is_a_sentence(tiny_package: Path) -> None:
    from meadow.runtime.devices import emulated_pynq

    board = emulated_pynq.emulated(load(tiny_package))
    with Session(tiny_package, board) as session:
        session.prefill(PROMPT)
        board.control.stall = 0.3
        board.device.board.fault = "engine-hang"
        with pytest.raises(MeadowError, match="nothing moved"):
            session.loaded.follow(5, session.position, 8, ())
        board.device.board.fault = ""


def test_a_ring_at_another_place_than_the_step_has_it_is_refused(tiny_package: Path) -> None:
    package = load(tiny_package)
    from meadow.machine.package.manifest import _check_ahead

    chunk, offset, length = package.manifest["ahead"]["ring"]
    for wrong in ({"ring": [chunk - 1, offset, length]}, {"host": "nobody"}):
        told = {**package.manifest, "ahead": {**package.manifest["ahead"], **wrong}}
        with pytest.raises(ValueError, match="not where the host has it|steps choose tokens"):
            _check_ahead(replace(package, manifest=told))
