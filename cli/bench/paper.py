# SPDX-License-Identifier: Apache-2.0
"""bench paper: Prints the cost model beside MEADOW's figures, and on the boards of today."""

from __future__ import annotations

from typing import Any

import click

from meadow.cli.output import emit_json, json_option, listing, out, table
from meadow.cli.progress import stages
from meadow.evidence.bench.paper import (
    BANDWIDTHS,
    ELEMENTS,
    assumptions,
    boards_today,
    dataflow_map,
    packing,
    rows,
    sensitivity,
)


@click.command("paper")
@click.option("--today/--no-today", default=True, help="Also price today's boards with this toolchain's engine.")
@json_option
def paper_command(today: bool, as_json: bool) -> None:
    """Print the modelled gains of MEADOW's configuration beside the published ones, what they depend on, and today's boards.

    \b
    Example:
      meadowc bench paper --json
    """
    with stages(("model", "boards"), as_json) as show:
        show("model", "")
        result: dict[str, Any] = {
            "kind": {
                "modelled": "this cost model",
                "published": "reported: MLSys 2025, arXiv 2503.11663, by readers' notes of the paper, not verified against it",
            },
            "rows": rows(),
            "map": dataflow_map(),
            "assumptions": assumptions(),
            "sensitivity": sensitivity(),
            "packing": packing(),
        }
        if today:
            result["today"] = boards_today(lambda what: show("boards", what))
    if as_json:
        emit_json(result)
    else:
        _show(result)


def _show(result: dict[str, Any]) -> None:
    out.print(
        listing(
            "MEADOW's figures: gains over GEMM where nothing else is said (modelled, and reported by readers of the paper)",
            {
                "figure": lambda r: r["figure"],
                "modelled": lambda r: _interval(r["modelled"]),
                "published": lambda r: _interval(r["published"]),
                "inside": lambda r: {True: "yes", False: "no", None: "-"}[r["inside"]],
            },
            result["rows"],
        )
    )
    for r in result["rows"]:
        if r["reason"]:
            out.print(f"  {r['figure']}: {r['reason']}")
    _show_map(result["map"])
    gains = ("TTFT 12 Gb/s", "TTFT 1 Gb/s", "TBT 12 Gb/s", "TBT 1 Gb/s")
    keys = ("ttft_12", "ttft_1", "tbt_12", "tbt_1")
    out.print(
        listing(
            "what is assumed, and the gains of OPT-125M under it (modelled)",
            {
                "assumption": lambda r: r["assumption"],
                "value": lambda r: _number(r["value"]),
                **{gain: lambda r, k=key: _interval(r[k]) for gain, key in zip(gains, keys, strict=True)},  # type: ignore[misc]
            },
            result["sensitivity"],
        )
    )
    for assumed in result["assumptions"]:
        out.print(f"  {assumed['field']} = {_number(assumed['value'])}: {assumed['why']}")
    _show_packing(result["packing"])
    if "today" in result:
        _show_today(result["today"])


def _show_map(cells: list[dict[str, Any]]) -> None:
    made = table(
        "the question of Fig. 12 for OPT-125M and 512 tokens: time by GEMM over time by TPHS (modelled; above 1 TPHS wins)",
        "elements",
        *[f"{b} Gb/s" for b in BANDWIDTHS],
    )
    for count in ELEMENTS:
        made.add_row(str(count), *[f"{r['gemm_over_tphs']:.2f}" for r in cells if r["elements"] == count])
    out.print(made)
    out.print(
        "published: low bandwidth, TPHS wins; high bandwidth, GEMM wins (Fig. 12; its crossing points are not reported)"
    )


def _show_packing(found: dict[str, Any]) -> None:
    reported, ours = found["reported"], found["measured"] or {}
    out.print(
        listing(
            "packing, times smaller than INT8",
            {
                "scheme": str,
                "reported (OPT-125M MLP 1)": lambda s: f"{reported[s]:.2f}" if s in reported else "-",
                "measured (SmolLM2 per tensor, whole model)": lambda s: f"{ours[s]:.2f}" if s in ours else "-",
            },
            ("naive", "packets", "frequency", "prefix codes"),
        )
    )
    if not ours:
        out.print(f"  not measured: {found['todo']}")


def _show_today(rows: list[dict[str, Any]]) -> None:
    made = table(
        "today's boards at full bandwidth, tokens per second (modelled): MEADOW's 96 elements at 100 MHz as published.py has them, and this engine",
        *("board", "model", "prompt"),
        *("paper gemm", "tphs", "decode"),
        *("ours gemm", "tphs", "decode"),
    )
    for r in rows:
        paper = (f"{r['paper_gemm']:.0f}", f"{r['paper_tphs']:.0f}", f"{r['paper_decode']:.1f}")
        decode = max(r["meadow_decode_tphs"], r["meadow_decode_gemm"])
        ours = (f"{r['meadow_gemm']:.0f}", f"{r['meadow_tphs']:.0f}", f"{decode:.1f}")
        made.add_row(r["board"], r["model"], str(r["prompt"]), *paper, *ours)
    out.print(made)
    out.print(
        "  MEADOW's elements are priced without latency between steps and tiles, vector work or a check that they fit; this engine with "
        "all of them, and with its vocabulary projection"
    )


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _interval(values: list[float] | None) -> str:
    if values is None:
        return "-"
    low, high = f"{values[0]:.2f}", f"{values[1]:.2f}"
    return low if low == high else f"{low} to {high}"
