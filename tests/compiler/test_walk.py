# SPDX-License-Identifier: Apache-2.0
"""Rounding on calibration text, end to end on the tiny model: what is written, what it is worth, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meadow import boards
from meadow.compiler.graph.calibration import KEY, calibration_of
from meadow.compiler.graph.evaluate import Evaluator, State
from meadow.compiler.graph.ops import Linear
from meadow.compiler.models import quantize
from meadow.compiler.pipeline import Options, compile_model
from meadow.compiler.quantize import solve, walk
from meadow.compiler.quantize.calibrate import Calibration, calibration_windows
from meadow.compiler.quantize.kept import Kept
from meadow.compiler.quantize.recipe import Recipe, round_graph
from meadow.compiler.quantize.solve import solve_graph
from meadow.compiler.quantize.walk import BETAS, Method, Walk
from meadow.compiler.sources.onnx.read import read
from meadow.machine.errors import UsageError
from meadow.machine.types import Weight, grouped
from meadow.runtime.session import Session

WORDS = [
    "harbour",
    "boats",
    "lamp",
    "oil",
    "water",
    "letter",
    "garden",
    "winter",
    "road",
    "paper",
    "glass",
    "river",
    "night",
    "morning",
    "market",
    "bread",
    "stone",
    "window",
    "engine",
    "field",
    "mountain",
    "captain",
    "island",
    "summer",
    "price",
    "winter",
    "table",
    "question",
    "answer",
]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some thousand tokens of sentences."""
    random = np.random.default_rng(7)
    file = tmp_path_factory.mktemp("text") / "text.txt"
    lines = (" ".join(random.choice(WORDS, random.integers(4, 12))).capitalize() + "." for _ in range(2500))
    file.write_text(" ".join(lines))
    return file


def loss(folder: Path, reference: Path, ids: np.ndarray[Any, Any]) -> float:
    """How far the logits of a quantized file are from the float model's."""
    mine, wanted = (
        Evaluator(read(f), quantized).run(ids, State()) for f, quantized in ((folder, True), (reference, False))
    )
    return float(np.linalg.norm(mine - wanted) / np.linalg.norm(wanted))


def test_each_method_is_nearer_to_the_float_model_than_the_one_before(tiny: Path, text: Path, tmp_path: Path) -> None:
    tokens = calibration_windows(
        read(tiny),
        (tiny / "tokenizer.json").read_bytes(),
        Calibration(str(text), 6144, 9),
        lambda name, *_: Path(name).read_text(),
    )
    found = {}
    for name in ("rtn", "gptq", "shift"):
        report = quantize(
            tiny, tmp_path / name, weights="int2", method=Method(name), calibration=Calibration(str(text), 4096)
        )
        found[name] = np.mean([loss(tmp_path / name, tiny, ids) for ids in tokens[-8:]])
        assert report["method"] == name
    assert found["shift"] < found["gptq"] < found["rtn"], found


def test_what_was_done_is_written_into_the_file_and_told(tiny: Path, text: Path, tmp_path: Path) -> None:
    report = quantize(
        tiny, tmp_path / "q", weights="int2", method=Method("shift"), calibration=Calibration(str(text), 4096, 3)
    )
    kept = json.loads(read(tmp_path / "q").metadata["meadow.calibration"])
    assert kept["method"] == "shift" and kept["tokens"] == 4096 and kept["seed"] == 3 and kept["text"] == "text.txt"
    assert (
        kept["held"] == report["calibration"]["held"] > 0 and kept["beta"] is None and len(kept["tokens_sha256"]) == 64
    )
    rows = report["errors"]
    assert len(rows) == len(kept["errors"]) and {r["beta"] for r in rows} <= set(BETAS)
    assert np.mean([r["error"] for r in rows]) < np.mean([r["nearest"] for r in rows])
    assert report["changed_codes"] > 0 and str(text.parent) not in json.dumps(kept), "no path of this machine"


