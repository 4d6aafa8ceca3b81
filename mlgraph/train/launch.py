"""A configured run from its beginning to its end."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mlgraph.interop.heads import class_with_head
from mlgraph.program import Program
from mlgraph.train.config import Config
from mlgraph.train.data.stream import seed_all
from mlgraph.train.data.tasks import load_data
from mlgraph.train.engine.engine import Result
from mlgraph.train.engine.processes import make_accelerator
from mlgraph.train.engine.run import run

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
    seed_all(settings.seed)
    chosen = config.model_class or class_with_head(config.model, config.data.task)
    program = open_program(config.model, trust=config.trust, model_class=chosen)
    # The main process tokenizes; the others find it done.
    with accelerator.main_process_first():
        data = load_data(config.data, program, config.model, settings.seed)
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
