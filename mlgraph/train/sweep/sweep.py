"""A study carried out: by one process, or by several that share its folder."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mlgraph.program import Program
from mlgraph.train.config import Config
from mlgraph.train.errors import DivergedError, TrainError
from mlgraph.train.sweep.folder import StudyFolder
from mlgraph.train.sweep.runs import TWINS, Outcomes, StudyRun, needed
from mlgraph.train.sweep.study import Study

_PATIENCE = 2.0
OpenProgram = Callable[..., Program]
Announce = Callable[[str], None]


@dataclass(frozen=True)
class Sweep:
    """What a process did of a study: the names of the runs it carried out, and all outcomes there are."""

    ran: tuple[str, ...]
    outcomes: Outcomes


def sweep(
    study: Study,
    open_program: OpenProgram,
    workers: int = 1,
    devices: Sequence[str] = (),
    say: Announce = lambda _: None,
) -> Sweep:
    """Run whatever a study still needs, and wait for what others are running.

    Started again after a kill, or beside other processes over the same folder, it goes on: a run belongs to
    whoever holds its lock, and is resumed from its last checkpoint. ``workers`` processes share the work;
    ``devices`` are given to them in turn (``"0"``: the first GPU). ``open_program(source, trust=…)`` opens a
    model. Raises ``TrainError`` where a run cannot be done at all.
    """
    folder = StudyFolder.of(study)
    if workers > 1:
        _spread(study, open_program, workers, devices, say)
        return Sweep((), folder.outcomes())
    return Sweep(tuple(_work(study, folder, open_program, say)), folder.outcomes())


def _work(study: Study, folder: StudyFolder, open_program: OpenProgram, say: Announce) -> list[str]:
    programs = _Programs(open_program)
    ran: list[str] = []
    while True:
        open_trials = needed(study, folder.outcomes())
        if not open_trials:
            return ran
        done = _first_free(study, folder, open_trials, programs, say)
        if done is not None:
            ran.append(done)
        else:
            # others run what is left; what comes after depends on how it ends
            time.sleep(_PATIENCE)


def _first_free(
    study: Study, folder: StudyFolder, trials: Iterable[StudyRun], programs: _Programs, say: Announce
) -> str | None:
    """Run the first trial that no other process has claimed; its name, or None where there is none."""
    for trial in trials:
        with folder.claimed(trial) as mine:
            if mine:
                say(trial.name)
                _carry_out(study, folder, trial, programs)
                return trial.name
    return None


def _carry_out(study: Study, folder: StudyFolder, trial: StudyRun, programs: _Programs) -> None:
    from mlgraph.train.launch import launch

    config = study.config(
        trial.arm, trial.settings, trial.share, trial.seed, folder.run(trial), trial.is_final
    )
    try:
        result, _ = launch(config, programs.of(config))
    except DivergedError as error:
        folder.finish(trial, str(error))
    else:
        folder.finish(trial, found=_twins(result.program) if trial.is_final else None)


def _twins(program: Program) -> dict[str, float]:
    """The share of neurons that are all but copies of another one, over all axes that may be coarsened."""
    from mlgraph.verify.twins import symmetry

    rows = symmetry(program).rows
    slots = sum(row.slots for row in rows)
    return {TWINS: sum(row.near_share * row.slots for row in rows) / slots} if slots else {}


class _Programs:
    """Programs by model and seed, opened and captured once, and given out with their first weights."""

    def __init__(self, open_program: OpenProgram) -> None:
        self._open = open_program
        self._known: dict[tuple[object, ...], tuple[Program, dict[str, torch.Tensor]]] = {}

    def of(self, config: Config) -> OpenProgram:
        """What opens the model of a configuration."""
        key = (config.model, config.model_class, config.data.task, config.run.seed)

        def opened(source: str, **options: Any) -> Program:
            if key not in self._known:
                program = self._open(source, **options)
                self._known[key] = program, {n: t.detach().clone() for n, t in program.tensors.items()}
            program, first = self._known[key]
            fresh = {
                name: torch.nn.Parameter(first[name].clone(), tensor.requires_grad)
                if name in program.tensors.parameters
                else first[name].clone()
                for name, tensor in program.tensors.items()
            }
            return program.replace(tensors=program.tensors.replace(fresh))

        return opened


def _spread(
    study: Study, open_program: OpenProgram, workers: int, devices: Sequence[str], say: Announce
) -> None:
    context = multiprocessing.get_context("spawn")
    threads = max((os.cpu_count() or 1) // workers, 1)
    processes = []
    for number in range(workers):
        device = devices[number % len(devices)] if devices else None
        process = context.Process(target=_worker, args=(study, open_program, device, threads))
        process.start()
        processes.append(process)
    say(f"{workers} workers")
    for process in processes:
        process.join()
    failed = [process.exitcode for process in processes if process.exitcode]
    if failed:
        raise TrainError(
            f"{len(failed)} of {workers} workers ended with the errors printed above: mend them, and the "
            "same command goes on."
        )


def _worker(study: Study, open_program: OpenProgram, device: str | None, threads: int) -> None:
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    torch.set_num_threads(threads)
    _work(study, StudyFolder.of(study), open_program, lambda text: print(text, flush=True))
