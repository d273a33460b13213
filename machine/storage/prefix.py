# SPDX-License-Identifier: Apache-2.0
"""prefix: weights as prefix codes of bounded length, in as many bit streams as the multipliers have columns.

Makes codes and bytes; whether a matrix is stored so is pack.py's choice.  docs/packing.md has the format, unpack.py is
the inverse.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from meadow.machine.design import CODE_BITS, LANE_COLS
from meadow.machine.storage.unpack import HALFWORD_BITS, HALFWORDS, HEADER_BYTES

BATCH_WEIGHTS = 1 << 17
"""Weights that are coded at a time: bounds the memory of packing, and fits the cache."""


def code_lengths(counts: NDArray[np.int64], longest: int = CODE_BITS) -> NDArray[np.uint8]:
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


def canonical_codes(lengths: NDArray[np.uint8]) -> tuple[NDArray[np.uint32], NDArray[np.uint8], int]:
    """(codes [256], table bytes, entries): codes of rising length and then value, so that a length and an offset find one.

    The table is what the engine loads: for each length l the window (CODE_BITS bits) where codes longer than l begin,
    then the offset from a code to its place in the list of weights, then that list.
    """
    used = np.flatnonzero(lengths)
    order = used[np.argsort(lengths[used], kind="stable")]
    codes = np.zeros(len(lengths), np.uint32)
    bound, offset = np.zeros(HEADER_BYTES // 4, "<u2"), np.zeros(HEADER_BYTES // 4, "<i2")
    code = index = 0
    for length in range(1, CODE_BITS + 1):
        code <<= 1
        of_length = order[lengths[order] == length]
        offset[length - 1] = index - code
        codes[of_length] = code + np.arange(len(of_length))
        code += len(of_length)
        index += len(of_length)
        bound[length - 1] = code << (CODE_BITS - length)
    table = np.concatenate([bound.view(np.uint8), offset.view(np.uint8), order.astype(np.uint8)])
    return codes, table, len(order)


def pack_prefix(tiles: NDArray[np.int8], codes: NDArray[np.uint32], lengths: NDArray[np.uint8]
                ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:  # fmt: skip
    """The beats of `tiles` [tiles, weights], one after another, and how many each takes."""
    words = tiles.shape[1] // LANE_COLS
    step = max(1, BATCH_WEIGHTS // tiles.shape[1])
    pieces, beats = [], []
    for first in range(0, len(tiles), step):
        some = tiles[first : first + step].view(np.uint8).reshape(-1, words, LANE_COLS)
        made, each = _pack_batch(some, codes, lengths)
        pieces.append(made)
        beats.append(each)
    return np.concatenate(pieces), np.concatenate(beats)


def _pack_batch(symbols: NDArray[np.uint8], codes: NDArray[np.uint32], lengths: NDArray[np.uint8]
                ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:  # fmt: skip
    """symbols [tiles, words, lanes].  A lane takes its next halfword before the word for which it holds too few bits."""
    count, words, lanes = symbols.shape
    by_lane = np.ascontiguousarray(symbols.swapaxes(1, 2))  # [tiles, lanes, words]
    value = ((codes << np.uint32(8)) | lengths)[by_lane]  # one look-up for both
    length = value & np.uint32(0xFF)
    ends = np.cumsum(length, axis=2, dtype=np.uint32)
    at = ends - length  # bits of the lane before each code
    taken = (at + np.uint32(CODE_BITS + HALFWORD_BITS - 1)) >> np.uint32(
        4
    )  # halfwords the lane has when it decodes the word
    pulls = np.empty(by_lane.shape, bool)
    pulls[:, :, 0] = True
    np.not_equal(taken[:, :, 1:], taken[:, :, :-1], out=pulls[:, :, 1:])
    # Where each halfword lies: the stream has them in the order of words, then lanes.
    in_order = np.ascontiguousarray(pulls.swapaxes(1, 2)).reshape(count, -1)
    total = in_order.sum(axis=1)
    beats = -(-total // HALFWORDS)
    first = (np.cumsum(beats) - beats) * HALFWORDS
    place = np.cumsum(in_order, axis=1, dtype=np.int32)
    place += (first - 1)[:, None].astype(np.int32)
    places = place.reshape(count, words, lanes).swapaxes(1, 2)[pulls]
    # What each halfword holds: a code reaches into at most two of its lane's halfwords.  The codes that begin in one halfword lie
    # apart within 32 bits, so a running sum modulo 2^32 gives their sum as the difference of two of its elements.
    per_lane = taken[:, :, -1].reshape(-1).astype(np.int64)
    base = (np.cumsum(per_lane) - per_lane).astype(np.uint32).reshape(count, lanes, 1)
    index = ((at >> np.uint32(4)) + base).reshape(-1)
    bits = ((value >> np.uint32(8)) << (np.uint32(32) - (at & np.uint32(15)) - length)).reshape(-1)
    np.cumsum(bits, out=bits)
    last = np.append(np.flatnonzero(index[1:] != index[:-1]), len(index) - 1)
    sums, where = np.diff(bits[last], prepend=np.uint32(0)), index[last]
    held = np.zeros(int(per_lane.sum()) + 1, np.uint32)
    held[where] = sums >> np.uint32(16)
    held[where + 1] += sums & np.uint32(0xFFFF)
    stream = np.zeros(int(beats.sum()) * HALFWORDS, "<u2")
    stream[places] = held[:-1].astype(np.uint16)
    return stream.view(np.uint8), beats.astype(np.int64)
