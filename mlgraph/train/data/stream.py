"""Training batches as a stream with a position: dealt to processes, endless, resumable."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from mlgraph.train.data.order import ShuffledBatches
from mlgraph.train.errors import TrainError


@dataclass(frozen=True)
class RandomState:
    """The state of the CPU generators of torch, numpy and Python."""

    torch: torch.Tensor
    numpy: Any
    python: Any

    @classmethod
    def now(cls) -> RandomState:
        return cls(torch.get_rng_state(), np.random.get_state(legacy=True), random.getstate())

    def restore(self) -> None:
        """Put every generator into this state."""
        torch.set_rng_state(self.torch)
        np.random.set_state(self.numpy)
        random.setstate(self.python)

    def to_json(self) -> dict[str, Any]:
        name, keys, position, has_gauss, cached = self.numpy
        version, internal, gauss = self.python
        return {
            "torch": self.torch.tolist(),
            "numpy": [str(name), keys.tolist(), int(position), int(has_gauss), float(cached)],
            "python": [version, list(internal), gauss],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RandomState:
        name, keys, *rest = value["numpy"]
        version, internal, gauss = value["python"]
        return cls(
            torch.tensor(value["torch"], dtype=torch.uint8),
            (name, np.array(keys, dtype=np.uint32), *rest),
            (version, tuple(internal), gauss),
        )


def seed_all(seed: int) -> None:
    """Seed the CPU generators of torch, numpy and Python."""
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


class Stream:
    """The batches of ``data``, over and over, dealt round-robin to ``processes``.

    Process ``rank`` gets batches ``rank``, ``rank + processes``, … of the endless sequence, so n
    processes see in one step what one process sees in n accumulated ones. Data draws its random numbers
    (shuffling, augmentation) from a torch generator state of its own and from numpy's and Python's, all
    seeded anew every epoch: the order of batches depends on ``seed`` and nothing else. ``data`` is any
    iterable; a one-shot iterator serves until it is empty. What a resumed run has seen is skipped, without
    being loaded where ``data`` is a map-style ``DataLoader``.
    """

    def __init__(self, data: Iterable[Any], seed: int, rank: int = 0, processes: int = 1) -> None:
        self._data, self._seed, self._rank, self._processes = data, seed, rank, processes
        self._drawn = torch.get_rng_state()
        generator = getattr(data, "generator", None)
        self._own_seed = generator.initial_seed() if isinstance(generator, torch.Generator) else None
        self._one_shot = iter(data) is data
        self._epoch = 0
        self._offset = 0  # batches in the epochs before this one
        self._rounds = 0  # batches this process has had
        self._batches: Iterator[Any] | None = None
        self._resumed: RandomState | None = None

    @property
    def epoch(self) -> int:
        """How often the data was gone through."""
        return self._epoch

    def next(self) -> Any:
        """This process's next batch. ``TrainError`` where the data is empty or a one-shot iterator ends."""
        with self._generator():
            empty = 0
            while True:
                if self._batches is None:
                    self._batches = self._open()
                before = self._offset
                batch = next(self._batches, _END)
                if batch is not _END:
                    self._rounds += 1
                    return batch
                empty = empty + 1 if self._offset == before else 0
                if self._one_shot or empty:
                    self._refuse()
                self._epoch, self._batches = self._epoch + 1, None

    @contextmanager
    def _generator(self) -> Iterator[None]:
        """Let torch's CPU generator be the data's for a while."""
        outer = torch.get_rng_state()
        torch.set_rng_state(self._drawn)
        try:
            yield
        finally:
            self._drawn = torch.get_rng_state()
            torch.set_rng_state(outer)

    def _refuse(self) -> None:
        done = self._rounds * self._processes
        what = f"ended after {done} batches" if done else "holds no batch"
        raise TrainError(f"The training data {what}: give an iterable that can be gone through again.")

    def _open(self) -> Iterator[Any]:
        """This process's batches of the current epoch that were not had before."""
        seed_all(_mix(self._seed, self._epoch))
        if self._own_seed is not None:
            self._data.generator.manual_seed(_mix(self._own_seed, self._epoch))  # type: ignore[attr-defined]
        for part in _parts(self._data):
            if hasattr(part, "set_epoch"):
                part.set_epoch(self._epoch)
        resumed, self._resumed = self._resumed, None
        return self._from_loader(resumed) if _is_map_style(self._data) else self._from_iterable(resumed)

    def _from_iterable(self, resumed: RandomState | None) -> Iterator[Any]:
        count = 0
        batches = iter(self._data)
        while True:
            if resumed is not None and self._is_new(count):
                resumed.restore()
                resumed = None
            batch = next(batches, _END)
            if batch is _END:
                break
            wanted, count = self._is_own(count), count + 1
            if wanted:
                yield batch
        self._offset += count

    def _from_loader(self, resumed: RandomState | None) -> Iterator[Any]:
        loader: Any = self._data
        count = 0

        def own_batches() -> Iterator[list[int]]:
            nonlocal count, resumed
            for index, batch in self._numbered(loader.batch_sampler):
                count = index + 1
                # Items are drawn after this yield: with the random numbers that went on being used.
                if resumed is not None and self._is_new(index):
                    resumed.restore()
                    resumed = None
                if self._is_own(index):
                    yield batch

        same = {name: getattr(loader, name) for name in _LOADER_OPTIONS}
        yield from DataLoader(loader.dataset, batch_sampler=_Sampler(own_batches), **same)
        self._offset += count

    def _numbered(self, sampler: Any) -> Iterator[tuple[int, list[int]]]:
        """The batches of an epoch with their numbers; where they are found by those, only what is new."""
        if not isinstance(sampler, ShuffledBatches):
            yield from enumerate(sampler)
            return
        # the last of those had before, if not the first new one, so that they are counted
        first = min(max(self._rounds * self._processes - self._offset, 0), max(len(sampler) - 1, 0))
        for number in range(first, len(sampler)):
            yield number, sampler.batch(number)

    def _is_new(self, index: int) -> bool:
        return self._offset + index >= self._rounds * self._processes

    def _is_own(self, index: int) -> bool:
        return self._is_new(index) and (self._offset + index) % self._processes == self._rank

    def state(self) -> dict[str, Any]:
        """Position and random state, as plain values for JSON; ``batches`` counts those of all processes."""
        batches = self._rounds * self._processes
        with self._generator():
            random_state = RandomState.now().to_json()
        return {"epoch": self._epoch, "offset": self._offset, "batches": batches, "random": random_state}

    def restore(self, state: Mapping[str, Any], same_process: bool = True) -> None:
        """Go to the position that ``state`` recorded; a one-shot iterator is expected to start anew.

        Where it is not this process's own, but that of the first of another number of processes, random
        numbers go on as the epoch's seed has them.
        """
        self._epoch, self._offset = state["epoch"], state["offset"]
        self._rounds = state["batches"] // self._processes
        self._batches = None
        self._resumed = RandomState.from_json(state["random"]) if self._rounds and same_process else None


_END: Any = object()
_LOADER_OPTIONS = (
    "num_workers",
    "collate_fn",
    "pin_memory",
    "timeout",
    "worker_init_fn",
    "multiprocessing_context",
    "generator",
    "prefetch_factor",
)


class _Sampler:
    """A batch sampler made of a function that starts an epoch."""

    def __init__(self, start: Callable[[], Iterator[list[int]]]) -> None:
        self._start = start

    def __iter__(self) -> Iterator[list[int]]:
        return self._start()


def _parts(data: Any) -> Iterator[Any]:
    """What data is made of: itself, its batch sampler, and the datasets inside it."""
    yield data
    if isinstance(data, DataLoader):
        yield data.batch_sampler
    while (data := getattr(data, "dataset", None)) is not None:
        yield data


def _is_map_style(data: object) -> bool:
    return (
        type(data) is DataLoader
        and data.batch_sampler is not None
        and not isinstance(data.dataset, IterableDataset)
    )


def _mix(seed: int, epoch: int) -> int:
    """A seed for one epoch, far from those of other seeds' epochs."""
    return (seed * 0x9E3779B97F4A7C15 + epoch * 0xD1B54A32D192ED03 + 1) % 2**63
