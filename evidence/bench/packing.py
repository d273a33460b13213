# SPDX-License-Identifier: Apache-2.0
"""bench packing: how near to the entropy of its weights every matrix of a package is stored."""

from __future__ import annotations

from typing import Any

from meadow.machine.package.read import Package
from meadow.machine.storage.packets import SCHEMES as PUBLISHED


def measure(package: Package, progress: Any = lambda done, total: None) -> dict[str, Any]:
    """Rows of every stored matrix and their sum.  Bits count tables, directories and padding."""
    from meadow.compiler.program.pack import published_bytes
    from meadow.machine.storage.coded import format_of
    from meadow.machine.storage.groups import GroupFormat, is_grouped
    from meadow.machine.storage.rows import Layout

    rows = []
    stored = package.packing()
    for number, entry in enumerate(stored):
        progress(number + 1, len(stored))
        count = entry["rows"] * entry["cols"]
        if is_grouped(entry["format"]):
            bits = 8 * entry["bytes"] / count
            rows.append(
                {
                    "name": entry["name"],
                    "shape": [entry["rows"], entry["cols"]],
                    "scheme": str(GroupFormat.of_word(entry["format"])),
                    "bits_per_weight": bits,
                    "entropy_bits": entry["entropy_bits"],
                    "share_of_bound": _share(entry["entropy_bits"], bits),
                    "published_bits": dict.fromkeys(PUBLISHED, bits),
                    "published_share": _share(entry["entropy_bits"], bits),
                    "weights_per_cycle": count / max(1, entry["bus_cycles"]),
                    "ports": entry["ports"],
                }
            )
            continue
        codes, _ = package.matrix(entry)
        layout = Layout(entry["rows"], entry["cols"], entry["ports"], entry["tile_rows"])
        published = {s: 8 * published_bytes(codes[:, : entry["cols"]], s) / count for s in PUBLISHED}
        bits = 8 * entry["bytes"] / count
        rows.append(
            {
                "name": entry["name"],
                "shape": [entry["rows"], entry["cols"]],
                "scheme": str(format_of(entry["format"])) if entry["format"] else "raw",
                "bits_per_weight": bits,
                "entropy_bits": entry["entropy_bits"],
                "share_of_bound": _share(entry["entropy_bits"], bits),
                "published_bits": published,
                "published_share": _share(entry["entropy_bits"], min(8.0, published["frequency"])),
                "weights_per_cycle": count / max(1, entry["bus_cycles"]),
                "ports": layout.ports,
            }
        )
    weights = [r["shape"][0] * r["shape"][1] for r in rows]

    def mean(key: str) -> float:
        return sum(r[key] * n for r, n in zip(rows, weights, strict=True)) / sum(weights)

    published = {
        s: sum(r["published_bits"][s] * n for r, n in zip(rows, weights, strict=True)) / sum(weights) for s in PUBLISHED
    }
    whole = {
        "weights": sum(weights),
        "bits_per_weight": mean("bits_per_weight"),
        "entropy_bits": mean("entropy_bits"),
        "share_of_bound": mean("entropy_bits") / mean("bits_per_weight"),
        "published_bits": published,
        "published_share": {s: mean("entropy_bits") / bits for s, bits in published.items()},
        "weights_per_cycle": sum(weights) / sum(n / r["weights_per_cycle"] for n, r in zip(weights, rows, strict=True)),
    }
    return {"package": str(package.folder), "kind": "measured", "whole": whole, "matrices": rows}


def _share(entropy: float, bits: float) -> float:
    return entropy / bits if bits else 1.0


def simulated_rate(package: Package) -> dict[str, Any]:
    """Weights that the look-up units gave in a cycle, and the share of cycles in which a beat went in: one decode step."""
    from meadow.runtime.session import Session

    with Session(package.folder, "csim") as session:
        before = session.device.counters
        session.step(1)
        after = session.device.counters
    ports = package.design.weight_ports
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
