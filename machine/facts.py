# SPDX-License-Identifier: Apache-2.0
"""The facts that Python and C++ share besides the instructions: ports, roles, loops, statuses, fields of formats, constants.

Each stands once in Python, and hls/facts.hpp is printed from here.
"""

from __future__ import annotations

from enum import IntEnum

from meadow.machine.arithmetic import activation, int8
from meadow.machine.instructions import next as next_token
from meadow.machine.instructions import norm
from meadow.machine.instructions.instruction import ROLES
from meadow.machine.isa import CHUNK_SHIFT
from meadow.machine.storage import columns, embedding, groups
from meadow.machine.storage.coded import storage_modules

PORTS = (
    "weights0",
    "weights1",
    "weights2",
    "weights3",
    "constants",
    "memory",
    "pacq0",
    "pacq1",
    "pacq2",
    "pacq3",
    "columns0",
    "columns1",
    "columns2",
    "columns3",
)
"""The AXI ports of a design, by the numbers under which the C simulation counts their traffic."""
LOOPS = (
    "fetch",
    "unpack",
    "table",
    "chunks",
    "load",
    "store",
    "multiply",
    "rescale",
    "epilogue",
    "norm",
    "quantize",
    "scores",
    "softmax",
    "mix",
    "pacq",
    "feed",
    "results",
    "next",
    "columns",
    "sums",
)
"""The pipelined loops whose iterations and entries are counted."""


class Status(IntEnum):
    """How a run ended, in the engine's status register."""

    DONE = 0
    BAD_OPCODE = 1
    BAD_RUN = 2
    NO_ENGINE = 3
    ABORTED = 4


STATUS_TEXT: dict[int, str] = {
    Status.BAD_OPCODE: "the program holds an opcode that the engine does not know",
    Status.BAD_RUN: "the engine refused the run's registers",
    Status.NO_ENGINE: "the program has weights that no engine of this design takes",
    Status.ABORTED: "the run was aborted",
}
CONSTANTS: tuple[tuple[str, str, int | float, str], ...] = (
    ("int", "kPages", 1 << (32 - CHUNK_SHIFT), "memory chunks that a slot can name"),
    ("int", "kConstantsPort", PORTS.index("constants"), "number of the port, by which traffic is counted"),
    ("int", "kMemoryPort", PORTS.index("memory"), ""),
    ("int", "kPacqPort", PORTS.index("pacq0"), "and the three behind it"),
    ("int", "kColumnsPort", PORTS.index("columns0"), "and the three behind it"),
    ("int", "kPorts", len(PORTS), ""),
    ("int", "kRoles", len(ROLES), ""),
    ("int", "kLoops", len(LOOPS), ""),
    ("float", "kQuiet", float(int8.QUIET), "docs/arithmetic.md has the constants of the arithmetic"),
    ("float", "kLevels", float(int8.LEVELS), ""),
    ("int", "kNormBits", norm.NORM_BITS, ""),
    ("int", "kNormLowest", norm.NORM_EXPONENTS[0], ""),
    ("int", "kNormHighest", norm.NORM_EXPONENTS[1], ""),
    ("int", "kRopeBits", int8.ROPE_ONE.bit_length() - 1, "fraction bits of cosines and sines"),
    ("float", "kCapSmall", float(int8.CAP_SMALL), "where the cap on scores turns from a polynomial to the table"),
    ("float", "kCapCubic", float(int8.CAP_CUBIC), ""),
    ("float", "kCapQuintic", float(int8.CAP_QUINTIC), ""),
    ("float", "kQuick", float(activation.QUICK), "activations of MLPs"),
    *(("float", f"kCubic{n}", float(v), "") for n, v in enumerate(activation.CUBIC)),
    *(("float", f"kGelu{n}", float(v), "") for n, v in enumerate(activation.GELU)),
    ("float", "kGeluMost", float(activation.GELU_MOST), ""),
    *(row for module in storage_modules() for row in getattr(module, "CONSTANTS", ())),
    *columns.CONSTANTS,
    ("uint32_t", "kGroupedFlag", groups.WORD_FLAG, "format of grouped weights"),
    ("int", "kBandRows", groups.BAND_ROWS, "output features of a port that share a visit of the activations"),
    ("int", "kShortestWindow", groups.SHORTEST_WINDOW, "cycles of a group of a tile and a token, at least"),
    ("int", "kSmallestGroup", embedding.SMALLEST_GROUP, "columns of an embedding that share a scale, at least"),
    ("uint32_t", "kCodesSigned", embedding.SIGNED, "form of a table of embeddings"),
    ("uint32_t", "kCodesMinima", embedding.MINIMA, ""),
    ("int", "kEnds", next_token.ENDS, "tokens that may end an answer"),
    ("int", "kGroupColumns", groups.COLUMNS, "activations that meet a beat of grouped weights"),
)
"""(C++ type, name, value, what it is) of each constant."""


def cpp_header() -> str:
    """hls/facts.hpp."""
    lines = [
        "#pragma once",
        "// What C++ and Python share besides the instructions; printed from machine/facts.py.",
        "",
        "#include <cstdint>",
        "",
    ]
    for kind, name, value, text in CONSTANTS:
        shown = f"{float(value).hex()}f" if kind == "float" else f"{value}u" if kind == "uint32_t" else str(value)
        lines.append(f"constexpr {kind} {name} = {shown};" + (f"  // {text}" if text else ""))
    lines += ["", "// How a run ended, for the host."]
    lines += [f"constexpr uint32_t k{_camel(s.name)} = {int(s)};" for s in Status]
    for title, names, what in (
        ("Role", ROLES, "What the bytes of an access are"),
        ("Loop", LOOPS, "Loops that are counted"),
    ):
        lines += ["", f"// {what}.", f"enum class {title} : int {{ {', '.join('k' + _camel(n) for n in names)} }};"]
    lines += ["", "// The fields of a grouped format word."]
    for name, (low, width) in groups.WORD_FIELDS.items():
        lines += [
            f"constexpr uint32_t grouped_{name}(uint32_t format) {{ return (format >> {low}) & {(1 << width) - 1}u; }}"
        ]
    return "\n".join([*lines, ""])


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.lower().split("_"))
