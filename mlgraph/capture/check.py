"""Whether a program is its model: on the example and at other sizes, in evaluation and in training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mlgraph.capture.comparison import CannotRun, Comparison, Difference
from mlgraph.errors import CaptureError
from mlgraph.program import Note, Program
from mlgraph.program.size_guards import Formula, Operation, holds, names
from mlgraph.program.tensors import is_fake

if TYPE_CHECKING:
    from mlgraph.capture.export import Call

# So many differences are named in a sentence.
_NAMED = 3
# A model with more bytes than this is not copied.
_LARGEST = 4 << 30
# Gradients of one with more than this are compared at the example's sizes alone.
_LIGHT = 1 << 28


def resized(program: Program, call: Call, sizes: Mapping[str, int]) -> Call:
    """A call with dynamic dims at other sizes: the example's rows are repeated or left out."""
    inputs = iter(program.signature.inputs)

    def change(leaf: Any) -> Any:
        symbols = next(inputs).symbols
        if not isinstance(leaf, torch.Tensor):
            return leaf
        made = leaf.detach()
        for dim, symbol in enumerate(symbols):
            if symbol is not None and symbol in sizes:
                index = torch.arange(sizes[symbol], device=leaf.device) % leaf.shape[dim]
                made = made.index_select(dim, index)
        return made.requires_grad_(leaf.requires_grad)

    return call.map(change)


def dynamic_sizes(program: Program) -> dict[str, int]:
    """The example size of every dynamic size of a program."""
    found: dict[str, int] = {}
    for leaf in program.signature.inputs:
        found.update({s: n for s, n in zip(leaf.symbols, leaf.shape, strict=False) if s is not None})
    return found


def fixed_at(program: Program, symbol: str) -> Program:
    """The program with one dynamic size fixed at the example's."""

    def fix(symbols: tuple[str | None, ...]) -> tuple[str | None, ...]:
        return tuple(None if s == symbol else s for s in symbols)

    inputs = tuple(dataclasses.replace(leaf, symbols=fix(leaf.symbols)) for leaf in program.signature.inputs)
    ranges = {name: bounds for name, bounds in program.signature.ranges.items() if name != symbol}
    size = dynamic_sizes(program)[symbol]
    guards = tuple(
        _settled(guard, symbol, size) for guard in program.signature.guards if [*names(guard)] != [symbol]
    )
    signature = dataclasses.replace(program.signature, inputs=inputs, ranges=ranges, guards=tuple(guards))
    return program.replace(signature=signature)


