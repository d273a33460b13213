# SPDX-License-Identifier: Apache-2.0
"""cocotb: pacq_gemv against machine/arithmetic/fp16.py, through its AXI ports, with stalls on every stream."""

from __future__ import annotations

import itertools
import os
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, with_timeout
from numpy.typing import NDArray
from rtl.surroundings import PORTS, REGISTERS, Surroundings, stopped

from meadow.machine.arithmetic import fp16 as pacq
from meadow.machine.storage.groups import GroupFormat, GroupLayout

LANES = int(os.environ.get("MEADOW_LANES", "4"))


class Matrix:
    """Random grouped weights in the memory of the bench."""

    def __init__(self, rng: np.random.Generator, rows: int, cols: int, form: GroupFormat):
        self.layout = GroupLayout(rows, cols, PORTS, form)
        shape = (rows, self.layout.groups)
        self.codes = rng.integers(0, 1 << form.bits, (rows, cols)).astype(np.uint8)
        kind = np.float32 if form.wide else np.float16
        self.scale = rng.normal(size=shape).astype(kind).astype(np.float32)
        self.minimum = rng.normal(size=shape).astype(kind).astype(np.float32) if form.minimum else None
        self.streams = self.layout.pack(self.codes, self.scale, self.minimum)

    def times(self, a: NDArray[np.float16]) -> NDArray[np.float32]:
        """What the engine owes: padded rows included, which are zero."""
        codes, scale, minimum = self.layout.unpack(self.streams)
        form = self.layout.form
        y = pacq.linear(a, pacq.grouped_matrix(codes, form.zero, scale, minimum, form.group))
        return np.pad(y, ((0, 0), (0, self.layout.padded_rows - self.layout.rows)))


class Bench(Surroundings):
    def place(self, matrix: Matrix) -> list[int]:
        """Its streams into memory."""
        return [self.keep(stream) for stream in matrix.streams]

    async def command(
        self, matrix: Matrix, tokens: int, reuse: bool = False, hold: bool = False, addresses: list[int] | None = None
    ) -> None:
        layout = matrix.layout
        words = [layout.form.word | layout.bands << 32 | layout.groups << 48 | tokens << 64 | reuse << 80 | hold << 81]
        where = (addresses or self.place(matrix)) + [0] * 3
        words += [where[p] | where[p + 1] << 64 for p in range(0, PORTS, 2)]
        await self.order(words)

    async def feed(self, matrix: Matrix, a: NDArray[np.float16]) -> None:
        await self.activations.send(a.tobytes())

    async def answer(self, matrix: Matrix, tokens: int) -> NDArray[np.float32]:
        """[tokens, padded rows], put in order again."""
        frame = await with_timeout(self.results.recv(), 40, "us")
        layout = matrix.layout
        values = np.frombuffer(bytes(frame.tdata), np.float32)
        values = values.reshape(layout.bands * layout.tiles, tokens, layout.form.lanes * PORTS)
        return values.transpose(1, 0, 2).reshape(tokens, -1)


def activations(rng: np.random.Generator, tokens: int, matrix: Matrix) -> NDArray[np.float16]:
    """FP16 of many magnitudes, zero beyond the columns."""
    shape = (tokens, matrix.layout.padded_cols)
    a = pacq.half((rng.normal(size=shape) * np.exp2(rng.integers(-20, 8, shape))).astype(np.float32))
    a[:, matrix.layout.cols :] = 0
    return a


