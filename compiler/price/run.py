# SPDX-License-Identifier: Apache-2.0
"""The price of whole programs: a run, a prompt, a request.  Search, summary, report and benchmarks take their rates from here alone.

A step is priced by cost.py; what is added is reading ahead, layers that repeat, and a memory of what was priced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from meadow.compiler.price.cost import Cost, step_cost
from meadow.compiler.price.traffic import blocks, by_role, run_beats, step_beats, step_key
from meadow.machine.design import Design
from meadow.machine.dram import Dram
from meadow.machine.instructions import projection
from meadow.machine.instructions.instruction import Beats, Tokens
from meadow.machine.isa import Epilogue, Opcode
from meadow.machine.step import Step
from meadow.machine.timing import Stage
from meadow.machine.units import BEAT_BYTES

PROMPT, ANSWER = 256, 128
"""Tokens of the request whose time counts: prefill is the prompt, decode the answer."""
DECODE_AT = 512
"""Tokens in the cache of the decoded token that stands for all."""
ATTENTION = (Opcode.TPHS, Opcode.SCORES, Opcode.SOFTMAX, Opcode.MIX)
Programs = Mapping[str, tuple[Step, ...]]
"""The programs `prefill` and `decode`."""


@dataclass(frozen=True)
class Workload:
    """A prompt of `prompt` tokens from an empty cache, and the token decoded after `position` others."""

    prompt: int
    position: int

    @classmethod
    def of(cls, design: Design, prompt: int = PROMPT, position: int = DECODE_AT) -> Workload:
        """As much of the usual one as the context holds."""
        return cls(min(prompt, design.context), min(position, design.context - 1))


@dataclass(frozen=True)
class _Bus:
    """How an engine reads ahead: what it fetches while the design does something else, as far as its FIFOs hold, a later step need
    not wait for.  `meadowc bench decode` counts it.

    beats_per_cycle  of the whole memory bus, in cycles of the design's clock
    most             that the FIFOs hold, in cycles of the whole bus; 0 where no engine reads ahead
    """

    beats_per_cycle: float
    most: float

    @classmethod
    def of(cls, design: Design, bandwidth_gb_s: float) -> _Bus:
        beats = Dram(bandwidth_gb_s).beats_per_cycle(design.clock_mhz)
        return cls(beats, design.ahead / beats)

    def share(self, cost: Cost, step: Step, design: Design) -> _Share:
        """What a step asks of the bus."""
        others = cost.total_bytes / BEAT_BYTES / self.beats_per_cycle
        stage = next((name for name in ("multipliers", "weight ports") if name in cost.phases), "")
        engine = projection.engine(step.numbers, design) if stage else None
        if engine is None or not engine.ahead:
            return _Share("", 0.0, 0.0, cost.cycles, cost.cycles - others)
        stream = engine.stream_beats(step.numbers, projection.streamed_rows(step)) / self.beats_per_cycle
        rest = sum(cost.phases.values()) - cost.phases[stage]
        return _Share(stage, cost.phases[stage], stream, rest, rest - (others - stream))


@dataclass(frozen=True)
class _Share:
    """A step on the bus, in cycles: `busy` of its stage that takes weights read ahead ("" for none), `stream` of these weights on the
    whole bus, `rest` of the step besides, and `idle`, the cycles in which the bus has nothing of the step to carry."""

    stage: str
    busy: float
    stream: float
    rest: float
    idle: float

    def follow(self, held: float, most: float) -> tuple[float, float]:
        """(cycles of the step, what is read ahead after it), where `held` cycles of the bus were read ahead before it."""
        idle = self.idle if self.idle > 0 else 0.0
        if not self.stage:
            return self.rest, min(most, held + idle)
        wait = self.stream - held
        wait = self.busy if self.busy > wait else wait
        left = held + wait - self.stream
        return wait + self.rest, min(most, (left if left > 0 else 0.0) + idle)


@dataclass(frozen=True)
class Estimate:
    """A whole program run, modelled: `limits` has the cycles by what bounds their step, `phases` by what they are spent on."""

    seconds: float
    cycles: float
    bytes: dict[str, int]
    limits: dict[str, float]
    phases: dict[str, float]

    @property
    def total_bytes(self) -> int:
        return sum(self.bytes.values())

    @property
    def limit(self) -> str:
        """What bounds most of the cycles."""
        return max(self.limits, key=lambda k: self.limits[k])


@dataclass
class Prices:
    """Step costs of designs of one clock and context, remembered: bytes once per shape, cycles once per what decides them.

    loops  what the counted loops take, where that is not as assumed (timing.stages)
    """

    bandwidth_gb_s: float
    loops: Mapping[str, Stage] | None = None
    _alike: dict[tuple[object, ...], int] = field(default_factory=dict)
    _keys: dict[int, tuple[Step, int]] = field(default_factory=dict)
    _beats: dict[tuple[object, ...], Beats] = field(default_factory=dict)
    _costs: dict[tuple[object, ...], tuple[Cost, _Share]] = field(default_factory=dict)
    _fixed: dict[tuple[object, ...], float] = field(default_factory=dict)
    _programs: dict[int, tuple[Step, ...]] = field(default_factory=dict)
    _of: Design | None = None  # whose engines _by_count has
    _by_count: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)

    def step(self, step: Step, design: Design, tokens: Tokens) -> tuple[Cost, _Share]:
        """step_cost, remembered, and what the step asks of the bus."""
        held = self._keys.get(id(step))
        if held is None:  # the step is kept, so that its id stays its own
            number = self._alike.setdefault(step_key(step), len(self._alike))
            held = self._keys[id(step)] = (step, number)
        key, opcode = held[1], step.opcode
        # Other steps take the same wherever a block begins, up to where their stores begin within a beat.
        at = tokens.position if opcode in ATTENTION else tokens.position % 4
        rows = tokens.logits if opcode is Opcode.LINEAR and step.operands["epilogue"] == Epilogue.LOGITS else 0
        ports: tuple[int, ...] = ()  # what decides the bytes besides
        lanes: tuple[int, ...]
        if opcode in (Opcode.NORM, Opcode.QUANTIZE):
            lanes = (design.float_lanes,)
        elif opcode is Opcode.LINEAR:
            ports, decides = self._decides(design, tokens.count)
            lanes = (design.float_lanes, *decides)
        elif opcode is Opcode.TPHS:
            ports, decides = self._decides(design, tokens.count)
            ports, lanes = (*ports, design.block), (design.float_lanes, design.token_lanes, *decides)
        else:
            lanes = (design.token_lanes,)
        what = (key, tokens.count, at, rows, ports)
        found = self._costs.get((what, lanes))
        if found is None:
            moved = self._beats.get(what)
            if moved is None:
                moved = self._beats[what] = step_beats(step, design, tokens)
            cost = step_cost(step, design, tokens, self.bandwidth_gb_s, moved, self.loops)
            bus = _Bus.of(design, self.bandwidth_gb_s)
            found = self._costs[what, lanes] = (cost, bus.share(cost, step, design))
        return found

    def _decides(self, design: Design, tokens: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(ports, what decides the cycles of a linear layer) of the engines of a design."""
        if self._of is not design:
            self._of, self._by_count = design, {}
        found = self._by_count.get(tokens)
        if found is None:
            numbers = tuple(n for engine in design.engines for n in engine.decides(tokens, design))
            found = self._by_count[tokens] = (tuple(engine.ports for engine in design.engines), numbers)
        return found

    def cycles(self, steps: tuple[Step, ...], design: Design, tokens: Tokens, repeats: Mapping[int, int]) -> float:
        """Cycles of a run in which the steps of layer n stand for repeats[n] layers that are alike."""
        if not design.ahead:
            return self._cycles_in_turn(steps, design, tokens, repeats)
        most = _Bus.of(design, self.bandwidth_gb_s).most
        total = held = 0.0
        for layer, some in _by_layer(steps):
            shares = [self.step(s, design, tokens)[1] for s in some]
            times = 1 if layer is None else repeats[layer]
            for done in range(times):
                before, once = held, 0.0
                for share in shares:
                    cycles, held = share.follow(held, most)
                    once += cycles
                total += once
                if held == before:  # from here on every layer is the same
                    total += (times - done - 1) * once
                    break
        return total

    def _cycles_in_turn(
        self, steps: tuple[Step, ...], design: Design, tokens: Tokens, repeats: Mapping[int, int]
    ) -> float:
        """The same where nothing is read ahead: attention alone asks for the position, the rest is summed once."""

        def total(some: Iterable[Step]) -> float:
            return sum(
                (1 if s.layer is None else repeats[s.layer]) * self.step(s, design, tokens)[0].cycles for s in some
            )

        lanes = (design.token_lanes, design.float_lanes, *self._decides(design, tokens.count)[1])
        key = (id(steps), tokens.count, tokens.position % 4, tokens.logits, lanes)
        fixed = self._fixed.get(key)
        if fixed is None:
            self._programs[id(steps)] = steps  # kept, so that its id stays its own
            fixed = self._fixed[key] = total(s for s in steps if s.opcode not in ATTENTION)
        return fixed + total(s for s in steps if s.opcode in ATTENTION)


