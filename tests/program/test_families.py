"""The named families, end to end: axes, blocks, coarse shapes, soundness, regrowth.

What is expected comes from each model's own class built at half size (:mod:`tests.zoo`) and from
running permuted programs (:mod:`tests.oracles`), never from mlgraph.
"""

from __future__ import annotations

import pytest
import torch

from mlgraph.rewrite.rearrange import rearrange
from tests import oracles, zoo
from tests.selection import some
from tests.zoo_table import checks
from tests.zoo_table.checks import Subject

# The zoo's table has them all.
FAMILIES = some(zoo.entries(tag="spine"), lambda entry: entry.name in ("bert-mlm", "swin"))


@pytest.fixture(scope="module", params=FAMILIES, ids=str)
def subject(request: pytest.FixtureRequest) -> Subject:
    return Subject(request.param)


def test_the_emitted_module_is_the_model(subject: Subject) -> None:
    checks.check_captured(subject)


def test_exactly_the_dims_that_the_class_halves_are_coarsened_by_default(subject: Subject) -> None:
    checks.check_axes(subject)


def test_permuting_any_axis_in_all_its_slots_changes_nothing(subject: Subject) -> None:
    checks.check_sound(subject)


def test_permuting_one_slot_of_an_axis_alone_changes_the_outputs(subject: Subject) -> None:
    """The soundness test can fail: a slot left out shows."""
    program = subject.program
    axis = max((a for a in program.axes if a.coarsenable_by_default), key=lambda a: (len(a.slots), a.size))
    slot = next(s for s in axis.slots if s.tensor in program.tensors.parameters)
    dims = program.axes.tensor_dims[slot.tensor]
    moved = rearrange(program.tensors[slot.tensor], dims, {axis.id: torch.arange(axis.size).roll(1)})
    before = oracles.evaluate(program, subject.inputs)
    after = oracles.evaluate(program, subject.inputs, {**program.tensors, slot.tensor: moved})
    assert oracles.outputs_error(after, before) > 1e-6


def test_half_width_is_the_class_at_half_width(subject: Subject) -> None:
    checks.check_width(subject)


def test_half_depth_is_the_class_at_half_depth(subject: Subject) -> None:
    checks.check_depth(subject)


def test_half_width_and_depth_is_the_class_at_half_size(subject: Subject) -> None:
    checks.check_both(subject)


def test_the_coarse_program_is_sound_too(subject: Subject) -> None:
    small = subject.small
    free = [axis.id for axis in small.axes if axis.frozen is None]
    assert free
    assert oracles.permutation_error(small, free, subject.inputs) <= 1e-9


def test_regrowing_keeps_the_function_and_coarsening_again_is_exact(subject: Subject) -> None:
    checks.check_regrow(subject)


def test_every_parameter_of_the_coarse_module_gets_a_gradient_where_the_model_gives_one(
    subject: Subject,
) -> None:
    """The rewritten graph is differentiable in the same places as the original model."""
    import mlgraph

    full = subject.full
    with torch.enable_grad():
        model_result = full.model(*full.args, **full.kwargs)
        module = mlgraph.emit(subject.both).eval()
        module_result = module(*full.args, **full.kwargs)
        for result in (model_result, module_result):
            sum(x.square().sum() for x in oracles.tensors_of(result) if x.requires_grad).backward()
    expected = {name.split(".")[-1] for name, p in full.model.named_parameters() if p.grad is not None}
    found = {name.split(".")[-1] for name, p in module.named_parameters() if p.grad is not None}
    assert found == expected
