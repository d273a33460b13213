# SPDX-License-Identifier: Apache-2.0
"""fit, cost, boards: what is chosen, why, and what is refused with its numbers."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meadow import boards
from meadow.compiler.engines.array import pack
from meadow.compiler.graph.graph import Graph
from meadow.compiler.graph.rewrite import rewrite
from meadow.compiler.price.run import estimate
from meadow.compiler.price.traffic import run_beats
from meadow.compiler.program.lower import lower
from meadow.compiler.program.parts import weight_parts
from meadow.compiler.size.fit import BUDGET, available, fit
from meadow.compiler.sources.onnx.read import read
from meadow.machine.design import IDENTITY, Design
from meadow.machine.engines.pacq import Pacq
from meadow.machine.engines.table import engines
from meadow.machine.errors import ResourceExceeded, UsageError
from meadow.machine.instructions.instruction import Tokens
from meadow.machine.program import Schedule
from meadow.machine.registers import identity_fields
from meadow.machine.step import Slot
from meadow.machine.storage.rows import Layout
from meadow.machine.units import BEAT_BYTES


@pytest.fixture(scope="module")
def graph(tiny_int8: Path) -> Graph:
    return rewrite(read(tiny_int8))


def lowered(graph: Graph, board: str, dataflow: str = "auto", **settings: int) -> tuple[Any, Schedule]:
    b = boards.load(board)
    design = fit(graph, b, {"column_ports": 0, **settings}).design
    packed = {
        p.name: pack(
            graph.weights[name].codes[p.first_row : p.first_row + p.layout.rows].astype(np.int8), p.layout, "raw"
        )
        for name, parts in weight_parts(graph, design).items()
        for p in parts
        if isinstance(p.layout, Layout)
    }
    return design, lower(graph, design, packed, dataflow, b.bandwidth_gb_s)


@pytest.mark.parametrize("name", [n for n in boards.names() if n != "pynq_z2"])
def test_every_board_gets_a_design_within_its_budget(name: str, graph: Graph) -> None:
    board = boards.load(name)
    fitted = fit(graph, board)
    for kind, used in fitted.used.items():
        assert used <= available(board)[kind] * BUDGET[kind]
    assert fitted.why and fitted.design in [c.design for c in fitted.front]


def test_what_fit_says_of_the_zcu102(graph: Graph, golden: Any) -> None:
    golden.check(str(fit(graph, boards.load("zcu102"))))


def test_the_notes_say_that_the_zcu102_has_no_ultraram(graph: Graph) -> None:
    assert boards.load("zcu102").uram == 0
    assert any("no UltraRAM" in note for note in fit(graph, boards.load("zcu102")).notes)


def test_ultraram_takes_keys_and_values_where_a_board_has_some(graph: Graph) -> None:
    fitted = fit(graph, boards.load("kv260"))
    assert fitted.design.uram == 1 and fitted.used["URAM"] and any("lie in UltraRAM" in note for note in fitted.notes)
    without = fit(graph, boards.load("kv260"), {"uram": 0})
    assert "URAM" not in without.used and any("are not used" in note for note in without.notes)
    with pytest.raises(ResourceExceeded, match="URAM .* of 0 allowed"):
        fit(graph, boards.load("zcu102"), {"uram": 1})


def test_settings_are_obeyed_and_unknown_ones_refused(graph: Graph) -> None:
    design = fit(
        graph, boards.load("zcu102"), {"weight_ports": 2, "block": 16, "context": 100, "clock_mhz": 150}
    ).design
    assert (design.number("weight_ports"), design.block, design.context, design.clock_mhz) == (2, 16, 100, 150)
    with pytest.raises(UsageError, match="lanes: not known; settable are clock_mhz"):
        fit(graph, boards.load("zcu102"), {"lanes": 4})
    with pytest.raises(UsageError, match="1, 2 or 4"):
        fit(graph, boards.load("zcu102"), {"weight_ports": 3})


def test_a_design_that_is_too_large_says_which_knob_to_turn(graph: Graph) -> None:
    with pytest.raises(ResourceExceeded, match=r"DSP .* allowed \(--set token_lanes"):
        fit(graph, boards.load("zcu102"), {"token_lanes": 200})


def test_a_board_with_narrow_ports_is_refused_with_its_numbers(graph: Graph) -> None:
    with pytest.raises(ResourceExceeded, match="64-bit memory ports and 2.1 GB/s"):
        fit(graph, boards.load("pynq_z2"))


def test_the_published_configuration(graph: Graph) -> None:
    design = fit(graph, boards.load("zcu102"), {}, "meadow-paper").design
    assert (design.clock_mhz, design.number("weight_ports"), design.token_lanes) == (100, 1, 12)
    assert design.port_bytes_per_second * 8 == pytest.approx(12.8e9)


def test_a_users_board_works_by_path_and_its_mistakes_come_at_once(tmp_path: Path) -> None:
    text = (Path(boards.__file__).parent / "kv260.toml").read_text()
    good = tmp_path / "mine.toml"
    good.write_text(text.replace('name = "kv260"', 'name = "mine"'))
    assert boards.load(str(good)).name == "mine"
    bad = tmp_path / "bad.toml"
    bad.write_text(text.replace("dsp = 1248", "dps = 1248").replace("lut = 117120", "lut = -1"))
    with pytest.raises(UsageError, match=r"dsp is missing; dps is not a known field; lut is -1"):
        boards.load(str(bad))
    with pytest.raises(UsageError, match="known are kr260"):
        boards.load("zcu999")


def test_tphs_moves_no_intermediates_and_gemm_does(graph: Graph) -> None:
    for dataflow in ("tphs", "gemm"):
        design, schedule = lowered(graph, "zcu102", dataflow)
        found = estimate(schedule.programs["prefill"], design, 64, 0, 17.07)
        assert (found.bytes["intermediates"] == 0) == (dataflow == "tphs")


def test_auto_takes_the_cheaper_dataflow_by_its_own_model(graph: Graph) -> None:
    seconds = {}
    for dataflow in ("auto", "tphs", "gemm"):
        design, schedule = lowered(graph, "zcu102", dataflow)
        seconds[dataflow] = estimate(schedule.programs["prefill"], design, 64, 0, 17.07).seconds
    assert seconds["auto"] == min(seconds.values())


def test_more_weights_never_cost_less(graph: Graph) -> None:
    design, schedule = lowered(graph, "zcu102")
    last = 0.0
    for tokens, position in ((1, 0), (1, 60), (8, 60), (64, 60)):
        found = estimate(schedule.programs["prefill"], design, tokens, position, 17.07)
        assert found.cycles > last
        last = found.cycles
    slow = estimate(schedule.programs["decode"], design, 1, 0, 0.1)
    assert slow.seconds > estimate(schedule.programs["decode"], design, 1, 0, 17.07).seconds


def test_decode_reads_every_weight_once(graph: Graph) -> None:
    design, schedule = lowered(graph, "zcu102")
    streamed = sum(b.length for b in schedule.buffers.values() if b.kind == "weights")
    found = estimate(schedule.programs["decode"], design, 1, 0, 17.07)
    assert 0.999 * streamed <= found.bytes["weights"] <= 1.02 * streamed  # tables are padded to beats
    moved = run_beats(schedule.programs["decode"], design, Tokens(1, 0), 1)
    ports = BEAT_BYTES * sum(n for (port, _, _), n in moved.items() if port.startswith("weights"))
    slots = {s for step in schedule.programs["decode"] for name, s in step.operands.items() if name[:-1] == "weights"}
    assert ports == sum(s.length for s in slots if isinstance(s, Slot))


def test_each_objective_makes_its_own_request_faster(graph: Graph) -> None:
    board = boards.load("zcu102")
    found = {objective: fit(graph, board, optimize=objective) for objective in ("prefill", "decode", "balanced")}

    def chosen(name: str) -> Any:
        return next(c for c in found[name].front if c.design == found[name].design)

    assert chosen("prefill").prefill >= max(c.prefill for c in found["decode"].front) / 1.01
    assert chosen("decode").decode >= max(c.decode for c in found["prefill"].front) / 1.01
    assert chosen("decode").share <= chosen("prefill").share
    with pytest.raises(UsageError, match="--optimize 'speed' is not known"):
        fit(graph, board, optimize="speed")


def test_no_design_of_the_front_beats_another_in_everything(graph: Graph) -> None:
    front = fit(graph, boards.load("kv260")).front
    assert len(front) > 3
    for a in front:
        for b in front:
            better = (b.prefill >= a.prefill, b.decode >= a.decode, b.share <= a.share)
            assert a is b or not all(better)


def test_numbers_that_are_set_are_not_searched(graph: Graph) -> None:
    pinned = {"token_lanes": 3, "tile_rows": 32, "prefix_codes": 0}
    for candidate in fit(graph, boards.load("zcu102"), pinned).front:
        assert {key: candidate.design.number(key) for key in pinned} == pinned


def test_sizes_that_stand_in_for_weights_are_close_to_the_real_ones() -> None:

    from meadow.compiler.engines.array import CODE_LOSS, stand_in
    from meadow.machine.storage.prefix import Prefix

    for spread in (2, 12, 40):
        codes = np.clip(np.rint(np.random.default_rng(3).laplace(0, spread, (512, 576))), -127, 127).astype(np.int8)
        real = pack(codes, Layout(512, 576, 4, 128))
        guess = stand_in(real.layout, real.entropy * CODE_LOSS, Prefix.of(real.layout))
        assert guess.kind == real.kind
        assert guess.nbytes == pytest.approx(real.nbytes, rel=0.01)


def test_small_contexts_get_small_blocks_and_contradictions_a_sentence(graph: Graph) -> None:
    board = boards.load("zcu102")
    assert fit(graph, board, {"context": 8}).design.block == 8
    with pytest.raises(UsageError, match="block is 128 and context 64; a block is at most the context"):
        fit(graph, board, {"block": 128, "context": 64})
    with pytest.raises(ResourceExceeded, match="BRAM36 .* allowed"):
        fit(graph, board, {"lookup_entries": 65536, "weight_ports": 4}, packing="frequency")
    for packing, settings in (
        ("prefix", {"prefix_codes": 0}),
        ("raw", {"prefix_codes": 1}),
        ("naive", {"lookup_entries": 0}),
        ("prefix", {"lookup_entries": 1024}),
    ):
        with pytest.raises(UsageError, match="drop one of them"):
            fit(graph, board, settings, packing=packing)


def test_every_setting_is_in_the_help(graph: Graph) -> None:
    from click.testing import CliRunner

    from meadow.cli.compile import compile_command
    from meadow.machine.design import SETTABLE

    text = " ".join(CliRunner().invoke(compile_command, ["--help"]).output.split())
    value_of = {"lookup_entries": 1024, **dict.fromkeys(("context", "tile_rows", "clock_mhz"), 128)}
    value_of |= {**dict.fromkeys(("prefix_codes", "score_cap", "all_activations"), 1), "uram": 0}
    value_of |= {"column_fifo": 512, "column_clock_mhz": 250}
    for key in SETTABLE:
        assert key in text
        if key in Pacq.numbers:
            continue  # of models with grouped weights
        fit(graph, boards.load("zcu102"), {key: value_of.get(key, 4)})


def test_the_published_packings_are_priced_as_they_are(graph: Graph) -> None:
    names = {c.packing for c in fit(graph, boards.load("zcu102"), packing="frequency").front}
    assert names == {"frequency"}


def test_a_number_that_is_appended_to_the_table_changes_no_design_without_its_engine(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = fit(graph, boards.load("zcu102")).design
    before = made.id, made.numbers(), identity_fields(made)
    monkeypatch.setattr("meadow.machine.design.IDENTITY", (*IDENTITY, "later_ports"))
    again = replace(made)  # its id is not remembered
    assert (again.id, again.numbers(), identity_fields(again)) == before
    assert Design.of(again.numbers()) == made


def test_every_number_of_a_design_belongs_to_it_or_to_one_engine() -> None:
    engine_numbers = [number for kind in engines() for number in kind.numbers]
    assert len(engine_numbers) == len(set(engine_numbers))
    own = {f.name for f in fields(Design)} - {"board", "part", "engines"}
    assert own | set(engine_numbers) == set(IDENTITY) and not own & set(engine_numbers)
