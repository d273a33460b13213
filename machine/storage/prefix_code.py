# SPDX-License-Identifier: Apache-2.0
"""A prefix code for bytes whose lengths two small tables tell: the best one for given counts, its codes, its table and the inverse.

The top six bits of a window give the length of the code that it begins with, unless the top four are ones: then bits 5 to 10 give
it.  So a decoder finds a length by two look-ups of 64 entries and no comparison (rtl/prefix_lane.v); the choice costs 0.0002 bits per
weight (measured on SmolLM2) against the best code of at most CODE_BITS bits (docs/decisions/0035).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from meadow.machine.storage.coded import Bytes
from meadow.machine.units import CODE_BITS

INDEX_BITS = 6
"""Bits of a window that one length table looks at."""
ESCAPE_BITS = 4
"""Leading ones of a window that send it to the second table."""
LENGTHS = 1 << INDEX_BITS
"""Entries of a length table."""
OFFSETS = 16
WEIGHTS = 256
HEADER_BYTES = LENGTHS + OFFSETS
"""A table begins with a byte for each entry of the length tables, the first in its low half, and a byte for each length's offset."""
TABLE_BYTES = HEADER_BYTES + WEIGHTS
SPACE = 1 << CODE_BITS
"""Windows."""
FIRST_UNITS = LENGTHS - (LENGTHS >> ESCAPE_BITS)
"""Entries of the first table that codes can use; those above belong to the second."""
FAR = 1 << 60
"""More than any cost."""


def bounded_lengths(counts: NDArray[np.int64], longest: int) -> NDArray[np.uint8]:
    """The length of each symbol's code in the best prefix code of at most `longest` bits; 0 for symbols that do not occur.

    counts [256].  Package-merge (Larmore and Hirschberg, "A fast algorithm for optimal length-limited Huffman codes",
    1990): `longest` rounds of pairing what is cheapest; a symbol's length is how often it is in what is chosen.
    """
    symbols = np.flatnonzero(counts)
    lengths = np.zeros(len(counts), np.uint8)
    if len(symbols) == 1:
        lengths[symbols] = 1
        return lengths
    if len(symbols) > 1 << longest:
        raise ValueError(f"{len(symbols)} symbols have no code of {longest} bits")
    symbols = symbols[np.argsort(counts[symbols], kind="stable")]
    leaves = counts[symbols].astype(np.int64)
    rounds: list[NDArray[np.bool_]] = []  # in each round's order of cost: which are symbols, not packages
    packages = np.zeros(0, np.int64)
    for _ in range(longest):
        costs = np.concatenate([leaves, packages])
        order = np.argsort(costs, kind="stable")
        rounds.append(order < len(leaves))
        merged = costs[order]
        even = len(merged) // 2 * 2
        packages = merged[0:even:2] + merged[1:even:2]
    chosen = 2 * len(symbols) - 2
    for is_leaf in reversed(rounds):
        taken = int(is_leaf[:chosen].sum())
        lengths[symbols[:taken]] += 1
        chosen = 2 * (chosen - taken)
    return lengths


