"""Training by a phase program on accelerate, which goes on where it was stopped."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from mlgraph.program import Program
from mlgraph.train.config import known_defaults
from mlgraph.train.data.batches import Binder, Loss, Metric, call_of, check_call, peek
from mlgraph.train.engine.averaging import check_averages
from mlgraph.train.engine.checkpoint import RunDirectory
from mlgraph.train.engine.engine import Engine, Result
from mlgraph.train.engine.launched import as_launched
from mlgraph.train.engine.processes import Interruption, make_accelerator, peers_ended
from mlgraph.train.engine.rehearsal import rehearse
from mlgraph.train.errors import TrainError
from mlgraph.train.phases import Phase, to_json
from mlgraph.train.settings import Settings


def run(
    model: Program | nn.Module,
    phases: Sequence[Phase],
    train_data: Iterable[Any],
    eval_data: Iterable[Any] | None = None,
    loss: Loss | None = None,
    out_dir: str | os.PathLike[str] | None = None,
    *,
    settings: Settings | None = None,
    metric: Metric | None = None,
    accelerator: Any = None,
    config: Mapping[str, Any] | None = None,
    **options: Any,
) -> Result:
    """Train ``model`` by a phase program.

    ``model``: a program, or a module, which is captured on the first batch. At level 1 it is trained in
    place: its parameters are the run's. ``train_data``, ``eval_data``: any iterable of batches; a batch is
    a mapping of inputs by name, a tuple by position, or a tensor, and one batch is what one process sees at
    once. ``loss``: a function of outputs and batch to a scalar, by default the loss the model itself
    returns; with it batches may hold more than the model takes. ``metric``: a function of outputs and batch
    to further scalars by name, averaged at evaluations. ``options`` (or ``settings``) are the fields of
    ``Settings``; ``accelerator`` replaces the one made from them; ``config`` is kept with the run's own
    description.

    With ``out_dir`` the run is durable: stopped at any moment and called again with the same arguments it
    goes on from its last checkpoint, on as many processes as divide its batches per step; SIGTERM to one of
    them writes a checkpoint and exits with code 0, Ctrl-C with 130. The tensors of the result of a sharded
    run are read from its directory, and without one put together in every process. Raises ``TrainError``.
    """
    chosen = as_launched((settings or Settings()).replace(options))
    if not isinstance(model, Program | nn.Module):
        raise TrainError(f"model is a {type(model).__name__}: give a program or a torch.nn.Module.")
    first, train_data = peek(train_data, "training data")
    if isinstance(model, nn.Module):
        from mlgraph.interop.open import capture

        args, kwargs = call_of(model, first, spare=loss is not None)
        check_call(model, args, kwargs)
        model = capture(model, args, kwargs)
    if chosen.recompute and not model.blocks:
        raise TrainError("recompute goes block by block, and the model has no chain of blocks: leave it out.")
    rehearse(model, phases)
    check_averages(phases, chosen.checkpoint_every)
    spare = loss is not None
    Binder(model, spare).check(first, "The first training batch")
    if eval_data is not None:
        held_out, again = peek(eval_data, "evaluation data")
        if again is not eval_data:
            raise TrainError(
                "eval_data is a one-shot iterator: give an iterable that can be gone through again."
            )
        Binder(model, spare).check(held_out, "The first evaluation batch")
    out = None if out_dir is None else Path(out_dir)
    accelerator = accelerator or make_accelerator(chosen, out)
    engine = Engine(model, phases, train_data, eval_data, loss, metric, chosen, accelerator)
    if out is not None:
        description = {**(config or {}), "run": _describe(model, phases, chosen, accelerator.num_processes)}
        engine.save_to(_open_directory(out, description, chosen.keep, accelerator))
    with Interruption(active=out is not None) as interruption, peers_ended(accelerator, engine.saver):
        return engine.run(interruption)


def _describe(
    program: Program, phases: Sequence[Phase], settings: Settings, processes: int
) -> dict[str, Any]:
    model = {"name": program.name, "parameters": program.num_parameters()}
    return {"model": model, "phases": to_json(phases), **settings.to_json(), "processes": processes}


def _open_directory(out: Path, description: Mapping[str, Any], keep: int, accelerator: Any) -> RunDirectory:
    with accelerator.main_process_first():
        return RunDirectory(out, description, keep, known_defaults())
