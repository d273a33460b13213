# SPDX-License-Identifier: Apache-2.0
"""bench packing: how near to the entropy of its weights every matrix of a package is stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meadow.machine.engines.array import Array
from meadow.machine.package.read import Package
from meadow.machine.storage.packets import SCHEMES as PUBLISHED


def measure(package: Package, progress: Any = lambda done, total: None) -> dict[str, Any]:
    """Rows of every stored matrix and their sum.  Bits count tables, directories and padding."""
    rows = []
    stored = package.packing()
    for number, entry in enumerate(stored):
        progress(number + 1, len(stored))
        rows.append(_row(package, entry))
    return {"package": str(package.folder), "kind": "measured", "whole": _whole(rows), "matrices": rows}


def _row(package: Package, entry: dict[str, Any]) -> dict[str, Any]:
    """One matrix.  The published schemes pack INT8 codes; a grouped matrix counts as it is stored."""
    from meadow.compiler.engines.array import published_bytes
    from meadow.machine.engines.columns import Columns
    from meadow.machine.engines.pacq import Pacq
    from meadow.machine.storage.coded import format_of
    from meadow.machine.storage.groups import GroupFormat

    count = entry["rows"] * entry["cols"]
    bits = 8 * entry["bytes"] / count
    if Pacq.takes(entry["format"]):
        scheme = str(GroupFormat.of_word(entry["format"]))
        published, best = dict.fromkeys(PUBLISHED, bits), bits
    else:
        columns = Columns.takes(entry["format"])
        scheme = "raw, columns" if columns else str(format_of(entry["format"])) if entry["format"] else "raw"
        codes = package.matrix(entry).codes
        published = {s: 8 * published_bytes(codes[:, : entry["cols"]], s) / count for s in PUBLISHED}
        best = min(8.0, published["frequency"])
    return {
        "name": entry["name"],
        "shape": [entry["rows"], entry["cols"]],
        "scheme": scheme,
        "bits_per_weight": bits,
        "entropy_bits": entry["entropy_bits"],
        "share_of_bound": _share(entry["entropy_bits"], bits),
        "published_bits": published,
        "published_share": _share(entry["entropy_bits"], best),
        "weights_per_cycle": count / max(1, entry["bus_cycles"]),
        "ports": entry["ports"],
    }


def _whole(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """All matrices together, each by its number of weights."""
    weights = [r["shape"][0] * r["shape"][1] for r in rows]
    total = sum(weights)

    def mean(of: Callable[[dict[str, Any]], float]) -> float:
        return sum(of(r) * n for r, n in zip(rows, weights, strict=True)) / total

    bits, entropy = mean(lambda r: r["bits_per_weight"]), mean(lambda r: r["entropy_bits"])
    published = {s: mean(lambda r, s=s: r["published_bits"][s]) for s in PUBLISHED}  # type: ignore[misc]
    return {
        "weights": total,
        "bits_per_weight": bits,
        "entropy_bits": entropy,
        "share_of_bound": entropy / bits,
        "published_bits": published,
        "published_share": {s: entropy / bits for s, bits in published.items()},
        "weights_per_cycle": total / sum(n / r["weights_per_cycle"] for n, r in zip(weights, rows, strict=True)),
    }


def _share(entropy: float, bits: float) -> float:
    return entropy / bits if bits else 1.0


def simulated_rate(package: Package) -> dict[str, Any]:
    """Weights that the look-up units gave in a cycle, and the share of cycles in which a beat went in: one decode step."""
    from meadow.runtime.session import Session

    with Session(package.folder, "csim") as session:
        before = session.device.counters
        session.step(1)
        after = session.device.counters
    ports = package.design.engine(Array).ports
    cycles = after.cycles["unpack"] - before.cycles["unpack"]
    beats = after.cycles["fetch"] - before.cycles["fetch"]
    weights = sum(row["rows"] * row["cols"] for row in package.packing())
    return {
        "kind": "simulated",
        "cycles_per_port": cycles / ports,
        "beats_per_port": beats / ports,
        "beats_per_cycle": beats / cycles,
        "weights_per_cycle_and_port": weights / cycles,
        "weights_per_cycle": weights / cycles * ports,
    }
