"""Parameters seen through rearrangements and joins, cuts at places that depend on data, unread parameters."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

import mlgraph
from mlgraph.axes.rules.registry import Context, DimList, Rule, RuleResult, set_rule
from mlgraph.program import Program
from tests import oracles

WIDTH = 12


class JoinedHead(nn.Module):
    """Embeddings narrower than the hidden state; the head is the tied table with more columns beside it."""

    def __init__(self, narrow: int, across: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(31, narrow)
        self.up = nn.Linear(narrow, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.wider = nn.Linear(31, WIDTH - narrow, bias=False) if across else nn.Linear(WIDTH, 7, bias=False)
        self.own = nn.Linear(WIDTH, 31, bias=False)
        self.across = across

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.up(self.embedding(ids)))
        if self.across:
            return hidden.matmul(torch.cat([self.embedding.weight.t(), self.wider.weight], dim=0))
        return nn.functional.linear(hidden, torch.cat([self.own.weight, self.wider.weight]))


IDS = torch.arange(15).reshape(3, 5) % 31


def programs(across: bool) -> tuple[Program, Program]:
    torch.manual_seed(0)
    program = mlgraph.capture(JoinedHead(4, across).eval(), (IDS,))
    return program, mlgraph.coalesce(program, width=2)


@pytest.mark.parametrize("across", [True, False])
def test_a_sum_against_joined_parameters_is_one_against_parameters(across: bool) -> None:
    program, small = programs(across)
    assert not [axis for axis in program.axes if axis.kept and axis.kept.kind == "summed"]
    shapes = {name: tuple(value.shape) for name, value in small.state_dict().items()}
    assert shapes["up.weight"] == (6, 2)
    assert shapes["norm.weight"] == (6,)
    assert shapes["wider.weight"] == ((4, 31) if across else (7, 6))


@pytest.mark.parametrize("across", [True, False])
def test_joined_parameters_are_sound_and_regrow(across: bool) -> None:
    program, small = programs(across)
    free = [axis.id for axis in program.axes if axis.frozen is None]
    assert oracles.permutation_error(program, free, [IDS]) <= 1e-9
    grown = mlgraph.decoalesce(small)
    error = oracles.outputs_error(oracles.evaluate(grown, [IDS]), oracles.evaluate(small, [IDS]))
    assert error <= 1e-6


class CutByData(nn.Module):
    """A look-up table cut where a value of the input says."""

    def __init__(self) -> None:
        super().__init__()
        self.inward = nn.Linear(5, WIDTH)
        self.table = nn.Parameter(torch.randn(9, WIDTH))
        self.outward = nn.Linear(WIDTH, 3)

    def forward(self, x: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        size = length.item()
        torch._check(size >= 2)
        torch._check(size <= 9)
        return self.outward(torch.relu(self.inward(x) + self.table[:size].mean(0)))


def test_a_cut_that_depends_on_data_freezes_what_it_cuts_and_nothing_else() -> None:
    program = mlgraph.capture(CutByData(), (torch.randn(4, 5), torch.tensor(3)))
    rows, columns = program.axes.tensor_dims["table"]
    (row,), (column,) = rows.leaves(), columns.leaves()
    frozen = program.axes[row.axis].frozen
    assert str(frozen) == "it is cut at a place that depends on data"
    assert program.axes[column.axis].coarsenable_by_default


@torch.library.custom_op("mlgraph_tests::ruled", mutates_args=())
def _ruled(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


@_ruled.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (GuardOnDataDependentSymNode(None, "u0"), "its size depends on data in mlgraph_tests.ruled.default"),
        (IndexError("no such dim"), "the rule of mlgraph_tests.ruled.default does not cover this use of it"),
    ],
)
def test_a_rule_that_fails_freezes_by_name(error: Exception, sentence: str) -> None:
    def failing(ctx: Context, node: fx.Node, dims: DimList) -> RuleResult:
        raise error

    set_rule(torch.ops.mlgraph_tests.ruled.default, Rule(structure=failing))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(7, WIDTH))
            self.head = nn.Linear(WIDTH, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.ops.mlgraph_tests.ruled(x @ self.weight))

    program = mlgraph.capture(Model(), (torch.randn(4, 7),))
    hidden = next(axis for axis in program.axes if axis.size == WIDTH)
    assert hidden.frozen is not None
    assert hidden.frozen.kind == "no rule"
    assert str(hidden.frozen).startswith(sentence)


def test_an_unread_parameter_takes_the_axis_of_most_of_its_neighbours() -> None:
    class Unread(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mask_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
            self.inward = nn.Linear(5, WIDTH)
            self.up = nn.Linear(WIDTH, WIDTH)
            self.down = nn.Linear(WIDTH, WIDTH)
            self.norm = nn.LayerNorm(WIDTH)
            self.outward = nn.Linear(WIDTH, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.norm(self.inward(x))
            return self.outward(x + self.down(torch.relu(self.up(x))))

    program = mlgraph.capture(Unread(), (torch.randn(4, 5),))
    hidden = program.axes.tensor_dims["inward.weight"][0]
    assert program.axes.tensor_dims["mask_token"][2] == hidden
    assert program.axes.tensor_dims["up.weight"][0] != hidden
