# SPDX-License-Identifier: Apache-2.0
"""cocotb: column_gemm against exact integers, through its AXI ports, with stalls on every stream."""

from __future__ import annotations

import itertools
import os
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, RisingEdge, with_timeout
from numpy.typing import NDArray
from rtl.surroundings import PORTS, REGISTERS, Surroundings, stopped

from meadow.machine.storage.columns import ColumnLayout

TOKENS = int(os.environ.get("MEADOW_TOKENS", "8"))


class Matrix:
    """Random INT8 weights in the memory of the bench."""

    def __init__(self, rng: np.random.Generator, rows: int, cols: int):
        self.layout = ColumnLayout(rows, cols, PORTS)
        self.codes = rng.integers(-128, 128, (rows, cols)).astype(np.int8)
        self.stream = self.layout.pack(self.codes)

    def times(self, a: NDArray[np.int8]) -> NDArray[np.int32]:
        """What the engine owes: padded rows included, which are zero."""
        y = a[:, : self.layout.cols].astype(np.int32) @ self.codes.T.astype(np.int32)
        return np.pad(y, ((0, 0), (0, self.layout.padded_rows - self.layout.rows)))


def codes(rng: np.random.Generator, tokens: int, matrix: Matrix, live: float = 1.0) -> NDArray[np.int8]:
    """Codes of a share of the columns, the others 0."""
    a = rng.integers(-128, 128, (tokens, matrix.layout.padded_cols)).astype(np.int8)
    a[:, rng.random(matrix.layout.padded_cols) >= live] = 0
    a[:, matrix.layout.cols :] = 0
    return a


