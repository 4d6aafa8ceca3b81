"""The state of a run, and its way through the phases of a program."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from mlgraph.program import Program
from mlgraph.train.data.batches import Loss, Metric, count_tokens, cut
from mlgraph.train.data.stream import RandomState, Stream, seed_all
from mlgraph.train.engine.averaging import averaged_steps
from mlgraph.train.engine.checkpoint import RunDirectory
from mlgraph.train.engine.freezing import frozen_names, with_frozen
from mlgraph.train.engine.levels import Level, change_level
from mlgraph.train.engine.phase_settings import begins_anew, settings_of
from mlgraph.train.engine.processes import Interruption, shards, wait_at_most
from mlgraph.train.engine.progress import Progress
from mlgraph.train.engine.rates import LearningRates
from mlgraph.train.engine.saving import Resumed, Saver
from mlgraph.train.engine.sharding import Gathered, is_sharded_program, make_layout, sharded, shell
from mlgraph.train.engine.worker import Worker
from mlgraph.train.errors import DivergedError, TrainError
from mlgraph.train.flops import step_flops
from mlgraph.train.optimizer import States
from mlgraph.train.phases import Interpolate, Phase, Train, kind_of, levels_of
from mlgraph.train.results.metrics import Clock, Metrics, Record, peak_memory
from mlgraph.train.settings import Settings


@dataclass(frozen=True)
class Result:
    """What a run gives: the trained ``program`` and the ``history``, a record per line of metrics."""

    program: Program
    history: list[Record]


def _check_sharded(phases: Sequence[Phase], settings: Settings, accelerator: Any) -> None:
    if settings.fsdp_policy and accelerator.mixed_precision != "bf16":
        raise TrainError("fsdp_policy gathers parameters in bf16: set mixed_precision = 'bf16' too.")
    for number, phase in enumerate(phases):
        if isinstance(phase, Train) and phase.distill:
            raise TrainError(
                f"Phase {number} (train) distills from a program that fsdp keeps in parts on the host: leave "
                "distill out, or train without fsdp."
            )
        if isinstance(phase, Interpolate) and phase.operator.align:
            raise TrainError(
                f"Phase {number} (interpolate) aligns neurons by whole weights, which no process has under "
                "fsdp: leave align out, or train without fsdp."
            )


@dataclass
class _Position:
    """How far a run is: phase and step in it, and what was spent in all."""

    phase: int = 0
    phase_step: int = 0
    step: int = 0
    flops: int = 0
    tokens: int = 0
    seconds: float = 0.0


class Engine:
    """The state of a run."""

    def __init__(
        self,
        program: Program,
        phases: Sequence[Phase],
        train_data: Iterable[Any],
        eval_data: Iterable[Any] | None,
        loss: Loss | None,
        metric: Metric | None,
        settings: Settings,
        accelerator: Any,
    ) -> None:
        self.phases, self.settings, self.accelerator = list(phases), settings, accelerator
        self.loss, self.metric, self.eval_data = loss, metric, eval_data
        self.initial = program
        self.level = Level(program)
        self.saver = Saver(accelerator, None)
        self.at = _Position()
        self.layout = (
            make_layout(accelerator, settings.fsdp_replicas) if shards(settings, accelerator) else None
        )
        if self.layout is not None:
            _check_sharded(phases, settings, accelerator)
        self.accumulate = settings.accumulate
        self.stream = Stream(train_data, settings.seed, accelerator.process_index, accelerator.num_processes)
        self.rates = LearningRates(phases, settings.schedule, settings.lr)
        self.levels = levels_of(phases)
        self.clock = Clock()
        self.metrics = Metrics()
        self.worker: Worker | None = None
        self._flops: dict[Any, tuple[int, int]] = {}
        self._optimizer: States = {}
        self._window: list[torch.Tensor] = []

    def save_to(self, directory: RunDirectory) -> None:
        """Save the run to a directory, and go on with what is there."""
        self.saver = Saver(self.accelerator, directory, self.layout, self.settings.background)
        self.accumulate = directory.accumulate(self.accelerator.num_processes)

    def run(self, interruption: Interruption) -> Result:
        main = self.accelerator.is_main_process
        self.metrics = Metrics(self.saver.metrics)
        if self.accelerator.log_with and not self.accelerator.trackers:
            self.accelerator.init_trackers("mlgraph")
        saved = self.saver.read(self.initial)
        # Processes draw their own dropout masks.
        seed = self.settings.seed + 7919 * self.accelerator.process_index
        if saved is not None and saved.own is None:
            # not those drawn already
            seed += 104729 * (saved.state["step"] + 1)
        seed_all(seed)
        torch.manual_seed(seed)
        if saved is not None:
            self._resume(saved)
        else:
            self.metrics.resume(-1)
            self.saver.save_architecture(self.level)
            self._shard()
            self._checkpoint()
        with closing(self.metrics), Progress(self.phases, self.settings.progress and main) as progress:
            while self.at.phase < len(self.phases):
                phase = self.phases[self.at.phase]
                if isinstance(phase, Train):
                    self._train(phase, progress, interruption)
                else:
                    self._change()
        return self._finish()

    def _shard(self) -> None:
        """Deal out the rows of what the user gave, where the run is sharded."""
        program = self.level.program
        if self.layout is not None and self.worker is None and not is_sharded_program(program):
            program = sharded(program, self.layout, self.accelerator.device)
            self.level = dataclasses.replace(self.level, program=program)

    def _finish(self) -> Result:
        program = self.worker.program() if self.worker is not None else self.level.program
        if is_sharded_program(program):
            stored = self.saver.stored()
            tensors = (
                {n: t.cpu() for n, t in Gathered(program.tensors.source).items()}
                if stored is None
                else stored
            )
            program = program.with_values(program.tensors.replace(tensors))
        if self.worker is not None:
            self.worker.close()
            self.worker = None
        if self.accelerator.trackers:
            self.accelerator.end_training()
        return Result(program, self.metrics.history)

    def _train(self, phase: Train, progress: Progress, interruption: Interruption) -> None:
        worker = self._ready(phase)
        settings, at = self.settings, self.at
        window, self._window = self._window, []
        on_cpu = self.accelerator.device.type == "cpu"
        last_saved, first_step = at.step, True
        frozen = frozen_names(self.level.program, phase.freeze) if phase.freeze else frozenset[str]()
        worker.freeze(frozen)
        metered, self._flops = with_frozen(self.level.program, frozen), {}
        teacher = self.level.aside[-1].program if phase.distill else None
        worker.teach(teacher, phase.distill)
        averaged = averaged_steps(phase, settings.checkpoint_every)
        count = self._batches(phase)
        self.clock.start()
        while at.phase_step < phase.steps:
            if interruption.agreed(self.accelerator, at.step, settings.log_every):
                self._stop(window, interruption.code)
            batches = [self._next(phase) for _ in range(count)]
            self._meter(worker, metered, batches, teacher)
            rate = self.rates.at(at.phase, at.phase_step)
            window.append(worker.step(batches, rate))
            if first_step:
                # compiled and set up: from now on all take as long
                wait_at_most(settings.timeout, self.layout)
                first_step = False
            at.step, at.phase_step = at.step + 1, at.phase_step + 1
            ends = at.phase_step == phase.steps
            if at.phase_step in averaged:
                worker.average(1 + averaged.index(at.phase_step))
            if ends and averaged:
                worker.take_average()
            if on_cpu:
                self._check_finite(window[-1:])
            if ends or at.step % settings.log_every == 0:
                self._log(window, rate.old, progress)
                window = []
            if ends or (settings.eval_every and at.step % settings.eval_every == 0):
                self._evaluate(worker)
            if not ends and settings.checkpoint_every and at.step - last_saved >= settings.checkpoint_every:
                self._check_finite(window)
                self._checkpoint(window, last=False)
                last_saved = at.step
        worker.freeze(())
        worker.teach(None, 0.0)
        at.phase, at.phase_step = at.phase + 1, 0
        self._checkpoint()
        self.clock.stop()

    def _next(self, phase: Train) -> Any:
        batch, less = self.stream.next(), (phase.batch, phase.sequence)
        return batch if less == (None, None) else cut(batch, *less)

    def _batches(self, phase: Train) -> int:
        """Batches of a step of ``phase`` in each process: as many in all as when the run began."""
        asked = phase.accumulate or self.settings.accumulate
        count, rest = divmod(asked * self.accumulate, self.settings.accumulate)
        if rest:
            raise TrainError(
                f"Phase {self.at.phase} accumulates {asked} batches, which these processes cannot share "
                "as those did that began the run: start as many."
            )
        return count

    def _ready(self, phase: Train) -> Worker:
        """The worker of the current level, made on first use and for another optimizer."""
        settings = settings_of(phase, self.settings)
        if self.worker is not None and settings.optimizer != self.worker.optimizer:
            self.level, self._optimizer = self._leave()
        if self.worker is None:
            before = RandomState.now()
            if self.at.phase_step == 0 and begins_anew(self.phases, self.at.phase, self.settings):
                self._optimizer = {}
            wait_at_most(None, self.layout)
            self._shard()
            self.worker = Worker(
                self.accelerator,
                self.level.program,
                settings,
                self.level.new,
                self._optimizer,
                self.loss,
                self.layout,
            )
            if self.layout is not None:
                # its rows are the worker's now
                self.level = dataclasses.replace(self.level, program=shell(self.level.program))
            before.restore()
            self._optimizer = {}
        return self.worker

    def _meter(
        self, worker: Worker, program: Program, batches: Sequence[Any], teacher: Program | None
    ) -> None:
        for batch in batches:
            key = worker.binder.check(batch, "A training batch")
            if key not in self._flops:
                self._flops[key] = (step_flops(program, batch, teacher), count_tokens(batch))
            flops, tokens = self._flops[key]
            self.at.flops += flops * self.accelerator.num_processes
            self.at.tokens += tokens * self.accelerator.num_processes

    def _log(self, window: Sequence[torch.Tensor], lr: float, progress: Progress) -> None:
        self._check_finite(window)
        mean = torch.stack(list(window)).mean()
        loss = float(self.accelerator.reduce(mean, "mean") if self.accelerator.num_processes > 1 else mean)
        record = {**self._where(), "loss": loss, "lr": lr, "memory": peak_memory()}
        self.metrics.add(record)
        if self.accelerator.trackers:
            self.accelerator.log(
                {key: record[key] for key in ("loss", "lr", "level", "flops")}, step=self.at.step
            )
        level = self.levels[self.at.phase]
        progress.cost(level, next(reversed(self._flops.values()))[0])
        progress.update(self.at.phase, self.at.phase_step, f"loss {loss:.3f}{self._evaluated()}")

    def _evaluated(self) -> str:
        """The loss of the last evaluation, for the progress bar."""
        losses = (record["eval_loss"] for record in reversed(self.metrics.history) if "eval_loss" in record)
        return next((f", eval {loss:.3f}" for loss in losses), "")

    def _where(self) -> Record:
        at = self.at
        return {
            "step": at.step,
            "phase": at.phase,
            "level": self.levels[at.phase],
            "flops": at.flops,
            "tokens": at.tokens,
            "seconds": round(self.clock.read(), 4),
        }

    def _check_finite(self, window: Sequence[torch.Tensor]) -> None:
        """Raise ``DivergedError`` naming the first step of ``window`` whose loss is not finite."""
        if not window or bool(torch.isfinite(torch.stack(list(window))).all()):
            return
        bad = next(index for index, loss in enumerate(window) if not bool(torch.isfinite(loss)))
        step = self.at.step - len(window) + bad + 1
        saved = f"the last good checkpoint is {self.saver.last}" if self.saver.last else "nothing was saved"
        raise DivergedError(
            f"The loss is {float(window[bad])} at step {step} (phase {self.at.phase}, level "
            f"{self.levels[self.at.phase]}); {saved}: lower the learning rate or clip the gradient."
        )

    def _evaluate(self, worker: Worker) -> None:
        if self.eval_data is None:
            return
        self.clock.stop()
        before = RandomState.now()
        # What an evaluation draws must not move the training's random numbers.
        seed_all(self.settings.seed)
        found = worker.evaluate(self._eval_batches(self.eval_data), self.metric)
        before.restore()
        record = {**self._where(), **{f"eval_{key}": value for key, value in found.items()}}
        self.metrics.add(record)
        if self.accelerator.trackers:
            self.accelerator.log(
                {key: record[key] for key in record if key.startswith("eval_")}, step=self.at.step
            )
        self.clock.start()

    def _eval_batches(self, data: Iterable[Any]) -> Iterable[tuple[Any, float]]:
        """This process's share and weights; all have equally many, since sharded ones compute together."""
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        batches = islice(data, self.settings.eval_batches)
        while held := list(islice(batches, processes)):
            yield held[min(rank, len(held) - 1)], float(rank < len(held))

    def _change(self) -> None:
        """Carry out the level-changing phases up to the next training."""
        self._shard()
        first = self.at.phase
        end = next(
            (n for n in range(first, len(self.phases)) if isinstance(self.phases[n], Train)), len(self.phases)
        )
        self.clock.start()
        level, state = self._leave()
        change = change_level(
            level, self.phases[first:end], first, self.settings.optimizer_state, self.saver.aside(state)
        )
        self.level, self._optimizer = change.level, change.state(state)
        self._flops = {}
        self.clock.stop()
        self.at.phase = end
        self.saver.save_architecture(self.level)
        self._checkpoint()
        names = [kind_of(phase) for phase in self.phases[first:end]]
        here = {"step": self.at.step, "phase": first, "level": self.levels[end - 1], "changed": names}
        self.metrics.add(
            {**here, "flops": self.at.flops, "parameters": change.level.program.num_parameters()}
        )

    def _leave(self) -> tuple[Level, States]:
        """Take program and optimizer state from the worker and let go of it."""
        if self.worker is None:
            return self.level, self._optimizer
        level = dataclasses.replace(self.level, program=self.worker.program())
        state = self.worker.optimizer_state()
        self.worker.close()
        self.worker = None
        return level, state

    def _stop(self, window: Sequence[torch.Tensor], code: int) -> None:
        self._checkpoint(window)
        if self.accelerator.is_main_process:
            print(f"stopped at step {self.at.step:,}; the same command goes on", file=sys.stderr, flush=True)
        raise SystemExit(code)

    def _checkpoint(self, window: Sequence[torch.Tensor] = (), last: bool = True) -> None:
        if not self.saver.active:
            return
        self.clock.stop()
        worker, level = self.worker, self.level
        program = level.program if worker is None else worker.program()
        optimizer = self._optimizer if worker is None else worker.optimizer_state()
        at = {**dataclasses.asdict(self.at), "seconds": self.clock.read()}
        self.saver.write(at, level, program, optimizer, self.stream, window, last)
        self.clock.start()

    def _resume(self, saved: Resumed) -> None:
        state = saved.state
        names = [field.name for field in dataclasses.fields(_Position)]
        self.at = _Position(**{name: state[name] for name in names})
        self.clock.seconds = state["seconds"]
        self.level, self._optimizer = saved.level, saved.optimizer
        self.stream.restore(saved.stream, same_process=saved.own is not None)
        self._window = [torch.tensor(loss, device=self.accelerator.device) for loss in saved.window]
        self.metrics.resume(self.at.step)
        saved.restore_random(self.accelerator)
