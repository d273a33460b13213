# SPDX-License-Identifier: Apache-2.0
"""bench packing: Prints how near to the entropy of its weights every matrix is stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from meadow.cli import results
from meadow.cli.output import emit_json, json_option, out, table
from meadow.cli.progress import stages
from meadow.cli.trust import require_trust, trust_option
from meadow.evidence.bench.packing import measure, simulated_rate
from meadow.machine.engines.array import Array
from meadow.machine.package.read import load

DEFAULT = Path("build/smollm2-tensor")


@click.command("packing")
@click.argument("package", type=click.Path(path_type=Path), default=DEFAULT)
@click.option("--simulate/--no-simulate", default=True, help="Count a token's unpacking cycles in the C simulation.")
@trust_option
@json_option
def packing_command(package: Path, simulate: bool, trust: bool, as_json: bool) -> None:
    """Print bits per weight of each matrix of PACKAGE beside its order-0 entropy and the published packing.

    \b
    Example:
      meadowc bench packing build/smollm2-tensor --json
    """
    opened = load(package)
    if simulate:
        require_trust(opened, trust)
    with stages(("matrix", "simulate"), as_json) as show:
        result = measure(opened, lambda done, total: show("matrix", f"{done}/{total}"))
        if simulate and opened.design.engine(Array).ports:  # pacq_gemv unpacks nothing
            show("simulate", "one token on the C simulation")
            result["unpack"] = simulated_rate(opened)
    whole = result["whole"]
    found = [
        (
            "bits per weight, whole model",
            f"{whole['bits_per_weight']:.3f}, {whole['share_of_bound']:.1%} of the entropy",
            "measured",
        )
    ]
    if "unpack" in result:
        found.append(
            ("cycles in which the look-up unit takes a beat", f"{result['unpack']['beats_per_cycle']:.1%}", "simulated")
        )
    results.keep(opened, found)
    if as_json:
        emit_json(result)
    else:
        _show(package, result)


def _show(package: Path, result: dict[str, Any]) -> None:
    rows = table(
        f"{package}: bits per weight (measured; tables, directories and padding counted)",
        "matrix",
        "shape",
        "stored as",
        "bits",
        "entropy",
        "share",
        "published",
        "weights/cycle",
    )
    for r in (
        [*result["matrices"][:12], None, *result["matrices"][-3:]]
        if len(result["matrices"]) > 16
        else result["matrices"]
    ):
        if r is None:
            rows.add_row("...", "", "", "", "", "", "", "")
            continue
        rows.add_row(
            r["name"],
            "x".join(map(str, r["shape"])),
            r["scheme"],
            f"{r['bits_per_weight']:.3f}",
            f"{r['entropy_bits']:.3f}",
            f"{r['share_of_bound']:.1%}",
            f"{r['published_bits']['frequency']:.3f}",
            f"{r['weights_per_cycle']:.1f}",
        )
    out.print(rows)
    w = result["whole"]
    out.print(
        f"whole model: {w['bits_per_weight']:.3f} bits per weight, order-0 entropy {w['entropy_bits']:.3f}: {w['share_of_bound']:.1%} of the bound"
    )
    for scheme, bits in w["published_bits"].items():
        out.print(
            f"  published, {scheme}: {bits:.3f} bits, {bits / 8:.2f} of INT8, {w['published_share'][scheme]:.1%} of the bound"
        )
    if "unpack" in result:
        u = result["unpack"]
        out.print(
            f"unpacking one token (simulated): {u['weights_per_cycle']:.1f} weights per cycle over all ports, "
            f"a beat goes in in {u['beats_per_cycle']:.1%} of the cycles"
        )
