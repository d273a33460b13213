# SPDX-License-Identifier: Apache-2.0
"""make zoo: every file of the zoo is read, compiled and run on the emulated board, and its tokens compared with onnxruntime's on the very file.

    python tests/zoo.py [FOLDER ...]      files besides the spellings that are made on the spot (tests/spellings.py)

Writes build/zoo.json and docs/models.md.  A file counts as the same where every step whose two best tokens are clearly apart agrees.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from families import TOKENS, logits_of, names, write_folder
from spellings import SPELLINGS, Spelling

from meadow import boards
from meadow.compiler.graph.evaluate import Evaluator, State
from meadow.compiler.graph.graph import Graph
from meadow.compiler.models import quantize
from meadow.compiler.pipeline import Options, compile_model
from meadow.compiler.require import matrix_problems
from meadow.compiler.sources.source import read_source
from meadow.evidence.ladder.reference import OnnxModel
from meadow.machine.errors import MeadowError, UnsupportedModel
from meadow.runtime.session import Session

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROMPT, STEPS, CONTEXT = 12, 16, 64
CLEAR = 0.25
"""Of the logits' standard deviation, by which the best token is ahead where rung 1, in floats, must choose the same."""
ROUNDED = 1.0
"""The same for the emulator, whose weights and activations are rounded to 8 bits."""


EXPORTERS = {
    "meadow20": "meadow export (torch, opset 20)",
    "torch23": "torch, fused attention, opset 23",
    "optimum18": "optimum-onnx (TorchScript, opset 18)",
    "genai": "onnxruntime-genai's builder",
}
"""Of tests/exports.py."""


@dataclass
class Row:
    """One file."""

    file: str
    family: str
    exporter: str
    quantizer: str
    read: bool = False
    compiled: bool = False
    same_tokens: bool = False
    refusal: str = ""
    expected: bool = True

    @property
    def right(self) -> bool:
        return self.same_tokens and self.compiled


def spellings(folder: Path) -> Iterator[Path]:
    """One small export with every spelling and feature, in floats and as onnxruntime's 4-bit quantizer writes it."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    for name, change in SPELLINGS.items():
        s = Spelling()
        change(s)
        path = folder / f"spelled_{name.replace(' ', '-').replace('_', '-')}_float.onnx"
        onnx.save(s.model, path)
        yield path
        for bits in (4, 8):
            made = MatMulNBitsQuantizer(onnx.load(path), bits=bits, block_size=32, is_symmetric=bits == 4)
            made.process()
            target = folder / f"spelled_{name.replace(' ', '-').replace('_', '-')}_nbits{bits}.onnx"
            onnx.save(made.model.model, target)
            yield target


def kind_of(file: Path) -> tuple[str, str, str]:
    """(family or feature, exporter, quantizer) by a file's name: exporter_family[_quantizer]."""
    stem = file.parent.name if file.stem == "model" else file.stem
    parts = stem.split("_")
    if parts[0] == "spelled":
        return parts[1], "torch dynamo, respelled", parts[2]
    if file.is_dir():
        return file.name, "Hugging Face folder", "float"
    if len(parts) > 2 and parts[-1] in ("float", "nbits4", "int8"):
        return "_".join(parts[1:-1]), EXPORTERS.get(parts[0], parts[0]), parts[-1]
    if file.parent.name == "quantized":
        return "llama3rope", parts[0], "_".join(parts[1:])
    if file.parent.name == "twisted":
        return stem, "twisted by hand", "float"
    if file.parent.name == "simplified":
        return "llama", f"{parts[0]} of {parts[-1]}", "float"
    return "_".join(parts[1:]), parts[0], "float"


def examined(file: Path) -> Row:
    """One file, read, compiled and compared."""
    onnxruntime.set_default_logger_severity(3)  # its warnings of initializers that no node reads
    row = Row(str(file), *kind_of(file))
    try:
        graph = read_source(file)
        row.read = True
        with tempfile.TemporaryDirectory() as work:
            _compare(file, graph, Path(work), row)
    except MeadowError as error:
        row.refusal = " ".join(str(error).split())[:300]
        if isinstance(error, UnsupportedModel) and error.problems:
            row.refusal = "; ".join(f"{where}: {what}" for where, what, _ in error.problems)[:300]
    return row


def _wanted(file: Path, vocab: int) -> tuple[list[int], list[np.ndarray]]:  # type: ignore[type-arg]
    """Tokens, and the logits after each of the last of them: onnxruntime's on the file, or transformers' of a folder."""
    if file.is_dir():
        return TOKENS, list(logits_of(file.name))
    reference = OnnxModel(file)
    ids = [int(i) for i in np.random.default_rng(7).integers(0, vocab, PROMPT + STEPS)]
    first = reference.step(ids[:PROMPT])[-1]
    return ids, [first, *(reference.step([i])[-1] for i in ids[PROMPT:])]


