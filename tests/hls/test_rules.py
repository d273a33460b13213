# SPDX-License-Identifier: Apache-2.0
"""The emitted C++ obeys the rules of a synthesis tool, and each rule finds a fault of its kind."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

pytest.importorskip("clang", reason="libclang is not installed")
if shutil.which("clang++") is None or shutil.which("opt") is None:
    pytest.skip("clang and opt are not installed: apt-get install clang llvm", allow_module_level=True)

from rules import instances
from rules.check import RULES, SHAPES, base_design, emitted, findings, shaped
from rules.source import Source

from meadow import boards

pytestmark = pytest.mark.csim


class Planted(NamedTuple):
    """A fault: what it is, the rule named for it, the function that must find it, and the change."""

    what: str
    rule: str
    check: str
    file: str
    old: str
    new: str


PLANTED = (
    Planted(
        "an address in bytes",
        "bursts",
        "bursts",
        "memory.hpp",
        "return port[static_cast<uint64_t>(first) + static_cast<uint64_t>(n)];",
        "return port[(static_cast<uint64_t>(first) * 16 + static_cast<uint64_t>(n) * 16 + (first >> 3)) >> 4];",
    ),
    Planted(
        "a counter of 32 bits that may wrap",
        "bursts",
        "bursts",
        "memory.hpp",
        "    port[static_cast<uint64_t>(first) + static_cast<uint64_t>(n)] = beat;",
        "    port[first + static_cast<uint32_t>(n)] = beat;",
    ),
    Planted(
        "two processes of a region read a port",
        "dataflow sharing",
        "dataflow",
        "epilogue.hpp",
        "    finish_rows(result, before, step, made);\n    store_targets(made, kept, step, target, memory);\n",
        "    finish_rows(result, before, step, made);\n    store_targets(made, kept, step, target, memory);\n"
        "    load_targets(constants, target, step, before, kept);\n",
    ),
    Planted(
        "an expression is handed to a process",
        "dataflow statement",
        "dataflow",
        "array.hpp",
        "    multiply(words, activation, port_rows, row_words, served, sums);",
        "    multiply(words, activation, port_rows, row_words, tokens - first, sums);",
    ),
    Planted(
        "a region has a variable of its own",
        "dataflow statement",
        "dataflow",
        "array.hpp",
        "    beats_stream scales;\n    stream_weights<0>",
        "    beats_stream scales;\n    int wanted = served;\n    stream_weights<0>",
    ),
    Planted(
        "the array is built twice",
        "call sites",
        "call_sites",
        "steps.hpp",
        "        if (turns.attends) attend(chip,",
        "        if (some > 7) some_rows(walk, array, m, 0, tokens, PASS_READ_PORTS, gemv_result);\n        if (turns.attends) attend(chip,",
    ),
    Planted(
        "rows and words are loops of their own",
        "loop nest",
        "nests",
        "norm.hpp",
        "            total = total.to_int64() + sum_of_squares(x[j], exponent);\n        }",
        "            total = total.to_int64() + sum_of_squares(x[j], exponent);\n        }\n"
        "        for (int i = 0; i < step.tokens; ++i) {\n            for (int j = 0; j < vectors; ++j) {\n#pragma HLS PIPELINE II=1\n"
        "                total = total.to_int64() + sum_of_squares(x[j], exponent);\n            }\n        }",
    ),
    Planted(
        "a nest of variable bounds is told to flatten",
        "loop nest",
        "nests",
        "norm.hpp",
        "    Squares:\n        for (int j = 0; j < vectors; ++j) {\n#pragma HLS PIPELINE II=1\n",
        "    Squares:\n        for (int j = 0; j < vectors; ++j) {\n#pragma HLS PIPELINE II=1\n#pragma HLS LOOP_FLATTEN\n",
    ),
    Planted(
        "the peak of a row is carried as a float",
        "carried float",
        "carried_floats",
        "norm.hpp",
        "            x[j] = v;\n            if (step.floats) rows.write(v);\n",
        "            x[j] = v;\n            largest = v.value[0] > largest ? v.value[0] : largest;\n            if (step.floats) rows.write(v);\n",
    ),
    Planted(
        "a float sum is carried",
        "carried float",
        "carried_floats",
        "attention.hpp",
        "            score.value[lane] = y;\n",
        "            scale[lane] += y;\n            score.value[lane] = y;\n",
    ),
    Planted(
        "a token is found by division",
        "divider",
        "dividers",
        "attention.hpp",
        "        const int row = lane < g.lanes ? g.first + lane : g.first;",
        "        const int row = (g.first + lane) % g.tokens;",
    ),
    Planted(
        "the scores of a key lie in one memory",
        "storage",
        "accesses",
        "sequencer.hpp",
        "#pragma HLS ARRAY_PARTITION variable=chip.score complete dim=1\n",
        "",
    ),
    Planted(
        "the bank of a lane is not known",
        "storage",
        "accesses",
        "array.hpp",
        "dot_pair(activation[g * kTokenLanes + lane][w].value, activation[g * kTokenLanes + lane + 1][w].value,",
        "dot_pair(activation[first + g * kTokenLanes + lane][w].value, activation[first + g * kTokenLanes + lane + 1][w].value,",
    ),
    Planted(
        "the probabilities of a beat lie in one memory",
        "storage",
        "accesses",
        "sequencer.hpp",
        "#pragma HLS ARRAY_PARTITION variable=chip.weight cyclic factor=kWeightsInBeat dim=2\n",
        "",
    ),
    Planted(
        "a pragma names no expression",
        "pragma names",
        "names",
        "sequencer.hpp",
        "#pragma HLS AGGREGATE variable=chip.key\n",
        "#pragma HLS AGGREGATE variable=chip.cache.key\n",
    ),
    Planted(
        "a pragma names what is declared elsewhere",
        "pragma names",
        "names",
        "norm.hpp",
        "#pragma HLS AGGREGATE variable=gain\n",
        "#pragma HLS AGGREGATE variable=gains\n",
    ),
    Planted(
        "what AMD's streams have not",
        "AMD headers",
        "amd",
        "memory.hpp",
        "        out.write(load<kPort>(role, port, first, n));\n    }",
        "        *out.extend(1) = load<kPort>(role, port, first, n);\n    }",
    ),
    Planted(
        "a variable that nothing uses",
        "warnings",
        "warnings",
        "norm.hpp",
        "    const int stride = pieces(step.count, kFloatsInBeat);\nLoadRows:",
        "    const int stride = pieces(step.count, kFloatsInBeat);\n    int other = 3;\nLoadRows:",
    ),
)


def made(shape: str, folder: Path) -> Path:
    return emitted(shaped(base_design("zcu102"), SHAPES[shape]), boards.load("zcu102"), folder)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_emitted_cpp_obeys_every_rule(shape: str, tmp_path: Path) -> None:
    design = shaped(base_design("zcu102"), SHAPES[shape])
    assert [str(one) for one in findings(made(shape, tmp_path), design)] == []


@pytest.mark.parametrize("planted", PLANTED, ids=[p.what for p in PLANTED])
def test_each_rule_finds_a_fault_of_its_kind(planted: Planted, tmp_path: Path) -> None:
    folder = made("INT8, raw", tmp_path)
    path = folder / planted.file
    text = path.read_text()
    assert text.count(planted.old) >= 1, f"{planted.old!r} does not stand in {planted.file}"
    text = text.replace(planted.old, planted.new, 1)
    if "largest = v.value" in text:
        text = text.replace(
            "        uint32_t peak = 0;\n    Take:",
            "        uint32_t peak = 0;\n        float largest = 0.0f;\n    Take:",
        )
    if planted.check == "accesses" and "activation[first +" in text:
        text = text.replace(
            "int rows, int row_words,\n                     int tokens,",
            "int rows, int row_words,\n                     int tokens, int first,",
        )
        text = text.replace("row_words, served, sums);", "row_words, served, first, sums);")
    path.write_text(text)
    check = next(rule for rule in RULES if rule.__name__ == planted.check)
    found = list(check(Source(folder)))
    assert planted.rule in {one.rule for one in found}, found


@pytest.mark.parametrize(
    ("file", "old", "new", "unit"),
    [
        (
            "norm.hpp",
            "flush((x.value[k] * inverse) * gain.value[k])",
            "flush((x.value[k] * inverse) * gain.value[k] * 2.5f)",
            "norm_rows",
        ),
        ("attention.hpp", "            if constexpr (kScoreCap) {", "            {", "score_group"),
        (
            "epilogue.hpp",
            "vectors * (step.tokens - step.first); ++n) {\n#pragma HLS PIPELINE II=1\n        const int at = j * kFloatLanes;\n        vector_t y = ",
            "vectors * (step.tokens - step.first); ++n) {\n#pragma HLS PIPELINE II=1\n        const int at = j * kFloatLanes;\n        vector_t z = added(rows.read(), rows.read());\n        vector_t y = ",
            "finish_rows",
        ),
    ],
)
def test_operators_that_nobody_counted_are_found(file: str, old: str, new: str, unit: str, tmp_path: Path) -> None:
    folder = made("INT8, raw", tmp_path)
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    found = list(instances.differences(Source(folder), shaped(base_design("zcu102"), SHAPES["INT8, raw"])))
    assert unit in {one.where for one in found}, found


def test_every_rule_has_a_planted_fault() -> None:
    assert {rule.__name__ for rule in RULES} == {p.check for p in PLANTED} and len(PLANTED) >= 12