@pytest.mark.parametrize("how", [("int8", "tensor"), ("int8", "channel"), ("int4", "channel"), ("int3", "channel")])
def test_every_grid_is_solved_compiled_and_run(how: tuple[str, str], tiny: Path, text: Path, tmp_path: Path) -> None:
    weights, granularity = how
    quantize(
        tiny,
        tmp_path / "q",
        granularity,
        weights=weights,
        method=Method("gptaq"),
        calibration=Calibration(str(text), 2048),
    )
    graph = read(tmp_path / "q")
    linears = [n for n in graph.nodes if type(n.op) is Linear]
    for node in linears:
        weight = graph.weight_of(node)
        if weights == "int8":
            assert weight.elem.bits == 8 and not weight.elem.group
            assert granularity == "channel" or (weight.scale is not None and len(set(weight.scale.tolist())) == 1)
        else:
            assert weight.elem.bits == 4 and weight.elem.group == 32
            assert int(weight.codes.max()) < 1 << int(weights[3:])
    compile_model(tmp_path / "q", boards.load("zcu102"), tmp_path / "p", Options())
    with Session(tmp_path / "p", "emulator") as session:
        assert len(list(session.generate([1, 2, 3], 4))) == 4


def test_the_same_text_gives_the_same_bytes_and_another_seed_others(tiny: Path, text: Path, tmp_path: Path) -> None:
    made = []
    for number, seed in enumerate((0, 0, 1)):
        quantize(
            tiny,
            tmp_path / str(number),
            weights="int2",
            method=Method("gptaq"),
            calibration=Calibration(str(text), 2048, seed),
        )
        made.append((tmp_path / str(number) / "model.onnx.data").read_bytes())
    assert made[0] == made[1] != made[2]


