"""The algebra, as properties over random transformers and random groupings.

- coalesce(decoalesce(s)) = s, bit for bit where group sizes are powers of two;
- width de-coalescing keeps the function;
- interpolation has the right ends and is linear between;
- after de-coalescing twins have identical gradients, after interpolation they have not.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import mlgraph
from mlgraph.program import Program
from mlgraph.rewrite.rearrange import rearrange
from tests import captured as known
from tests import oracles
from tests.selection import some
from tests.strategies import THOROUGH, Shape, groupings, transformers

# Capture takes most of the time of an example, so each captured model is put to several groupings.
EXAMPLES = int(os.environ.get("MLGRAPH_EXAMPLES", "40" if THOROUGH else "2"))
GROUPINGS = 3
PROPERTY = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
FEW = settings(PROPERTY, max_examples=max(EXAMPLES // 3, 1))
"""For properties of which the capture alone costs seconds an example."""
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}

Groupings = dict[str, tuple[int, ...]]


@cache
def captured(shape: Shape, dtype: torch.dtype = torch.float64, seed: int = 0) -> Program:
    return mlgraph.capture(shape.build(seed, dtype), (shape.inputs(),))


@cache
def family(name: str) -> tuple[Program, list[Any]]:
    """A family's program in double precision, with its inputs."""
    found = known.captured(name)
    program = in_double(found.program)
    return program, oracles.flat_inputs(program, found.args, found.kwargs)


def averaged(program: Program) -> set[str]:
    """Axes over which some norm takes a mean: only groups of equal size keep it."""
    return {axis for axis, _ in program.axes.averages}


