# SPDX-License-Identifier: Apache-2.0
"""bench traffic: the DRAM bytes that the schedule predicts beside those that the C simulation counts at its ports.

The prediction (compiler/traffic.py) reads the program's steps; the count (hls/sim/traffic.hpp) is made at each access.
They share no code.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from meadow.cli.output import emit_json, json_option, megabytes, out, stages, table
from meadow.cli.reference import reference_model
from meadow.cli.trust import require_trust, trust_option
from meadow.cli.verify import dataflow_packages
from meadow.compiler.errors import UsageError
from meadow.compiler.package import Package, load

DEFAULT = Path("build/smollm2")
PROMPTS = (16, 32, 64, 100, 128, 256, 384, 512)


@click.command("traffic")
@click.argument("package", type=click.Path(path_type=Path), default=DEFAULT)
@click.option(
    "--prompts",
    default="",
    help=f"Prompt lengths [default: those of {','.join(map(str, PROMPTS))} that the context holds].",
)
@trust_option
@json_option
def traffic_command(package: Path, prompts: str, trust: bool, as_json: bool) -> None:
    """Count what PACKAGE moves, by GEMM and by TPHS, prefill and one decoded token, beside the prediction.

    Exit code 4 when a count differs.

    \b
    Example:
      meadowc bench traffic build/smollm2 --prompts 16,512 --json
    """
    opened = load(package)
    require_trust(opened, trust)
    limit = opened.design.context
    try:
        lengths = [int(text) for text in prompts.split(",")] if prompts else [n for n in PROMPTS if n < limit]
    except ValueError:
        raise UsageError(f"--prompts {prompts!r}: whole numbers with commas are expected") from None
    if not lengths or min(lengths) < 1 or max(lengths) >= limit:
        raise UsageError(f"--prompts {prompts!r}: lengths from 1 to {limit - 1} are possible (the context is {limit})")
    rows = []
    with tempfile.TemporaryDirectory() as work, stages(("count",), as_json) as show:
        for dataflow, folder in dataflow_packages(opened, reference_model(opened, None), Path(work)):
            rows += measure(load(folder), dataflow, lengths, lambda what: show("count", what))
    rows.sort(key=lambda r: (r["phase"] != "prefill", r["prompt"], r["dataflow"]))
    equal = all(r["predicted_bytes"] == r["counted_bytes"] and r["equal"] and r["cycles_equal"] for r in rows)
    if as_json:
        emit_json({"package": str(package), "kind": {"predicted": "modelled", "counted": "simulated"}, "equal": equal,
                   "rows": rows})  # fmt: skip
    else:
        _show(package, rows, equal)
    if not equal:
        raise click.exceptions.Exit(4)


def measure(
    package: Package, dataflow: str, prompts: list[int], progress: Any = lambda what: None
) -> list[dict[str, Any]]:
    """A row for the prefill of each prompt, and one for the token after it."""
    from meadow.runtime.csim_engine import ROLES
    from meadow.runtime.session import Session

    rows = []
    with Session(package.folder, "csim") as session:
        vocabulary = int(package.model["vocab"])
        for length in prompts:
            progress(f"{dataflow}, {length} tokens")
            session.reset()
            for phase, tokens in (("prefill", length), ("decode", 1)):
                position = session.position
                before = session.device.counters
                if phase == "prefill":
                    session.prefill([(7 * i + 11) % vocabulary for i in range(length)])
                else:
                    session.step(7 % vocabulary)
                after = session.device.counters
                counted = {name: n - before.bytes[name] for name, n in after.bytes.items() if n != before.bytes[name]}
                predicted = predict(package, phase, position, tokens)
                rows.append({
                    "dataflow": dataflow, "prompt": length, "phase": phase, "predicted_bytes": sum(predicted.values()),
                    "counted_bytes": sum(counted.values()), "equal": predicted == counted,
                    "intermediate_bytes": _role(counted, "intermediates"),
                    "by_role": {role: _role(counted, role) for role in ROLES},
                    "bursts": sum(after.bursts.values()) - sum(before.bursts.values()),
                    **_loops(package, phase, position, tokens, {k: n - before.cycles[k] for k, n in after.cycles.items()}),
                })  # fmt: skip
    return rows


def _loops(package: Package, program: str, position: int, tokens: int, counted: dict[str, int]) -> dict[str, Any]:
    """Iterations of the pipelined loops, predicted and counted; unpacking prefix codes depends on the codes and is only counted."""
    predicted = predict_loops(package, program, position, tokens)
    same = all(counted[loop] == n for loop, n in predicted.items())
    return {"predicted_cycles": predicted, "counted_cycles": counted, "cycles_equal": same}


def predict_loops(package: Package, program: str, position: int, tokens: int) -> dict[str, int]:
    """The sum over the steps of all blocks.  A loop that some step cannot predict is left out."""
    from meadow.compiler.cost import step_loops
    from meadow.compiler.traffic import blocks

    steps = package.steps(program)
    total: dict[str, int] = {}
    unknown: set[str] = set()
    for start, some, logits in blocks(tokens, package.design.block if program == "prefill" else 1):
        for step in steps:
            found = step_loops(step, package.design, some, position + start, logits)
            for loop, n in found.items():
                total[loop] = total.get(loop, 0) + n
            if "fetch" in found and "unpack" not in found:
                unknown.add("unpack")
    return {loop: n for loop, n in total.items() if loop not in unknown}


def predict(package: Package, program: str, position: int, tokens: int) -> dict[str, int]:
    """Bytes by "PORT.ROLE.read" or ".written": a prompt from the start, or tokens of one run after `position`."""
    from meadow.compiler.design import BEAT_BYTES
    from meadow.compiler.traffic import prompt_beats, run_beats

    steps, chunks = package.steps(program), len(package.chunks)
    if program == "prefill":
        beats = prompt_beats(steps, package.design, tokens, chunks)
    else:
        beats = run_beats(steps, package.design, tokens, position, chunks)
    return {f"{port}.{role}.{way}": n * BEAT_BYTES for (port, way, role), n in beats.items() if n}


def _role(counted: dict[str, int], role: str) -> int:
    return sum(n for name, n in counted.items() if name.split(".")[1] == role)


def _show(package: Path, rows: list[dict[str, Any]], equal: bool) -> None:
    made = table(f"{package}: DRAM traffic, predicted (modelled) and counted (simulated)", "phase", "prompt", "dataflow", "predicted",
                 "counted", "equal", "Q, S, P", "weights", "KV", "activations", "loops equal")  # fmt: skip
    for r in rows:
        roles = r["by_role"]
        made.add_row(r["phase"], str(r["prompt"]), r["dataflow"], f"{r['predicted_bytes']:,}", f"{r['counted_bytes']:,}",
                     "yes" if r["equal"] else "NO", megabytes(r["intermediate_bytes"]), megabytes(roles["weights"]),
                     megabytes(roles["kv"]), megabytes(roles["activations"]),
                     "yes" if r["cycles_equal"] else "NO")  # fmt: skip
    out.print(made)
    out.print(
        f"bytes are equal on every port, direction and role, and iterations of every loop that the codes do not decide: {'yes' if equal else 'NO'}"
    )
