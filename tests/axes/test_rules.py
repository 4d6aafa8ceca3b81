"""Every rule against its op: permuting an inferred axis must permute the result, for random sizes."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx
from torch.utils import _pytree as pytree

from mlgraph.axes import register_rule
from mlgraph.axes.rules import find_rule
from mlgraph.graph.propagate import propagate
from mlgraph.program import Program, Signature, Tensors
from mlgraph.program.tensors import InMemory
from mlgraph.verify.soundness import permutation_error

aten = torch.ops.aten
N = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """An op call on tensors of sizes (a, b, c, d), and how many axes must come out free."""

    op: Any
    shapes: Callable[[int, int, int, int], tuple[N, ...]]
    arguments: Callable[[Any, int, int, int, int], tuple[Any, ...]]
    free: int
    kwargs: dict[str, Any] | None = None
    result: int | None = None
    positive: bool = False


def program_of(case: Case, sizes: N) -> Program:
    """A program whose operands are parameters and whose result is the op's."""
    graph = fx.Graph()
    shapes = case.shapes(*sizes)
    values = {}
    nodes = []
    generator = torch.Generator().manual_seed(1)
    for index, shape in enumerate(shapes):
        tensor = torch.randn(shape, generator=generator, dtype=torch.float64)
        values[f"p{index}"] = tensor.abs() + 0.1 if case.positive else tensor
        nodes.append(graph.get_attr(f"p{index}"))
    node = graph.call_function(case.op, case.arguments(nodes, *sizes), dict(case.kwargs or {}))
    assert all(operand.users for operand in nodes), "the op does not read every operand of its case"
    if case.result is not None:
        node = graph.call_function(operator.getitem, (node, case.result))
    graph.output((node,))
    empty = pytree.tree_structure(((), {}))
    tensors = Tensors(InMemory(values), frozenset(values), frozenset(values))
    signature = Signature((), empty, pytree.tree_structure((0,)))
    propagate(graph, signature, tensors)
    return Program(graph, tensors, signature)


def _same(*positions: int) -> Callable[..., Any]:
    return lambda n, a, b, c, d: tuple(n[i] for i in positions)


