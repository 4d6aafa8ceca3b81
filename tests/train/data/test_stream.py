from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mlgraph.train import TrainError
from mlgraph.train.data.stream import Stream


class Noisy(Dataset[torch.Tensor]):
    """Items that draw from every generator, as augmentation does."""

    def __len__(self) -> int:
        return 11

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([index, torch.rand(()).item(), random.random(), np.random.rand()])


class Counting(IterableDataset[int]):
    def __iter__(self) -> Any:
        return iter(range(7))


SOURCES: dict[str, Callable[[], Iterable[Any]]] = {
    "shuffled": lambda: DataLoader(Noisy(), batch_size=2, shuffle=True),
    "own generator": lambda: DataLoader(Noisy(), batch_size=2, shuffle=True, generator=torch.Generator()),
    "workers": lambda: DataLoader(Noisy(), batch_size=3),
    "iterable": lambda: DataLoader(Counting(), batch_size=2),
    "list": lambda: [torch.tensor(i) for i in range(5)],
    "one batch": lambda: [torch.tensor(1)],
}


def _same(left: Iterable[Any], right: Iterable[Any]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(SOURCES)), st.integers(0, 15), st.integers(0, 3))
def test_a_restored_stream_goes_on_alike(source: str, had: int, seed: int) -> None:
    whole = Stream(SOURCES[source](), seed)
    expected = [whole.next() for _ in range(20)]
    first = Stream(SOURCES[source](), seed)
    for _ in range(had):
        first.next()
    state = json.loads(json.dumps(first.state()))
    torch.rand(3), random.random(), np.random.rand()
    again = Stream(SOURCES[source](), seed)
    again.restore(state)
    assert _same([again.next() for _ in range(20 - had)], expected[had:])


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(["list", "iterable", "one batch"]), st.integers(1, 4), st.integers(0, 4))
def test_processes_share_the_stream_of_one(source: str, processes: int, had: int) -> None:
    one = Stream(SOURCES[source](), 0)
    expected = [one.next() for _ in range(6 * processes)]
    streams = [Stream(SOURCES[source](), 0, rank, processes) for rank in range(processes)]
    got = [stream.next() for _ in range(had) for stream in streams]
    state = streams[0].state()
    streams = [Stream(SOURCES[source](), 0, rank, processes) for rank in range(processes)]
    for stream in streams:
        stream.restore(state)
    got += [stream.next() for _ in range(6 - had) for stream in streams]
    assert _same(got, expected)


def test_shuffled_loaders_are_dealt_without_loading_what_others_get() -> None:
    loaded: list[int] = []

    class Watched(Noisy):
        def __getitem__(self, index: int) -> torch.Tensor:
            loaded.append(index)
            return torch.tensor(index)

    one = Stream(DataLoader(Noisy(), batch_size=2, shuffle=True), 0)
    expected = [one.next()[:, 0].long() for _ in range(6)]
    streams = [Stream(DataLoader(Watched(), batch_size=2, shuffle=True), 0, rank, 2) for rank in range(2)]
    got = [stream.next() for _ in range(3) for stream in streams]
    assert _same(got, expected)
    assert len(loaded) == 11


def test_the_order_of_data_does_not_depend_on_what_the_model_draws() -> None:
    quiet = Stream(DataLoader(Noisy(), batch_size=2, shuffle=True), 3)
    expected = [quiet.next() for _ in range(15)]
    noisy = Stream(DataLoader(Noisy(), batch_size=2, shuffle=True), 3)
    got = []
    for _ in range(15):
        torch.rand(5)
        got.append(noisy.next())
    assert _same(got, expected)


def test_epochs_are_shuffled_anew() -> None:
    stream = Stream(DataLoader(Noisy(), batch_size=11, shuffle=True), 0)
    assert not torch.equal(stream.next()[:, 0], stream.next()[:, 0])
    assert stream.epoch == 1


def test_streams_leave_torchs_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    stream = Stream(DataLoader(Noisy(), batch_size=2, shuffle=True), 0)
    torch.manual_seed(5)
    stream.next()
    assert torch.equal(torch.rand(3), expected)


def test_a_spent_iterator_is_named() -> None:
    stream = Stream(iter([1, 2]), 0)
    assert [stream.next(), stream.next()] == [1, 2]
    with pytest.raises(TrainError, match="ended after 2 batches"):
        stream.next()
    with pytest.raises(TrainError, match="holds no batch"):
        Stream([], 0).next()
