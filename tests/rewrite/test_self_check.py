"""A change of width is tried on a miniature: what a wrong rule says of an op is found out, the op named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

import mlgraph
from mlgraph.axes.factors import fresh, regroup
from mlgraph.axes.rules import pointwise
from mlgraph.axes.rules.einsum import einsum_rule
from mlgraph.axes.rules.registry import _RULES, Context, DimList, Rule, RuleResult
from mlgraph.inspect.explain import explain
from mlgraph.program import Program
from mlgraph.program.families import judged
from mlgraph.rewrite.miniature import AxisGrowth
from mlgraph.rewrite.self_check import check_factors
from tests.oracles import relative_error

aten = torch.ops.aten
WIDTH = 16

BRANCHES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mean": lambda h: h.mean(-1, keepdim=True),
    "sum": lambda h: h.sum(-1, keepdim=True),
    "softmax": lambda h: h.softmax(-1),
    "cat": lambda h: torch.cat([h, h.tanh()], -1),
    "unflatten": lambda h: h.unflatten(-1, (4, 4)).mean(-1),
    "matmul": lambda h: h,
    "layer_norm": lambda h: F.layer_norm(h, (WIDTH,)),
    "cumsum": lambda h: h.cumsum(-1),
    "flip": lambda h: h.flip(-1),
    "sort": lambda h: h.sort(-1).values,
    "prod": lambda h: h.tanh().prod(-1, keepdim=True),
    "norm": lambda h: torch.linalg.vector_norm(h, dim=-1, keepdim=True),
    "logsumexp": lambda h: h.logsumexp(-1, keepdim=True),
    "max": lambda h: h.max(-1, keepdim=True).values,
}


class Branches(nn.Module):
    """One op each on features of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.ModuleDict({name: nn.Linear(6, WIDTH) for name in BRANCHES})
        self.mix = nn.Parameter(torch.randn(WIDTH, WIDTH))
        sizes = {name: op(torch.zeros(1, 1, WIDTH)).shape[-1] for name, op in BRANCHES.items()}
        self.out = nn.ModuleDict({f"{name}_": nn.Linear(size, 5) for name, size in sizes.items()})

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        results = []
        for name, op in BRANCHES.items():
            h = F.gelu(self.into[name](x))
            results.append(self.out[f"{name}_"](op(h @ self.mix if name == "matmul" else h)))
        return tuple(results)


@pytest.fixture(scope="module")
def captured() -> Program:
    torch.manual_seed(0)
    model = Branches().double().eval()
    return mlgraph.capture(model, (torch.randn(3, 7, 6, dtype=torch.float64),))


def other_part_kept(ctx: Context, node: fx.Node, dims: DimList) -> RuleResult:
    """The minor part taken for the major one."""
    major, minor = regroup([dims[-1]], [4, 4])
    return [*dims[:-1], minor, major]


def in_turns(ctx: Context, node: fx.Node) -> RuleResult:
    """What is joined end to end taken for what is interleaved."""
    dims = ctx.dims(node.args[0][0])  # type: ignore[index]
    return [*dims[:-1], (*dims[-1], *fresh(2))]


def averaged(ctx: Context, node: fx.Node) -> RuleResult:
    return pointwise._mean(ctx, node)


def averaged_norm(ctx: Context, node: fx.Node) -> RuleResult:
    _, out = pointwise._reduce(ctx, node, 2)
    ctx.emit(node.args[0])
    return out


def values_alone(ctx: Context, node: fx.Node) -> RuleResult:
    _, out = pointwise._reduce(ctx, node)
    ctx.emit(node.args[0])
    return [list(out), list(out)]


def pairs_of_dims(ctx: Context, node: fx.Node) -> RuleResult:
    dims = ctx.dims(node.args[0])
    ctx.emit(node.args[0])
    return [list(dims), list(dims)]


PASSES = Rule(structure=pointwise._same)

# Wrong rules: the branch whose features they concern, the op, what is said of it.
FAULTS: list[tuple[str, Any, Rule]] = [
    ("sum", aten.sum.dim_IntList, Rule(infer=averaged)),
    ("softmax", aten.softmax.int, PASSES),
    ("unflatten", aten.unflatten.int, Rule(structure=other_part_kept)),
    ("matmul", aten.matmul.default, Rule(infer=einsum_rule("... i, o i -> ... o"))),
    ("cumsum", aten.cumsum.default, PASSES),
    ("flip", aten.flip.default, PASSES),
    ("sort", aten.sort.default, Rule(infer=pairs_of_dims)),
    ("prod", aten.prod.dim_int, Rule(infer=averaged)),
    ("norm", aten.linalg_vector_norm.default, Rule(infer=averaged_norm)),
    ("logsumexp", aten.logsumexp.default, Rule(infer=averaged)),
    ("cat", aten.cat.default, Rule(infer=in_turns)),
    ("max", aten.max.dim, Rule(infer=values_alone)),
]


def feature_axes(program: Program, branch: str) -> set[str]:
    axes = program.axes
    return {leaf.axis for leaf in axes.tensor_dims[f"into.{branch}.weight"][0].leaves()}


def test_right_rules_fail_no_trial(captured: Program) -> None:
    assert captured.sound.faults == {}
    assert captured.sound.unchecked == ""