def _by_layer(steps: tuple[Step, ...]) -> list[tuple[int | None, list[Step]]]:
    found: list[tuple[int | None, list[Step]]] = []
    for step in steps:
        if not found or found[-1][0] != step.layer:
            found.append((step.layer, []))
        found[-1][1].append(step)
    return found


def rates(
    programs: Programs, design: Design, prices: Prices, work: Workload, repeats: Mapping[int, int]
) -> tuple[float, float]:
    """(prefill, decode) in tokens per second."""
    cycles = sum(
        prices.cycles(programs["prefill"], design, some, repeats) for some in blocks(work.prompt, design.block)
    )
    decode = prices.cycles(programs["decode"], design, Tokens(1, work.position), repeats)
    hertz = design.clock_mhz * 1e6
    return work.prompt / cycles * hertz, hertz / decode


def estimate(
    steps: Iterable[Step],
    design: Design,
    tokens: int,
    position: int,
    bandwidth_gb_s: float,
    logits: int = 1,
    chunks: int = 0,
    loops: Mapping[str, Stage] | None = None,
) -> Estimate:
    """The sum over the steps of one run of a program; `chunks` of memory in its table, `loops` as Prices has them."""
    prices = Prices(bandwidth_gb_s, loops)
    return _estimate(tuple(steps), design, [Tokens(tokens, position, logits)], prices, chunks)