def test_the_device_stream_is_what_the_rounded_graph_computes(
    tiny: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, tokenizer = read(tiny), (tiny / "tokenizer.json").read_bytes()
    recipe, wish = Recipe(4, "group"), Calibration(str(text), 1024)
    windows = calibration_windows(graph, tokenizer, wish, lambda name, seed, most: Path(name).read_text())
    nearest, _ = round_graph(graph, recipe, None, lambda text: None)
    seen: dict[str, Any] = {}

    class Watched(Walk):
        def _solve(self, nodes: Any) -> None:
            seen[nodes[0].name] = self.device.values[nodes[0].inputs[0]].copy()
            super()._solve(nodes)

    monkeypatch.setattr(solve, "Walk", Watched)
    made = solve_graph(graph, nearest, recipe, Method("gptq"), windows, wish, lambda text: None)
    inputs: dict[str, list[Any]] = {}
    for window in windows:
        Evaluator(made.graph, quantized=True).run(
            window, State(), lambda node, x: inputs.setdefault(node.name, []).append(x)
        )
    for name, values in seen.items():
        wanted = np.concatenate(inputs[name])
        off = float(np.linalg.norm(values - wanted) / np.linalg.norm(wanted))
        assert off < 5e-3, (name, off)  # a code of the cache may fall to the other side of a tie


def test_matrices_that_lie_on_the_grid_already_stay_and_it_is_said(tiny_int4: Path, text: Path, tmp_path: Path) -> None:
    before = read(tiny_int4)
    report = quantize(
        tiny_int4, tmp_path / "q", weights="int4", method=Method("shift"), calibration=Calibration(str(text), 2048)
    )
    after = read(tmp_path / "q")
    assert report["changed_codes"] == 0 and any("lie on that grid already" in note for note in report["notes"])
    for node in after.nodes:
        if type(node.op) is Linear:
            assert (after.weight_of(node).codes == before.weights[node.weight or ""].codes).all()


def test_a_run_that_was_interrupted_is_not_solved_again(
    tiny: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wish = Calibration(str(text), 2048)
    quantize(tiny, tmp_path / "whole", weights="int2", method=Method("shift"), calibration=wish)
    count = 0

    class Interrupted(Walk):
        def _fitted(self, *args: Any) -> Any:
            nonlocal count
            count += 1
            if count == 6:
                raise KeyboardInterrupt
            return super()._fitted(*args)

    monkeypatch.setattr(solve, "Walk", Interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            quantize(tiny, tmp_path / "q", weights="int2", method=Method("shift"), calibration=wish)
        assert not (tmp_path / "q").exists() and (tmp_path / ".q.solving").is_dir()
        count = 3  # six are done then: five, and two more but for the last
    count = -1000
    report = quantize(tiny, tmp_path / "q", weights="int2", method=Method("shift"), calibration=wish)
    assert any(
        "7 of 16 groups of matrices were solved by a run that was interrupted" in note for note in report["notes"]
    )
    assert not (tmp_path / ".q.solving").exists()
    for name in ("model.onnx.data",):
        assert (tmp_path / "q" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("rows", [64, 8192])
def test_a_tied_head_of_few_bits_is_solved_in_pieces_or_whole(
    rows: int, tiny: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "ROWS", rows)
    how = {"weights": "int4", "head": "same"}
    calibration = Calibration(str(text), 2048)
    report = quantize(tiny, tmp_path / "q", **how, method=Method("gptq"), calibration=calibration)  # type: ignore[arg-type]
    quantize(tiny, tmp_path / "r", **how)  # type: ignore[arg-type]
    solved, nearest = read(tmp_path / "q"), read(tmp_path / "r")
    head = solved.nodes[-1]
    assert head.weight != solved.nodes[0].weight and solved.weight_of(head).elem.bits == 4
    assert solved.weight_of(head).shape == nearest.weight_of(nearest.nodes[-1]).shape
    assert (solved.weight_of(head).codes != nearest.weight_of(nearest.nodes[-1]).codes).any()
    assert report["errors"][-1]["error"] < report["errors"][-1]["nearest"]


def test_what_is_kept_of_another_run_or_damaged_is_solved_anew(tiny: Path, text: Path, tmp_path: Path) -> None:
    weight = Weight(
        "w", grouped(2, 16), np.ones((3, 16), np.uint8), np.ones((3, 1), np.float32), np.ones((3, 1), np.float32)
    )
    kept = Kept(tmp_path / "q", "key")
    kept.save(0, [weight], [0.5, 0.25, 0.5, 0.01, 0, 16])
    again = Kept(tmp_path / "q", "key").load(0, ["w"], [weight])
    assert again is not None and (again[0][0].codes == weight.codes).all() and again[1][0] == 0.5
    other = Weight("w", grouped(2, 16), np.ones((3, 32), np.uint8), np.ones((3, 2), np.float32))
    assert Kept(tmp_path / "q", "key").load(0, ["w"], [other]) is None, "another shape"
    file = tmp_path / ".q.solving" / "0.npz"
    file.write_bytes(file.read_bytes()[:100])
    assert Kept(tmp_path / "q", "key").load(0, ["w"], [weight]) is None, "not whole"
    assert not (Kept(tmp_path / "q", "another key").folder / "0.npz").exists()
    (tmp_path / ".x.solving").mkdir()
    (tmp_path / ".x.solving" / "mine").write_text("somebody's")
    with pytest.raises(UsageError, match="stands where the solver keeps"):
        Kept(tmp_path / "x", "key")
    assert (tmp_path / ".x.solving" / "mine").read_text() == "somebody's"


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (Calibration("nowhere.txt"), "neither 'wikipedia' nor a file"),
        (Calibration("TEXT", 100), "no two windows"),
        (Calibration("TEXT", 1 << 20), "tokens and --tokens 1048576 are asked for"),
        (Calibration("BINARY"), "not UTF-8"),
    ],
)
def test_text_that_will_not_do_is_refused(wish: Calibration, said: str, tiny: Path, text: Path, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00" * 100)
    names = {"TEXT": str(text), "BINARY": str(tmp_path / "binary")}
    asked = Calibration(names.get(wish.text, wish.text), wish.tokens)
    with pytest.raises(UsageError, match=said):
        quantize(tiny, tmp_path / "q", weights="int2", method=Method("shift"), calibration=asked)
    assert not (tmp_path / "q").exists()


def test_without_a_tokenizer_the_solver_is_refused_and_nearest_is_not(tiny: Path, text: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("model.onnx", "model.onnx.data"):
        (bare / name).write_bytes((tiny / name).read_bytes())
    with pytest.raises(UsageError, match="no tokenizer.json beside the model"):
        quantize(bare, tmp_path / "q", weights="int2", method=Method("gptq"), calibration=Calibration(str(text)))
    assert quantize(bare, tmp_path / "q", weights="int2")["method"] == "rtn"


def test_memory_that_would_not_do_is_refused_with_what_would(
    tiny: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meminfo").write_text("MemAvailable:    6000 kB\n")
    monkeypatch.setattr(solve, "MEMINFO", tmp_path / "meminfo")
    with pytest.raises(UsageError, match=r"need 0\.1 GB and 0\.0 GB are free; --tokens \d+ would do"):
        quantize(tiny, tmp_path / "q", weights="int2", method=Method("gptq"), calibration=Calibration(str(text), 8192))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--tokens", "512"), "--tokens: of no use with --method rtn"),
        (("--method", "gptq", "--beta", "0.5"), "--beta: of no use with --method gptq"),
        (("--method", "shift", "--alpha", "0.5"), "--alpha: of no use with --method shift"),
        (("--method", "shift", "--beta", "much"), "--beta is 'much'; a number from 0 to 1, or auto"),
        (("--method", "shift", "--beta", "2"), "--beta is '2'"),
    ],
)
def test_options_of_another_method_are_refused(
    options: tuple[str, ...], said: str, tiny: Path, tmp_path: Path, meadowc: Any
) -> None:
    result = meadowc("quantize", tiny, "-o", tmp_path / "q", "--weights", "int2", *options)
    assert result.code == 2 and said in result.err


def test_the_command_shows_errors_before_and_after(tiny: Path, text: Path, tmp_path: Path, meadowc: Any) -> None:
    how = ("--weights", "int2", "--method", "shift", "--calibrate", text, "--tokens", "2048")
    result = meadowc("quantize", tiny, "-o", tmp_path / "q", *how)
    assert result.code == 0 and "solved by shift on" in result.out and "errors of outputs" in result.out
    assert "codes are others than by nearest" in result.out


def test_the_report_draws_the_errors_and_inspect_names_the_text(
    tiny: Path, text: Path, tmp_path: Path, meadowc: Any
) -> None:
    quantize(tiny, tmp_path / "q", weights="int2", method=Method("shift"), calibration=Calibration(str(text), 2048))
    assert "calibrated: shift on 2,048 tokens of text.txt (seed 0)" in meadowc("inspect", tmp_path / "q").out
    compile_model(tmp_path / "q", boards.load("zcu102"), tmp_path / "p", Options())
    assert meadowc("report", tmp_path / "p").code == 0
    page = (tmp_path / "p" / "report" / "index.html").read_text()
    assert 'id="calibration"' in page and 'data-figure="errors"' in page and "relative error of their outputs" in page


RECORD = {
    "method": "shift",
    "text": "a",
    "tokens": 1,
    "windows": 1,
    "held": 0,
    "seed": 0,
    "errors": [["w", 0.5, 0.25, 1]],
}


@pytest.mark.parametrize(
    "change",
    [
        {"method": "magic"},
        {"text": "\x1b[2J"},
        {"text": 3},
        {"tokens": "many"},
        {"errors": [["w", float("nan"), 1, 1]]},
        {"errors": [["w", 1]]},
        {"errors": {}},
    ],
)
def test_a_record_from_anybody_is_read_whole_or_not_at_all(change: dict[str, Any]) -> None:
    assert calibration_of({KEY: json.dumps(RECORD)}) == RECORD
    assert calibration_of({KEY: json.dumps({**RECORD, **change})}) is None
    for damaged in ("", "{", "[" * 100_000, "null", " " * (2 << 20)):
        assert calibration_of({KEY: damaged}) is None
