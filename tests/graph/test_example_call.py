"""Random arguments: indices lie inside the tables that they are looked up in."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import mlgraph
from mlgraph.graph.example_call import example_call, example_leaves


class Lookups(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 4)
        self.kinds = nn.Embedding(3, 4)

    def forward(self, ids: Any, *, kinds: Any, mask: Any, x: Any, labels: Any) -> Any:
        shifted = nn.functional.pad(ids, (1, 0))[:, :-1].clone()
        hidden = self.words(ids) + self.words(shifted.reshape(2, 5)) + self.kinds(kinds) + x
        scores = hidden.masked_fill(~mask[..., None], 0.0) @ self.words.weight.T
        return nn.functional.cross_entropy(scores.flatten(0, 1), labels.view(-1))


def lookups() -> mlgraph.Program:
    ids = torch.zeros(2, 5, dtype=torch.long)
    given = {"kinds": ids, "mask": torch.ones(2, 5, dtype=torch.bool), "x": torch.zeros(2, 5, 4)}
    return mlgraph.capture(Lookups(), (ids,), {**given, "labels": ids})


def test_every_index_has_a_row_and_some_differ() -> None:
    program = lookups()
    _, kwargs = example_call(program, seed=3)
    assert kwargs["ids"].min() >= 0
    assert kwargs["ids"].max() < 7
    assert kwargs["ids"].unique().numel() > 2
    assert kwargs["kinds"].max() < 3
    assert kwargs["labels"].max() < 7
    assert kwargs["mask"].all()
    assert kwargs["x"].std() > 0.3


def test_a_seed_gives_the_same_arguments_again() -> None:
    program = lookups()
    first, again, other = (example_leaves(program, seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