def _compare(file: Path, graph: Graph, work: Path, row: Row) -> None:
    evaluator, state = Evaluator(graph, quantized=False), State()
    ids, wanted = _wanted(file, graph.model.vocab)
    prompt = len(ids) - len(wanted) + 1
    parts = (ids[:prompt], *([i] for i in ids[prompt:]))
    found = [evaluator.run(np.array(part), state)[-1] for part in parts]
    rounds = any(
        "activations are rounded by" in note for note in graph.notes
    )  # the file itself, and the graph does not
    if not _agree(np.array(wanted), np.array(found), ROUNDED if rounds else CLEAR):
        row.refusal = "WRONG: read, and other tokens than onnxruntime's"
        return
    source = file
    if matrix_problems(graph) or graph.model.activations != "int8":
        source = work / "q"
        grouped = {w.elem.bits for w in graph.weights.values() if w.elem.group}
        options = {"weights": f"int{max(grouped)}", "head": "same"} if grouped and max(grouped) < 8 else {}
        quantize(file, source, "group" if grouped else "channel", smoothing=0.0, **options)  # type: ignore[arg-type]
    context = min(CONTEXT, graph.positions)
    settings = (("context", context), ("block", 16), ("token_lanes", 4))
    compile_model(source, boards.load("zcu102"), work / "p", Options(settings=settings))
    row.compiled = True
    with Session(work / "p", "emulator") as session:
        rows = [session.prefill(ids[:prompt])[-1], *(session.step(i) for i in ids[prompt:])]
    row.same_tokens = _agree(np.array(wanted), np.array(rows), ROUNDED)
    if not row.same_tokens:
        row.refusal = "WRONG: compiled, and other tokens than onnxruntime's at a clear gap"


def _agree(wanted: np.ndarray, found: np.ndarray, clear: float) -> bool:  # type: ignore[type-arg]
    best = np.sort(wanted, axis=1)
    sure = best[:, -1] - best[:, -2] > clear * wanted.std(axis=1)
    return bool((wanted.argmax(axis=1) == found.argmax(axis=1))[sure].all())


def main(folders: list[str]) -> None:
    refused = tomllib.loads((ROOT / "tests" / "zoo.toml").read_text())["refused"]
    with tempfile.TemporaryDirectory() as work:
        files = list(spellings(Path(work)))
        files += [write_folder(name, Path(work) / name) for name in names()]
        made = len(files)
        files += [f for folder in folders for f in sorted(Path(folder).rglob("*.onnx"))]
        with ProcessPoolExecutor(2) as pool:
            rows = list(pool.map(examined, files))
    for row in rows:
        named = [r for r in refused if r["file"] in row.file]
        row.expected = row.right if not named else any(r["says"] in row.refusal for r in named)
        row.file = (
            Path(row.file).parent.name + "/" + Path(row.file).name if Path(row.file).suffix else Path(row.file).name
        )
    rightly = sum(not r.right and r.expected for r in rows)
    found = {
        "files": len(rows),
        "made": made,
        "right": sum(r.right for r in rows),
        "refused_rightly": rightly,
        "wrong": sum(r.refusal.startswith("WRONG") for r in rows),
        "rows": [asdict(r) for r in rows],
    }
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "zoo.json").write_text(json.dumps(found, indent=1) + "\n")
    (ROOT / "docs" / "models.md").write_text(page(rows, found))
    print({k: v for k, v in found.items() if k != "rows"})
    for row in rows:
        if not row.expected:
            print(f"{row.file}: {row.refusal}")
    if found["wrong"] or not all(r.expected for r in rows):
        raise SystemExit(1)


def page(rows: list[Row], found: dict[str, object]) -> str:
    """docs/models.md."""
    lines = [
        "# What is read, compiled and run",
        "",
        f"Printed by `make zoo ZOO=FOLDER`, measured: {found['files']} files ({found['made']} spelled here and Hugging Face folders, the others exports that "
        f"`make exports` writes, and those in FOLDER), {found['right']} compiled with onnxruntime's tokens on the very file (transformers' for a folder), "
        f"{found['refused_rightly']} refused with the cause that `tests/zoo.toml` names, {found['wrong']} wrong.",
        "",
        f"Small random models, {PROMPT} tokens of a prompt and {STEPS} after it. Those with float weights, or 4-bit weights that no engine takes, are quantized first.",
        "`same` means: the file is read, compiled for the ZCU102 and run on the emulated board, and the best token is onnxruntime's wherever",
        f"that is ahead by more than {CLEAR} standard deviations of the logits (the graph in floats; {ROUNDED:g} where the file rounds activations) and by more than",
        f"{ROUNDED:g} (the emulated board).",
        "",
        "| family or feature | exporter | quantizer: result |",
        "|---|---|---|",
    ]
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.family, row.exporter].append(row)
    for (family, exporter), some in sorted(groups.items()):
        marks = [
            f"{r.quantizer}: " + ("same" if r.right else f"refused ({r.refusal.split(': ', 1)[-1][:70]})") for r in some
        ]
        lines.append(f"| {family} | {exporter} | {'; '.join(marks).replace('|', '/')} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(sys.argv[1:])