def code_lengths(counts: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The length of each symbol's code, [256], in a code whose lengths the two tables can tell; 0 for symbols that do not occur.

    A code of at most INDEX_BITS bits fills whole entries of either table, so any such code will do; others are searched.
    """
    used = int(np.count_nonzero(counts))
    found = [bounded_lengths(counts, INDEX_BITS)] if used <= LENGTHS else []
    if used > ESCAPE_BITS:  # fewer symbols do not fill the first table
        found.append(_searched(counts))
    return min(found, key=lambda lengths: int(lengths.astype(np.int64) @ counts))


def _move(length: int, below: int) -> tuple[int, int]:
    """(entries, symbols) that a step with codes of `length` fills in a table whose index ends `below` bits down the window."""
    return (1 << below - length, 1) if length <= below else (1, 1 << length - below)


def _searched(counts: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The best code that fills the first table exactly, in codes of rising length, and goes on in the second.

    counts [256], of more than ESCAPE_BITS symbols.  Dynamic programming over lengths, entries filled and symbols coded, the commonest
    first; no length is tried that is more than one below the shortest of the best code without tables.
    """
    symbols = np.flatnonzero(counts)
    symbols = symbols[np.argsort(-counts[symbols], kind="stable")]
    n = len(symbols)
    total = np.concatenate([[0], np.cumsum(counts[symbols])])
    deep = INDEX_BITS + ESCAPE_BITS
    shortest = max(1, int(bounded_lengths(counts, CODE_BITS)[symbols].min()) - 1)
    # The first table, by length: the least cost of `s` symbols in `u` entries, with lengths up to this one.
    first = np.full((CODE_BITS + 1, FIRST_UNITS + 1, n + 1), FAR, np.int64)
    first[:, 0, 0] = 0
    for length in range(shortest, CODE_BITS + 1):
        entries, some = _move(length, INDEX_BITS)
        layer = first[length]
        layer[:] = first[length - 1]
        if some <= n:
            price = length * (total[some:] - total[:-some])
            for u in range(entries, FIRST_UNITS + 1):
                np.minimum(layer[u - entries, :-some] + price, layer[u, some:], out=layer[u, some:])
    full = first[:, FIRST_UNITS]
    # The second: the least cost of all symbols from `s` on in `v` entries, with lengths from this one on.
    second = np.full((CODE_BITS + 2, LENGTHS + 1, n + 1), FAR, np.int64)
    second[:, :, n] = 0
    for length in range(CODE_BITS, max(ESCAPE_BITS, shortest - 1), -1):
        entries, some = _move(length, deep)
        layer = second[length]
        layer[:] = second[length + 1]
        ends = np.minimum(np.arange(n) + some, n)  # the last entry may have room for more codes than there are
        price = length * (total[ends] - total[:-1])
        for v in range(entries, LENGTHS + 1):
            np.minimum(layer[v - entries, ends] + price, layer[v, :n], out=layer[v, :n])
    rest = second[: CODE_BITS + 1, LENGTHS].copy()
    rest[: max(ESCAPE_BITS + 1, shortest)] = rest[max(ESCAPE_BITS + 1, shortest)]
    best = full + rest
    length, split = (int(k) for k in np.unravel_index(int(best.argmin()), best.shape))
    lengths = np.zeros(len(counts), np.uint8)
    at, left, s = length, FIRST_UNITS, split
    while left:
        if first[at - 1, left, s] == first[at, left, s]:
            at -= 1
            continue
        entries, some = _move(at, INDEX_BITS)
        lengths[symbols[s - some : s]] = at
        left, s = left - entries, s - some
    at, left, s = max(length, ESCAPE_BITS + 1, shortest), LENGTHS, split
    while s < n:
        if second[at + 1, left, s] == second[at, left, s]:
            at += 1
            continue
        entries, some = _move(at, deep)
        lengths[symbols[s : s + some]] = at
        left, s = left - entries, min(s + some, n)
    return lengths


def canonical_codes(lengths: NDArray[np.uint8]) -> tuple[NDArray[np.uint32], Bytes, int]:
    """(codes [256], table, entries): codes of rising length and then value, so that a length and an offset find a weight.

    The table is what the engine loads: lengths less one by the first and the second table's entry, for each length what is added
    to a code modulo 256 to find its weight's place, and the weights in the order of their codes.
    """
    used = np.flatnonzero(lengths)
    order = used[np.argsort(lengths[used], kind="stable")]
    of = lengths[order].astype(np.int64)
    begins = np.concatenate([[0], np.cumsum(SPACE >> of)])[:-1]
    codes = np.zeros(len(lengths), np.uint32)
    codes[order] = begins >> (CODE_BITS - of)
    less = np.zeros(SPACE, np.uint8)  # by window, less one; 0 where no code begins
    less[: int((SPACE >> of).sum())] = np.repeat(of - 1, SPACE >> of)
    offset = np.zeros(OFFSETS, np.uint8)
    offset[of - 1] = (np.arange(len(order)) - codes[order]) & 255
    first, second = _entries()
    table = np.zeros(TABLE_BYTES, np.uint8)
    # An entry stands for all its windows; those behind the last code have no length, so the greatest is its codes'.
    np.maximum.at(table[:LENGTHS], first[first >= 0], less[first >= 0])
    of_second = np.zeros(LENGTHS, np.uint8)
    np.maximum.at(of_second, second[second >= 0], less[second >= 0])
    table[:LENGTHS] |= (of_second << np.uint8(4)).astype(np.uint8)
    table[LENGTHS:HEADER_BYTES] = offset
    table[HEADER_BYTES : HEADER_BYTES + len(order)] = order
    return codes, table, len(order)


def _entries() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which entry of each table a window looks at; -1 in the table that does not decide."""
    window = np.arange(SPACE)
    escaped = window >> (CODE_BITS - ESCAPE_BITS) == (1 << ESCAPE_BITS) - 1
    first, second = window >> (CODE_BITS - INDEX_BITS), window >> (CODE_BITS - ESCAPE_BITS - INDEX_BITS) & (LENGTHS - 1)
    return np.where(escaped, -1, first), np.where(escaped, second, -1)


def decoding_table(table: Bytes, entries: int) -> NDArray[np.uint16]:
    """What each window of CODE_BITS bits begins with: weight | length << 8; 0 where no code of the `entries` does."""
    first, second = _entries()
    less = np.where(first >= 0, table[:LENGTHS][first] & 15, table[:LENGTHS][second] >> 4).astype(np.int64)
    window = np.arange(SPACE)
    place = ((window >> np.maximum(CODE_BITS - 1 - less, 0)) + table[LENGTHS:HEADER_BYTES][less]) & 255
    # Codes follow one another from window 0 on.  Where the tables say something else, the table is damaged and no code begins.
    known = np.full(SPACE, -1)
    at = 0
    for index in range(entries):
        if at >= SPACE or less[at] >= CODE_BITS:
            break
        known[at : (end := at + (SPACE >> int(less[at]) + 1))] = index
        at = end
    found = table[HEADER_BYTES:TABLE_BYTES][place] | ((less + 1) << 8).astype(np.uint16)
    return np.where(known == place, found, 0).astype(np.uint16)
