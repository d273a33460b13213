# SPDX-License-Identifier: Apache-2.0
"""bench paper: Prints the cost model beside MEADOW's figures, and on the boards of today."""

from __future__ import annotations

from typing import Any

import click

from meadow.cli.output import emit_json, json_option, out, stages, table
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
    """Print the modelled gains of MEADOW's configuration beside the published ones, what they hang on, and today's boards.

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
    made = table(
        "MEADOW's figures: gains over GEMM where nothing else is said (modelled, and reported by readers of the paper)",
        "figure",
        "modelled",
        "published",
        "inside",
    )
    for r in result["rows"]:
        made.add_row(
            r["figure"],
            _interval(r["modelled"]),
            _interval(r["published"]),
            {True: "yes", False: "no", None: "-"}[r["inside"]],
        )
    out.print(made)
    for r in result["rows"]:
        if r["reason"]:
            out.print(f"  {r['figure']}: {r['reason']}")
    made = table(
        "the question of Fig. 12 for OPT-125M and 512 tokens: time by GEMM over time by TPHS (modelled; above 1 TPHS wins)",
        "elements",
        *[f"{b} Gb/s" for b in BANDWIDTHS],
    )
    for count in ELEMENTS:
        cells = [r for r in result["map"] if r["elements"] == count]
        made.add_row(str(count), *[f"{r['gemm_over_tphs']:.2f}" for r in cells])
    out.print(made)
    out.print(
        "published: low bandwidth, TPHS wins; high bandwidth, GEMM wins (Fig. 12; its crossing points are not reported)"
    )
    made = table(
        "what is assumed, and the gains of OPT-125M under it (modelled)",
        "assumption",
        "value",
        "TTFT 12 Gb/s",
        "TTFT 1 Gb/s",
        "TBT 12 Gb/s",
        "TBT 1 Gb/s",
    )
    for r in result["sensitivity"]:
        value = "" if r["value"] is None else f"{r['value']:.3g}" if isinstance(r["value"], float) else str(r["value"])
        made.add_row(r["assumption"], value, *[_interval(r[k]) for k in ("ttft_12", "ttft_1", "tbt_12", "tbt_1")])
    out.print(made)
    for a in result["assumptions"]:
        value = f"{a['value']:.3g}" if isinstance(a["value"], float) else a["value"]
        out.print(f"  {a['field']} = {value}: {a['why']}")
    pack = result["packing"]
    made = table(
        "packing, times smaller than INT8",
        "scheme",
        "reported (OPT-125M MLP 1)",
        "measured (SmolLM2 per tensor, whole model)",
    )
    ours = pack["measured"] or {}
    for scheme in ("naive", "packets", "frequency", "prefix codes"):
        reported = f"{pack['reported'][scheme]:.2f}" if scheme in pack["reported"] else "-"
        made.add_row(scheme, reported, f"{ours[scheme]:.2f}" if scheme in ours else "-")
    out.print(made)
    if not ours:
        out.print(f"  not measured: {pack['todo']}")
    if "today" in result:
        made = table(
            "today's boards at full bandwidth, tokens a second (modelled): MEADOW's 96 elements at 100 MHz as published.py has them, and this engine",
            "board",
            "model",
            "prompt",
            "paper gemm",
            "tphs",
            "decode",
            "ours gemm",
            "tphs",
            "decode",
        )
        for r in result["today"]:
            made.add_row(
                r["board"],
                r["model"],
                str(r["prompt"]),
                f"{r['paper_gemm']:.0f}",
                f"{r['paper_tphs']:.0f}",
                f"{r['paper_decode']:.1f}",
                f"{r['meadow_gemm']:.0f}",
                f"{r['meadow_tphs']:.0f}",
                f"{max(r['meadow_decode_tphs'], r['meadow_decode_gemm']):.1f}",
            )
        out.print(made)
        out.print(
            "  MEADOW's elements are priced without latency between steps and tiles, vector work or a check that they fit; this engine with "
            "all of them, and with its vocabulary projection"
        )


def _interval(values: list[float] | None) -> str:
    if values is None:
        return "-"
    low, high = f"{values[0]:.2f}", f"{values[1]:.2f}"
    return low if low == high else f"{low} to {high}"
