# SPDX-License-Identifier: Apache-2.0
"""inspect: what an ONNX model is, how it is quantized, and everything that keeps it from compiling."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meadow.cli.output import emit_json, json_option, megabytes, out, shell, table
from meadow.compiler.graph import calibration, pruning, sparsity
from meadow.machine.errors import UnsupportedModel

if TYPE_CHECKING:
    from meadow.compiler.graph.graph import Graph
    from meadow.compiler.size.memory import Memory


@click.command("inspect")
@click.argument("source", type=click.Path(path_type=Path))
@json_option
def inspect_command(source: Path, as_json: bool) -> None:
    """Show what SOURCE, a model file or folder of any kind, is and whether it compiles.  Exit code 3 when it does not.

    \b
    Example:
      meadowc inspect models/smollm2-int8
    """
    found = inspect(source)
    if as_json:
        emit_json(found)
    else:
        _show(found)
    if not found["compilable"]:
        raise click.exceptions.Exit(3)


def inspect(source: Path) -> dict[str, Any]:
    """Family, shapes, types and bytes by role, and the problems.  Raises UsageError for what is no model file."""
    from meadow.compiler.graph.features import family_of, features, parameters
    from meadow.compiler.require import require_engines
    from meadow.compiler.size.memory import memory_of
    from meadow.compiler.sources.onnx.file import load_model
    from meadow.compiler.sources.source import find_source, format_of, read_source

    file = find_source(source)
    facts: dict[str, Any] = {"file": str(file), "format": format_of(file)}
    if facts["format"] == "ONNX":
        proto = load_model(file)
        opsets = {o.domain or "ai.onnx": o.version for o in proto.opset_import}
        facts |= {"producer": proto.producer_name, "opsets": opsets, "nodes": len(proto.graph.node)}
    try:
        graph = read_source(file)
    except UnsupportedModel as error:
        return {
            **facts,
            "family": None,
            "compilable": False,
            "parameters": None,
            "problems": _problems(error),
            "message": str(error),
        }
    rows = _weights(graph)
    quantized = sum(r["weights"] for r in rows if not r["type"].startswith("f"))
    facts |= {
        "family": family_of(graph),
        "parameters": parameters(graph),
        "features": features(graph),
        "notes": list(graph.notes),
        "calibration": calibration.calibration_of(graph.metadata),
        "pruning": pruning.records_of(graph.metadata),
        "sparsity": sparsity.sparsity_of(graph.metadata),
        "model": str(graph.model),
        "context": graph.model.context,
        "activations": graph.model.activations,
        "weights": rows,
        "memory": _memory(memory_of(graph), graph.model.context),
        "quantized_share": quantized / sum(r["weights"] for r in rows),
    }
    try:
        require_engines(graph)
    except UnsupportedModel as error:
        return {**facts, "compilable": False, "problems": _problems(error), "message": str(error)}
    return {**facts, "compilable": True, "problems": [], "message": ""}


def _weights(graph: Graph) -> list[dict[str, Any]]:
    """Matrices and bytes by role and type, with the engine that takes them."""
    from meadow.compiler.graph.ops import Embedding, Head
    from meadow.machine.engines.table import engine_for

    roles: dict[type, str] = {Embedding: "embedding", Head: "head"}
    rows: dict[str, dict[str, Any]] = {}
    for name, weight in graph.weights.items():
        users = {type(n.op) for n in graph.nodes if n.weight == name}
        role = " and ".join(sorted(roles[kind] for kind in users if kind in roles)) or "linears"
        engine = engine_for(weight.elem)
        says = engine.name if engine is not None else "the host alone" if role == "embedding" else "none: quantize"
        row = rows.setdefault(
            f"{role}, {weight.elem}",
            {"role": role, "type": str(weight.elem), "engine": says, "matrices": 0, "bytes": 0, "weights": 0},
        )
        row["matrices"] += 1
        row["bytes"] += weight.nbytes
        row["weights"] += weight.rows * weight.cols
    return list(rows.values())


def _memory(memory: Memory, context: int) -> dict[str, Any]:
    """Bytes of weights and KV cache, at several contexts up to the model's own (modelled: nothing is packed yet)."""
    lengths = sorted({n for n in (512, 2048, 8192) if n < context} | {context or 2048})
    return {
        "kind": "modelled",
        "weights": memory.weights,
        "kv_cache_per_token": memory.per_token,
        "total": {str(n): memory.total(n) for n in lengths},
    }


def _problems(error: UnsupportedModel) -> list[dict[str, str]]:
    """Every problem: the node or place, what it has, and what is needed."""
    return [{"node": where, "feature": what, "needs": todo} for where, what, todo in error.problems]


def _show(found: dict[str, Any]) -> None:
    if found["format"] == "ONNX":
        opsets = ", ".join(f"{domain} {version}" for domain, version in found["opsets"].items())
        out.print(
            f"{found['file']}: {found['nodes']} nodes by {found['producer'] or 'an unnamed exporter'}, opset {opsets}"
        )
    else:
        out.print(f"{found['file']}: {found['format']}")
    if found["family"]:
        context = found["context"] or "not said"
        out.print(
            f"  {found['family']}: {found['parameters']:,} parameters; {found['model']}; "
            f"context {context}, activations {found['activations']}"
        )
        out.print(
            "  features: "
            + ", ".join(f"{text}" + (f" ({n} layers)" if n else "") for text, n in found["features"].items())
        )
        if found["calibration"]:
            out.print(f"  calibrated: {calibration.sentence(found['calibration'])}")
        if found["pruning"]:
            out.print(f"  pruned: {pruning.sentence(found['pruning'])}")
        if found["sparsity"]:
            out.print(f"  sparse: {sparsity.sentence(found['sparsity'])}")
        for note in found["notes"]:
            out.print(f"  note: {note}")
        rows = table("weights", "role", "type", "engine", "matrices", "bytes")
        for row in found["weights"]:
            rows.add_row(row["role"], row["type"], row["engine"], str(row["matrices"]), megabytes(row["bytes"]))
        out.print(rows)
        m = found["memory"]
        sizes = ", ".join(f"{megabytes(n)} for a context of {length}" for length, n in m["total"].items())
        out.print(f"memory of weights and KV cache (modelled, {m['kv_cache_per_token']:,} bytes per token): {sizes}")
        out.print(f"quantized: {found['quantized_share']:.0%} of the weights")
    if found["compilable"]:
        out.print("compilable: yes")
        out.print(f"next: {shell('meadowc', 'compile', found['file'], '--board', 'zcu102')}")
    else:
        out.print(found["message"])
        out.print("compilable: no")