CASES = {
    "linear": Case(aten.linear.default, lambda a, b, c, d: ((a, b), (c, b), (c,)), _same(0, 1, 2), 3),
    "linear-3d": Case(aten.linear.default, lambda a, b, c, d: ((a, d, b), (c, b)), _same(0, 1), 4),
    "mm": Case(aten.mm.default, lambda a, b, c, d: ((a, b), (b, c)), _same(0, 1), 3),
    "bmm": Case(aten.bmm.default, lambda a, b, c, d: ((d, a, b), (d, b, c)), _same(0, 1), 4),
    "mv": Case(aten.mv.default, lambda a, b, c, d: ((a, b), (b,)), _same(0, 1), 2),
    "dot": Case(aten.dot.default, lambda a, b, c, d: ((a,), (a,)), _same(0, 1), 1),
    "outer": Case(aten.outer.default, lambda a, b, c, d: ((a,), (b,)), _same(0, 1), 2),
    "matmul-2-3": Case(aten.matmul.default, lambda a, b, c, d: ((a, b), (d, b, c)), _same(0, 1), 4),
    "matmul-3-2": Case(aten.matmul.default, lambda a, b, c, d: ((d, a, b), (b, c)), _same(0, 1), 4),
    "matmul-1-2": Case(aten.matmul.default, lambda a, b, c, d: ((b,), (b, c)), _same(0, 1), 2),
    "matmul-4-4": Case(aten.matmul.default, lambda a, b, c, d: ((2, d, a, b), (2, d, b, c)), _same(0, 1), 5),
    "addmm": Case(aten.addmm.default, lambda a, b, c, d: ((c,), (a, b), (b, c)), _same(0, 1, 2), 3),
    "addmm-full": Case(aten.addmm.default, lambda a, b, c, d: ((a, c), (a, b), (b, c)), _same(0, 1, 2), 3),
    "baddbmm": Case(
        aten.baddbmm.default, lambda a, b, c, d: ((d, a, c), (d, a, b), (d, b, c)), _same(0, 1, 2), 4
    ),
    "bilinear": Case(
        aten.bilinear.default, lambda a, b, c, d: ((d, a), (d, b), (c, a, b), (c,)), _same(0, 1, 2, 3), 4
    ),
    "einsum": Case(
        aten.einsum.default,
        lambda a, b, c, d: ((a, b, c), (b, c, d)),
        lambda n, *s: ("xij,ijo->xo", [n[0], n[1]]),
        4,
    ),
    "einsum-implicit": Case(
        aten.einsum.default, lambda a, b, c, d: ((a, b), (b, c)), lambda n, *s: ("ij,jk", [n[0], n[1]]), 3
    ),
    "conv1d": Case(aten.conv1d.default, lambda a, b, c, d: ((a, b, 7), (c, b, 3), (c,)), _same(0, 1, 2), 3),
    "conv2d": Case(aten.conv2d.default, lambda a, b, c, d: ((a, b, 5, 5), (c, b, 3, 3)), _same(0, 1), 3),
    "conv2d-depthwise": Case(
        aten.conv2d.default,
        lambda a, b, c, d: ((a, b, 5, 5), (b, 1, 3, 3), (b,)),
        lambda n, a, b, c, d: (n[0], n[1], n[2], [1, 1], [0, 0], [1, 1], b),
        2,
    ),
    "conv1d-grouped": Case(
        aten.conv1d.default,
        lambda a, b, c, d: ((a, 3 * b, 5), (3 * c, b, 3), (3 * c,)),
        lambda n, a, b, c, d: (n[0], n[1], n[2], [1], [0], [1], 3),
        4,
    ),
    "conv-transpose": Case(
        aten.conv_transpose1d.default, lambda a, b, c, d: ((a, b, 5), (b, c, 3)), _same(0, 1), 3
    ),
    "attention": Case(
        aten.scaled_dot_product_attention.default,
        lambda a, b, c, d: ((a, b, 5, c), (a, b, 7, c), (a, b, 7, d)),
        _same(0, 1, 2),
        6,
    ),
    "attention-gqa": Case(
        aten.scaled_dot_product_attention.default,
        lambda a, b, c, d: ((a, 3 * b, 5, c), (a, b, 7, c), (a, b, 7, d)),
        _same(0, 1, 2),
        7,
        {"enable_gqa": True},
    ),
    "add-broadcast": Case(aten.add.Tensor, lambda a, b, c, d: ((a, b, c), (b, 1)), _same(0, 1), 3),
    "lerp": Case(aten.lerp.Tensor, lambda a, b, c, d: ((a, b), (b,), (a, 1)), _same(0, 1, 2), 2),
    "gelu": Case(aten.gelu.default, lambda a, b, c, d: ((a, b),), _same(0), 2),
    "softmax": Case(aten.softmax.int, lambda a, b, c, d: ((a, b),), lambda n, *s: (n[0], -1), 2),
    "layer_norm": Case(
        aten.layer_norm.default,
        lambda a, b, c, d: ((a, b), (b,), (b,)),
        lambda n, a, b, c, d: (n[0], [b], n[1], n[2]),
        2,
    ),
    "rms_norm": Case(
        aten.rms_norm.default, lambda a, b, c, d: ((a, b), (b,)), lambda n, a, b, c, d: (n[0], [b], n[1]), 2
    ),
    "group_norm": Case(
        aten.group_norm.default,
        lambda a, b, c, d: ((a, 3 * b, c), (3 * b,), (3 * b,)),
        lambda n, a, b, c, d: (n[0], 3, n[1], n[2]),
        4,
    ),
    "mean": Case(aten.mean.dim, lambda a, b, c, d: ((a, b, c),), lambda n, *s: (n[0], [1], True), 3),
    "sum": Case(aten.sum.dim_IntList, lambda a, b, c, d: ((a, b, c),), lambda n, *s: (n[0], [0, 2]), 3),
    "amax": Case(aten.amax.default, lambda a, b, c, d: ((a, b),), lambda n, *s: (n[0], [1]), 2),
    "norm": Case(
        aten.linalg_vector_norm.default, lambda a, b, c, d: ((a, b),), lambda n, *s: (n[0], 2, [1]), 2
    ),
    "var": Case(aten.var.correction, lambda a, b, c, d: ((a + 1, b + 1),), lambda n, *s: (n[0], [1]), 2),
    "cumsum": Case(aten.cumsum.default, lambda a, b, c, d: ((a, b),), lambda n, *s: (n[0], 1), 1),
    "flip": Case(aten.flip.default, lambda a, b, c, d: ((a, b),), lambda n, *s: (n[0], [0]), 1),
    "roll": Case(aten.roll.default, lambda a, b, c, d: ((a, b),), lambda n, *s: (n[0], [1], [0]), 1),
    "tril": Case(aten.tril.default, lambda a, b, c, d: ((a, b, b),), lambda n, *s: (n[0],), 1),
    "topk": Case(aten.topk.default, lambda a, b, c, d: ((a, b),), lambda n, *s: (n[0], 2), 1, result=0),
    "sort": Case(aten.sort.default, lambda a, b, c, d: ((a, b),), lambda n, *s: (n[0], 1), 1, result=0),
    "view-split": Case(
        aten.view.default, lambda a, b, c, d: ((a, b * c),), lambda n, a, b, c, d: (n[0], [a, b, c]), 3
    ),
    "view-merge": Case(
        aten.view.default, lambda a, b, c, d: ((a, b, c),), lambda n, a, b, c, d: (n[0], [a, b * c]), 3
    ),
    "flatten": Case(aten.flatten.using_ints, lambda a, b, c, d: ((a, b, c),), lambda n, *s: (n[0], 1), 3),
    "unflatten": Case(
        aten.unflatten.int, lambda a, b, c, d: ((a, b * c),), lambda n, a, b, c, d: (n[0], 1, [b, c]), 3
    ),
    "transpose": Case(aten.transpose.int, lambda a, b, c, d: ((a, b, c),), lambda n, *s: (n[0], 0, -1), 3),
    "permute": Case(
        aten.permute.default, lambda a, b, c, d: ((a, b, c),), lambda n, *s: (n[0], [2, 0, 1]), 3
    ),
    "movedim": Case(aten.movedim.int, lambda a, b, c, d: ((a, b, c),), lambda n, *s: (n[0], 0, 2), 3),
    "unsqueeze": Case(aten.unsqueeze.default, lambda a, b, c, d: ((a, b),), lambda n, *s: (n[0], 1), 2),
    "squeeze": Case(aten.squeeze.dim, lambda a, b, c, d: ((a, 1, b),), lambda n, *s: (n[0], 1), 2),
    "expand": Case(
        aten.expand.default, lambda a, b, c, d: ((a, 1),), lambda n, a, b, c, d: (n[0], [c, a, b]), 1
    ),
    "repeat": Case(aten.repeat.default, lambda a, b, c, d: ((a, b),), lambda n, *s: (n[0], [2, 1, 3]), 2),
    "repeat_interleave": Case(
        aten.repeat_interleave.self_int, lambda a, b, c, d: ((a, b),), lambda n, *s: (n[0], 3, 1), 2
    ),
    "split": Case(
        aten.split_with_sizes.default,
        lambda a, b, c, d: ((a, b + c),),
        lambda n, a, b, c, d: (n[0], [b, c], 1),
        3,
        result=1,
    ),
    "chunk": Case(
        aten.chunk.default, lambda a, b, c, d: ((a, 2 * b),), lambda n, *s: (n[0], 2, 1), 3, result=0
    ),
    "slice": Case(
        aten.slice.Tensor, lambda a, b, c, d: ((a, b + c),), lambda n, a, b, c, d: (n[0], 1, b, b + c), 3
    ),
    "slice-strided": Case(
        aten.slice.Tensor, lambda a, b, c, d: ((a, 2 * b),), lambda n, a, b, c, d: (n[0], 1, 0, 2 * b, 2), 2
    ),
    "slice_scatter": Case(
        aten.slice_scatter.default,
        lambda a, b, c, d: ((a, b + c), (a, c)),
        lambda n, a, b, c, d: (n[0], n[1], 1, b, b + c),
        3,
    ),
    "einsum-joint": Case(
        aten.einsum.default,
        lambda a, b, c, d: ((a, b, c), (b, c, d)),
        lambda n, *s: ("xhd,hdo->xo", [n[0], n[1]]),
        4,
    ),
    "select": Case(aten.select.int, lambda a, b, c, d: ((3, a, b),), lambda n, *s: (n[0], 0, 1), 2),
    "unbind": Case(aten.unbind.int, lambda a, b, c, d: ((3, a, b),), lambda n, *s: (n[0],), 2, result=2),
    "cat": Case(aten.cat.default, lambda a, b, c, d: ((a, b), (a, c)), lambda n, *s: ([n[0], n[1]], 1), 3),
    "stack": Case(
        aten.stack.default, lambda a, b, c, d: ((a, b), (a, b)), lambda n, *s: ([n[0], n[1]], 1), 2
    ),
    "glu": Case(aten.glu.default, lambda a, b, c, d: ((a, 2 * b),), lambda n, *s: (n[0], 1), 2),
    "pad": Case(aten.constant_pad_nd.default, lambda a, b, c, d: ((a, b),), lambda n, *s: (n[0], [1, 2]), 2),
    "avg_pool": Case(
        aten.avg_pool2d.default, lambda a, b, c, d: ((a, b, 4, 4),), lambda n, *s: (n[0], [2, 2]), 2
    ),
    "avg_pool-still": Case(
        aten.avg_pool2d.default,
        lambda a, b, c, d: ((a, b, 4, c),),
        lambda n, *s: (n[0], [2, 1], [2, 1], [0, 0]),
        3,
    ),
    "pixel_shuffle": Case(
        aten.pixel_shuffle.default, lambda a, b, c, d: ((a, 4 * b, 3, 3),), lambda n, *s: (n[0], 2), 4
    ),
    "im2col": Case(
        aten.im2col.default,
        lambda a, b, c, d: ((a, b, 4, 4),),
        lambda n, *s: (n[0], [2, 2], [1, 1], [0, 0], [2, 2]),
        2,
    ),
    "mse_loss": Case(aten.mse_loss.default, lambda a, b, c, d: ((a, b), (a, b)), _same(0, 1), 2),
}