def why_not(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """Why a model with these tensors is not run to be checked, if it is not."""
    if any(is_fake(tensor) for tensor in tensors.values()):
        return "the model has no values to run on"
    size = sum(tensor.nbytes for tensor in tensors.values())
    if size > _LARGEST:
        return f"the model's tensors take {size / 2**30:.1f} GiB, and copies of them would be needed"
    return None


@dataclass(frozen=True)
class Made:
    """A program, the call that it was captured on, and what in the model makes gradients of its own."""

    program: Program
    call: Call
    functions: Sequence[str] = ()
    hooks: Sequence[str] = ()


def checked(comparison: Comparison, made: Made, again: Callable[[], Made]) -> Program:
    """The program, where it agrees with its model; else the one captured in evaluation, where that does.

    ``again`` captures the model in evaluation. Sizes at which the program disagrees are fixed, with a note.
    Raises CaptureError.
    """
    program, call = made.program, made.call
    hooks = (*made.hooks, *_hooked(comparison.model))
    notes: list[Note] = []
    try:
        program = _with_state(program, comparison, call)
        evaluation = comparison.differences(program, call, training=False)
        if evaluation:
            made = again()
            call = made.call
            program = _with_state(made.program, comparison, call)
            _refuse(program, comparison.differences(program, call, training=False), made.functions)
        if changing := comparison.unsteady(call):
            raise CaptureError(
                f"the model's results depend on {changing[0]}, which it changes as it runs and a program "
                "cannot; make it a buffer and write to it"
            )
    except CannotRun as error:
        said = f"not checked: the model does not run: {error}"
        return program.replace(notes=(*program.notes, Note("unchecked", said)))
    try:
        training = comparison.differences(program, call, training=True)
    except CannotRun as error:
        notes.append(Note("unchecked", f"not checked in training: the model does not run: {error}"))
        training = []
    if training and evaluation:
        said = "training behaviour other than dropout and batch norm is not preserved: in evaluation "
        notes.append(Note("mode", f"{said}{evaluation[0]}, in training {_listed(training)}"))
    elif training:
        _refuse(program, training, (*made.functions, *hooks))
    unused = "changes no gradient here, and is not part of the program"
    notes += [Note("mode", f"{hook} {unused}") for hook in hooks]
    # of a large model a backward at another size costs more than it tells
    light = sum(tensor.nbytes for tensor in comparison.tensors.values()) <= _LIGHT
    program, fixed = _at_other_sizes(comparison, program, call, light and not training)
    return program.replace(notes=(*program.notes, *notes, *fixed))


def _with_state(program: Program, comparison: Comparison, call: Call) -> Program:
    """The program with its graph's writes to what the model writes in evaluation in both modes."""
    written = frozenset(comparison.outcome(call, training=False).written)
    return program.replace(tensors=dataclasses.replace(program.tensors, stateful=written))


def _refuse(program: Program, differences: Sequence[Difference], told: Sequence[str]) -> None:
    if differences:
        why = f", which may come of {_listed(told)}" if told else ""
        raise CaptureError(
            f"the program captured from {program.name} is not the model: {_listed(differences)}{why}; "
            "capture a submodule that does without it, or take the program as it is with check=False"
        )


def _hooked(model: nn.Module) -> list[str]:
    """The hooks of modules on what flows back through them."""
    found = []
    for path, module in model.named_modules():
        for hook in (*module._backward_hooks.values(), *module._backward_pre_hooks.values()):
            code = getattr(hook, "__code__", None)
            where = f" at {code.co_filename}:{code.co_firstlineno}" if code is not None else ""
            found.append(f"the backward hook of {path or 'the model'}{where}")
    return found


def _listed(things: Sequence[object]) -> str:
    listed = ", ".join(map(str, things[:_NAMED]))
    more = len(things) - _NAMED
    return f"{listed} and {more} more" if more > 0 else listed


def _at_other_sizes(
    comparison: Comparison, program: Program, call: Call, training: bool
) -> tuple[Program, list[Note]]:
    """The program with the dynamic sizes fixed at which it is not the model, and what to say of them."""
    known = dynamic_sizes(program)
    for change, mode in ((_larger, False), (_smaller, training)):
        sizes = {name: change(program, name, size) for name, size in known.items()}
        if not _disagree(comparison, program, call, sizes, mode):
            continue
        notes = []
        for name, size in known.items():
            other = {name: sizes[name]}
            if found := _disagree(comparison, program, call, other, mode):
                program = fixed_at(program, name)
                said = f"{name} is fixed at {size}: at {sizes[name]} {_listed(found)}"
                notes.append(Note("fixed", said, name))
        if not notes:
            # it is the sizes together that the program does not take
            name = list(known)[-1]
            program = fixed_at(program, name)
            said = f"{name} is fixed at {known[name]}: at other sizes the program is not the model"
            notes.append(Note("fixed", said, name))
        more, fixed = _at_other_sizes(comparison, program, call, training)
        return more, [*notes, *fixed]
    return program, []


def _larger(program: Program, name: str, size: int) -> int:
    top = program.signature.ranges.get(name, (0, None))[1]
    return size + 1 if top is None or size < top else size


def _smaller(program: Program, name: str, size: int) -> int:
    low = program.signature.ranges.get(name, (0, None))[0]
    return size - 1 if size - 1 >= max(low, 2) else size + 2


def _disagree(
    comparison: Comparison, program: Program, call: Call, sizes: Mapping[str, int], training: bool
) -> list[Difference]:
    now = {**dynamic_sizes(program), **sizes}
    if now == dynamic_sizes(program) or not all(holds(guard, now) for guard in program.signature.guards):
        return []
    try:
        return comparison.differences(program, resized(program, call, sizes), training)
    except CannotRun:
        return []


def _settled(guard: Formula, symbol: str, size: int) -> Formula:
    if isinstance(guard, Operation):
        return Operation(guard.name, tuple(_settled(part, symbol, size) for part in guard.operands))
    return size if guard == symbol else guard
