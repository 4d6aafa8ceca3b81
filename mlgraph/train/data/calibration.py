"""Calibrating a program on batches as training takes them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from mlgraph.program import Program
from mlgraph.program.calibration import Calibration
from mlgraph.rewrite.calibration.measure import measure
from mlgraph.train.config import load_data_section
from mlgraph.train.data.batches import Binder, Loss, own_loss
from mlgraph.train.data.stream import seed_all
from mlgraph.train.data.tasks import load_data
from mlgraph.train.errors import TrainError

BATCHES = 8


def calibrate(
    program: Program,
    batches: Iterable[Any],
    loss: Loss | None = None,
    gradients: bool | None = None,
    most: int | None = None,
) -> Calibration:
    """What data shows of a program, in evaluation, by one pass over at most ``most`` batches.

    ``batches`` and ``loss`` are as for :func:`mlgraph.train.run`. Weights are read block by block, so that a
    program whose tensors are lazy may be larger than memory. ``gradients`` takes those of the loss as well,
    for which the program must fit; by default that is done where the program is in memory and there is a
    loss.

    Raises:
        TrainError: there is no batch, one does not fit, or gradients are asked for and there is no loss.
    """
    binder = Binder(program, spare=True)
    device = next((tensor.device for tensor in program.tensors.meta().values()), torch.device("cpu"))
    if program.tensors.in_memory:
        device = next((tensor.device for tensor in program.tensors.values()), device)
    device = torch.device("cpu") if device.type == "meta" else device
    leaves: list[tuple[Any, ...]] = []
    given: list[Any] = []
    for number, batch in enumerate(islice(batches, most)):
        binder.check(batch, f"Calibration batch {number}")
        flat = pytree.tree_leaves(binder.call(batch))
        leaves.append(tuple(leaf.to(device) if isinstance(leaf, torch.Tensor) else leaf for leaf in flat))
        given.append(batch)
    if not leaves:
        raise TrainError("The calibration data holds no batch: give at least one.")
    wanted = program.tensors.in_memory and has_loss(program, loss) if gradients is None else gradients
    losses = [partial(_loss, loss or own_loss, batch) for batch in given] if wanted else []
    return measure(program, leaves, losses)


def _loss(loss: Loss, batch: Any, outputs: Any) -> torch.Tensor:
    return loss(outputs, batch)


def has_loss(program: Program, loss: Loss | None) -> bool:
    """Whether a loss is given, or the program returns one of its own."""
    if loss is not None:
        return True
    listed: Any = program.graph.output_node().args[0]
    values = [getattr(leaf, "meta", {}).get("val", leaf) for leaf in listed]
    try:
        found = own_loss(pytree.tree_unflatten(values, program.signature.out_spec), None)
    except TrainError:
        return False
    return found.is_floating_point()


def calibrate_on(
    path: Path, program: Program, source: str, most: int = BATCHES, gradients: bool = True
) -> Calibration:
    """The calibration of a program, opened from ``source``, on the training data of a configuration.

    Of the file its section ``data`` is read. ``gradients`` takes those too where there is a loss.

    Raises:
        TrainError: the file or the data cannot be read, or does not fit the program.
    """
    data = load_data(load_data_section(path), program, source)
    seed_all(0)
    return calibrate(program, data.train, data.loss, gradients and has_loss(program, data.loss), most)
