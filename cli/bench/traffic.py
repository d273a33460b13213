# SPDX-License-Identifier: Apache-2.0
"""bench traffic: Prints predicted and counted DRAM bytes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from meadow.cli import results
from meadow.cli.output import emit_json, json_option, megabytes, out, table
from meadow.cli.progress import stages
from meadow.cli.trust import require_trust, trust_option
from meadow.evidence.bench.traffic import measure
from meadow.evidence.ladder.reference import reference_model
from meadow.evidence.ladder.verify import dataflow_packages
from meadow.machine.errors import UsageError
from meadow.machine.package.read import load

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
    results.keep(
        opened,
        [
            (
                "DRAM bytes as predicted, by GEMM and TPHS",
                f"{sum(r['equal'] for r in rows)} of {len(rows)} runs",
                "simulated",
            )
        ],
    )
    if as_json:
        emit_json(
            {
                "package": str(package),
                "kind": {"predicted": "modelled", "counted": "simulated"},
                "equal": equal,
                "rows": rows,
            }
        )
    else:
        _show(package, rows, equal)
    if not equal:
        raise click.exceptions.Exit(4)


def _show(package: Path, rows: list[dict[str, Any]], equal: bool) -> None:
    made = table(
        f"{package}: DRAM traffic, predicted (modelled) and counted (simulated)",
        "phase",
        "prompt",
        "dataflow",
        "predicted",
        "counted",
        "equal",
        "Q, S, P",
        "weights",
        "KV",
        "activations",
        "loops equal",
    )
    for r in rows:
        roles = r["by_role"]
        made.add_row(
            r["phase"],
            str(r["prompt"]),
            r["dataflow"],
            f"{r['predicted_bytes']:,}",
            f"{r['counted_bytes']:,}",
            "yes" if r["equal"] else "NO",
            megabytes(r["intermediate_bytes"]),
            megabytes(roles["weights"]),
            megabytes(roles["kv"]),
            megabytes(roles["activations"]),
            "yes" if r["cycles_equal"] else "NO",
        )
    out.print(made)
    out.print(
        f"bytes are equal on every port, direction and role, and iterations of every loop that the codes do not decide: {'yes' if equal else 'NO'}"
    )
