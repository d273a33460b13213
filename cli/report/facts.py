# SPDX-License-Identifier: Apache-2.0
"""What a report is made of: the package's own files, and the runs that the model of time gives for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from meadow.compiler.price.run import Estimate, estimate, prompt_estimate
from meadow.compiler.price.timeline import Event, timeline
from meadow.machine.errors import DeviceError
from meadow.machine.package.read import Package
from meadow.machine.step import Step

CONTEXTS = (16, 64, 128, 512, 1024, 2048, 4096, 8192)
PROMPTS = (16, 64, 128, 256, 512, 1024)
TIMELINE_AT = 512
WORK = {"q": "attention", "k": "attention", "v": "attention", "o": "attention", "attend": "attention", "logits": "head"}
"""Which work a step's role belongs to; the others are of the feed-forward net."""


@dataclass(frozen=True)
class Facts:
    """Of one package.

    runs      events of each step, by a title: first one decoded token, then one block of a prefill
    position  tokens in the cache before the decoded one;  block  tokens of the prefill's block
    """

    package: Package
    summary: dict[str, Any]
    steps: dict[str, tuple[Step, ...]]
    runs: dict[str, list[Event]]
    position: int
    block: int

    @property
    def bandwidth(self) -> float:
        """Of the DRAM, GB/s."""
        return float(self.summary["bandwidth_gb_s"])

    @property
    def ports(self) -> float:
        """Of the weight ports, GB/s."""
        return self.package.design.weight_bytes_per_second / 1e9

    @property
    def decode(self) -> list[Event]:
        return next(iter(self.runs.values()))

    @property
    def contexts(self) -> list[int]:
        """Tokens in the cache for which a token is priced: the last that the context holds among them."""
        last = self.package.design.context - 1
        return sorted({c for c in CONTEXTS if c <= last} | {last})

    def token(self, context: int) -> Estimate:
        """One token after `context`."""
        package = self.package
        return estimate(self.steps["decode"], package.design, 1, context, self.bandwidth, chunks=len(package.chunks))

    def first_token(self) -> dict[int, float]:
        """Seconds to the first token by prompt length."""
        design = self.package.design
        return {
            n: prompt_estimate(self.steps["prefill"], design, n, self.bandwidth, len(self.package.chunks)).seconds
            for n in PROMPTS
            if n < design.context
        }


def gather(package: Package) -> Facts:
    """Raises DeviceError when the summary in the package is of an older meadow."""
    summary, design = _summary(package), package.design
    bandwidth = float(summary["bandwidth_gb_s"])
    steps = {p: package.steps(p) for p in ("prefill", "decode")}
    position, block = min(TIMELINE_AT, design.context - 1), min(design.block, design.context)
    runs = {
        f"one token after {position}": timeline(steps["decode"], design, 1, position, bandwidth),
        f"a block of {block} tokens": timeline(steps["prefill"], design, block, 0, bandwidth),
    }
    return Facts(package, summary, steps, runs, position, block)


def _summary(package: Package) -> dict[str, Any]:
    found = package.figures()
    missing = [k for k in ("traffic", "front", "budget") if k not in found]
    if missing:
        raise DeviceError(f"{package.folder}/report/summary.json lacks {', '.join(missing)}; compile the model again")
    return found


def kinds(run: list[Event]) -> dict[str, tuple[int, int, float]]:
    """(MACs, bytes, microseconds) of all steps of a kind."""
    found: dict[str, tuple[int, int, float]] = {}
    for e in run:
        macs, moved, time = found.get(e.kind, (0, 0, 0.0))
        found[e.kind] = (macs + e.macs, moved + sum(e.bytes.values()), time + e.duration)
    return found


def phases(runs: list[list[Event]]) -> dict[str, list[float]]:
    """Percent of the cycles of each run by phase."""
    names = dict.fromkeys(phase for run in runs for e in run for phase in e.phases)
    totals = [sum(sum(e.phases.values()) for e in run) for run in runs]
    return {
        n: [100 * sum(e.phases.get(n, 0) for e in run) / t for run, t in zip(runs, totals, strict=True)] for n in names
    }


def work_of(role: str) -> str:
    """The kind of work that a matrix of this role does."""
    return WORK.get(role, "feed forward")