def prompt_estimate(
    steps: Iterable[Step],
    design: Design,
    tokens: int,
    bandwidth_gb_s: float,
    chunks: int = 0,
    loops: Mapping[str, Stage] | None = None,
) -> Estimate:
    """A prompt that is served block after block, up to its first token."""
    return _estimate(tuple(steps), design, blocks(tokens, design.block), Prices(bandwidth_gb_s, loops), chunks)


def _estimate(steps: tuple[Step, ...], design: Design, runs: list[Tokens], prices: Prices, chunks: int) -> Estimate:
    """Runs, one after another."""
    cycles = 0.0
    limits, phases, use = dict[str, float](), dict[str, float](), dict[str, int]()
    for tokens in runs:
        held, most = 0.0, _Bus.of(design, prices.bandwidth_gb_s).most
        for role, n in by_role(run_beats((), design, tokens, chunks)).items():
            use[role] = use.get(role, 0) + n
        for step in steps:
            cost, share = prices.step(step, design, tokens)
            spent, held = share.follow(held, most) if design.ahead else (cost.cycles, held)
            wait = spent - share.rest
            parts = {**cost.phases, share.stage: wait} if share.stage else cost.phases
            waits = share.stage and wait > share.busy
            limit = "DRAM" if waits else max(parts, key=lambda k: parts[k]) if parts is not cost.phases else cost.limit
            cycles += spent
            limits[limit] = limits.get(limit, 0.0) + spent
            for name, some in parts.items():
                phases[name] = phases.get(name, 0.0) + some
            for role, n in cost.bytes.items():
                use[role] += n
    return Estimate(cycles / (design.clock_mhz * 1e6), cycles, use, limits, phases)
