"""Every op against what its rule says: grown and permuted along the axes said to be exact, in float64.

Operands are parameters or activations at random; shapes, dims, modes and keyword values come from torch's own
samples.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx

from mlgraph.axes.rules import registry
from mlgraph.axes.rules.registry import Rule
from mlgraph.program import Program
from tests.axes.growth import claimed, fault
from tests.axes.samples import NAMES, Sample, op_infos, program_of, samples, traced
from tests.selection import some

# Elementwise functions of one and two arguments share one rule.
_ELEMENTWISE = ("UnaryUfuncInfo", "BinaryUfuncInfo")
RULED = [name for name in NAMES if type(op_infos()[name]).__name__ not in _ELEMENTWISE]
_TOGETHER = 40


def _programs(sample: Sample, mixtures: int) -> Iterator[Program]:
    """The call with operands of several kinds: at random first, then all activations, then all parameters."""
    count = len(sample.operands)
    drawn = random.Random(sample.name)
    kinds = [tuple(drawn.random() < 0.5 for _ in range(count)), (True,) * count, (False,) * count]
    for kind in dict.fromkeys(kinds[:mixtures]):
        program = program_of(sample, kind)
        if program is not None:
            yield program


def _faults(names: list[str], count: int, mixtures: int, thorough: bool) -> list[str]:
    return [
        f"{sample.name}: {found}"
        for name in names
        for sample in samples(name, count)
        if thorough or sample.targets & registry._RULES.keys()
        for program in _programs(sample, mixtures)
        if (found := fault(program, thorough=thorough))
    ]


@pytest.mark.parametrize("start", some(range(0, len(RULED), _TOGETHER), range(0, len(RULED), 6 * _TOGETHER)))
def test_ops_keep_what_their_rules_say(start: int) -> None:
    """Those that have a rule of their own; the others are decomposed into them."""
    assert not _faults(RULED[start : start + _TOGETHER], 1, 1, thorough=False)


@pytest.mark.thorough
@pytest.mark.parametrize("start", range(0, len(NAMES), _TOGETHER))
def test_ops_keep_what_their_rules_say_on_many_samples(start: int) -> None:
    assert not _faults(NAMES[start : start + _TOGETHER], 5, 3, thorough=True)


def _normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


# Functions of more than one op, by what must not be taken for exact where it is not.
COMPOSED: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "mean over a padding": (lambda x: F.pad(x, (1, 2)).mean(-1), (_normal(3, 4),)),
    "norm over a padding": (lambda x: F.layer_norm(F.pad(x, (1, 2)), (7,)), (_normal(3, 4),)),
    "deviation over a padding": (lambda x: F.pad(x, (0, 2)).var(-1, correction=0), (_normal(3, 4),)),
    "softmax over a padding": (lambda x: F.pad(x, (1, 2)).softmax(-1), (_normal(3, 4),)),
    "loss over a padding": (lambda x, y: F.mse_loss(F.pad(x, (1, 2)), y), (_normal(3, 4), _normal(3, 7))),
    "mean over a join": (lambda x, y: torch.cat([x, y], -1).mean(-1), (_normal(3, 4), _normal(3, 2))),
    "norm over a join": (lambda x, y: F.rms_norm(torch.cat([x, y], 1), (6,)), (_normal(3, 4), _normal(3, 2))),
    "mean over a join of one frozen part": (
        lambda x, y: torch.cat([x, y.cumsum(-1)], -1).mean(-1),
        (_normal(3, 4), _normal(3, 2)),
    ),
    "a product with itself": (lambda x: x @ x.mT, (_normal(3, 4),)),
    "a square with itself": (lambda x: x @ x, (_normal(4, 4),)),
    "an einsum with itself": (lambda x: torch.einsum("ab,ab->a", x, x), (_normal(3, 4),)),
    "a triple einsum": (lambda x, w: torch.einsum("ab,ab,cb->ac", x, x, w), (_normal(3, 4), _normal(5, 4))),
    "a weight used twice": (
        lambda x, w: F.linear(x, w) / torch.einsum("oi,oi->o", w, w),
        (_normal(3, 4), _normal(5, 4)),
    ),
    "an expanded weight": (lambda x, w: F.linear(x, w.expand(5, 4)), (_normal(3, 4), _normal(5, 1))),
    "a repeated weight": (lambda x, w: F.linear(x, w.repeat(1, 2)), (_normal(3, 4), _normal(5, 2))),
    "a weight in interleaved copies": (
        lambda x, w: F.linear(x, w.repeat_interleave(2, 1)),
        (_normal(3, 4), _normal(5, 2)),
    ),
    "a padded weight": (lambda x, w: F.linear(x, F.pad(w, (1, 1))), (_normal(3, 4), _normal(5, 2))),
    "a normalised weight": (lambda x, w: F.linear(x, F.normalize(w, dim=-1)), (_normal(3, 4), _normal(5, 4))),
    "counted signs": (lambda x: (x > 0).sum(-1), (_normal(3, 4),)),
    "a slice written": (
        lambda x, y: torch.slice_scatter(torch.cat([x, y], -1), y * 2, -1, 4, 6),
        (_normal(3, 4), _normal(3, 2)),
    ),
    "an index written": (
        lambda x, y: torch.select_scatter(torch.stack([x, y], 1), y * 2, 1, 0),
        (_normal(3, 4), _normal(3, 4)),
    ),
    "shuffled groups": (lambda x: F.channel_shuffle(x, 2), (_normal(2, 6, 3),)),
    "slopes by channel": (lambda x, a: F.prelu(x, a), (_normal(2, 4, 3), _normal(4).abs())),
    "one slope": (lambda x, a: F.prelu(x, a), (_normal(2, 4, 3), _normal(1).abs())),
    "scaled added products": (
        lambda c, x, w: torch.baddbmm(c, x, w, alpha=0.5, beta=2),
        (_normal(2, 3, 5), _normal(2, 3, 4), _normal(2, 4, 5)),
    ),
    "batchmean": (lambda x, y: F.kl_div(x, y.abs(), reduction="batchmean"), (_normal(3, 4), _normal(3, 4))),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_ops_together_keep_what_their_rules_say(name: str) -> None:
    function, operands = COMPOSED[name]
    sample = traced(name, function, *operands)
    assert sample is not None
    programs = list(_programs(sample, 3))
    assert programs
    for program in programs:
        assert fault(program) is None


def _passing(ctx: Any, node: fx.Node) -> Any:
    return ctx.dims(node.args[0])


def _passing_twice(ctx: Any, node: fx.Node) -> Any:
    return [_passing(ctx, node), _passing(ctx, node)]


def _last_lost(ctx: Any, node: fx.Node) -> Any:
    return ctx.dims(node.args[0])[:-1]


def _summing(ctx: Any, node: fx.Node) -> Any:
    dims = ctx.dims(node.args[0])
    ctx.contract(node, dims[-1], [(node.args[0], len(dims) - 1)])
    return dims[:-1]


def _swapped_join(ctx: Any, node: fx.Node) -> Any:
    from mlgraph.axes.factors import concatenate

    first, second = (ctx.dims(operand) for operand in node.args[0])
    return [first[0], concatenate([second[1], first[1]])]


def _unchecked_pad(ctx: Any, node: fx.Node) -> Any:
    from mlgraph.axes.factors import Factor, concatenate

    dims = ctx.dims(node.args[0])
    return [*dims[:-1], concatenate([(Factor(2),), dims[-1], (Factor(2),)])]


def _averaged_loss(ctx: Any, node: fx.Node) -> Any:
    for dim in ctx.dims(node.args[0]):
        ctx.average(node, dim)
    return []


def _uncontracted(ctx: Any, node: fx.Node) -> Any:
    (*lead, _), (out, _) = (ctx.dims(operand) for operand in node.args[:2])
    for operand in node.args[:2]:
        ctx.emit(operand)
    return [*lead, out]


def _transposed(ctx: Any, node: fx.Node) -> Any:
    (*lead, a), (out, b) = (ctx.dims(operand) for operand in node.args[:2])
    ctx.unify(a, out, node)
    ctx.contract(node, out, [(node.args[0], len(lead)), (node.args[1], 0)])
    ctx.emit(node.args[1], [1])
    return [*lead, b]


# Op, a wrong rule for it, and a call that shows it.
PLANTED: dict[str, tuple[str, Callable[..., Any], Callable[..., Any], tuple[Any, ...]]] = {
    "a mean is a sum": ("mean.dim", _summing, lambda x: x.mean(-1), (_normal(3, 4),)),
    "a sum is an extreme": ("sum.dim_IntList", _last_lost, lambda x: x.sum(-1), (_normal(3, 4),)),
    "a count is an extreme": (
        "count_nonzero.dim_IntList",
        _last_lost,
        lambda x: x.count_nonzero((-1,)),
        (_normal(3, 4),),
    ),
    "a softmax passes": ("softmax.int", _passing, lambda x: x.softmax(-1), (_normal(3, 4),)),
    "a running sum passes": ("cumsum.default", _passing, lambda x: x.cumsum(-1), (_normal(3, 4),)),
    "a join in the wrong order": (
        "cat.default",
        _swapped_join,
        lambda x, y: torch.cat([x, y], 1),
        (_normal(3, 4), _normal(3, 4)),
    ),
    "a transpose that is none": ("transpose.int", _passing, lambda x: x.transpose(0, 1), (_normal(4, 4),)),
    "a circular padding is constant": (
        "pad.default",
        _unchecked_pad,
        lambda x: F.pad(x, (2, 2), mode="circular"),
        (_normal(3, 4, 5),),
    ),
    "a summed loss is a mean": (
        "mse_loss.default",
        _averaged_loss,
        lambda x, y: torch.ops.aten.mse_loss(x, y, 2),
        (_normal(3, 4), _normal(3, 4)),
    ),
    "a weight that does not contract": (
        "linear.default",
        _uncontracted,
        lambda x, w: F.linear(x, w),
        (_normal(3, 4), _normal(5, 4)),
    ),
    "a weight on its side": (
        "linear.default",
        _transposed,
        lambda x, w: F.linear(x, w),
        (_normal(3, 4), _normal(4, 4)),
    ),
    "a sort passes": (
        "sort.default",
        _passing_twice,
        lambda x: x.sort(-1),
        (_normal(3, 4),),
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_wrong_rule_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    op, wrong, function, operands = PLANTED[name]
    sample = traced(name, function, *operands)
    assert sample is not None
    (target,) = registry.overloads(op)
    assert target in sample.targets
    assert all(fault(program) is None for program in _programs(sample, 3))
    monkeypatch.setitem(registry._RULES, target, Rule(infer=wrong))
    assert all(fault(program) for program in _programs(sample, 3))


def test_an_axis_that_a_softmax_in_logarithms_blocks_is_not_claimed() -> None:
    sample = traced("log_softmax", lambda x: x.log_softmax(-1), _normal(3, 4))
    assert sample is not None
    for program in _programs(sample, 3):
        assert 4 not in {axis.size for axis in claimed(program)}
