# SPDX-License-Identifier: Apache-2.0
"""At the edges: three query heads for a KV head, an odd vocabulary, columns that fill no lane, the limits of the twin arithmetic."""

from __future__ import annotations

import heapq
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from random_gguf import write_gguf

from meadow import boards
from meadow.compiler.engines.array import SCHEMES, pack
from meadow.compiler.graph.evaluate import evaluate
from meadow.compiler.models import convert, quantize
from meadow.compiler.pipeline import Options, compile_model
from meadow.compiler.sources.onnx.read import read
from meadow.evidence.ladder.reference import OnnxModel
from meadow.machine import isa
from meadow.machine.arithmetic import int8 as ar
from meadow.machine.engines.array import Array
from meadow.machine.errors import DeviceError
from meadow.machine.instructions import table
from meadow.machine.instructions.norm import NORM_EXPONENTS, norm
from meadow.machine.package.read import load
from meadow.machine.storage import prefix_code
from meadow.machine.storage.rows import Layout
from meadow.runtime.devices.csim import CSim
from meadow.runtime.devices.device import Run
from meadow.runtime.session import Session
from meadow.runtime.text.tokenizer import HOLD_TOKENS, Streamer, Tokenizer

PROMPT = [(7 * i + 3) % 65 for i in range(13)]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 heads of 10 over 2 KV heads, an MLP of 98, 65 tokens: nothing is a multiple of a beat, a lane or a power of two."""
    folder = tmp_path_factory.mktemp("odd")
    write_gguf(folder / "m.gguf", "F16", "F16", heads=6, dim=60, kv_heads=2, ffn=98, vocab=65)
    convert(folder / "m.gguf", folder / "m")
    quantize(folder / "m", folder / "q", "channel", smoothing=0.0)
    for dataflow in ("tphs", "gemm"):
        options = Options(
            dataflow=dataflow, settings=(("block", 16), ("token_lanes", 4), ("context", 64), ("tile_rows", 32))
        )
        compile_model(folder / "q", boards.load("kv260"), folder / dataflow, options)
    return folder


def digest(package: Path, device: str, block: int) -> tuple[str, NDArray[np.float32]]:
    with Session(package, device) as session:
        rows = session.prefill(PROMPT, logits="all", block=block)
        session.step(9)
        return session.digest, rows


@pytest.mark.csim
def test_a_group_of_three_and_odd_sizes_have_one_digest(odd: Path) -> None:
    """Blocks of 7 tokens hold two of the three query heads of a group at once; 16 hold one, 3 all of them."""
    found = {
        digest(odd / flow, device, block)[0]
        for flow in ("tphs", "gemm")
        for device in ("emulator", "csim")
        for block in (16, 7, 3, 1)
    }
    assert len(found) == 1


def test_the_odd_model_means_what_onnxruntime_computes(odd: Path) -> None:
    _, rows = digest(odd / "tphs", "emulator", 16)
    reference = OnnxModel(odd / "m" / "model.onnx").prefill(PROMPT)
    assert rows.shape == reference.shape and np.std(rows - reference) < 0.08 * np.std(reference)
    graph = evaluate(read(odd / "q"), np.array(PROMPT))
    assert np.std(rows - graph) < 0.03 * np.std(graph)


@pytest.mark.csim
def test_numpy_and_cpp_leave_the_same_memory(odd: Path) -> None:
    """Also what nobody reads: padding of rows to beats and lanes.  (GEMM's rows of scores have an end that is nobody's.)"""
    memory = []
    for device in ("emulator", "csim"):
        with Session(odd / "tphs", device) as session:
            session.prefill(PROMPT, block=16)
            chunks = [c for c in session.package.chunks if c.kind in ("activations", "pinned", "kv")]
            memory.append([session.device.read(session.loaded.addresses[c.index], c.length) for c in chunks])
    for chunk, (a, b) in enumerate(zip(*memory, strict=True)):
        assert (a == b).all(), f"chunk {chunk} differs from byte {int(np.flatnonzero(a != b)[0])} on"


def test_the_cost_model_is_asked_at_the_position_that_the_reason_names(odd: Path, tmp_path: Path) -> None:
    options = Options(settings=(("block", 16), ("token_lanes", 4), ("context", 64)))
    compile_model(odd / "q", boards.load("kv260"), tmp_path / "p", options)
    flow = load(tmp_path / "p").manifest["dataflow"]
    assert all("modelled at 16 tokens after 48" in reason for _, reason in flow["prefill"])
    assert all("modelled at 1 token after 63" in reason for _, reason in flow["decode"])


# -- the twin arithmetic --------------------------------------------------------------------------------------------


def exact_norm(row: NDArray[np.float32], gain: NDArray[np.float32], eps: float) -> NDArray[np.float64]:
    x = row.astype(np.float64)
    return x / np.sqrt((x**2).mean() + eps) * gain


@pytest.mark.parametrize("exponent", [-48, -44, -41, -20, 0, 39, 41, 50, 59])
def test_a_norm_is_right_up_to_its_exponents(exponent: int) -> None:
    """Clamped at 2^-45 and 2^60 (docs/arithmetic.md): in between squares keep 15 bits, whatever the row's size."""
    random = np.random.default_rng(exponent + 100)
    row = (random.uniform(0.5, 1, (1, 96)) * 2.0**exponent).astype(np.float32)
    found = norm(row, np.ones(96, np.float32), np.float32(1e-30))
    tolerance = 2e-4 if -45 <= exponent <= 60 else 2.0 ** (-45 - exponent) * 1e-4
    assert np.abs(found / exact_norm(row[0], np.ones(96, np.float32), 1e-30) - 1).max() < tolerance
    assert NORM_EXPONENTS == (-45, 60)