class Bench(Surroundings):
    async def command(self, matrix: Matrix, tokens: int, listed: bool = False) -> None:
        layout, at = matrix.layout, self.keep(matrix.stream)
        await self.order([layout.column_beats | layout.padded_cols // 16 << 16 | tokens << 32 | int(listed) << 48, at])

    async def feed(self, a: NDArray[np.int8]) -> None:
        await self.activations.send(a.tobytes())

    async def answer(self, matrix: Matrix, tokens: int) -> NDArray[np.int32]:
        """[tokens, padded rows], put in order again."""
        frame = await with_timeout(self.results.recv(), 80, "us")
        values = np.frombuffer(bytes(frame.tdata), np.int32).reshape(matrix.layout.column_beats, tokens, 16)
        return values.transpose(1, 0, 2).reshape(tokens, -1)


SIZES = [(70, 100), (16, 32), (5, 33), (130, 96), (64, 256), (33, 64), (100, 32), (300, 224)]


@cocotb.test(timeout_time=160, timeout_unit="us")
@cocotb.parametrize(stalls=[0.0, 0.5])
async def every_size_comes_out_as_integers_have_it(dut: Any, stalls: float) -> None:
    """Sizes that do not divide, one token and several, all or live columns, all commands queued at once."""
    bench = Bench(dut)
    rng = np.random.default_rng(int(stalls * 10))
    if stalls:
        bench.stall(stalls)
    await bench.reset()
    work, beats = [], 0
    for index, (rows, cols) in enumerate(SIZES + SIZES[::-1]):
        matrix = Matrix(rng, rows, cols)
        listed = index % 3 != 1
        tokens = 1 if listed else 1 + (3 * index + 2) % TOKENS
        a = codes(rng, tokens, matrix, (0.5, 1.0, 0.1, 0.0)[index % 4])
        work.append((matrix, a, listed))
        groups = matrix.layout.listed_groups(a[0]) if listed else matrix.layout.padded_cols // PORTS
        beats += groups * matrix.layout.column_beats

    async def send() -> None:
        for matrix, a, listed in work:
            await bench.command(matrix, len(a), listed)
            await bench.feed(a)

    cocotb.start_soon(send())
    for matrix, a, _ in work:
        y = await bench.answer(matrix, len(a))
        assert np.array_equal(y, matrix.times(a)), str(matrix.layout)
    await ClockCycles(dut.clk_i, 20)
    assert await bench.register("error") == 0 and await bench.register("status") == 0
    assert await bench.register("commands") == len(work)
    assert await bench.register("beats") == beats


@cocotb.test(timeout_time=400, timeout_unit="us")
async def a_matrix_of_several_stripes_is_read_stripe_by_stripe(dut: Any) -> None:
    """Its sums leave while the next stripe is added up."""
    bench = Bench(dut)
    await bench.reset()
    rng = np.random.default_rng(3)
    matrix = Matrix(rng, 2 * 4096 + 1000, 32)
    for tokens, listed in ((TOKENS, False), (1, True)):
        a = codes(rng, tokens, matrix, 0.5 if listed else 1.0)
        await bench.command(matrix, tokens, listed)
        await bench.feed(a)
        assert np.array_equal(await bench.answer(matrix, tokens), matrix.times(a))


@cocotb.test(timeout_time=80, timeout_unit="us")
async def the_extremes_stay_apart(dut: Any) -> None:
    """-128 times -128 and 127 times -128 in every field of every slice."""
    bench = Bench(dut)
    await bench.reset()
    matrix = Matrix(np.random.default_rng(0), 32, 64)
    for weight, other, code in itertools.product((-128, 127), (-128, 127), (-128, 127)):
        matrix.codes[::2], matrix.codes[1::2] = weight, other
        matrix.stream = matrix.layout.pack(matrix.codes)
        a = np.full((1, 64), code, np.int8)
        await bench.command(matrix, 1)
        await bench.feed(a)
        assert np.array_equal(await bench.answer(matrix, 1), matrix.times(a))


async def works(bench: Bench, seed: int) -> None:
    """A matrix goes through and is right."""
    rng = np.random.default_rng(seed)
    matrix = Matrix(rng, 40, 96)
    for tokens, listed in ((min(2, TOKENS), False), (1, True)):
        a = codes(rng, tokens, matrix, 0.6)
        await bench.command(matrix, tokens, listed)
        await bench.feed(a)
        assert np.array_equal(await bench.answer(matrix, tokens), matrix.times(a))


@cocotb.test(timeout_time=80, timeout_unit="us")
async def it_says_who_it_is(dut: Any) -> None:
    bench = Bench(dut)
    await bench.reset()
    assert (await bench.register("id")).to_bytes(4, "little") == b"COLS"
    assert await bench.register("shape") == PORTS | TOKENS << 16
    low, high = [int(await bench.registers.read_dword(at)) for at in (0x10, 0x14)]
    assert high << 32 | low == 0x0123456789ABCDEF
    await works(bench, 1)
    assert await bench.register("cycles") > 0 and await bench.register("commands") == 2


@cocotb.test(timeout_time=160, timeout_unit="us")
async def a_command_that_it_cannot_run_stops_it(dut: Any) -> None:
    """No rows, no columns, too many, no tokens, too many, a list for several tokens, an address within a beat: each is told."""
    bench = Bench(dut)
    await bench.reset()
    size = await bench.register("size")
    good, at = 4 | 4 << 16 | 1 << 32, 0x1000
    words = [
        (good ^ 4, at),
        (good ^ 4 << 16, at),
        (good + ((size >> 16) * 8 - 3 << 16), at),
        (good ^ 1 << 32, at),
        (good + ((size & 0xFFFF) << 32), at),
        (good | 3 << 32 | 1 << 48 if TOKENS > 2 else good ^ 4, at),
        (good | 1 << 49, at),
        (good, at + 8),
        (good, 1 << 50),
    ]
    for first, second in words:
        await bench.order([first, second])
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
        matrix = Matrix(rng, 200, 256)
        await bench.command(matrix, 1)
        await stopped(bench, 2 | port << 8 | response << 16)
        channel.send = send
        await works(bench, 6)


@cocotb.test(timeout_time=80, timeout_unit="us")
async def a_memory_that_does_not_answer_stops_it(dut: Any) -> None:
    bench = Bench(dut)
    await bench.reset()
    await bench.registers.write_dword(REGISTERS["watchdog"], 300)
    matrix = Matrix(np.random.default_rng(7), 64, 64)
    bench.rams[-1].r_channel.pause = True
    await bench.command(matrix, 1)
    await ClockCycles(dut.clk_i, 1200)
    assert await bench.register("error") == 3
    bench.rams[-1].r_channel.pause = False
    await stopped(bench, 3)
    await works(bench, 8)


@cocotb.test(timeout_time=80, timeout_unit="us")
async def it_is_cleared_in_the_middle_of_a_burst_and_starts_anew(dut: Any) -> None:
    bench = Bench(dut)
    await bench.reset()
    rng = np.random.default_rng(9)
    matrix = Matrix(rng, 200, 256)
    await bench.command(matrix, 1, listed=True)
    await bench.feed(codes(rng, 1, matrix, 0.5))
    await ClockCycles(dut.clk_i, 300)
    await bench.registers.write_dword(REGISTERS["control"], 1)
    bench.activations.clear()
    for _ in range(200):
        if await bench.register("status") == 0:
            break
    bench.results.clear()
    await works(bench, 10)


@cocotb.test(timeout_time=160, timeout_unit="us")
async def it_is_cleared_while_sums_leave_and_starts_anew(dut: Any) -> None:
    """At every cycle of the way from the memories of sums to the results."""
    bench = Bench(dut)
    await bench.reset()
    rng = np.random.default_rng(13)
    for wait in range(0, 24, 3):
        matrix = Matrix(rng, 16, 32)
        bench.results.pause = True
        await bench.command(matrix, TOKENS)
        await bench.feed(codes(rng, TOKENS, matrix))
        while not int(dut.u_gemv.u_issue.end_stripe.value):
            await RisingEdge(dut.clk_i)
        await ClockCycles(dut.clk_i, 10 + wait)
        await bench.registers.write_dword(REGISTERS["control"], 1)
        while await bench.register("status"):
            pass
        bench.results.pause = False
        await works(bench, wait)


@cocotb.test(timeout_time=160, timeout_unit="us")
async def a_list_is_waited_for_however_far_the_ports_run_ahead(dut: Any) -> None:
    """Two lists, then as many matrices as are read ahead of their codes, then a list again."""
    bench = Bench(dut)
    await bench.reset()
    rng = np.random.default_rng(19)
    work = []
    for listed in (True, True, *(False,) * 13, True):
        matrix = Matrix(rng, 16, 64 if listed else 32)
        work.append((matrix, codes(rng, 1, matrix, 0.5), listed))
    for matrix, _, listed in work:
        await bench.command(matrix, 1, listed)
    for _, a, _ in work[:2]:
        await bench.feed(a)
    await ClockCycles(dut.clk_i, 3000)
    for _, a, _ in work[2:]:
        await bench.feed(a)
    for number, (matrix, a, _) in enumerate(work):
        assert np.array_equal(await bench.answer(matrix, 1), matrix.times(a)), number


@cocotb.test(timeout_time=160, timeout_unit="us")
async def sums_that_nobody_takes_wait(dut: Any) -> None:
    """Neither are they lost for want of room, nor overwritten by the matrices behind."""
    bench = Bench(dut)
    await bench.reset()
    rng = np.random.default_rng(17)
    work = [(matrix, codes(rng, TOKENS, matrix)) for matrix in (Matrix(rng, 1200, 32) for _ in range(4))]
    bench.results.pause = True
    for matrix, a in work:
        await bench.command(matrix, TOKENS)
        await bench.feed(a)
    await ClockCycles(dut.clk_i, 6000)
    assert await bench.register("waits_results") > 100
    bench.results.pause = False
    for matrix, a in work:
        assert np.array_equal(await bench.answer(matrix, TOKENS), matrix.times(a))


@cocotb.test(timeout_time=80, timeout_unit="us")
async def weights_are_read_ahead_of_their_codes(dut: Any) -> None:
    """Where all columns are read; where live ones are, none is read before the codes say which."""
    bench = Bench(dut)
    await bench.reset()
    rng = np.random.default_rng(11)
    matrix = Matrix(rng, 64, 96)
    a = codes(rng, 1, matrix, 0.3)
    await bench.command(matrix, 1)
    await ClockCycles(dut.clk_i, 1500)
    assert await bench.register("beats") == matrix.layout.port_beats
    assert await bench.register("waits_activations") > 100
    await bench.command(matrix, 1, listed=True)
    await ClockCycles(dut.clk_i, 1500)
    assert await bench.register("beats") == matrix.layout.port_beats
    for _ in range(2):
        await bench.feed(a)
        assert np.array_equal(await bench.answer(matrix, 1), matrix.times(a))
    assert await bench.register("beats") == matrix.layout.port_beats + matrix.layout.listed_groups(a[0]) * 4
