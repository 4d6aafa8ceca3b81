"""The data of a configured run: loaders of batches that a program takes, for each task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from mlgraph.program import Program
from mlgraph.train.config import Data
from mlgraph.train.data.batches import Binder, Loss, Metric
from mlgraph.train.data.images import FolderImages, IdxImages, idx_pair, parts_of
from mlgraph.train.data.labelled import IGNORED
from mlgraph.train.data.order import ShuffledBatches
from mlgraph.train.data.text_tasks import text_sets
from mlgraph.train.data.tokenizer import Tokenizer
from mlgraph.train.errors import TrainError


@dataclass(frozen=True)
class TaskData:
    """Loaders for training and evaluation, and the loss and metric where the program has none of its own.

    ``tokenizer`` is that of a text.
    """

    train: DataLoader[Any]
    eval: DataLoader[Any]
    loss: Loss | None = None
    metric: Metric | None = None
    tokenizer: Tokenizer | None = None


def load_data(data: Data, program: Program, source: str, seed: int = 0) -> TaskData:
    """The data of a configuration for ``program``, which was opened from ``source``.

    Raises ``TrainError`` where files are missing, of the wrong kind, or do not fit the program.
    """
    if data.task == "image-classification":
        return _images(data, program, seed)
    sets = text_sets(data, program, source, seed)
    if sets.highest is not None:
        _check_classes(program, sets.highest, "texts")
    return replace(_loaders(data, program, sets.train, sets.eval, seed), tokenizer=sets.tokenizer)


def _images(data: Data, program: Program, seed: int) -> TaskData:
    path, held_out = _image_path(data.train)
    train = _image_set(data, path, data.flip)
    _check_classes(program, train.highest, "images")
    if data.eval:
        given, its_held_out = _image_path(data.eval)
        held_out = its_held_out or given
    if held_out is not None:
        evaluation = _image_set(data, held_out, False, train)
        _check_classes(program, evaluation.highest, "images")
        return _loaders(data, program, train, evaluation, seed)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)).tolist()
    cut = len(order) - max(round(len(order) * data.eval_share), 1)
    still = _image_set(data, path, False)
    return _loaders(data, program, Subset(train, order[:cut]), Subset(still, order[cut:]), seed)


def _image_path(names: tuple[str, ...]) -> tuple[Path, Path | None]:
    """The folder or idx file of images that is named, and what it holds out for evaluation, if it does."""
    if len(names) != 1:
        raise TrainError("Images come from one folder or one idx file: give a single path.")
    path = Path(names[0])
    return parts_of(path) if path.is_dir() else (path, None)


def _image_set(
    data: Data, path: Path, flip: bool, like: FolderImages | IdxImages | None = None
) -> FolderImages | IdxImages:
    """The images of a path; ``like``, those of training, number the classes of folders."""
    if path.is_dir():
        classes = like.classes if isinstance(like, FolderImages) else None
        return FolderImages(path, data.image_size, data.channels, flip, classes)
    return IdxImages(*idx_pair(path), data.image_size, data.channels, flip)


def _check_classes(program: Program, highest: int, what: str) -> None:
    """Refuse class numbers for which the program has no logit."""
    output = next(iter(reversed(program.graph.nodes)))
    leaves = [leaf.meta["val"] if isinstance(leaf, fx.Node) else leaf for leaf in output.args[0]]
    logits = logits_of(pytree.tree_unflatten(leaves, program.signature.out_spec))
    if highest >= logits.shape[-1]:
        raise TrainError(
            f"The {what} have classes up to {highest} and the model has {logits.shape[-1]} logits: choose a "
            f"model of at least {highest + 1} classes."
        )


def _loaders(
    data: Data, program: Program, train: Dataset[Any], evaluation: Dataset[Any], seed: int
) -> TaskData:
    names = Binder(program, spare=True).names
    has_labels = "labels" in names
    is_image = data.task == "image-classification"
    collate = _Collate(tuple(names), is_image)
    loader = {"num_workers": data.workers, "collate_fn": collate}
    batches = ShuffledBatches(len(train), data.batch, seed)  # type: ignore[arg-type]
    first = DataLoader(train, batch_sampler=batches, **loader)  # type: ignore[arg-type]
    second = DataLoader(evaluation, data.eval_batch, **loader)  # type: ignore[arg-type]
    if len(first) == 0:
        raise TrainError(
            f"The training data is smaller than one batch of {data.batch}: lower data.batch or give more."
        )
    loss = None if has_labels else LOSSES[data.task]
    return TaskData(first, second, loss, METRICS.get(data.task))


class _Collate:
    """Batches of what the program takes by name, and labels; a first unnamed input is the image."""

    def __init__(self, names: tuple[str, ...], is_image: bool) -> None:
        self.names, self.is_image = names, is_image

    def __call__(self, samples: list[Any]) -> dict[str, torch.Tensor]:
        batch = default_collate(samples)
        if self.is_image:
            image = next((name for name in self.names if name != "labels"), "x")
            return {image: batch[0], "labels": batch[1]}
        return {name: value for name, value in batch.items() if name in self.names or name == "labels"}


def logits_of(outputs: Any) -> torch.Tensor:
    """The logits in a model's outputs: an entry of that name, a tensor, or the first tensor with dims."""
    found = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    if found is None and isinstance(outputs, tuple | list):
        found = next((value for value in outputs if isinstance(value, torch.Tensor) and value.ndim > 1), None)
    found = outputs if found is None else found
    if not isinstance(found, torch.Tensor):
        raise TrainError("The model returns no logits: choose a head that does, or train it from Python.")
    return found


def classification_loss(outputs: Any, batch: Any) -> torch.Tensor:
    """Cross-entropy of logits [batch, classes] against ``labels``."""
    return nn.functional.cross_entropy(logits_of(outputs), batch["labels"])


def next_token_loss(outputs: Any, batch: Any) -> torch.Tensor:
    """Cross-entropy of logits [batch, sequence, vocabulary] against the next token."""
    logits = logits_of(outputs)[:, :-1]
    return nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten())


def written_token_loss(outputs: Any, batch: Any) -> torch.Tensor:
    """Cross-entropy of logits [batch, sequence, classes] against ``labels`` [batch, sequence].

    Labels of -100 are passed over.
    """
    return nn.functional.cross_entropy(logits_of(outputs).flatten(0, 1), batch["labels"].flatten())


def accuracy(outputs: Any, batch: Any) -> dict[str, torch.Tensor]:
    """The share of labels other than -100 whose class has the largest logit."""
    labels = batch["labels"]
    known = labels != IGNORED
    right = (logits_of(outputs).argmax(-1) == labels) & known
    return {"accuracy": right.sum() / known.sum().clamp(min=1)}


def top1(outputs: Any, batch: Any) -> dict[str, torch.Tensor]:
    """The share of samples whose class has the largest logit."""
    return {"top1": (logits_of(outputs).argmax(-1) == batch["labels"]).float().mean()}


LOSSES: dict[str, Loss] = {
    "causal-lm": next_token_loss,
    "masked-lm": written_token_loss,
    "seq2seq": written_token_loss,
    "text-classification": classification_loss,
    "token-classification": written_token_loss,
    "image-classification": classification_loss,
}
METRICS: dict[str, Metric] = {
    "text-classification": accuracy,
    "token-classification": accuracy,
    "image-classification": top1,
}