def same(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    """Equal bits, but that zeros have no sign."""
    return bool(((a.view(np.uint32) == b.view(np.uint32)) | ((a == 0) & (b == 0))).all())


FORMS = [
    GroupFormat(4, 32, True, False),
    GroupFormat(8, 32, False, False),
    GroupFormat(4, 32, False, False),
    GroupFormat(4, 64, True, True),
    GroupFormat(8, 16, True, False),
    GroupFormat(4, 16, False, True),
    GroupFormat(8, 128, True, True),
]
if LANES == 8:
    FORMS += [GroupFormat(2, 32, True, False), GroupFormat(2, 64, False, False), GroupFormat(2, 16, True, True)]


@cocotb.test(timeout_time=80, timeout_unit="us")
@cocotb.parametrize(stalls=[0.0, 0.5])
async def every_format_comes_out_as_numpy_has_it(dut: Any, stalls: float) -> None:
    """Sizes that do not divide, one token and several, all commands queued at once."""
    bench = Bench(dut)
    rng = np.random.default_rng(int(stalls * 10))
    if stalls:
        bench.stall(stalls)
    await bench.reset()
    sizes = [(70, 100), (64, 64), (5, 33), (130, 96), (64, 256)]
    work = []
    for index, form in enumerate(FORMS):
        rows, cols = sizes[index % len(sizes)]
        matrix = Matrix(rng, rows, cols, form)
        tokens = (1, 3, 1, 5)[index % 4]
        work.append((matrix, activations(rng, tokens, matrix)))

    async def send() -> None:
        for matrix, a in work:
            await bench.command(matrix, len(a))
            await bench.feed(matrix, a)

    cocotb.start_soon(send())
    for matrix, a in work:
        y = await bench.answer(matrix, len(a))
        assert same(y, matrix.times(a)), str(matrix.layout)
    await ClockCycles(dut.clk_i, 20)  # results of token lanes without a token are dropped
    assert await bench.register("error") == 0 and await bench.register("status") == 0
    assert await bench.register("commands") == len(work)
    assert await bench.register("beats") == sum(m.layout.port_beats for m, _ in work)


@cocotb.test(timeout_time=80, timeout_unit="us", skip=LANES != 8)
async def rows_come_again_as_soon_as_they_may(dut: Any) -> None:
    """INT2 in groups of 16, one token: a row's next group is eight cycles behind, when its partial result is being written."""
    bench = Bench(dut)
    await bench.reset()
    rng = np.random.default_rng(5)
    matrix = Matrix(rng, 16 * PORTS, 640, GroupFormat(2, 16, False, False))
    a = activations(rng, 1, matrix)
    await bench.command(matrix, 1)
    await bench.feed(matrix, a)
    assert same(await bench.answer(matrix, 1), matrix.times(a))


FORM = GroupFormat(4, 32, True, False)


async def works(bench: Bench, seed: int) -> None:
    """A matrix goes through and is right."""
    rng = np.random.default_rng(seed)
    matrix = Matrix(rng, 40, 96, FORM)
    a = activations(rng, 2, matrix)
    await bench.command(matrix, 2)
    await bench.feed(matrix, a)
    assert same(await bench.answer(matrix, 2), matrix.times(a))


@cocotb.test(timeout_time=80, timeout_unit="us")
async def it_says_who_it_is(dut: Any) -> None:
    bench = Bench(dut)
    await bench.reset()
    assert (await bench.register("id")).to_bytes(4, "little") == b"PACQ"
    shape = await bench.register("shape")
    assert shape & 255 == PORTS and shape >> 8 & 255 == LANES
    low, high = [int(await bench.registers.read_dword(at)) for at in (0x10, 0x14)]
    assert high << 32 | low == 0x0123456789ABCDEF
    await works(bench, 1)
    assert await bench.register("cycles") > 0 and await bench.register("commands") == 1


@cocotb.test(timeout_time=80, timeout_unit="us")
async def a_command_that_it_cannot_run_stops_it(dut: Any) -> None:
    """Widths, group sizes, no rows, no tokens, too many tokens: each is told, nothing hangs."""
    bench = Bench(dut)
    await bench.reset()
    good = FORM.word | 1 << 32 | 3 << 48 | 1 << 64
    words = [
        good ^ 4 ^ 3,
        good ^ (5 << 8) ^ (3 << 8),
        good ^ (5 << 8) ^ (9 << 8),
        good ^ 1 << 32,
        good ^ 3 << 48,
        good ^ 1 << 64,
        good + (await bench.register("size") & 0xFFFF) * (1 << 64),
        good | 1 << 25,
    ]
    for word in words:
        await bench.commands.send(word.to_bytes(16, "little") + bytes(16 * ((PORTS + 1) // 2)))
        await stopped(bench, 1)
    await works(bench, 2)


@cocotb.test(timeout_time=80, timeout_unit="us")
async def an_error_of_the_bus_stops_it(dut: Any) -> None:
    """SLVERR and DECERR in the middle of a burst; the port is named, and late beats do not reach the next matrix."""
    bench = Bench(dut)
    await bench.reset()
    rng = np.random.default_rng(5)
    for response, port in ((2, 0), (3, PORTS - 1)):
        channel = bench.rams[port].r_channel
        send, count = channel.send, itertools.count()

        async def spoil(beat: Any, send: Any = send, count: Any = count, response: int = response) -> None:
            if next(count) == 37:
                beat.rresp = response
            await send(beat)

        channel.send = spoil
        matrix = Matrix(rng, 200, 256, FORM)
        await bench.command(matrix, 1)
        await stopped(bench, 2 | port << 8 | response << 16)
        channel.send = send
        await works(bench, 6)


@cocotb.test(timeout_time=80, timeout_unit="us")
async def a_memory_that_does_not_answer_stops_it(dut: Any) -> None:
    bench = Bench(dut)
    await bench.reset()
    await bench.registers.write_dword(REGISTERS["watchdog"], 300)
    matrix = Matrix(np.random.default_rng(7), 64, 64, FORM)
    bench.rams[-1].r_channel.pause = True
    await bench.command(matrix, 1)
    await ClockCycles(dut.clk_i, 600)
    assert await bench.register("error") == 3
    bench.rams[-1].r_channel.pause = False
    await stopped(bench, 3)
    await works(bench, 8)


@cocotb.test(timeout_time=80, timeout_unit="us")
async def it_is_cleared_in_the_middle_of_a_burst_and_starts_anew(dut: Any) -> None:
    bench = Bench(dut)
    await bench.reset()
    matrix = Matrix(np.random.default_rng(9), 200, 256, FORM)
    await bench.command(matrix, 1)
    await bench.feed(matrix, activations(np.random.default_rng(9), 1, matrix))
    await ClockCycles(dut.clk_i, 150)
    await bench.registers.write_dword(REGISTERS["control"], 1)
    bench.activations.clear()
    for _ in range(200):
        if await bench.register("status") == 0:
            break
    bench.results.clear()
    await works(bench, 10)


@cocotb.test(timeout_time=80, timeout_unit="us")
async def weights_are_read_ahead_and_activations_kept(dut: Any) -> None:
    """Three matrices for the same activations, which come once, when most weights are there already."""
    bench = Bench(dut)
    await bench.reset()
    rng = np.random.default_rng(11)
    work = [Matrix(rng, 64, 96, FORM) for _ in range(3)]
    a = activations(rng, 3, work[0])
    for number, matrix in enumerate(work):
        await bench.command(matrix, 3, reuse=number > 0, hold=number < 2)
    await ClockCycles(dut.clk_i, 400)
    assert await bench.register("beats") > 100 and await bench.register("waits_activations") > 100
    await bench.feed(work[0], a)
    for matrix in work:
        assert same(await bench.answer(matrix, 3), matrix.times(a))
    await works(bench, 12)