def draw_groupings(data: st.DataObject, program: Program, *, powers_of_two: bool = False) -> Groupings:
    """A grouping of every axis that is coarsened by default, uneven where no mean is taken over it."""
    chosen: Groupings = {}
    even = averaged(program)
    for axis in program.axes:
        if not axis.coarsenable_by_default:
            continue
        if axis.id in even:
            factors = [f for f in ((1, 2, 4) if powers_of_two else (1, 2, 3, 5)) if axis.size % f == 0]
            factor = data.draw(st.sampled_from(factors), label=f"{axis.id} by")
            indices = data.draw(st.permutations([i // factor for i in range(axis.size)]), label=axis.id)
            chosen[axis.id] = tuple(indices)
        else:
            chosen[axis.id] = data.draw(groupings(axis.size, powers_of_two=powers_of_two), label=axis.id)
    assume(chosen)
    return chosen


def assert_same(found: Program, expected: Program) -> None:
    assert set(found.tensors) == set(expected.tensors)
    assert found.tensors.aliases == expected.tensors.aliases
    for name, value in expected.tensors.items():
        assert torch.equal(found.tensors[name], value), name


def relative_difference(left: Program, right: Program, inputs: list[Any]) -> float:
    """The largest error of any result that has one shape in both; hidden states follow the width."""
    found, expected = oracles.evaluate(left, inputs), oracles.evaluate(right, inputs)
    pairs = [(x, y) for x, y in zip(found, expected, strict=True) if isinstance(x, torch.Tensor)]
    alike = [(x, y) for x, y in pairs if x.shape == y.shape]
    assert alike
    return max(oracles.relative_error(x, y) for x, y in alike)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@PROPERTY
@given(data=st.data())
def test_coalescing_inverts_decoalescing_bit_for_bit(dtype: torch.dtype, data: st.DataObject) -> None:
    program = captured(data.draw(transformers(even=False)), dtype)
    for _ in range(GROUPINGS):
        chosen = draw_groupings(data, program, powers_of_two=True)
        small = mlgraph.coalesce(program, axes=chosen)
        assert_same(mlgraph.coalesce(mlgraph.decoalesce(small), axes=chosen), small)


@PROPERTY
@given(shape=transformers(), pairing=st.sampled_from(["adjacent", "halves"]))
def test_coalescing_inverts_decoalescing_in_depth_and_width(shape: Shape, pairing: str) -> None:
    small = mlgraph.coalesce(captured(shape), depth=2, width=2, pairing=pairing)
    again = mlgraph.coalesce(mlgraph.decoalesce(small), depth=2, width=2, pairing=pairing)
    assert_same(again, small)


@PROPERTY
@given(shape=transformers(), width=st.booleans(), depth=st.booleans())
def test_coarse_names_and_shapes_are_those_of_the_coarse_class(
    shape: Shape, width: bool, depth: bool
) -> None:
    divide = {"hidden": 2, "kv_heads": 2, "mlp": 2} if width else {}
    depth = depth and shape.depth > 2
    expected = shape.coarse(**divide, depth=2 if depth else 1).build()
    small = mlgraph.coalesce(captured(shape), depth=2 if depth else 1, width=2 if width else 1)
    found = oracles.state_shapes(small.state_dict())
    assert oracles.difference(found, oracles.state_shapes(expected.state_dict())) is None
    assert oracles.program_ties(small) == oracles.ties(expected)


@PROPERTY
@given(shape=transformers())
def test_the_coarse_program_computes_what_the_coarse_class_computes(shape: Shape) -> None:
    """No constant is derived from the width here, so the class with the coarse weights is the oracle."""
    shape = dataclasses.replace(shape, embedding_scale=False, tied=False)
    small = mlgraph.coalesce(captured(shape), width=2)
    expected = shape.coarse(hidden=2, kv_heads=2, mlp=2).build()
    expected.load_state_dict(small.state_dict())
    with torch.no_grad():
        result = expected(shape.inputs())
        found = mlgraph.emit(small).eval()(shape.inputs())
    assert oracles.relative_error(found, result) <= 1e-10


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@PROPERTY
@given(data=st.data())
def test_width_decoalescing_keeps_the_function(dtype: torch.dtype, data: st.DataObject) -> None:
    shape = data.draw(transformers(even=False))
    program = captured(shape, dtype)
    for _ in range(GROUPINGS):
        small = mlgraph.coalesce(program, axes=draw_groupings(data, program))
        grown = mlgraph.decoalesce(small)
        assert oracles.state_shapes(grown.state_dict()) == oracles.state_shapes(program.state_dict())
        with torch.no_grad():
            before, after = (mlgraph.emit(p).eval()(shape.inputs()) for p in (small, grown))
        # Norms over few indices divide rounding errors by the root of their eps: what the coarse program
        # loses to rounding by itself is the measure of what the grown one may lose.
        exact = oracles.evaluate(small, [shape.inputs()])[0]
        rounding = oracles.relative_error(before, exact)
        assert oracles.relative_error(after, before) <= max(TOLERANCE[dtype], 10 * rounding)


@PROPERTY
@given(shape=transformers(even=False), factor=st.sampled_from([2, 3]))
def test_growing_in_width_keeps_the_function(shape: Shape, factor: int) -> None:
    program = captured(shape)
    grown = mlgraph.decoalesce(program, width=factor)
    if shape.kv_heads > 1:
        # One head leaves no trace of an axis in the graph.
        sizes = {"hidden": shape.hidden, "kv_heads": shape.kv_heads, "mlp": shape.mlp}
        wide = dataclasses.replace(shape, **{name: factor * size for name, size in sizes.items()})
        found = oracles.state_shapes(grown.state_dict())
        assert oracles.difference(found, oracles.state_shapes(wide.build().state_dict())) is None
    assert relative_difference(grown, program, [shape.inputs()]) <= 1e-10


@PROPERTY
@given(shape=transformers())
def test_growing_in_depth_by_identity_keeps_the_function(shape: Shape) -> None:
    shape = dataclasses.replace(shape, post_norm=False, layer_scale=False)
    program = captured(shape)
    grown = mlgraph.decoalesce(program, depth=2, depth_mode="identity")
    assert relative_difference(grown, program, [shape.inputs()]) <= 1e-10


@PROPERTY
@given(shape=transformers(), alpha=st.floats(0, 1), beta=st.floats(0, 1))
def test_interpolation_has_its_ends_and_is_linear(shape: Shape, alpha: float, beta: float) -> None:
    first = captured(shape)
    second = mlgraph.decoalesce(mlgraph.coalesce(first, width=2))
    assert_same(mlgraph.interpolate(first, second, alpha=0.0), first)
    assert_same(mlgraph.interpolate(first, second, alpha=1.0), second)
    left, right = (mlgraph.interpolate(first, second, alpha=a) for a in (alpha, beta))
    middle = mlgraph.interpolate(first, second, alpha=(alpha + beta) / 2)
    for name in first.tensors.parameters:
        mean = (left.tensors[name] + right.tensors[name]) / 2
        assert torch.allclose(middle.tensors[name], mean, rtol=1e-12, atol=1e-13), name


def gradients(program: Program, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    module = mlgraph.emit(program).eval()
    module.zero_grad(set_to_none=True)
    logits = module(inputs)
    weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits).sin()
    (logits.log_softmax(-1) * weights).sum().backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def twin_difference(program: Program, grads: Mapping[str, torch.Tensor], chosen: Groupings) -> float:
    """Largest relative change of any gradient when the members of every group are cycled."""
    cycles = {}
    for axis, coarse_of in chosen.items():
        source = torch.arange(len(coarse_of))
        for group in set(coarse_of):
            members = [i for i, c in enumerate(coarse_of) if c == group]
            source[members] = torch.tensor(members).roll(1)
        cycles[axis] = source
    worst = 0.0
    for name, grad in grads.items():
        dims = program.axes.tensor_dims[program.tensors.aliases.get(name, name)]
        # A gradient that vanishes for every input (a bias before a softmax) is rounding alone.
        if grad.abs().max() > 1e-9:
            worst = max(worst, oracles.relative_error(rearrange(grad, dims, cycles), grad))
    return worst


@PROPERTY
@given(data=st.data())
def test_twins_have_equal_gradients_until_interpolation(data: st.DataObject) -> None:
    shape = data.draw(transformers(even=False))
    # A norm over two or three indices leaves next to no gradient to compare.
    assume(shape.hidden >= 4)
    program = captured(shape)
    chosen = draw_groupings(data, program)
    assume(any(len(set(coarse_of)) < len(coarse_of) for coarse_of in chosen.values()))
    # A norm over copies of one index divides rounding by its epsilon, once more in every layer.
    assume(all(max(chosen[axis]) > 0 for axis in averaged(program) & chosen.keys()))
    grown = mlgraph.decoalesce(mlgraph.coalesce(program, axes=chosen))
    assert twin_difference(grown, gradients(grown, shape.inputs()), chosen) <= 1e-8
    mixed = mlgraph.interpolate(program, grown, alpha=0.5)
    assert twin_difference(mixed, gradients(mixed, shape.inputs()), chosen) > 1e-6


@PROPERTY
@given(shape=transformers())
def test_random_transformers_are_sound_under_permutation(shape: Shape) -> None:
    program = captured(shape)
    free = [axis.id for axis in program.axes if axis.frozen is None]
    assert {"heads", "kv_heads"} & {axis.name for axis in program.axes if axis.frozen is None}
    assert oracles.permutation_error(program, free, [shape.inputs()]) <= 1e-9


def in_double(program: Program) -> Program:
    values = {name: oracles.double(value) for name, value in program.tensors.items()}
    return program.replace(tensors=program.tensors.replace(values))


@pytest.mark.parametrize("name", some(["gpt2", "bert-mlm", "t5", "llama"]))
@pytest.mark.parametrize("factor", [2, 3])
def test_growing_a_family_in_width_keeps_the_function(name: str, factor: int) -> None:
    program, inputs = family(name)
    assert relative_difference(mlgraph.decoalesce(program, width=factor), program, inputs) <= 1e-10


@pytest.mark.parametrize("name", some(["gpt2", "bert-mlm", "t5", "llama"]))
def test_regrowing_a_family_in_width_keeps_the_coarse_function(name: str) -> None:
    program, inputs = family(name)
    small = mlgraph.coalesce(program, width=2)
    assert relative_difference(mlgraph.decoalesce(small), small, inputs) <= 1e-10


@pytest.mark.parametrize("name", some(["gpt2", "bert-mlm", "t5", "llama"]))
def test_growing_a_family_in_depth_by_identity_keeps_the_function(name: str) -> None:
    program, inputs = family(name)
    grown = mlgraph.decoalesce(program, depth=2, depth_mode="identity")
    assert relative_difference(grown, program, inputs) <= 1e-10
