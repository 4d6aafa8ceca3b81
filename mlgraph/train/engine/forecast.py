"""What a run will take, told before it is paid for: operations, memory of a process, checkpoints, time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from mlgraph.graph.activations import activations
from mlgraph.graph.propagate import at_sizes
from mlgraph.train.data.batches import Binder, count_tokens, cut
from mlgraph.train.engine.freezing import frozen_names, with_frozen
from mlgraph.train.engine.phase_settings import settings_of
from mlgraph.train.engine.rehearsal import rehearse
from mlgraph.train.errors import TrainError
from mlgraph.train.flops import step_flops
from mlgraph.train.phases import Phase, Train, levels_of

if TYPE_CHECKING:
    from mlgraph.program import Program
    from mlgraph.train.optimizer import OptimizerFactory
    from mlgraph.train.settings import Settings

# Blocks that FSDP2 holds whole at once: the one that computes, and the next, asked for ahead.
_GATHERED = 2


@dataclass(frozen=True)
class Memory:
    """Bytes in one process while a phase trains.

    ``gathered`` is what FSDP2 puts together beside its shards, ``aside`` what of the programs above lies on
    the device too, ``host`` what lies in host memory instead. ``activations`` are those that the graph's
    operations make between forward and backward pass: an upper bound, in the precision of the capture.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    gathered: int
    aside: int
    host: int

    @property
    def device(self) -> int:
        """All but what lies on the host."""
        parts: list[int] = [getattr(self, field.name) for field in fields(self) if field.name != "host"]
        return sum(parts)


@dataclass(frozen=True)
class PhaseForecast:
    """One training phase: ``samples``, ``tokens`` and ``flops`` are those of all its steps and processes.

    ``checkpoint`` is the size of one written in it; ``seconds`` a step's, where steps were measured.
    """

    phase: int
    level: int
    parameters: int
    steps: int
    tokens: int
    flops: int
    memory: Memory
    checkpoint: int
    seconds: float | None = None


@dataclass(frozen=True)
class Forecast:
    """A whole run on ``processes``; ``run_directory`` are the bytes that it holds at most."""

    processes: int
    phases: tuple[PhaseForecast, ...]
    run_directory: int

    @property
    def flops(self) -> int:
        """Training operations of all phases."""
        return sum(phase.flops for phase in self.phases)

    @property
    def largest(self) -> PhaseForecast:
        """The phase that takes most memory of a device."""
        return max(self.phases, key=lambda phase: phase.memory.device)

    @property
    def seconds(self) -> float | None:
        """The time of all steps; None where a phase was not measured."""
        times = [phase.seconds for phase in self.phases]
        if any(time is None for time in times):
            return None
        return sum(phase.steps * (phase.seconds or 0.0) for phase in self.phases)

    def timed(self, seconds: Mapping[int, float]) -> Forecast:
        """The forecast with the seconds of a step, by phase."""
        phases = tuple(replace(phase, seconds=seconds.get(phase.phase)) for phase in self.phases)
        return replace(self, phases=phases)

    def check(self, memory: int) -> None:
        """Raise ``TrainError`` naming the phase that does not fit into ``memory`` bytes of a device."""
        phase = self.largest
        if phase.memory.device <= memory:
            return
        parts = {f.name: getattr(phase.memory, f.name) for f in fields(Memory) if f.name != "host"}
        most = max(parts, key=lambda name: parts[name])
        help_ = {
            "activations": "take a smaller data.batch with run.accumulate, or run.recompute",
            "gathered": "run.fsdp_policy halves what is gathered",
        }.get(most, "share it by run.fsdp over more processes, or put it on the host by run.fsdp_offload")
        raise TrainError(
            f"Phase {phase.phase} (train, level {phase.level}) needs {_gib(phase.memory.device)} in each of "
            f"{self.processes} processes, {_gib(parts[most])} of it {most}, and there are {_gib(memory)}: "
            f"{help_}."
        )