sizes = st.tuples(*(st.integers(2, 5) for _ in range(4)))


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=5, deadline=None)
@given(sizes=sizes)
def test_permuting_an_axis_permutes_the_result(name: str, sizes: N) -> None:
    program = program_of(CASES[name], sizes)
    free = [axis.id for axis in program.axes if axis.frozen is None]
    assert permutation_error(program, free, []).error <= 1e-9


def _returned(axis: Any) -> bool:
    return axis.frozen is not None and axis.frozen.kind == "output"


@pytest.mark.parametrize("name", CASES)
def test_as_many_axes_are_free_as_the_op_allows(name: str) -> None:
    case = CASES[name]
    program = program_of(case, (3, 5, 4, 2))
    free = [axis for axis in program.axes if axis.frozen is None or _returned(axis)]
    assert len(free) == case.free, [(axis.name, axis.size, axis.frozen) for axis in program.axes]


def test_an_op_without_a_rule_takes_that_of_its_decomposition() -> None:
    op = aten.addcmul.default if find_rule(aten.hypot.default) is None else aten.special_entr.default
    case = Case(op, lambda a, b, c, d: ((a, b),), _same(0), 2, positive=True)
    program = program_of(case, (3, 5, 4, 2))
    assert not program.axes.unknown


@torch.library.custom_op("mlgraph_tests::mixed", mutates_args=())
def _mixed(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x @ weight.T


@_mixed.register_fake
def _(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def test_a_custom_op_freezes_by_name_until_a_rule_is_registered() -> None:
    op = torch.ops.mlgraph_tests.mixed.default
    case = Case(op, lambda a, b, c, d: ((a, b), (c, b)), _same(0, 1), 3)
    before = program_of(case, (3, 5, 4, 2)).axes
    assert {str(axis.frozen) for axis in before} == {"there is no rule for mlgraph_tests.mixed.default"}
    register_rule(op, "... i, o i -> ... o")
    after = program_of(case, (3, 5, 4, 2))
    free = [axis.id for axis in after.axes if axis.frozen is None or _returned(axis)]
    assert len(free) == 3
    assert permutation_error(after, free, []).error <= 1e-9