@pytest.mark.parametrize(("branch", "op", "wrong"), FAULTS, ids=[fault[0] for fault in FAULTS])
def test_a_wrong_rule_is_caught_and_its_op_is_named(
    captured: Program, monkeypatch: pytest.MonkeyPatch, branch: str, op: Any, wrong: Rule
) -> None:
    monkeypatch.setitem(_RULES, op, wrong)
    program = captured.replace()
    assert any(program.axes[axis].coarsenable_by_default for axis in feature_axes(program, branch))
    found = {reason.node: reason for reason in program.sound.faults.values()}
    assert found
    nodes = {node.name: node for node in program.graph.nodes}
    assert {nodes[name].target for name in found} == {op}
    assert {reason.kind for reason in found.values()} == {"tried"}
    coarse = mlgraph.coalesce(program, width=2)
    fine = mlgraph.decoalesce(coarse)
    x = torch.randn(3, 7, 6, dtype=torch.float64)
    with torch.no_grad():
        pairs = zip(mlgraph.emit(coarse).eval()(x), mlgraph.emit(fine).eval()(x), strict=True)
        assert max(relative_error(after, before) for before, after in pairs) <= 1e-10
    assert any(note.kind == "kept" and op.__name__ in str(note) for note in coarse.notes)


def test_what_failed_is_explained_and_refused_by_name(
    captured: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_RULES, aten.cumsum.default, PASSES)
    program = captured.replace()
    (axis,) = program.sound.faults
    assert "aten.cumsum.default" in str(next(a for a in judged(program) if a.id == axis).frozen)
    (told,) = explain(program, "into.cumsum.weight[0]")
    assert told.axes[0].fate[0] == "frozen"
    cause = told.axes[0].cause
    assert cause is not None
    assert cause.op == "cumsum"
    with pytest.raises(mlgraph.AxisError, match=rf"axis {axis} .*aten.cumsum.default makes of copies"):
        mlgraph.coalesce(program, axes={axis: 2})
    assert mlgraph.coalesce(program, axes={axis: 2}, check=False).lineage is not None


def test_what_is_asked_for_in_spite_of_a_reason_is_noted_as_approximate(captured: Program) -> None:
    (axis,) = feature_axes(captured, "logsumexp")
    with pytest.raises(mlgraph.AxisError, match="add force"):
        mlgraph.decoalesce(captured, axes={axis: 2})
    grown = mlgraph.decoalesce(captured, axes={axis: 2}, force=True)
    assert {note.subject for note in grown.notes if note.kind == "approximate"} == {axis}


WAYS = {
    "uneven": AxisGrowth(3, uneven=True),
    "select": AxisGrowth(2, reduce="select"),
    "pad": AxisGrowth(2, reduce="select", extend="pad"),
    "uneven select": AxisGrowth(2, True, "select"),
}
# What moves weights wrongly: the way of groups that shows it, the function, what stands there instead.
MOVES: list[tuple[str, str, Any]] = [
    ("uneven", "_scale", lambda tensor, at, grouping, kind: tensor.div_(grouping.group_sizes[0])),
    ("select", "Grouping.weights", lambda grouping, restricts: (1.0,) * grouping.fine),
    ("pad", "_weighed", lambda tensor, at, weights, kind: tensor),
]


@pytest.mark.parametrize("way", WAYS)
def test_groups_of_every_kind_are_tried(captured: Program, way: str) -> None:
    (axis,) = feature_axes(captured, "matmul")
    (other,) = feature_axes(captured, "layer_norm")
    found = check_factors(captured.replace(), {axis: WAYS[way], other: WAYS[way]})
    assert (found.faults, found.unchecked) == ({}, "")


@pytest.mark.parametrize(("way", "name", "wrong"), MOVES, ids=[way for way, *_ in MOVES])
def test_weights_moved_wrongly_in_such_groups_are_caught(
    captured: Program, monkeypatch: pytest.MonkeyPatch, way: str, name: str, wrong: Any
) -> None:
    monkeypatch.setattr(f"mlgraph.rewrite.transfer.{name}", wrong)
    (axis,) = feature_axes(captured, "matmul")
    found = check_factors(captured.replace(), {axis: WAYS[way]})
    assert list(found.faults) == [axis]


def test_one_trial_serves_one_request(captured: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    program = captured.replace()
    mlgraph.coalesce(program, width=2)
    monkeypatch.setattr("mlgraph.rewrite.self_check._Check", None)
    mlgraph.coalesce(program, width=2)
    assert program.sound.faults == {}
    assert program.skeleton().sound.faults == {}
    assert check_factors(program, {}).faults == {}


def test_alike_axes_of_all_blocks_stay_together(monkeypatch: pytest.MonkeyPatch) -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 5)
            self.up = nn.ModuleList(nn.Linear(WIDTH, 12) for _ in range(6))
            self.down = nn.ModuleList(nn.Linear(12, WIDTH) for _ in range(6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.embed(x)
            for up, down in zip(self.up, self.down, strict=True):
                h = h + down(up(h).cumsum(-1))
            result: torch.Tensor = self.head(h)
            return result

    monkeypatch.setitem(_RULES, aten.cumsum.default, PASSES)
    program = mlgraph.capture(Deep().eval(), (torch.randn(3, 7, 6),))
    assert len(program.sound.faults) == 6
    assert {program.axes[axis].size for axis in program.sound.faults} == {12}
    one = mlgraph.coalesce(program, width=2)
    assert one.tensors["up.3.weight"].shape == (12, WIDTH // 2)
