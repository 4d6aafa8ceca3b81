"""One pairing for axes and blocks, down and up; one that cannot be had is refused by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mlgraph
from mlgraph.errors import MlgraphError
from mlgraph.passes import Coalesce, Decoalesce
from mlgraph.passes.pipeline import parse_pass
from mlgraph.rewrite.grouping import Grouping

BLOCKS, WIDTH, INNER = 4, 6, 10


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)

    def forward(self, x):
        return x + self.down(self.up(x).relu())


@pytest.fixture
def program():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, WIDTH), *(Block() for _ in range(BLOCKS)), nn.Linear(WIDTH, 2))
    return mlgraph.capture(model, (torch.randn(5, 3),))


@pytest.mark.parametrize("pairing", ["adjacent", "halves"])
@pytest.mark.parametrize("operator", [Coalesce, Decoalesce])
def test_axes_and_blocks_are_paired_alike(program, operator, pairing):
    lineage = operator(depth=2, width=2, pairing=pairing)(program).lineage
    groupings = [*lineage.groupings.values(), *lineage.layers.values()]
    make = getattr(Grouping, pairing)
    assert len(groupings) > BLOCKS
    assert all(grouping == make(len(grouping), 2).coarse_of for grouping in groupings)


def test_like_blocks_and_like_neurons_are_paired_by_similarity(program):
    with torch.no_grad():
        state = program.tensors
        for (name, tensor), block in ((item, int(item[0].split(".")[0]) - 1) for item in state.items()):
            if 0 <= block < BLOCKS:
                # blocks 0 and 3 are alike, and 1 and 2
                twin = name.replace(f"{block + 1}.", f"{(3, 2, 1, 0)[block] + 1}.", 1)
                tensor.copy_(state[twin] if block > 1 else tensor).add_(1e-3 * torch.randn_like(tensor))
        # neurons i and n - 1 - i too
        for name in ("1.up.weight", "1.up.bias", "1.down.weight"):
            dim = int("down" in name)
            half = state[name].narrow(dim, 0, INNER // 2)
            state[name].narrow(dim, INNER // 2, INNER // 2).copy_(half.flip(dim))
    groupings, layers = Coalesce(depth=2, width=2, pairing="similarity").groupings(program)
    (blocks,) = layers.values()
    assert blocks.coarse_of == (0, 1, 1, 0)
    inner = next(axis.id for axis in program.axes if any(s.tensor == "1.up.bias" for s in axis.slots))
    assert groupings[inner].coarse_of == (*range(INNER // 2), *reversed(range(INNER // 2)))


@pytest.mark.parametrize("pairing", ["typo", "similarity"])
@pytest.mark.parametrize("sizes", [{"width": 2}, {"depth": 2}, {}])
def test_growth_refuses_what_it_cannot_pair_by(program, pairing, sizes):
    sentence = f"^Option 'pairing' of pass 'decoalesce' must be one of adjacent, halves, not '{pairing}'.$"
    with pytest.raises(MlgraphError, match=sentence):
        mlgraph.decoalesce(program, pairing=pairing, **sizes)
    with pytest.raises(MlgraphError, match=sentence):
        parse_pass(f"decoalesce{{pairing={pairing}}}")


@pytest.mark.parametrize("sizes", [{"width": 2}, {"depth": 2}, {}])
def test_coalescing_refuses_a_pairing_that_is_not_known(program, sizes):
    sentence = (
        "^Option 'pairing' of pass 'coalesce' must be one of adjacent, halves, similarity, not 'typo'.$"
    )
    with pytest.raises(MlgraphError, match=sentence):
        mlgraph.coalesce(program, pairing="typo", **sizes)


@pytest.mark.parametrize("sizes", [{"width": 2}, {"depth": 2}])
def test_similarity_without_weights_is_refused(program, sizes):
    sentence = (
        r"pairing='similarity' and scores look at weights, and .* has none here: choose pairing 'adjacent' "
        "or 'halves', and score 'position'"
    )
    with pytest.raises(MlgraphError, match=sentence):
        mlgraph.coalesce(program.skeleton(), pairing="similarity", **sizes)


def test_names_may_be_patterns_of_ids(program):
    inner = [axis.id for axis in program.axes if axis.size == INNER]
    assert all(name.endswith(".mlp") for name in inner)
    assert not set(inner) & set(Coalesce(width=2, freeze=("*.mlp",)).groupings(program)[0])
    assert set(Coalesce(axes={"*.mlp": 2}).groupings(program)[0]) == set(inner)
    with pytest.raises(MlgraphError, match=r"there is no axis '\*\.heads'"):
        Coalesce(width=2, freeze=("*.heads",)).groupings(program)


@pytest.mark.parametrize("request_", [None, 2.0, True, [], ["a"], {"a": 1}])
def test_what_is_no_request_of_an_axis(request_):
    with pytest.raises(MlgraphError, match="must give 'hidden' a factor, a list of indices or a text"):
        Coalesce(axes={"hidden": request_})


def test_groupings_may_be_tensors():
    listed = [0, 0, 1, 1, 2, 2]
    assert Coalesce(axes={"hidden": torch.tensor(listed)}) == Coalesce(axes={"hidden": listed})


def test_a_wrong_option_of_a_function_is_answered(program):
    with pytest.raises(MlgraphError, match="Pass 'coalesce' has no option 'pairng'; did you mean 'pairing'"):
        mlgraph.coalesce(program, pairng="halves")
