# SPDX-License-Identifier: Apache-2.0
"""Constants that a program reads besides matrices: tables of rotary embeddings, and vectors such as the gains of norms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.graph import Graph
from meadow.compiler.program.nodes.node import rule_of
from meadow.compiler.program.tables import rope_row_bytes, rotary_names, rotary_table
from meadow.machine.design import Design
from meadow.machine.storage.rows import padded
from meadow.machine.units import BEAT_BYTES


@dataclass(frozen=True)
class Constant:
    """What a constants buffer holds: its bytes, and its values, which are made when they are written."""

    length: int
    values: Callable[[], NDArray[Any]]


def constants(graph: Graph, design: Design) -> dict[str, Constant]:
    """By buffer: the rotary tables, then the vectors that steps read, in the order of the graph's."""
    found = {}
    for frequencies, name in rotary_names(graph).items():
        length = design.context * rope_row_bytes(2 * len(frequencies))
        found[name] = Constant(length, partial(rotary_table, frequencies, design.context))
    read: dict[str, dict[str, float]] = {}
    for node in graph.nodes:
        for buffer, (name, plus) in rule_of(node).vectors(node.op).items():
            read.setdefault(name, {})[buffer] = plus
    for name, values in graph.vectors.items():
        for buffer, plus in read.get(name, {}).items():
            found[buffer] = Constant(padded(values.nbytes, BEAT_BYTES), partial(_plus, values, plus))
    return found


def _plus(values: NDArray[np.float32], plus: float) -> NDArray[np.float32]:
    return values + np.float32(plus) if plus else values
