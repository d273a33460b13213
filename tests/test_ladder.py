# SPDX-License-Identifier: Apache-2.0
"""The same bits from the emulator down: whatever the board, the lanes, the dataflow, the packing and the block size."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_gguf import write_gguf

from meadow import boards
from meadow.compiler.emit.block_design import block_design, hardware_facts
from meadow.compiler.emit.emit import emit
from meadow.compiler.emit.save import save
from meadow.compiler.graph.evaluate import evaluate
from meadow.compiler.graph.rewrite import rewrite
from meadow.compiler.models import quantize
from meadow.compiler.pipeline import Options, compile_model, pack_all
from meadow.compiler.program.ahead import Ahead
from meadow.compiler.program.lower import lower
from meadow.compiler.program.parts import weight_parts
from meadow.compiler.program.place import place
from meadow.compiler.size.fit import fit
from meadow.compiler.sources.onnx.read import read
from meadow.evidence.ladder.verify import flip_changes_digest
from meadow.machine.design import Design
from meadow.runtime.devices.csim import CSim
from meadow.runtime.session import Session

TOKENS = [(37 * i * i + 11) % 1024 for i in range(70)]
STEPS = [9, 700, 31]
DESIGNS = {
    "zcu102": ("zcu102", Options()),
    "kv260": ("kv260", Options()),
    "half the lanes": ("zcu102", Options(settings=(("token_lanes", 4), ("weight_ports", 2)))),
    "one port, gemm": ("kv260", Options(dataflow="gemm", settings=(("weight_ports", 1), ("token_lanes", 1)))),
    "gemm": ("zcu102", Options(dataflow="gemm")),
    "tphs, raw": ("zcu102", Options(dataflow="tphs", packing="raw")),
    "odd block and context": ("zcu102", Options(settings=(("block", 13), ("context", 101)))),
    "gemm, odd block": ("zcu102", Options(dataflow="gemm", settings=(("block", 13), ("context", 101)))),
    "meadow-paper": ("zcu102", Options(design="meadow-paper")),
    "columns": ("zcu102", Options(settings=(("column_ports", 4), ("column_tokens", 16)))),
    "columns, two ports, gemm": (
        "kv260",
        Options(dataflow="gemm", settings=(("column_ports", 2), ("column_tokens", 8), ("context", 101))),
    ),
    "columns, one port, odd block": (
        "zcu102",
        Options(settings=(("column_ports", 1), ("column_tokens", 16), ("block", 13), ("tile_rows", 64))),
    ),
}


def digest(package: Path, device: str, block: int) -> str:
    with Session(package, device) as session:
        session.prefill(TOKENS, logits="all", block=min(block, session.package.design.block))
        for token in STEPS:
            session.step(token)
        return session.digest


@pytest.fixture(scope="module")
def packages(tiny_int8: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("designs")
    made = {}
    for index, (name, (board, options)) in enumerate(DESIGNS.items()):
        made[name] = folder / f"design{index}"
        compile_model(tiny_int8, boards.load(board), made[name], options)
    return made


@pytest.fixture(scope="module")
def expected(packages: dict[str, Path]) -> str:
    return digest(packages["zcu102"], "emulator", 64)


@pytest.mark.parametrize("name", DESIGNS)
def test_every_design_gives_the_same_bits_on_the_emulator(name: str, packages: dict[str, Path], expected: str) -> None:
    assert digest(packages[name], "emulator", 64) == expected


@pytest.mark.csim
@pytest.mark.parametrize("name", DESIGNS)
def test_every_design_gives_the_same_bits_in_cpp(name: str, packages: dict[str, Path], expected: str) -> None:
    assert digest(packages[name], "csim", 64) == expected


@pytest.mark.csim
@pytest.mark.parametrize("block", [1, 7, 63])
@pytest.mark.parametrize("device", ["emulator", "csim"])
@pytest.mark.parametrize("name", ["zcu102", "gemm"])
def test_prefill_length_does_not_matter(
    name: str, device: str, block: int, packages: dict[str, Path], expected: str
) -> None:
    assert digest(packages[name], device, block) == expected


@pytest.mark.csim
@pytest.mark.parametrize(
    ("dataflow", "schemes"),
    [("gemm", ("raw", "prefix", "frequency")), ("tphs", ("raw", "prefix", "naive", "packets", "frequency"))],
)
def test_packed_weights_give_the_bits_of_raw_weights(
    dataflow: str, schemes: tuple[str, ...], tiny_tensor: Path, tmp_path: Path
) -> None:
    board = boards.load("zcu102")
    found = set()
    for scheme in schemes:
        made = compile_model(tiny_tensor, board, tmp_path / scheme, Options(packing=scheme, dataflow=dataflow))
        assert (made["weights"]["packed_matrices"] > 0) == (scheme != "raw")
        found |= {digest(tmp_path / scheme, device, 64) for device in ("emulator", "csim")}
    assert len(found) == 1


@pytest.mark.csim
@pytest.mark.parametrize("device", ["emulator", "csim"])
@pytest.mark.parametrize("name", ["zcu102", "gemm", "columns"])
def test_a_flipped_weight_bit_changes_the_digest(name: str, device: str, packages: dict[str, Path]) -> None:
    with Session(packages[name], device) as session:
        session.prefill(TOKENS[:9], logits="all")
        assert flip_changes_digest(session, TOKENS[:9], session.digest)


GROUPED = {
    "zcu102": ("zcu102", Options()),
    "kv260": ("kv260", Options()),
    "two ports, gemm": ("zcu102", Options(dataflow="gemm", settings=(("pacq_ports", 2), ("pacq_tokens", 4)))),
    "one port, odd block": (
        "zcu102",
        Options(settings=(("pacq_ports", 1), ("block", 13), ("context", 101), ("tile_rows", 64))),
    ),
}


@pytest.mark.csim
@pytest.mark.parametrize(
    ("weights", "group", "head"), [("int4", 32, "int8"), ("int4", 64, "same"), ("int2", 16, "same")]
)
def test_grouped_weights_give_the_same_bits_on_every_design(
    weights: str, group: int, head: str, tiny: Path, tmp_path: Path
) -> None:
    quantize(tiny, tmp_path / "model", weights=weights, group=group, head=head)
    found = set()
    for index, (board, options) in enumerate(GROUPED.values()):
        compile_model(tmp_path / "model", boards.load(board), tmp_path / str(index), options)
        found |= {digest(tmp_path / str(index), device, 64) for device in ("emulator", "csim")}
    assert len(found) == 1


def facts(design: Design, board: boards.Board) -> dict[str, Any]:
    """What the pipeline would say of a package."""
    return {
        "name": "mixed",
        "board": board.name,
        "inputs": "",
        "meadow_version": "test",
        "options": asdict(Options()),
        "tile_rows": 128,
        "source": {"path": "", "sha256": ""},
        "origin": None,
        "hardware_digest": "",
        "hardware": hardware_facts(block_design(design, board)),
    }


@pytest.mark.csim
def test_linears_of_two_formats_do_not_share_activations(tiny: Path, tmp_path: Path) -> None:
    """K and V read the same rows; with other groups they lie otherwise in pacq_gemv."""
    quantize(tiny, tmp_path / "a", weights="int4", group=32)
    quantize(tiny, tmp_path / "b", weights="int4", group=64)
    graph, other = read(tmp_path / "a"), read(tmp_path / "b")
    values = {n.weight or "" for n in graph.nodes if n.name.endswith(".v")}
    mixed = rewrite(graph.replace(weights={**graph.weights, **{name: other.weights[name] for name in values}}))
    board = boards.load("zcu102")
    fitted = fit(mixed, board)
    parts = weight_parts(mixed, fitted.design)
    packed = pack_all(mixed, fitted.design, parts, "auto", lambda *_: None)
    schedule = place(lower(mixed, fitted.design, packed, "auto", board.bandwidth_gb_s), board)
    assert not any(step.operands.get("reuse") for step in schedule.programs["decode"] if step.name.endswith(".v"))
    save(
        tmp_path / "package",
        mixed,
        fitted.design,
        schedule,
        Ahead(None, why="nobody asked"),
        packed,
        parts,
        emit(fitted.design, "test", board),
        facts(fitted.design, board),
        {},
    )
    assert digest(tmp_path / "package", "emulator", 64) == digest(tmp_path / "package", "csim", 64)


@pytest.mark.csim
def test_an_int8_model_with_a_grouped_head_uses_both_engines(tiny: Path, tmp_path: Path) -> None:
    """The engine is chosen by matrix: linears in the array, the head in pacq_gemv."""
    quantize(tiny, tmp_path / "int8")
    quantize(tiny, tmp_path / "int4", weights="int4")
    graph, other = read(tmp_path / "int8"), read(tmp_path / "int4")
    head = graph.nodes[-1].weight or ""
    mixed = graph.replace(weights={**graph.weights, head: other.weights[other.nodes[-1].weight or ""]})
    mixed = rewrite(mixed)
    board = boards.load("zcu102")
    fitted = fit(mixed, board)
    assert [e.ports for e in fitted.design.engines] == [2, 2]
    parts = weight_parts(mixed, fitted.design)
    packed = pack_all(mixed, fitted.design, parts, "auto", lambda *_: None)
    schedule = place(lower(mixed, fitted.design, packed, "auto", board.bandwidth_gb_s), board)
    save(
        tmp_path / "package",
        mixed,
        fitted.design,
        schedule,
        Ahead(None, why="nobody asked"),
        packed,
        parts,
        emit(fitted.design, "test", board),
        facts(fitted.design, board),
        {},
    )
    assert digest(tmp_path / "package", "emulator", 64) == digest(tmp_path / "package", "csim", 64)


@pytest.mark.csim
def test_engines_of_two_designs_live_in_one_process(packages: dict[str, Path], expected: str) -> None:
    """Interleaved, so that any buffer they shared would be overwritten by the other."""
    names = ("one port, gemm", "zcu102", "odd block and context")
    sessions = [Session(packages[name], "csim") for name in names]
    for start in range(0, len(TOKENS), 10):
        for session in sessions:
            session.prefill(TOKENS[start : start + 10], logits="all")
    for token in STEPS:
        for session in sessions:
            session.step(token)
    assert {session.digest for session in sessions} == {expected}
    for session in sessions:
        session.close()


def test_the_emulator_follows_the_graph_closely(packages: dict[str, Path], tiny_int8: Path) -> None:
    reference = evaluate(read(tiny_int8), np.array(TOKENS))
    with Session(packages["zcu102"]) as session:
        found = session.prefill(TOKENS, logits="all")
    assert np.std(found - reference) < 0.02 * np.std(reference)
    assert (found.argmax(axis=1) == reference.argmax(axis=1)).mean() > 0.9


@pytest.mark.csim
@pytest.mark.parametrize("name", ["half the lanes", "gemm"])
def test_the_cpp_runs_clean_under_sanitizers(name: str, packages: dict[str, Path]) -> None:
    """In a process of its own: the address sanitizer must be loaded first."""
    import subprocess
    import sys

    code = (
        "import sys\nfrom pathlib import Path\nfrom meadow.machine.package.read import load\nfrom meadow.runtime.devices.csim import CSim\n"
        "from meadow.runtime import Session\n"
        "with Session(sys.argv[1], CSim(load(Path(sys.argv[1])), sanitize=True)) as session:\n"
        f"    session.prefill({TOKENS[:20]}, logits='all'); session.step(5); print(session.digest)\n"
    )
    library = subprocess.run(
        ["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    done = subprocess.run(
        [sys.executable, "-c", code, str(packages[name])],
        capture_output=True,
        text=True,
        check=False,
        env={**__import__("os").environ, "LD_PRELOAD": library, "ASAN_OPTIONS": "detect_leaks=0"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with Session(packages[name]) as session:
        session.prefill(TOKENS[:20], logits="all")
        session.step(5)
        assert done.stdout.strip() == session.digest
    assert CSim.emulated


@pytest.mark.csim
@pytest.mark.parametrize("dataflow", ["gemm", "tphs"])
def test_heads_that_do_not_fill_a_beat_are_padded(dataflow: str, tmp_path: Path) -> None:
    """4 heads of 18 over 2, in 2 ports: neither a row of scales nor a head ends at a beat."""
    from meadow.compiler.models import convert, quantize

    write_gguf(tmp_path / "m.gguf", "F16", "F16", heads=4, dim=72)
    convert(tmp_path / "m.gguf", tmp_path / "m")
    quantize(tmp_path / "m", tmp_path / "q")
    compile_model(tmp_path / "q", boards.load("kv260"), tmp_path / "p", Options(dataflow=dataflow))
    found = set()
    for device in ("emulator", "csim"):
        for block in (20, 3):
            with Session(tmp_path / "p", device) as session:
                session.prefill([(5 * i + 1) % 64 for i in range(20)], logits="all", block=block)
                session.step(9)
                found.add(session.digest)
    assert len(found) == 1
