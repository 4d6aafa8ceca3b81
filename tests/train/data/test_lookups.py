"""Batches whose indices lie outside the model's tables."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import mlgraph
from mlgraph.train import TrainError, plain, run
from mlgraph.train.data.lookups import check_lookups

SIZES = {"vocab_size": 30, "n_positions": 12, "n_embd": 8, "n_layer": 2, "n_head": 2, "use_cache": False}


@cache
def _captured() -> mlgraph.Program:
    ids = torch.arange(2 * 7).reshape(2, 7)
    config = transformers.GPT2Config(**SIZES, bos_token_id=0, eos_token_id=0)
    return mlgraph.capture(transformers.GPT2LMHeadModel(config), kwargs={"input_ids": ids, "labels": ids})


def gpt() -> mlgraph.Program:
    """The captured model with parameters of its own."""
    program = _captured()
    own = {name: nn.Parameter(tensor.detach().clone()) for name, tensor in program.tensors.items()}
    return program.with_values(program.tensors.replace(own))


def _batch(length: int = 7, **changes: tuple[int, int]) -> dict[str, torch.Tensor]:
    batch = {name: torch.arange(2 * length).reshape(2, length) % 30 for name in ("input_ids", "labels")}
    for name, (place, value) in changes.items():
        batch[name][1, place] = value
    return batch


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (_batch(input_ids=(3, 30)), r"row 30 of transformer\.wte\.weight, which has 30: change input_ids"),
        (_batch(input_ids=(3, -1)), r"row -1 of transformer\.wte\.weight"),
        (_batch(length=13), r"row 12 of transformer\.wpe\.weight, which has 12"),
        (_batch(labels=(3, 31)), "class 31 where the loss takes 0 to 29: change labels"),
        (_batch(labels=(3, -1)), "class -1 where the loss"),
    ],
)
def test_what_lies_outside_is_named_before_a_step(batch: dict[str, torch.Tensor], message: str) -> None:
    program = gpt()
    with pytest.raises(TrainError, match=f"first training batch .*{message}"):
        run(program, plain(2), [batch])
    with pytest.raises(TrainError, match=f"first evaluation batch .*{message}"):
        run(program, plain(2), [_batch()], [batch])


def test_ignored_labels_and_full_lengths_are_inside() -> None:
    assert len(run(gpt(), plain(1), [_batch(length=12, labels=(3, -100))]).history) == 1


class Shifted(nn.Module):
    """Makes its inputs from its labels in place, as encoder-decoders do."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 4)
        self.choice = nn.Parameter(torch.ones(4))

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        ids = labels.new_zeros(labels.shape)
        ids[:, 1:] = labels[:, :-1].clone()
        ids.masked_fill_(ids == -100, 0)
        return (self.table(ids) * self.choice).sum()


class Chosen(Shifted):
    """Looks up what depends on a weight."""

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        return self.table((self.choice.argmax() + labels).clamp(0, 8)).sum() * self.choice.sum()


@pytest.mark.parametrize(("labels", "fits"), [([1, -100, 8], True), ([1, 9, 2], False), ([1, 2, 9], True)])
def test_indices_made_in_place(labels: list[int], fits: bool) -> None:
    program = mlgraph.capture(Shifted(), (torch.tensor([[1, 2, 3], [4, 5, 6]]),))
    leaves: list[Any] = [torch.tensor([labels, labels])]
    if fits:
        check_lookups(program, leaves, "The batch")
    else:
        with pytest.raises(TrainError, match=r"The batch looks up row 9 of table\.weight, which has 9"):
            check_lookups(program, leaves, "The batch")


class Drawn(Shifted):
    """Looks up what it draws, and writes into its input."""

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        labels.masked_fill_(labels == 7, 8)
        return (self.table(torch.randint_like(labels, 9)) * self.table(labels)).sum()


def test_looking_changes_neither_inputs_nor_random_numbers() -> None:
    program = mlgraph.capture(Drawn(), (torch.tensor([[1, 2, 3], [4, 5, 6]]),))
    before, labels = torch.get_rng_state(), torch.tensor([[1, 2, 7]])
    check_lookups(program, [labels], "The batch")
    assert labels.tolist() == [[1, 2, 7]]
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(TrainError, match="row 9 of table"):
        check_lookups(program, [torch.tensor([[1, 2, 9]])], "The batch")


class Likelihood(Shifted):
    """Its loss begins at log-probabilities."""

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        scores = self.table(labels.clamp(0, 8)).log_softmax(-1)
        return nn.functional.nll_loss(scores.flatten(0, 1), labels.flatten(), ignore_index=7)


def test_classes_of_log_likelihoods() -> None:
    program = mlgraph.capture(Likelihood(), (torch.tensor([[1, 2, 3], [0, 1, 2]]),))
    check_lookups(program, [torch.tensor([[0, 3, 7]])], "The batch")
    with pytest.raises(TrainError, match="class 4 where the loss takes 0 to 3: change labels"):
        check_lookups(program, [torch.tensor([[0, 4, 7]])], "The batch")


def test_what_depends_on_weights_is_left_to_run_time() -> None:
    program = mlgraph.capture(Chosen(), (torch.tensor([[1, 2, 3], [4, 5, 6]]),))
    check_lookups(program, [torch.tensor([[99, 2, 3]])], "The batch")
