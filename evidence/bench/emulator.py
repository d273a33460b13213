# SPDX-License-Identifier: Apache-2.0
"""bench emulator: tokens per second of the emulator and the C simulation beside onnxruntime, same model, same run.

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
PHASES = ("prefill", "decode")


def measure(
    package: Package,
    prompt: int,
    tokens: int,
    repeats: int,
    reference: Path | None,
    progress: Callable[[str, str], None],
) -> dict[str, Any]:
    """Seconds to start, and tokens per second of each runner, round after round in turns."""
    from meadow.evidence.ladder.reference import reference_model

    load_before = os.getloadavg()[0]
    vocabulary = int(package.model["vocab"])
    words = [(7 * i + 11) % vocabulary for i in range(prompt + tokens)]
    model = reference_model(package, reference)
    runners: dict[str, Any] = {}
    try:
        started = _start(runners, package, model, words, progress)
        rates = _rates(runners, words, prompt, repeats, progress)
    finally:
        for name in runners.keys() & set(DEVICES):
            runners[name].close()
    rows = {name: {"start_seconds": started[name], **_row(rates[name], rates)} for name in runners}
    return {
        "package": str(package.folder),
        "model": str(model),
        "kind": "measured",
        "prompt": prompt,
        "tokens": tokens,
        "repeats": repeats,
        "load": load_before,
        "cores": os.cpu_count(),
        "runners": rows,
        "ratio_to_onnxruntime": {
            name: {phase: rows[name][phase]["ratio_to_onnxruntime"] for phase in PHASES} for name in DEVICES
        },
        "bounds": bounds(package, rows),
    }


def _start(
    runners: dict[str, Any], package: Package, model: Path, words: list[int], progress: Callable[[str, str], None]
) -> dict[str, float]:
    """Fill `runners` and return the seconds until each has run once: weights are unpacked, libraries built and pages touched."""
    from meadow.evidence.ladder.reference import OnnxModel
    from meadow.runtime.session import Session

    started: dict[str, float] = {}
    for name in (*REFERENCES, *DEVICES):
        progress("start", name)
        began = time.perf_counter()
        runners[name] = OnnxModel(model, name == REFERENCES[0]) if name in REFERENCES else Session(package.folder, name)
        run_prompt(runners[name], words[:2])
        run_token(runners[name], words[2])
        started[name] = time.perf_counter() - began
    return started


def _rates(
    runners: dict[str, Any], words: list[int], prompt: int, repeats: int, progress: Callable[[str, str], None]
) -> dict[str, dict[str, list[float]]]:
    """Tokens per second of both phases in every round; the runners take turns, so that a busy minute hits them all."""
    rates: dict[str, dict[str, list[float]]] = {n: {phase: [] for phase in PHASES} for n in runners}
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
            rates[name]["decode"].append((len(words) - prompt) / (ended - middle))
    return rates


def _row(mine: dict[str, list[float]], rates: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Median and spread of one runner, and its ratios to both references."""
    found: dict[str, Any] = {}
    for phase, values in mine.items():
        rate = statistics.median(values)
        to = [rate / statistics.median(rates[reference][phase]) for reference in REFERENCES]
        found[phase] = {
            "tokens_per_s": rate,
            "spread": [min(values), max(values)],
            "ratio_to_onnxruntime": to[0],
            "ratio_to_default": to[1],
        }
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
    """Bytes per second at which numpy multiplies a matrix too large for the caches with a vector: the best of a few."""
    matrix, vector = np.ones((16384, 2048), np.float32), np.ones(2048, np.float32)
    return max(matrix.nbytes / _seconds(lambda: matrix @ vector) for _ in range(5))


def _matrix_peak() -> float:
    """Floating-point operations per second of numpy's FP32 product of a block with a matrix."""
    a, b = np.ones((128, 2048), np.float32), np.ones((2048, 2048), np.float32)
    return max(2 * a.shape[0] * b.size / _seconds(lambda: a @ b) for _ in range(5))


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
