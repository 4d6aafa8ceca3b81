"""A configured run from its beginning to its end."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlgraph.interop.heads import class_with_head
from mlgraph.program import Program
from mlgraph.train.config import Config
from mlgraph.train.data.batches import Binder, peek
from mlgraph.train.data.stream import seed_all
from mlgraph.train.data.tasks import TaskData, load_data
from mlgraph.train.engine.engine import Result
from mlgraph.train.engine.forecast import Forecast, forecast
from mlgraph.train.engine.processes import make_accelerator
from mlgraph.train.engine.run import run
from mlgraph.train.engine.timing import device_memory, step_seconds

TOKENIZER = "tokenizer"
"""The folder of a run directory that holds the tokenizer of its text."""


def launch(
    config: Config, open_program: Callable[..., Program], progress: bool = False
) -> tuple[Result, bool]:
    """Carry out a configuration; the result, and whether this process is the main one.

    ``open_program(source, trust=…, model_class=…)`` opens the model. Its random weights, if it has any,
    follow the run's seed.
    """
    phases, out = config.phase_program(), Path(config.out)
    settings = dataclasses.replace(config.settings(), progress=config.run.progress or progress)
    accelerator = make_accelerator(settings, out)
    program, data = _opened(config, open_program, accelerator)
    with _nothing_left_behind(out):
        result = run(
            program,
            phases,
            data.train,
            data.eval,
            data.loss,
            out,
            settings=settings,
            metric=data.metric,
            accelerator=accelerator,
            config=config.to_json(),
        )
    main = bool(accelerator.is_main_process)
    if main and data.tokenizer is not None:
        data.tokenizer.save(out / TOKENIZER)
    return result, main


def dry_run(
    config: Config,
    open_program: Callable[..., Program],
    processes: int | None = None,
    memory: int | None = None,
) -> Forecast:
    """What a configuration will take on ``processes``; nothing is written.

    Steps are timed on the device of this process, where one process of the run fits on it. ``memory`` are
    the bytes that each process has, by default those of this device.

    Raises:
        TrainError: a phase cannot be done, or does not fit.
    """
    phases, settings = config.phase_program(), config.settings()
    accelerator = make_accelerator(dataclasses.replace(settings, trackers=()), None)
    program, data = _opened(config, open_program, accelerator)
    batch, _ = peek(data.train, "training data")
    Binder(program, spare=data.loss is not None).check(batch, "The first training batch")
    count = processes or accelerator.num_processes
    found = forecast(program, phases, batch, settings, count)
    here = device_memory(accelerator.device)
    found.check(here if memory is None else memory)
    alone = found if count == 1 else forecast(program, phases, batch, settings, 1)
    if alone.largest.memory.device > here:
        return found
    seconds = step_seconds(program, phases, batch, data.loss, settings, accelerator)
    return found.timed(seconds)


def _opened(
    config: Config, open_program: Callable[..., Program], accelerator: Any
) -> tuple[Program, TaskData]:
    seed = config.run.seed
    seed_all(seed)
    chosen = config.model_class or class_with_head(config.model, config.data.task)
    program = open_program(config.model, trust=config.trust, model_class=chosen)
    # The main process tokenizes; the others find it done.
    with accelerator.main_process_first():
        return program, load_data(config.data, program, config.model, seed)


@contextmanager
def _nothing_left_behind(out: Path) -> Iterator[None]:
    """Delete a new run directory, where the run fails before its first line of metrics."""
    new = not out.exists()
    try:
        yield
    except Exception:
        metrics = out / "metrics.jsonl"
        if new and not (metrics.exists() and metrics.stat().st_size):
            shutil.rmtree(out, ignore_errors=True)
        raise