def forecast(
    program: Program, phases: Sequence[Phase], batch: Any, settings: Settings, processes: int
) -> Forecast:
    """What ``phases`` take on batches of the sizes of ``batch``; only shapes are read.

    Raises:
        TrainError: a phase cannot be done, or processes and copies do not go together.
    """
    shards = _shards(settings, processes)
    stages, levels = rehearse(program, phases), levels_of(phases)
    found = []
    for number, (phase, stage) in enumerate(zip(phases, stages, strict=True)):
        if not isinstance(phase, Train):
            continue
        own = taken(phase, batch)
        frozen = frozen_names(stage.program, phase.freeze) if phase.freeze else frozenset[str]()
        trained = with_frozen(stage.program, frozen)
        times = phase.steps * (phase.accumulate or settings.accumulate) * processes
        ratio = state_ratio(settings_of(phase, settings).optimizer)
        sizes = _Sizes.of(trained, ratio)
        aside = sum(_Sizes.of(above, ratio).weights for above in stage.aside)
        memory = _memory(sizes, aside, _activations(trained, own, settings.recompute), shards, settings)
        if processes > 1 and not settings.fsdp:
            # DDP sums gradients in buckets of its own
            memory = replace(memory, gradients=2 * memory.gradients)
        found.append(
            PhaseForecast(
                number,
                levels[number],
                stage.program.num_parameters(),
                phase.steps,
                times * count_tokens(own),
                times * step_flops(trained, own, stage.aside[-1] if phase.distill else None),
                memory,
                sizes.weights + sizes.optimizer,
            )
        )
    if not found:
        raise TrainError("No phase trains: there is nothing to forecast.")
    ratio = state_ratio(settings.optimizer)
    kept = settings.keep * max(phase.checkpoint for phase in found)
    set_aside = max((stage.aside for stage in stages), key=len)
    kept += sum(s.weights + s.optimizer for s in (_Sizes.of(above, ratio) for above in set_aside))
    return Forecast(processes, tuple(found), kept)


def taken(phase: Train, batch: Any) -> Any:
    """What a phase takes of a batch of the data."""
    if (phase.batch, phase.sequence) == (None, None):
        return batch
    return cut(batch, phase.batch, phase.sequence)


def state_ratio(optimizer: OptimizerFactory) -> float:
    """Bytes of optimizer state per byte of a trained parameter, as a small one shows."""
    parameter = torch.nn.Parameter(torch.zeros(64, 64))
    made = optimizer([{"params": [parameter], "weight_decay": 0.0, "new": False}])
    parameter.grad = torch.zeros_like(parameter)
    made.step()
    state = made.state.get(parameter, {}).values()
    held = sum(t.numel() * t.element_size() for t in state if isinstance(t, torch.Tensor) and t.ndim)
    return held / (parameter.numel() * parameter.element_size())


@dataclass(frozen=True)
class _Sizes:
    """Bytes of a program held whole: of it all, of its parameters, of those trained, of its largest unit."""

    weights: int
    parameters: int
    trained: int
    optimizer: int
    root: int
    block: int

    @classmethod
    def of(cls, program: Program, ratio: float) -> _Sizes:
        tensors = program.tensors
        held = {name: meta.numel() * meta.element_size() for name, meta in tensors.meta().items()}
        parameters = {name: held[name] for name in tensors.parameters}
        trained = sum(held for name, held in parameters.items() if name not in tensors.frozen)
        blocks = [sum(parameters.get(t, 0) for t in block.tensors) for c in program.blocks for block in c]
        root = sum(parameters.values()) - sum(blocks)
        optimizer = int(trained * ratio)
        whole = sum(held.values())
        return cls(whole, sum(parameters.values()), trained, optimizer, root, max(blocks, default=0))


def _memory(sizes: _Sizes, aside: int, held: int, shards: int, settings: Settings) -> Memory:
    if shards == 1:
        return Memory(sizes.weights, sizes.trained, sizes.optimizer, held, 0, aside, 0)
    own, rest = -(-sizes.parameters // shards), sizes.weights - sizes.parameters
    gradients, optimizer = -(-sizes.trained // shards), -(-sizes.optimizer // shards)
    # gradients of a unit are whole until they are summed
    gathered = (sizes.root + _GATHERED * sizes.block) * (1 if settings.fsdp_policy else 2) // 2
    gathered += max(sizes.root, sizes.block)
    host = -(-aside // shards)
    if settings.fsdp_offload:
        return Memory(rest, 0, 0, held, gathered, 0, host + own + gradients + optimizer)
    return Memory(own + rest, gradients, optimizer, held, gathered, 0, host)


def _gib(number: int) -> str:
    return f"{number / 2**30:.3g} GiB"


def _shards(settings: Settings, processes: int) -> int:
    if processes < 1:
        raise TrainError(f"There are {processes} processes to plan for: give at least 1.")
    if not settings.fsdp or processes == 1:
        return 1
    shards, rest = divmod(processes, settings.fsdp_replicas)
    if rest or not shards:
        raise TrainError(
            f"fsdp_replicas = {settings.fsdp_replicas} does not divide {processes} processes: choose one "
            "that does."
        )
    return shards


def _activations(program: Program, batch: Any, recompute: bool) -> int:
    leaves = pytree.tree_leaves(Binder(program, spare=True).call(batch))
    graph = at_sizes(program, [tuple(getattr(leaf, "shape", ())) for leaf in leaves])
    held = activations(graph)
    if not recompute:
        return sum(held.values())
    # blocks keep what leaves them alone, and one at a time is computed again
    inside = [sum(held.get(n, 0) for n in block.nodes) for chain in program.blocks for block in chain]
    leaving = sum(held.get(block.exit, 0) for chain in program.blocks for block in chain)
    return sum(held.values()) - sum(inside) + leaving + max(inside, default=0)
