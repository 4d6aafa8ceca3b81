"""What a batch costs, beside what torch counts and keeps on a batch of that size."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import mlgraph
from mlgraph.errors import MlgraphError
from mlgraph.inspect.cost import cost


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)) for _ in range(3)
        )
        self.head = nn.Linear(16, 50)

    def forward(self, ids):
        x = self.embed(ids)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x).logsumexp(-1).mean()


@pytest.fixture(scope="module")
def program():
    batch, sequence = torch.export.Dim("batch", min=2, max=64), torch.export.Dim("sequence", min=2, max=128)
    ids = torch.randint(50, (3, 7))
    return mlgraph.capture(Net(), (ids,), dynamic_shapes={"ids": {0: batch, 1: sequence}}, name="net")


def test_flops_are_those_that_torch_counts_at_that_size(program):
    found = cost(program, batch=4, sequence=20)
    model, ids = Net(), torch.randint(50, (4, 20))
    with FlopCounterMode(display=False) as counter:
        model(ids)
    assert found.forward == counter.get_total_flops()
    assert sum(part.number * part.forward for part in found.parts) == found.forward
    assert sum(part.number * part.activations for part in found.parts) == found.activations
    assert dict(found.inputs) == {"ids": (4, 20)}
    with FlopCounterMode(display=False) as counter:
        model(ids).backward()
    assert found.training == counter.get_total_flops()


def test_activations_are_no_less_than_what_torch_keeps(program):
    found = cost(program, batch=4, sequence=20)
    model, ids = Net(), torch.randint(50, (4, 20))
    weights = {tensor.data_ptr() for tensor in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor):
        if tensor.data_ptr() not in weights and tensor.dtype is torch.float32:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = model(ids)
    assert sum(kept.values()) <= found.activations <= 2 * sum(kept.values())
    result.backward()


def test_costs_grow_with_the_batch_and_sizes_are_refused(program):
    small, large = cost(program), cost(program, batch=6)
    assert large.forward == 2 * small.forward
    assert large.weights == small.weights
    with pytest.raises(MlgraphError, match="batch of at least 2 and at most 64, not 100"):
        cost(program, batch=100)
    mlp = mlgraph.capture(nn.Linear(4, 2), (torch.randn(3, 4),), name="mlp")
    with pytest.raises(MlgraphError, match="mlp has no sequence size that varies"):
        cost(mlp, sequence=7)