def test_the_smallest_normal_number_is_kept_and_the_next_below_is_zero() -> None:
    least = np.float32(2.0**-126)
    below = np.nextafter(least, np.float32(0))
    assert (ar.flush(np.array([least, -least, below, -below], np.float32)) == [least, -least, 0, 0]).all()


@given(st.lists(st.floats(-126, 3), min_size=1, max_size=4), st.lists(st.floats(-126, 3), min_size=1, max_size=4))
def test_rescaling_flushes_each_product_whatever_lies_beside_it(a: list[float], w: list[float]) -> None:
    a_scale, w_scale = np.exp2(np.array(a)).astype(np.float32), np.exp2(np.array(w)).astype(np.float32)
    sums = np.full((len(a), len(w)), 3.0, np.float32)
    found = ar.rescale(sums, a_scale, w_scale)
    for t, n in np.ndindex(*sums.shape):
        product = a_scale[t] * w_scale[n]
        product = np.float32(0) if product < np.float32(2.0**-126) else product
        assert found[t, n] == np.float32(3) * product


# -- packing --------------------------------------------------------------------------------------------------------


def huffman(counts: list[int]) -> int:
    """Bits of the best code without a bound on its length."""
    heap = [c for c in counts if c]
    heapq.heapify(heap)
    total = 0
    while len(heap) > 1:
        pair = heapq.heappop(heap) + heapq.heappop(heap)
        total += pair
        heapq.heappush(heap, pair)
    return total


@given(st.lists(st.integers(1, 300), min_size=2, max_size=40))
def test_prefix_codes_are_the_best_that_there_are(counts: list[int]) -> None:
    padded = np.zeros(256, np.int64)
    padded[: len(counts)] = counts
    lengths = prefix_code.bounded_lengths(padded, 40)
    assert int((padded * lengths).sum()) == huffman(counts)


@pytest.mark.parametrize("spread", [0.4, 1.5, 6.0, 40.0])
def test_auto_takes_the_scheme_that_is_least_time_on_the_bus(spread: float) -> None:
    codes = np.clip(np.rint(np.random.default_rng(3).laplace(0, spread, (256, 320))), -127, 127).astype(np.int8)
    layout = Layout(256, 320, 4, 64)
    each = {
        s: pack(codes, layout, s, units=Array(prefix_codes=1, lookup_entries=65536)).bus_cycles
        for s in SCHEMES
        if s != "auto"
    }
    best = pack(codes, layout, "auto", units=Array(prefix_codes=1, lookup_entries=65536)).bus_cycles
    least = min(each[s] for s in ("raw", "prefix", "frequency"))
    assert best == least or (best == each["raw"] and least >= 0.99 * best)


