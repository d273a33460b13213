# SPDX-License-Identifier: Apache-2.0
"""cocotb: prefix_unpack gives packed and raw weights back, under stalls on every stream, and counts its beats and waits."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge, with_timeout
from cocotbext.axi import AxiStreamBus, AxiStreamSink, AxiStreamSource
from numpy.typing import NDArray

from meadow.compiler.engines.array import Packed, pack
from meadow.machine.storage.coded import Coded
from meadow.machine.storage.prefix import SPREAD, Prefix, pack_prefix
from meadow.machine.storage.prefix_code import canonical_codes
from meadow.machine.storage.rows import Layout


class Bench:
    """The unit with a source for its table, its tiles and its beats, and a sink for its words."""

    def __init__(self, dut: Any):
        self.dut = dut
        cocotb.start_soon(Clock(dut.clk_i, 5, "ns").start())  # type: ignore[arg-type]

        def stream(kind: Any, prefix: str) -> Any:
            return kind(AxiStreamBus.from_prefix(dut, prefix), dut.clk_i, dut.rst_i)

        self.table = stream(AxiStreamSource, "s_axis_table")
        self.tiles = stream(AxiStreamSource, "s_axis_tile")
        self.beats = stream(AxiStreamSource, "s_axis_beats")
        self.words = stream(AxiStreamSink, "m_axis_words")
        for part in (self.table, self.tiles, self.beats, self.words):
            part.log.setLevel("WARNING")

    async def reset(self) -> None:
        self.dut.rst_i.value = 1
        await ClockCycles(self.dut.clk_i, 4)
        self.dut.rst_i.value = 0
        await RisingEdge(self.dut.clk_i)

    async def load(self, packed: Packed) -> None:
        await self.table.send(packed.coded.table.tobytes())
        await self.table.wait()

    async def tile(self, words: int, beats: int, row: int, start: bool, end: bool, raw: bool = False) -> None:
        flags = start | end << 1 | raw << 2
        await self.tiles.send(
            b"".join(n.to_bytes(size, "little") for n, size in ((words, 4), (beats, 4), (row, 2), (flags, 2)))
        )

    async def send(self, packed: Packed) -> None:
        """All tiles of a matrix of one port."""
        layout, at, row = packed.layout, 0, packed.layout.padded_cols // 32
        raw = not packed.form.packed
        segment = packed.form.segment if isinstance(packed.form, Prefix) else 1
        beats = layout.tile_weights // 16 if raw else packed.coded.directory[:, 0]
        for n, (count, some) in enumerate(zip(beats, layout.tile_weights, strict=True)):
            size = int(count) * 16
            end = n % segment == segment - 1 or n == layout.tiles - 1
            await self.tile(int(some) // 32, int(count), row, n % segment == 0, end, raw)
            if size:
                await self.beats.send(packed.streams[0][at : at + size].tobytes())
            at += size

    async def receive(self, packed: Packed) -> NDArray[np.int8]:
        made = []
        for _ in packed.layout.tile_weights:
            frame = await with_timeout(self.words.recv(), 400, "us")
            made.append(np.frombuffer(bytes(frame.tdata), np.int8))
        return packed.layout.join(np.concatenate(made)[None])[:, : packed.layout.cols]

    async def unpack(self, packed: Packed) -> NDArray[np.int8]:
        await self.send(packed)
        return await self.receive(packed)


def weights(
    spread: float, rows: int, cols: int, seed: int = 1, scheme: str = "prefix"
) -> tuple[NDArray[np.int8], Packed]:
    values = np.random.default_rng(seed).laplace(0, spread, (rows, cols))
    codes = np.clip(np.rint(values), -127, 127).astype(np.int8)
    return codes, pack(codes, Layout(rows, cols, 1, 16), scheme)


def pauses(seed: int) -> Iterator[bool]:
    chance = random.Random(seed)
    return (chance.random() < 0.4 for _ in itertools.count())


@cocotb.test()
async def a_beat_goes_in_every_cycle(dut: Any) -> None:
    """Beats of more than 4 bits per weight: the unit keeps up with the bus, over tiles and over segments."""
    bench = Bench(dut)
    await bench.reset()
    codes, packed = weights(12, 80, 576)
    assert packed.form == Prefix.of(packed.layout) and packed.layout.tiles == 5
    await bench.load(packed)
    beats = int(packed.coded.directory.sum())
    counted = {"beats": 0, "cycles": 0}

    async def count() -> None:
        while counted["beats"] < beats:
            await RisingEdge(dut.clk_i)
            valid, ready = int(dut.s_axis_beats_tvalid.value), int(dut.s_axis_beats_tready.value)
            if valid and (ready or counted["beats"]):
                counted["cycles"] += 1
                counted["beats"] += ready

    counting = cocotb.start_soon(count())
    assert (await bench.unpack(packed) == codes).all()
    await counting
    dut._log.info("%d beats in %d cycles, %.2f weights per beat", beats, counted["cycles"], codes.size / beats)
    assert counted["cycles"] <= 1.02 * beats
    assert int(dut.stalled_o.value) == 0 and int(dut.error_o.value) == 0


@cocotb.test()
async def a_word_comes_out_every_cycle(dut: Any) -> None:
    """Fewer than 4 bits per weight: 32 weights per cycle, what the multipliers take."""
    bench = Bench(dut)
    await bench.reset()
    codes, packed = weights(0.7, 80, 576)
    await bench.load(packed)
    unpacking = cocotb.start_soon(bench.unpack(packed))
    cycles = 0
    while not unpacking.done():
        await RisingEdge(dut.clk_i)
        cycles += int(dut.m_axis_words_tvalid.value) or cycles > 0
    assert (unpacking.result() == codes).all()
    words = codes.size // 32
    dut._log.info("%d words in %d cycles", words, cycles)
    assert cycles <= words + 16


@cocotb.test()
async def stalls_on_every_stream_lose_nothing(dut: Any) -> None:
    bench = Bench(dut)
    for number, part in enumerate((bench.table, bench.tiles, bench.beats, bench.words)):
        part.set_pause_generator(pauses(number))
    await bench.reset()
    for seed, (spread, rows, cols) in enumerate([(12, 24, 96), (2, 16, 64), (45, 5, 70), (0.2, 16, 128)]):
        codes, packed = weights(spread, rows, cols, seed)
        await bench.load(packed)
        assert (await bench.unpack(packed) == codes).all(), (spread, rows, cols)
    assert int(dut.starved_o.value) > 0 and int(dut.stalled_o.value) > 0 and int(dut.error_o.value) == 0


@cocotb.test()
async def raw_tiles_pass_and_mix_with_coded_ones(dut: Any) -> None:
    """In order, whatever stalls: raw after raw, coded after raw, raw after coded."""
    bench = Bench(dut)
    await bench.reset()
    one, other = weights(12, 40, 96, 1), weights(12, 40, 96, 2, "raw")
    assert not other[1].form.packed
    for stalled in (False, True):
        for number, part in enumerate((bench.table, bench.tiles, bench.beats, bench.words)):
            part.set_pause_generator(pauses(number) if stalled else itertools.repeat(False))
        await bench.load(one[1])
        for codes, packed in (other, one, other, other, one, one):
            assert (await bench.unpack(packed) == codes).all()
        for _, packed in (one, other, one):  # back to back
            cocotb.start_soon(bench.send(packed))
            await bench.beats.wait()
        for codes, packed in (one, other, one):
            assert (await bench.receive(packed) == codes).all()
    assert int(dut.error_o.value) == 0


@cocotb.test()
async def a_raw_beat_goes_in_every_cycle(dut: Any) -> None:
    bench = Bench(dut)
    await bench.reset()
    codes, packed = weights(40, 64, 576, 1, "raw")
    unpacking = cocotb.start_soon(bench.unpack(packed))
    cycles = 0
    while not unpacking.done():
        await RisingEdge(dut.clk_i)
        cycles += int(dut.s_axis_beats_tready.value) or cycles > 0
    assert (unpacking.result() == codes).all()
    assert cycles <= codes.size // 16 + 40


@cocotb.test()
async def a_flipped_bit_comes_out_as_other_weights(dut: Any) -> None:
    bench = Bench(dut)
    await bench.reset()
    codes, packed = weights(12, 16, 64)
    packed.streams[0][40] ^= 4
    await bench.load(packed)
    assert (await bench.unpack(packed) != codes).any()


@cocotb.test()
async def a_segment_that_ends_early_raises_the_error(dut: Any) -> None:
    bench = Bench(dut)
    _, packed = weights(12, 16, 64)
    beats = int(packed.coded.directory[0, 0])
    for missing in (4, 8, beats - 4, beats):
        await bench.reset()
        await bench.load(packed)
        await bench.tile(32, beats - missing, 2, True, True)
        if beats > missing:
            await bench.beats.send(packed.streams[0][: (beats - missing) * 16].tobytes())
        await ClockCycles(dut.clk_i, 300)
        assert int(dut.error_o.value) == 1, missing
        bench.words.clear()
    await bench.reset()
    assert int(dut.error_o.value) == 0


@cocotb.test()
async def a_tile_that_cannot_be_raises_the_error(dut: Any) -> None:
    bench = Bench(dut)
    for words, beats, row, raw in ((32, 6, 2, False), (32, 8, 0, False), (32, 63, 2, True), (1 << 24, 8, 2, False)):
        await bench.reset()
        await bench.tile(words, beats, row, True, True, raw)
        await ClockCycles(dut.clk_i, 20)
        assert int(dut.error_o.value) == 1, (words, beats, row, raw)
        bench.tiles.clear()
    await bench.reset()


def steep(rows: int, cols: int, seed: int, chance: Any = None) -> tuple[NDArray[np.int8], Packed]:
    """Weights whose codes have lengths from 1 to 10 and 14, the long ones as often as the short ones, or by `chance`."""
    lengths = np.zeros(256, np.uint8)
    lengths[:26] = [*range(1, 11), *[14] * 16]
    table_codes, table, entries = canonical_codes(lengths)
    codes = np.random.default_rng(seed).integers(0, 26, (rows, cols)).astype(np.int8)
    if chance is not None:
        codes = chance(codes)
    layout, row = Layout(rows, cols, 1, 16), cols // 32
    form = Prefix.of(layout)
    made = layout.pack_tiles(
        layout.split(codes), lambda some: pack_prefix(some, row, 16 * row, table_codes, lengths), form.segment
    )
    return codes, Packed(layout, form, Coded(*made, table, entries), 0.0)


@cocotb.test()
async def codes_of_the_longest_length_come_back(dut: Any) -> None:
    """A code of 14 bits may take the very last bit that a lane holds."""
    bench = Bench(dut)
    await bench.reset()
    for seed in (1, 2, 3):
        codes, packed = steep(16, 1024, seed)
        await bench.load(packed)
        assert (await bench.unpack(packed) == codes).all(), seed
    assert int(dut.error_o.value) == 0


@cocotb.test()
async def lanes_that_are_as_far_apart_as_they_may_be_neither_starve_nor_overflow(dut: Any) -> None:
    """One lane has the longest codes and the others the shortest, until it is SPREAD halfwords ahead; then it is even, and turns."""
    bench = Bench(dut)
    for number, part in enumerate((bench.beats, bench.words)):
        part.set_pause_generator(pauses(number))
    await bench.reset()

    def apart(codes: NDArray[np.int8], ahead: int) -> NDArray[np.int8]:
        word = np.arange(codes.size // 32).reshape(codes.shape[0], -1)
        phase = word % 240
        lanes = np.zeros((*word.shape, 32), np.int8)
        lanes[phase < 57, ahead] = 14  # 57 words of 14 bits against 57 of 1: 46 halfwords
        lanes[phase >= 120] = 14  # then the others catch up
        lanes[phase >= 120, ahead] = 0
        lanes[phase >= 177] = 2
        for row in range(len(lanes)):
            lanes[row] = np.roll(lanes[row], 5 * row, axis=-1)
        return lanes.reshape(codes.shape)

    for ahead in (0, 7, 8, 31):
        codes, packed = steep(64, 1920, 1, lambda some, ahead=ahead: apart(some, ahead))
        await bench.load(packed)
        assert (await bench.unpack(packed) == codes).all(), ahead
    assert int(dut.error_o.value) == 0 and SPREAD == 48


@cocotb.test()
async def a_table_waits_for_the_words_before_it(dut: Any) -> None:
    """The reader stalls on a tile's last words while the next table is offered."""
    bench = Bench(dut)
    await bench.reset()
    first, second = weights(12, 16, 64, 1), weights(3, 16, 64, 2)
    await bench.load(first[1])
    bench.words.pause = True
    one = cocotb.start_soon(bench.unpack(first[1]))
    await ClockCycles(dut.clk_i, 100)
    await bench.table.send(second[1].coded.table.tobytes())
    await ClockCycles(dut.clk_i, 200)
    bench.words.pause = False
    assert (await one == first[0]).all()
    await bench.table.wait()
    assert (await bench.unpack(second[1]) == second[0]).all()


