from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset

from mlgraph.train.data.order import ShuffledBatches, shuffled
from mlgraph.train.data.stream import Stream
from mlgraph.train.data.text import MaskedBlocks


@pytest.mark.parametrize("count", [1, 2, 3, 16, 17, 1000, 4097])
def test_an_order_has_every_sample_once(count: int) -> None:
    places = np.arange(count)
    found = shuffled(places, count, 5)
    assert sorted(found.tolist()) == places.tolist()
    assert found[count // 2] == shuffled(places[count // 2 : count // 2 + 1], count, 5)[0]
    if count > 16:
        assert found.tolist() != shuffled(places, count, 6).tolist()
        assert abs(float(np.corrcoef(places, found)[0, 1])) < 0.3 + 10 / count


def test_the_constants_are_those_of_runs_begun_before() -> None:
    assert shuffled(np.arange(10), 10, 0).tolist() == EXPECTED


EXPECTED = [6, 7, 4, 0, 3, 5, 8, 1, 9, 2]


def _loader(batch: int = 2) -> DataLoader[torch.Tensor]:
    data = torch.arange(23)
    return DataLoader(data, batch_sampler=ShuffledBatches(len(data), batch, 3))  # type: ignore[arg-type]


def _drawn(stream: Stream, count: int) -> list[list[int]]:
    return [stream.next().tolist() for _ in range(count)]


def test_processes_share_one_order_and_go_on_without_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _drawn(Stream(_loader(), 0), 30)
    assert sorted(number for batch in whole[:11] for number in batch) != list(range(22))
    assert whole[:11] != whole[11:22]
    pairs = [Stream(_loader(), 0, rank, 2) for rank in range(2)]
    assert [batch for _ in range(15) for stream in pairs for batch in _drawn(stream, 1)] == whole
    after, asked = Stream(_loader(), 0), list[int]()
    after.restore(pairs[0].state(), same_process=False)
    own = ShuffledBatches.batch
    monkeypatch.setattr(ShuffledBatches, "batch", lambda s, n: (asked.append(n), own(s, n))[1])
    assert _drawn(after, 3) == _drawn(Stream(_loader(), 0), 33)[30:]
    assert asked[:3] == [8, 9, 10]


def test_what_is_masked_depends_on_the_sample_and_the_epoch_alone() -> None:
    tokens = np.arange(400, dtype=np.uint16)
    blocks = MaskedBlocks(tokens, 20, mask=401, size=402, seed=1)
    first = blocks[3]["input_ids"]
    torch.rand(5)
    assert torch.equal(first, blocks[3]["input_ids"])
    blocks.set_epoch(1)
    assert not torch.equal(first, blocks[3]["input_ids"])
    part = Subset(blocks, range(4))
    batches = ShuffledBatches(4, 2, 0)
    stream = Stream(DataLoader(part, batch_sampler=batches), 0)  # type: ignore[arg-type]
    for _ in range(3):
        stream.next()
    assert blocks.epoch == 1