def test_fetching_takes_as_long_as_the_slowest_port() -> None:
    codes = np.random.default_rng(1).integers(-3, 4, (64, 64)).astype(np.int8)
    codes[::4] = np.random.default_rng(2).integers(-127, 128, (16, 64))  # port 0 has what packs badly
    packed = pack(codes, Layout(64, 64, 4, 64), "prefix")
    beats = packed.coded.directory.sum(axis=0)
    assert beats[0] > 1.5 * beats[1:].max() and packed.fetch_cycles >= beats[0]


# -- the engine's own guards ----------------------------------------------------------------------------------------


def _weight_bytes(session: Session) -> int:
    return sum(n for name, n in session.device.counters.bytes.items() if name.startswith("weights"))


@pytest.mark.csim
def test_a_damaged_directory_ends_the_run_and_kills_nothing(tiny_package: Path) -> None:
    with Session(tiny_package, "csim") as session:
        assert isinstance(session.device, CSim)
        session.prefill(PROMPT)
        healthy = _weight_bytes(session)
        for beats in (20_000, 0x7F7F7F7F):  # within the memory, and far beyond it
            for row in session.package.packing():
                chunk, offset, length = row["directory"]
                session.device.write(session.loaded.addresses[chunk] + offset, np.full(length // 4, beats, np.uint32))
            session.reset()
            before = _weight_bytes(session)
            try:
                session.prefill(PROMPT)
            except DeviceError as error:
                assert "died" not in str(error) and "the engine stopped" in str(error)
            # No code is twice as long as a weight (hls/linear.hpp), so no more is fetched whatever the directory says.
            assert _weight_bytes(session) - before < 4 * healthy
        assert session.device.engine.process.poll() is None


@pytest.mark.csim
@pytest.mark.parametrize("device", ["emulator", "csim"])
def test_no_run_passes_the_end_of_the_context(device: str, tiny_package: Path) -> None:
    with Session(tiny_package, device) as session:
        context = session.context
        run = Run(
            session.loaded.programs["decode"], session.loaded.bases, len(session.loaded.addresses), context - 1, 1, 1
        )
        session.device.start(run)
        session.device.wait()
        for position, tokens in ((context, 1), (context - 1, 2), (1 << 31, 1)):
            with pytest.raises(DeviceError):
                session.device.start(Run(run.program, run.bases, run.pages, position, tokens, tokens))
                session.device.wait()


# -- text -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A byte-level tokenizer that wants a beginning-of-text token."""
    import json

    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Library

    folder = tmp_path_factory.mktemp("words")
    library = Library(models.BPE({c: n for n, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens([AddedToken("<s>", special=True)])
    library.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": True, "bos_token": "<s>"}))
    return Tokenizer(folder)


def test_text_begins_with_one_token_of_beginning(words: Tokenizer) -> None:
    begin = words.library.token_to_id("<s>")
    assert words.encode("ab")[0] == begin and words.encode("ab").count(begin) == 1
    assert words.encode("<s>ab") == words.encode("ab")
    assert words.message("<s>ab").count(begin) == 1 and len(words.message("<s>ab")) == 6


def test_a_broken_character_is_held_for_eight_tokens_and_no_longer(words: Tokenizer) -> None:
    streamer = Streamer(words)
    broken = words.library.encode("é", add_special_tokens=False).ids[0]  # the first of its two bytes
    said = [streamer.push(broken) for _ in range(HOLD_TOKENS + 1)]
    assert HOLD_TOKENS == 8 and said[: HOLD_TOKENS - 1] == [""] * (HOLD_TOKENS - 1) and said[HOLD_TOKENS - 1] != ""


def test_a_long_answer_is_decoded_with_some_tokens_of_context(words: Tokenizer) -> None:
    text = "Ünïcödé — with “marks” of every kind, again and again. " * 20
    streamer = Streamer(words)
    ids = words.library.encode(text, add_special_tokens=False).ids
    most, seen = 0, ""
    for token in ids:
        seen += streamer.push(token)
        most = max(most, len(streamer.ids))
        if len(seen) > 200:
            assert len(streamer.ids) >= 2 * HOLD_TOKENS, "a decoder needs what comes before"
    assert seen + streamer.finish() == text and most <= 5 * HOLD_TOKENS


def test_every_opcode_of_the_table_is_run_by_the_limits(odd: Path) -> None:
    seen = {
        op
        for flow in ("tphs", "gemm")
        for name in ("prefill", "decode")
        for op, _ in table.decode(load(odd / flow).program(name))
    }
    assert seen == set(isa.Opcode) - {isa.Opcode.END}