@cocotb.test()
async def beats_that_no_word_needs_are_dropped(dut: Any) -> None:
    bench = Bench(dut)
    await bench.reset()
    codes, packed = weights(12, 16, 64)
    await bench.load(packed)
    for words, beats in ((0, 4), (0, 400), (32, int(packed.coded.directory[0, 0]) + 600)):
        await bench.tile(words, beats, 2, True, True)
        sent = packed.streams[0].tobytes() if words else b""
        await bench.beats.send(sent + bytes(beats * 16 - len(sent)))
        if words:
            frame = await with_timeout(bench.words.recv(), 400, "us")
            assert (np.frombuffer(bytes(frame.tdata), np.int8).reshape(codes.shape) == codes).all()
        assert (await bench.unpack(packed) == codes).all()
    assert int(dut.error_o.value) == 0


@cocotb.test()
async def a_reset_in_the_middle_of_a_tile_leaves_nothing_behind(dut: Any) -> None:
    bench = Bench(dut)
    await bench.reset()
    codes, packed = weights(12, 16, 64)
    await bench.load(packed)
    await bench.tile(32, int(packed.coded.directory[0, 0]), 2, True, True)
    await bench.beats.send(packed.streams[0][:160].tobytes())
    await ClockCycles(dut.clk_i, 30)
    await bench.reset()
    for stream in (bench.tiles, bench.beats, bench.words, bench.table):
        stream.clear()
    await ClockCycles(dut.clk_i, 4)
    bench.words.clear()
    await bench.load(packed)
    assert (await bench.unpack(packed) == codes).all()
