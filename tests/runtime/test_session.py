# SPDX-License-Identifier: Apache-2.0
"""Sessions, devices and text: limits with a sentence, results that do not depend on how they were asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from meadow.machine.errors import DeviceError, UsageError
from meadow.machine.instructions.norm import Norm
from meadow.machine.instructions.tphs import Tphs
from meadow.machine.package.read import load
from meadow.runtime import Session
from meadow.runtime.devices.device import Run
from meadow.runtime.devices.emulator import Memory
from meadow.runtime.devices.open import open_device
from meadow.runtime.text.sampler import sampler
from meadow.runtime.text.tokenizer import Streamer, Tokenizer


def test_a_context_beyond_what_was_compiled_is_refused_before_anything_runs(tiny_package: Path) -> None:
    with Session(tiny_package) as session:
        with pytest.raises(UsageError, match=r"129 tokens after 0 are more than the context of 128 that was compiled"):
            session.prefill([1] * 129)
        assert session.position == 0 and session.device.counters.runs == 0


def test_generation_ends_where_the_context_ends(tiny_package: Path) -> None:
    with Session(tiny_package) as session:
        assert len(list(session.generate([7] * 120, max_new_tokens=500))) == 9
        assert session.position == 128


@pytest.mark.parametrize("tokens", [[], [1024], [-1]])
def test_wrong_tokens_are_refused(tokens: list[int], tiny_package: Path) -> None:
    with Session(tiny_package) as session, pytest.raises(UsageError):
        session.prefill(tokens)


def test_all_logits_and_last_logits_agree(tiny_package: Path) -> None:
    tokens = list(range(30, 60))
    with Session(tiny_package) as session:
        everything = session.prefill(tokens, logits="all")
        session.reset()
        assert everything.shape == (30, 1024)
        assert (session.prefill(tokens)[-1] == everything[-1]).all()


def test_a_reset_session_answers_as_a_new_one(tiny_package: Path) -> None:
    with Session(tiny_package) as session:
        first = session.prefill([5, 6, 7]).copy()
        session.step(9)
        session.reset()
        assert (session.prefill([5, 6, 7]) == first).all()


def test_a_session_shows_where_it_runs(tiny_package: Path) -> None:
    with Session(tiny_package) as session:
        assert repr(session) == "<Session tiny: EMULATED zcu102 on emulator, position 0 of 128>"


def test_an_unknown_device_names_the_known_ones(tiny_package: Path) -> None:
    with pytest.raises(UsageError, match="known are auto, emulator, csim"):
        open_device("gpu", load(tiny_package))


def test_stats_count_tokens(tiny_package: Path) -> None:
    with Session(tiny_package) as session:
        list(session.generate([1, 2, 3], max_new_tokens=4))
        assert (session.stats.prefill_tokens, session.stats.decode_tokens) == (3, 3)


def test_weights_that_are_unpacked_once_are_no_part_of_a_rate(tiny_package: Path) -> None:
    with Session(tiny_package) as session:
        session.prefill([1, 2, 3])
        assert session.stats.unpack_seconds > 0 and session.device.counters.unpacked == session.stats.unpack_seconds
        assert session.stats.prefill_seconds < session.device.counters.seconds + session.stats.unpack_seconds
        session.reset()
        before = session.stats.unpack_seconds
        session.prefill([1, 2, 3])
        assert session.stats.unpack_seconds == before


@pytest.mark.csim
def test_the_cpp_counts_the_bytes_of_every_port(tiny_package: Path) -> None:
    package = load(tiny_package)
    with Session(tiny_package, "csim") as session:
        before = session.device.counters
        session.step(5)
        after = session.device.counters
    for port in range(4):
        streamed = sum(row["streams"][port][2] for row in package.packing())
        name = f"weights{port}.weights.read"
        assert after.bytes[name] - before.bytes[name] == streamed
        assert after.bytes[f"weights{port}.weights.written"] == 0
    assert after.bytes["memory.activations.written"] > before.bytes["memory.activations.written"]
    assert not any(n for name, n in after.bytes.items() if name.startswith("constants") and name.endswith("written"))
    assert 0 < after.bursts["memory.kv.read"] * 16 <= after.bytes["memory.kv.read"]
    assert all(after.cycles[loop] > before.cycles[loop] for loop in ("fetch", "unpack", "multiply", "softmax"))


@pytest.mark.csim
def test_an_access_outside_of_memory_ends_the_run_with_a_sentence(tiny_package: Path) -> None:
    with Session(tiny_package, "csim") as session, pytest.raises(DeviceError, match="access outside of memory"):
        session.device.start(Run(1 << 35, 0, 1, 0, 1, 0))
        session.device.wait()


@pytest.mark.csim
def test_an_address_beyond_the_processors_is_refused(tiny_package: Path) -> None:
    """Addresses are beats of 32 bits in the engine: 64 GB."""
    with Session(tiny_package, "csim") as session, pytest.raises(DeviceError, match="refused the run's registers"):
        session.device.start(Run(1 << 40, 0, 1, 0, 1, 0))
        session.device.wait()


@pytest.mark.csim
def test_cpp_of_another_meadow_is_refused_in_a_sentence(tiny_package: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_package, tmp_path / "copy"))
    source = copy / "hls" / "sim" / "csim.cpp"
    source.write_text(source.read_text().replace("EXPORTED const", "const"))
    with pytest.raises(DeviceError, match="a different version of meadow"):
        open_device("csim", load(copy))


@pytest.mark.csim
def test_the_cpp_refuses_registers_out_of_range(tiny_package: Path) -> None:
    with Session(tiny_package, "csim") as session, pytest.raises(DeviceError, match="refused the run's registers"):
        session.device.start(Run(0, 0, 1, 0, 65, 0))
        session.device.wait()


def test_the_emulator_refuses_registers_out_of_range(tiny_package: Path) -> None:
    with Session(tiny_package) as session, pytest.raises(DeviceError, match="65 tokens after 0"):
        session.device.start(Run(0, 0, 1, 0, 65, 0))


def test_memory_outside_of_allocations_is_an_error() -> None:
    memory = Memory()
    address = memory.alloc(100)
    memory.view(address, 4096)[:] = 1
    for wrong, length in ((address - 1, 1), (address + 4096, 1), (address, 4097), (0, 16)):
        with pytest.raises(DeviceError, match="outside of every allocation"):
            memory.view(wrong, length)


def test_a_damaged_program_is_refused(tiny_package: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_package, tmp_path / "copy"))
    data = bytearray((copy / "program.bin").read_bytes())
    data[0:4] = b"\xee\xee\xee\xee"
    (copy / "program.bin").write_bytes(data)
    with pytest.raises(DeviceError, match=r"the program prefill is damaged: opcode \d+ at byte 0 is not known"):
        Session(copy)


def test_selftest_finds_overwritten_weights_and_stops_there(tiny_package: Path) -> None:
    with Session(tiny_package) as session:
        chunk = next(c for c in session.package.chunks if c.kind == "weights")
        session.device.write(session.loaded.addresses[chunk.index] + 4096, np.full(16, 0x55, np.uint8))
        rungs = session.selftest()
    assert [name for name, _, _ in rungs] == ["memory walk", "weight checksums"]
    assert not rungs[-1][1] and "chunk" in rungs[-1][2]


def test_selftest_finds_wrong_arithmetic(tiny_package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Session(tiny_package) as session:
        device, healthy = session.device, Norm.run
        wrong = {"eps": 0.1}
        monkeypatch.setattr(Norm, "run", lambda self, f, m: healthy(self, f | wrong if m is device else f, m))
        rungs = session.selftest()
    assert rungs[-1][0] == "one step" and "arithmetic" in rungs[-1][2]


def test_selftest_tells_a_wrong_layer_from_a_wrong_step(tiny_package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Session(tiny_package) as session:
        device, healthy = session.device, Tphs.run
        wrong = {"kappa": 0.5}
        monkeypatch.setattr(Tphs, "run", lambda self, f, m: healthy(self, f | wrong if m is device else f, m))
        rungs = session.selftest()
    assert rungs[-1][0] == "one layer" and not rungs[-1][1]


def test_greedy_and_seeded_sampling_repeat_themselves() -> None:
    logits = np.array([0.0, 3.0, 2.9, -5.0], np.float32)
    assert sampler()(logits) == 1
    first, second = sampler(0.8, seed=4), sampler(0.8, seed=4)
    assert [first(logits) for _ in range(20)] == [second(logits) for _ in range(20)]
    assert {sampler(5.0, top_k=2, seed=s)(logits) for s in range(30)} == {1, 2}
    assert {sampler(1.0, top_p=0.4, seed=s)(logits) for s in range(30)} == {1}
    with pytest.raises(UsageError):
        sampler(-1)


def test_a_streamed_text_is_the_decoded_text(tiny_package: Path) -> None:
    tokenizer = Tokenizer(tiny_package / "tokenizer")
    ids = tokenizer.encode("Alice was “beginning” to get very tired\nof sitting — by her sister")
    streamer = Streamer(tokenizer)
    text = "".join(streamer.push(i) for i in ids) + streamer.finish()
    assert text == tokenizer.decode(ids)


def byte_level(folder: Path) -> Tokenizer:
    """A tokenizer whose tokens are single bytes, so that characters span several tokens."""
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Library(models.BPE({c: i for i, c in enumerate(letters)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": letters[3]}}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    (folder / "config.json").write_text(json.dumps({"eos_token_id": 9}))
    return Tokenizer(folder)


def test_a_character_of_several_tokens_is_held_back_until_it_is_whole(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path)
    text = "a€😀é" * 20
    ids = tokenizer.encode(text)
    streamer = Streamer(tokenizer)
    pieces = [streamer.push(i) for i in ids]
    assert "\ufffd" not in "".join(pieces) and "".join(pieces) + streamer.finish() == text
    assert pieces[:5] == ["a", "", "", "€", ""]


def test_end_tokens_are_the_union_of_all_sources(tmp_path: Path) -> None:
    assert byte_level(tmp_path).end_tokens == {1, 2, 3, 9}


def test_a_chat_template_runs_in_a_sandbox(tmp_path: Path) -> None:
    byte_level(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}")
    assert Tokenizer(tmp_path).chat([{"role": "user", "content": "hi"}]) == "<user>hi"
    (tmp_path / "chat_template.jinja").write_text("{{ ''.__class__.__mro__ }}")
    with pytest.raises(DeviceError, match="chat template failed"):
        Tokenizer(tmp_path).chat([])


def test_rewinding_to_a_mark_forgets_what_came_after(tiny_package: Path) -> None:
    """The cache is written over: another continuation gives what it would have given at once, digest included."""
    with Session(tiny_package) as session:
        session.prefill([1, 8, 15])
        mark = session.mark()
        first = session.step(22)
        session.step(9)
        session.rewind(mark)
        assert session.position == 3
        again = session.step(22)
        digest = session.digest
        assert (first == again).all()
        session.reset()
        session.prefill([1, 8, 15])
        session.step(22)
        assert session.digest == digest


def test_a_mark_of_another_conversation_is_refused(tiny_package: Path) -> None:
    with Session(tiny_package) as session:
        session.prefill([1, 8, 15])
        late = session.mark()
        session.reset()
        with pytest.raises(UsageError, match="mark is of position 3 in another conversation"):
            session.rewind(late)
        session.prefill([1, 8])
        early = session.mark()
        session.step(3)
        later = session.mark()
        session.rewind(early)
        with pytest.raises(UsageError, match="was rewound over"):
            session.rewind(later)


def test_a_package_names_its_entries_their_tensors_and_its_regions(tiny_package: Path) -> None:
    package = load(tiny_package)
    assert {name: entry.most_tokens for name, entry in package.entries.items()} == {
        "prefill": package.design.block,
        "decode": 1,
    }
    for entry in package.entries.values():
        assert [(t.name, t.shape) for t in entry.inputs] == [("x", ("tokens", package.model["dim"]))]
        assert [(t.name, t.shape) for t in entry.outputs] == [("logits", ("tokens", package.model["vocab"]))]
    changing = {name for name, row in package.manifest["regions"].items() if row["changes"]}
    assert changing == {"kv", "pinned", "activations"} and package.region("kv").chunks
    with pytest.raises(DeviceError, match="no memory called 'adapters'"):
        package.region("adapters")
