# SPDX-License-Identifier: Apache-2.0
"""cocotb: prefix_unpack gives the packed weights back, under stalls on every stream, and counts its beats and waits."""

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
from meadow.machine.storage.prefix import Prefix, canonical_codes, code_lengths, pack_prefix
from meadow.machine.storage.rows import Layout


class Bench:
    """The unit with a source for its table, its tiles and its beats, and a sink for its words."""

    def __init__(self, dut: Any):
        self.dut = dut
        cocotb.start_soon(Clock(dut.clk_i, 5, "ns").start())  # type: ignore[arg-type]

        def stream(kind: Any, prefix: str) -> Any:
            return kind(AxiStreamBus.from_prefix(dut, prefix), dut.clk_i, dut.rst_i)

        self.table = stream(AxiStreamSource, "s_axis_table")
        self.tile = stream(AxiStreamSource, "s_axis_tile")
        self.beats = stream(AxiStreamSource, "s_axis_beats")
        self.words = stream(AxiStreamSink, "m_axis_words")
        for part in (self.table, self.tile, self.beats, self.words):
            part.log.setLevel("WARNING")

    async def reset(self) -> None:
        self.dut.rst_i.value = 1
        await ClockCycles(self.dut.clk_i, 4)
        self.dut.rst_i.value = 0
        await RisingEdge(self.dut.clk_i)

    async def load(self, packed: Packed) -> None:
        data = packed.coded.table.tobytes()
        await self.table.send(data + bytes(-len(data) % 4))
        await self.table.wait()

    async def unpack(self, packed: Packed) -> NDArray[np.int8]:
        """All tiles of a matrix of one port."""
        made, at = [], 0
        for beats, weights in zip(packed.coded.directory[:, 0], packed.layout.tile_weights, strict=True):
            size = int(beats) * 16
            await self.tile.send((int(weights) // 32).to_bytes(4, "little") + int(beats).to_bytes(4, "little"))
            await self.beats.send(packed.streams[0][at : at + size].tobytes())
            at += size
        for _ in packed.layout.tile_weights:
            frame = await with_timeout(self.words.recv(), 200, "us")
            made.append(np.frombuffer(bytes(frame.tdata), np.int8))
        return packed.layout.join(np.concatenate(made)[None])[:, : packed.layout.cols]


def weights(spread: float, rows: int, cols: int, seed: int = 1) -> tuple[NDArray[np.int8], Packed]:
    values = np.random.default_rng(seed).laplace(0, spread, (rows, cols))
    codes = np.clip(np.rint(values), -127, 127).astype(np.int8)
    return codes, pack(codes, Layout(rows, cols, 1, 16), "prefix")


def pauses(seed: int) -> Iterator[bool]:
    chance = random.Random(seed)
    return (chance.random() < 0.4 for _ in itertools.count())


@cocotb.test()
async def a_beat_goes_in_every_cycle(dut: Any) -> None:
    """Beats of more than 4 bits per weight: the unit keeps up with the bus."""
    bench = Bench(dut)
    await bench.reset()
    codes, packed = weights(12, 16, 576)
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
    codes, packed = weights(0.7, 16, 576)
    await bench.load(packed)
    unpacking = cocotb.start_soon(bench.unpack(packed))
    cycles = 0
    while not unpacking.done():
        await RisingEdge(dut.clk_i)
        cycles += int(dut.m_axis_words_tvalid.value) or cycles > 0
    assert (unpacking.result() == codes).all()
    words = codes.size // 32
    dut._log.info("%d words in %d cycles", words, cycles)
    assert cycles <= words + 8


@cocotb.test()
async def stalls_on_every_stream_lose_nothing(dut: Any) -> None:
    bench = Bench(dut)
    for number, part in enumerate((bench.table, bench.tile, bench.beats, bench.words)):
        part.set_pause_generator(pauses(number))
    await bench.reset()
    for seed, (spread, rows, cols) in enumerate([(12, 24, 96), (2, 16, 64), (45, 5, 70), (0.2, 16, 128)]):
        codes, packed = weights(spread, rows, cols, seed)
        await bench.load(packed)
        assert (await bench.unpack(packed) == codes).all(), (spread, rows, cols)
    assert int(dut.starved_o.value) > 0 and int(dut.stalled_o.value) > 0 and int(dut.error_o.value) == 0


@cocotb.test()
async def a_flipped_bit_comes_out_as_other_weights(dut: Any) -> None:
    bench = Bench(dut)
    await bench.reset()
    codes, packed = weights(12, 16, 64)
    packed.streams[0][40] ^= 4
    await bench.load(packed)
    assert (await bench.unpack(packed) != codes).any()


@cocotb.test()
async def a_tile_that_ends_early_raises_the_error(dut: Any) -> None:
    bench = Bench(dut)
    await bench.reset()
    _, packed = weights(12, 16, 64)
    await bench.load(packed)
    beats = int(packed.coded.directory[0, 0]) - 2
    await bench.tile.send((32).to_bytes(4, "little") + beats.to_bytes(4, "little"))
    await bench.beats.send(packed.streams[0][: beats * 16].tobytes())
    await ClockCycles(dut.clk_i, 200)
    assert int(dut.error_o.value) == 1
    await bench.reset()
    assert int(dut.error_o.value) == 0


def steep(rows: int, cols: int, seed: int) -> tuple[NDArray[np.int8], Packed]:
    """Weights whose codes have every length from 1 to 14, the long ones as often as the short ones."""
    counts = np.zeros(256, np.int64)
    counts[:15] = 1 << np.arange(15, 0, -1)
    lengths = code_lengths(counts)
    assert sorted(lengths[:15]) == [*range(1, 15), 14]
    table_codes, table, entries = canonical_codes(lengths)
    codes = np.random.default_rng(seed).integers(0, 15, (rows, cols)).astype(np.int8)
    layout = Layout(rows, cols, 1, 16)
    stream, beats = pack_prefix(layout.split(codes)[0].reshape(layout.tiles, -1), table_codes, lengths)
    return codes, Packed(layout, Prefix(), Coded((stream,), beats.astype(np.uint32)[:, None], table, entries), 0.0)


@cocotb.test()
async def codes_of_the_longest_length_come_back(dut: Any) -> None:
    """A code of 14 bits may take the very last bit that a lane holds."""
    bench = Bench(dut)
    await bench.reset()
    for seed in (1, 2, 3):
        codes, packed = steep(16, 2048, seed)
        await bench.load(packed)
        assert (await bench.unpack(packed) == codes).all(), seed
    assert int(dut.error_o.value) == 0


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
    await bench.table.send(second[1].coded.table.tobytes() + bytes(-len(second[1].coded.table) % 4))
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
    await bench.tile.send((0).to_bytes(4, "little") + (3).to_bytes(4, "little"))
    await bench.beats.send(bytes(48))
    assert (await bench.unpack(packed) == codes).all()
    assert int(dut.error_o.value) == 0


@cocotb.test()
async def a_reset_in_the_middle_of_a_tile_leaves_nothing_behind(dut: Any) -> None:
    bench = Bench(dut)
    await bench.reset()
    codes, packed = weights(12, 16, 64)
    await bench.load(packed)
    await bench.tile.send((32).to_bytes(4, "little") + int(packed.coded.directory[0, 0]).to_bytes(4, "little"))
    await bench.beats.send(packed.streams[0][:160].tobytes())
    await ClockCycles(dut.clk_i, 30)
    await bench.reset()
    for stream in (bench.tile, bench.beats, bench.words, bench.table):
        stream.clear()
    await ClockCycles(dut.clk_i, 4)
    bench.words.clear()
    await bench.load(packed)
    assert (await bench.unpack(packed) == codes).all()
