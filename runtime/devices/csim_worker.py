# SPDX-License-Identifier: Apache-2.0
"""The process in which the C simulation runs, so that what it does to memory, stack or signals ends here and nowhere else.

Run as a script by csim_engine.py, which shares two pieces of memory with it: the simulated DRAM and a `Box` of requests and answers.
The pipes carry no data: a byte to this process says "look into the box", a byte back says "answered".  So a caller that is
interrupted between any two instructions can ask again, and loses nothing.
Imports the standard library alone: it starts in 30 ms.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import sys

MESSAGE = 256
COUNTS = 512
"""Room for beats and bursts by channel and iterations by loop."""
RUN, READ, WRITE, CYCLES = range(1, 5)
"""What a request asks for: a program run; a register of pacq_gemv in Verilog; a register to be written; cycles of its clock."""


class Box(ctypes.Structure):
    """One request and its answer.

    request   its number; written last by the caller
    answered  the number of the last request that was answered; written last here
    word      arguments: of RUN windows (4), program, bases, pages, position, tokens, first_logit, ahead; of READ and WRITE offset and value
    """

    _fields_ = (
        ("request", ctypes.c_uint32),
        ("answered", ctypes.c_uint32),
        ("kind", ctypes.c_uint32),
        ("status", ctypes.c_int32),
        ("progress", ctypes.c_uint32),
        ("counted", ctypes.c_uint32),
        ("abort", ctypes.c_uint32),
        ("word", ctypes.c_uint64 * 11),
        ("value", ctypes.c_uint64),
        ("seconds", ctypes.c_double),
        ("message", ctypes.c_char * MESSAGE),
        ("design", ctypes.c_char * 64),
        ("counts", ctypes.c_uint64 * COUNTS),
    )


def serve(library: ctypes.CDLL, box: Box, memory: int) -> None:
    """Answer the request in the box."""
    import time

    began, words = time.perf_counter(), list(box.word)
    if box.kind == RUN:
        message = ctypes.create_string_buffer(MESSAGE)
        progress = ctypes.c_uint32.from_buffer(box, Box.progress.offset)
        abort = ctypes.c_uint32.from_buffer(box, Box.abort.offset)
        u64, u32 = ctypes.c_uint64, ctypes.c_uint32
        box.status = library.meadow_csim_run(
            ctypes.c_void_p(memory),
            (u64 * 4)(*words[:4]),
            u64(words[4]),
            u64(words[5]),
            *(u32(w) for w in words[6:]),
            ctypes.byref(abort),
            ctypes.byref(progress),
            message,
            u64(MESSAGE),
        )
        box.message = message.value
        library.meadow_csim_traffic(ctypes.byref(box.counts))
    elif box.kind == READ:
        box.value = library.meadow_cosim_read(ctypes.c_uint32(words[0]))
    elif box.kind == WRITE:
        library.meadow_cosim_write(ctypes.c_uint32(words[0]), ctypes.c_uint32(words[1]))
    elif box.kind == CYCLES:
        box.value = library.meadow_cosim_cycles()
    box.seconds = time.perf_counter() - began


def main() -> None:
    path, box_fd, memory_fd, size = sys.argv[1], *map(int, sys.argv[2:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller's Ctrl-C is the caller's
    box_map = mmap.mmap(box_fd, ctypes.sizeof(Box))
    memory = mmap.mmap(memory_fd, size)
    box = Box.from_buffer(box_map)
    library = ctypes.CDLL(path)
    try:
        library.meadow_design_id.restype = ctypes.c_char_p
    except AttributeError:
        sys.exit(3)  # the C++ is of another version of meadow
    if hasattr(library, "meadow_cosim_read"):
        library.meadow_cosim_read.restype = ctypes.c_uint32
        library.meadow_cosim_cycles.restype = ctypes.c_uint64
    box.design = library.meadow_design_id()
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    os.write(1, b".")
    os.set_blocking(1, False)  # a caller that only looks into the box need not empty the pipe
    while os.read(0, 4096):
        if box.request != box.answered:
            serve(library, box, address)
            box.answered = box.request
        try:
            os.write(1, b".")
        except BlockingIOError:
            pass
        except BrokenPipeError:  # nobody is there any more
            return


if __name__ == "__main__":
    main()
