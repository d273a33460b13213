# SPDX-License-Identifier: Apache-2.0
"""bench emulator: tokens a second of the emulator and the C simulation beside onnxruntime, same model, same run.

Measured on this machine; the ratio is what travels.  Says what bounds each: memory for FP32 weights, or the simulation's own work.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from meadow.machine.package.read import Package

REFERENCES = ("onnxruntime", "onnxruntime, its default")
"""The file's own meaning in FP32, as rung 0 runs it; and with the kernels that onnxruntime would choose, of 8-bit activations."""
DEVICES = ("emulator", "csim")


def measure(
    package: Package,
    prompt: int,
    tokens: int,
    repeats: int,
    reference: Path | None,
    progress: Callable[[str, str], None],
) -> dict[str, Any]:
    """Seconds to start, and tokens a second of each runner, round after round in turns."""
    from meadow.evidence.ladder.reference import OnnxModel, reference_model
    from meadow.runtime.session import Session

    load_before = os.getloadavg()[0]
    vocabulary = int(package.model["vocab"])
    words = [(7 * i + 11) % vocabulary for i in range(prompt + tokens)]
    started: dict[str, float] = {}
    runners: dict[str, Any] = {}
    model = reference_model(package, reference)
    for name in (*REFERENCES, *DEVICES):
        progress("start", name)
        began = time.perf_counter()
        runners[name] = OnnxModel(model, name == REFERENCES[0]) if name in REFERENCES else Session(package.folder, name)
        run_prompt(runners[name], words[:2])  # weights are unpacked, libraries built and pages touched
        run_token(runners[name], words[2])
        started[name] = time.perf_counter() - began
    rates: dict[str, dict[str, list[float]]] = {n: {"prefill": [], "decode": []} for n in runners}
    try:
        for number in range(repeats):
            for name, runner in runners.items():
                progress("time", f"round {number + 1}/{repeats}, {name}")
                runner.reset()
                began = time.perf_counter()
                run_prompt(runner, words[:prompt])
                middle = time.perf_counter()
                for token in words[prompt:]:
                    run_token(runner, token)
                ended = time.perf_counter()
                rates[name]["prefill"].append(prompt / (middle - began))
                rates[name]["decode"].append(tokens / (ended - middle))
    finally:
        for name in DEVICES:
            if name in runners:
                runners[name].close()
    found: dict[str, Any] = {
        "package": str(package.folder),
        "model": str(model),
        "kind": "measured",
        "prompt": prompt,
        "tokens": tokens,
        "repeats": repeats,
        "load": load_before,
        "cores": os.cpu_count(),
        "runners": {},
    }
    base = {phase: statistics.median(rates[REFERENCES[0]][phase]) for phase in ("prefill", "decode")}
    default = {phase: statistics.median(rates[REFERENCES[1]][phase]) for phase in ("prefill", "decode")}
    for name, phases in rates.items():
        row: dict[str, Any] = {"start_seconds": started[name]}
        for phase, values in phases.items():
            row[phase] = {
                "tokens_per_s": statistics.median(values),
                "spread": [min(values), max(values)],
                "ratio_to_onnxruntime": statistics.median(values) / base[phase],
                "ratio_to_default": statistics.median(values) / default[phase],
            }
        found["runners"][name] = row
    found["ratio_to_onnxruntime"] = {
        name: {phase: found["runners"][name][phase]["ratio_to_onnxruntime"] for phase in ("prefill", "decode")}
        for name in DEVICES
    }
    found["bounds"] = bounds(package, found["runners"])
    return found


def run_prompt(runner: Any, words: list[int]) -> None:
    """A prefill that gives all rows of logits, which is what the ONNX file computes."""
    if hasattr(runner, "device"):
        runner.prefill(words, logits="all")
    else:
        runner.prefill(words)


def run_token(runner: Any, word: int) -> None:
    runner.step(word if hasattr(runner, "device") else [word])


def bounds(package: Package, runners: dict[str, Any]) -> dict[str, Any]:
    """What keeps the emulator and the C simulation from being faster, and how near they come."""
    weights = sum(r["rows"] * r["cols"] for r in package.packing())
    bandwidth, peak = _matrix_vector_bandwidth(), _matrix_peak()
    emulator, csim = runners["emulator"], runners["csim"]
    ceiling = bandwidth / (4 * weights)
    return {
        "matrix_vector_gb_s": bandwidth / 1e9,
        "matrix_gflop_s": peak / 1e9,
        "emulator_decode": {
            "bound": "memory: FP32 weights, 4 bytes each, are read whole for every token",
            "tokens_per_s": ceiling,
            "share": emulator["decode"]["tokens_per_s"] / ceiling,
        },
        "emulator_prefill": {
            "bound": "FP32 matrix products of BLAS",
            "tokens_per_s": peak / (2 * weights),
            "share": emulator["prefill"]["tokens_per_s"] * 2 * weights / peak,
        },
        "csim_decode": {
            "bound": "one thread: every beat, word and loop iteration of the engine is simulated",
            "nanoseconds_per_weight": 1e9 / csim["decode"]["tokens_per_s"] / weights,
        },
        "csim_prefill": {
            "bound": "the same; a weight that was unpacked meets a block of tokens",
            "nanoseconds_per_product": 1e9 / csim["prefill"]["tokens_per_s"] / weights,
        },
    }


def _matrix_vector_bandwidth() -> float:
    """Bytes a second at which numpy multiplies a matrix too large for the caches with a vector: the best of a few."""
    matrix, vector = np.ones((16384, 2048), np.float32), np.ones(2048, np.float32)
    return max(matrix.nbytes / _seconds(lambda: matrix @ vector) for _ in range(5))


def _matrix_peak() -> float:
    """Floating-point operations a second of numpy's FP32 product of a block with a matrix."""
    a, b = np.ones((128, 2048), np.float32), np.ones((2048, 2048), np.float32)
    return max(2 * a.shape[0] * b.size / _seconds(lambda: a @ b) for _ in range(5))


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
