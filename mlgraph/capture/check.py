"""Whether a program is its model: on the example and at other sizes, in evaluation and in training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mlgraph.capture.comparison import CannotRun, Comparison, Difference
from mlgraph.capture.padding import padding_left_out
from mlgraph.capture.state import bytes_of
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
# Gradients of one with more than this are compared at one size.
_LIGHT = 1 << 28

# How a size is changed, and whether gradients are compared there too.
_Trial = tuple[Callable[["Program", str, int], int], bool]


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
    size = bytes_of(tensors.values())
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
    told = (*made.functions, *made.hooks, *_hooked(comparison.model))
    notes = [Note("mode", f"{hook} is not part of the program") for hook in _accumulated(comparison.tensors)]
    try:
        program = _with_state(program, comparison, call)
        evaluation = comparison.differences(program, call, training=False)
        _refuse_unsteady(comparison, call, training=False)
        if evaluation:
            made = again()
            call = made.call
            program = _with_state(made.program, comparison, call)
            _refuse(program, comparison.differences(program, call, training=False), made.functions)
    except CannotRun as error:
        said = f"not checked: the model does not run: {error}"
        return program.replace(notes=(*program.notes, Note("unchecked", said)))
    # a backward of a large model runs once, at sizes as small as can be
    light = bytes_of(comparison.tensors.values()) <= _LIGHT
    done = not light and not evaluation and _agree_in_training(comparison, program, call)
    training: list[Difference] = []
    try:
        training = [] if done else comparison.differences(program, call, training=True)
        if training and evaluation:
            said = "training behaviour other than dropout and batch norm is not preserved: in evaluation "
            notes.append(Note("mode", f"{said}{evaluation[0]}, in training {_listed(training)}"))
        elif not done:
            _refuse(program, training, told)
            _refuse_unsteady(comparison, call, training=True)
    except CannotRun as error:
        notes.append(Note("unchecked", f"not checked in training: the model does not run: {error}"))
    notes += padding_left_out(comparison.model, call)
    unused = "changes no gradient here, and is not part of the program"
    notes += [Note("mode", f"{hook} {unused}") for hook in told[len(made.functions) :]]
    if light and not training and (differ := _in_evaluation(comparison, program, call)):
        said = f"gradients in evaluation are not those of the model: {_listed(differ)}"
        notes.append(Note("mode", said))
    tried: list[_Trial] = [(_larger, False)]
    if not done:
        tried.append((_smaller, light and not training))
    program, fixed = _at_other_sizes(comparison, program, call, tried)
    return program.replace(notes=(*program.notes, *notes, *fixed))


def _refuse_unsteady(comparison: Comparison, call: Call, training: bool) -> None:
    """Raise where a second run tells another result than the first, for what the model keeps of it."""
    if changing := comparison.unsteady(call, training):
        raise CaptureError(
            f"the model's results depend on {changing[0]}, which it changes as it runs and a program cannot; "
            "keep what changes in a buffer that is written to, and draw random numbers with torch"
        )


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
    """The hooks on what flows back through modules and to tensors."""
    found = []
    for path, module in model.named_modules():
        for hook in (*module._backward_hooks.values(), *module._backward_pre_hooks.values()):
            found.append(f"the backward hook of {path or 'the model'}{_where(hook)}")
    for name, parameter in model.named_parameters():
        for hook in (parameter._backward_hooks or {}).values():
            found.append(f"the hook on the gradient of {name}{_where(hook)}")
    return found


def _accumulated(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """The hooks that run once a gradient is there, whatever they do with it."""
    return [
        f"the hook after the gradient of {name}{_where(hook)}"
        for name, tensor in tensors.items()
        for hook in (getattr(tensor, "_post_accumulate_grad_hooks", None) or {}).values()
    ]


def _where(hook: Any) -> str:
    code = getattr(hook, "__code__", None)
    return f" at {code.co_filename}:{code.co_firstlineno}" if code is not None else ""


def _listed(things: Sequence[object]) -> str:
    listed = ", ".join(map(str, things[:_NAMED]))
    more = len(things) - _NAMED
    return f"{listed} and {more} more" if more > 0 else listed


def _in_evaluation(comparison: Comparison, program: Program, call: Call) -> list[Difference]:
    try:
        return comparison.gradients_in_evaluation(program, call)
    except CannotRun:
        return []


def _agree_in_training(comparison: Comparison, program: Program, call: Call) -> bool:
    """Whether model and program are seen to agree in training where every dynamic size is a small one."""
    sizes = {name: _few(program, name, size) for name, size in dynamic_sizes(program).items()}
    if not all(holds(guard, sizes) for guard in program.signature.guards):
        return False
    small = resized(program, call, sizes)
    try:
        if comparison.differences(program, small, training=True):
            return False
        _refuse_unsteady(comparison, small, training=True)
    except CannotRun:
        return False
    return True


def _at_other_sizes(
    comparison: Comparison, program: Program, call: Call, tried: Sequence[_Trial]
) -> tuple[Program, list[Note]]:
    """The program with the dynamic sizes fixed at which it is not the model, and what to say of them."""
    known = dynamic_sizes(program)
    for change, mode in tried:
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
        more, fixed = _at_other_sizes(comparison, program, call, tried)
        return more, [*notes, *fixed]
    return program, []


def _larger(program: Program, name: str, size: int) -> int:
    top = program.signature.ranges.get(name, (0, None))[1]
    return size + 1 if top is None or size < top else size


def _few(program: Program, name: str, size: int) -> int:
    low, top = program.signature.ranges.get(name, (0, None))
    few = max(low, 3)
    few += few == size
    return few if top is None or few <= top else size


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
