"""A program beside the model it was captured from: results, gradients, buffers and flags, at several sizes.

Both run on clones of the model's tensors and of the inputs, from the same random state, so that neither sees
what the other wrote, and nothing of the user's is changed.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from mlgraph.capture.export import Call
from mlgraph.capture.state import State, copies
from mlgraph.errors import CaptureError, first_line
from mlgraph.graph.interpret import Interpretation
from mlgraph.program import Note, Program
from mlgraph.program.size_guards import Formula, Operation, holds, names
from mlgraph.program.tensors import is_fake

# Relative errors that rounding explains, where the same operators run in the same order.
_TOLERANCE = {torch.float64: 1e-10, torch.complex128: 1e-10, torch.float16: 4e-3, torch.bfloat16: 3e-2}
_SINGLE = 1e-5
# Gradients that are zero but for rounding are compared on the scale of the largest one.
_NEGLIGIBLE = 1e-1
_SEED = 20240707
# So many differences are named in a sentence.
_NAMED = 3
# A model with more bytes than this is not copied.
_LARGEST = 4 << 30


@dataclass(frozen=True)
class Difference:
    """One thing in which a program is not its model.

    ``kind`` is ``"structure"``, ``"output"``, ``"gradient"``, ``"buffer"`` or ``"error"`` (the program does
    not run where the model does); ``what`` names the result or tensor; ``text`` says how they differ.
    """

    kind: str
    what: str
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Outcome:
    """What one run gave: its value, gradients by name, and written tensors as they are afterwards."""

    value: Any
    gradients: Mapping[str, torch.Tensor | None]
    written: Mapping[str, torch.Tensor]


class CannotRun(Exception):
    """The model itself does not run on a call."""


class Comparison:
    """A model, and programs of it, on copies of the model's tensors.

    ``tensors`` are the model's own under the names that its programs give them.
    """

    def __init__(self, model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
        self.model, self.tensors = model, tensors
        self._state = State(model)
        self._trains = {module: module.training for module in model.modules()}
        self._known: list[tuple[Call, bool, Outcome]] = []

    def trains_as_now(self) -> None:
        """Let training mean the modes that the model's modules are in."""
        self._trains = {module: module.training for module in self.model.modules()}

    def differences(self, program: Program, call: Call, training: bool) -> list[Difference]:
        """How a program differs from the model on one call. Raises CannotRun."""
        wanted = self.outcome(call, training)
        try:
            # a program shares its model's buffers
            with self._model_as_it_was(training):
                found = _run_program(program, call, training)
        except Exception as error:  # whatever stands in the way of the program
            return [Difference("error", "", f"its program does not run: {first_line(error)}")]
        return list(_compare(wanted, found, self.tensors))

    def outcome(self, call: Call, training: bool) -> Outcome:
        """What the model itself gives on a call; the last calls are remembered. Raises CannotRun."""
        for known, mode, outcome in self._known:
            if known is call and mode is training:
                return outcome
        with self._model_as_it_was(training):
            try:
                outcome = self._run(call, training)
            except Exception as error:  # a model may raise anything on sizes that it does not take
                raise CannotRun(first_line(error)) from error
        self._known = [*self._known[-1:], (call, training, outcome)]
        return outcome

    def unsteady(self, call: Call) -> list[str]:
        """The attributes by which a second evaluation on the same call, from the same tensors, differs.

        Raises CannotRun.
        """
        with self._model_as_it_was(training=False):
            first = self._run(call, training=False)
            changed = self._state.changed()
            if not changed:
                return []
            second = self._run(call, training=False)
        return changed if list(_compare(first, second, self.tensors)) else []

    def _run(self, call: Call, training: bool) -> Outcome:
        made = copies(self.tensors, training)

        def forward(given: Call) -> Any:
            return torch.func.functional_call(self.model, made, given.args, given.kwargs)

        return _outcome(forward, made, call, training)

    @contextlib.contextmanager
    def _model_as_it_was(self, training: bool) -> Iterator[None]:
        modes = {module: module.training for module in self.model.modules()}
        self._state.restore()
        if not training:
            self.model.eval()
        else:
            _set_modes(self._trains)
        try:
            yield
        finally:
            self._state.restore()
            _set_modes(modes)


def _set_modes(modes: Mapping[nn.Module, bool]) -> None:
    for module, mode in modes.items():
        module.training = mode


class _DrawnAlike(Interpretation):
    """A run that draws stochastic depth from the random numbers from which the model draws it."""

    def _call(self, node: fx.Node, env: Mapping[fx.Node, Any], device: torch.device) -> Any:
        rule = node.meta.get("draw")
        if not self.training or not rule:
            return super()._call(node, env, device)
        source, p, dims, _ = cast(tuple[Any, ...], node.args)
        x = env[source]
        drawn = torch.rand([n if d in dims else 1 for d, n in enumerate(x.shape)], device=device)
        kept = drawn >= p if rule == "above" else drawn < 1.0 - p
        return x * (kept.to(x.dtype) / (1.0 - p))


def _run_program(program: Program, call: Call, training: bool) -> Outcome:
    made = copies(program.tensors, training)

    def forward(given: Call) -> Any:
        results = _DrawnAlike(program, made, training).run(given.leaves())
        return pytree.tree_unflatten(results, program.signature.out_spec)

    return _outcome(forward, made, call, training)


def _outcome(
    forward: Callable[[Call], Any], held: dict[str, torch.Tensor], call: Call, training: bool
) -> Outcome:
    """What a run gives; ``held`` are the tensors that it runs on."""
    start = dict(held)
    versions = {name: tensor._version for name, tensor in start.items()}
    with torch.random.fork_rng(list(range(torch.cuda.device_count()))), torch.set_grad_enabled(training):
        torch.manual_seed(_SEED)
        leaves, given = _given(call, training)
        value = forward(given)
        gradients = _gradients(pytree.tree_leaves(value), start, leaves) if training else {}
    written = {
        n: held[n].detach()
        for n, tensor in start.items()
        if held[n] is not tensor or tensor._version > versions[n]
    }
    return Outcome(value, gradients, written)


def _given(call: Call, training: bool) -> tuple[dict[str, torch.Tensor], Call]:
    """The call on copies; in training the floating-point ones are results of leaves, which are returned."""
    leaves: dict[str, torch.Tensor] = {}

    def fresh(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        copy = leaf.detach().clone()
        if not training or not (copy.is_floating_point() or copy.is_complex()):
            return copy
        leaves[f"input {len(leaves)}"] = copy.requires_grad_()
        return copy.clone()

    return leaves, call.map(fresh)


def _gradients(
    results: list[Any], held: Mapping[str, torch.Tensor], inputs: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor | None]:
    """The gradients of all that takes one, for random cotangents of the results."""
    leaves = {name: tensor for name, tensor in {**held, **inputs}.items() if tensor.requires_grad}
    outputs = [r for r in results if isinstance(r, torch.Tensor) and r.requires_grad]
    if not outputs or not leaves:
        return dict.fromkeys(leaves)
    torch.manual_seed(_SEED + 1)
    cotangents = [torch.randn_like(output) for output in outputs]
    found = torch.autograd.grad(outputs, list(leaves.values()), cotangents, allow_unused=True)
    return dict(zip(leaves, found, strict=True))


def _compare(wanted: Outcome, found: Outcome, tensors: Mapping[str, torch.Tensor]) -> Iterator[Difference]:
    wants, structure = pytree.tree_flatten(wanted.value)
    has, other = pytree.tree_flatten(found.value)
    if structure != other:
        yield Difference("structure", "", "the model returns another structure")
        return
    for at, (want, have) in enumerate(zip(wants, has, strict=True)):
        text = _differ(want, have, 0.0)
        if text is not None:
            yield Difference("output", f"result {at}", f"result {at} {text}")
        elif isinstance(want, torch.Tensor) and want.requires_grad != have.requires_grad:
            which = "model" if want.requires_grad else "program"
            yield Difference("gradient", f"result {at}", f"result {at} takes a gradient in the {which} alone")
    yield from _compare_gradients(wanted.gradients, found.gradients)
    for name in [n for n in tensors if n in wanted.written or n in found.written]:
        text = _differ(wanted.written.get(name, tensors[name]), found.written.get(name, tensors[name]), 0.0)
        if text is not None:
            yield Difference("buffer", name, f"{name}, which the model writes, {text}")


def _compare_gradients(
    wanted: Mapping[str, torch.Tensor | None], found: Mapping[str, torch.Tensor | None]
) -> Iterator[Difference]:
    largest = max((_scale(g) for g in wanted.values() if g is not None), default=0.0)
    for name, want in wanted.items():
        have = found.get(name)
        if want is not None and have is not None:
            text = _differ(want, have, _NEGLIGIBLE * largest)
            if text is not None:
                yield Difference("gradient", name, f"the gradient of {name} {text}")
            continue
        present = want if have is None else have
        # none and zeros train alike
        if present is not None and _scale(present) != 0.0:
            which = "missing in the program" if have is None else "missing in the model"
            yield Difference("gradient", name, f"the gradient of {name} is {which}")


def _differ(want: Any, have: Any, floor: float) -> str | None:
    """How two values differ, if rounding does not explain it; ``floor`` is the least scale of errors."""
    if not isinstance(want, torch.Tensor) or not isinstance(have, torch.Tensor):
        same = type(want) is type(have) and (want == have or (want != want and have != have))
        return None if same else f"is {have!r} instead of {want!r}"
    if want.dtype is not have.dtype:
        return f"is {_short(have.dtype)} instead of {_short(want.dtype)}"
    if want.shape != have.shape:
        return f"has shape {list(have.shape)} instead of {list(want.shape)}"
    if want.layout is not have.layout:
        return f"is {have.layout} instead of {want.layout}"
    want, have = (t.detach() if t.layout is torch.strided else t.detach().to_dense() for t in (want, have))
    if want.device != have.device or want.numel() == 0 or torch.equal(want, have):
        return None
    if not (want.is_floating_point() or want.is_complex()):
        return f"differs in {int((want != have).sum())} of {want.numel()} values"
    if want.is_complex():
        want, have = torch.view_as_real(want), torch.view_as_real(have)
    regular = want.isfinite() & have.isfinite()
    same = regular | (want == have) | (want.isnan() & have.isnan())
    if not bool(same.all()):
        return f"differs in {int((~same).sum())} values that are not finite"
    scale = max(_scale(want), floor)
    zero = torch.zeros((), dtype=want.dtype, device=want.device)
    error = torch.where(regular, want - have, zero).abs().max().double().item()
    if error <= _TOLERANCE.get(want.dtype, _SINGLE) * scale:
        return None
    return f"differs by {error / scale:.2g} of its size" if scale else f"differs by {error:.2g}"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _scale(tensor: torch.Tensor) -> float:
    if tensor.numel() == 0:
        return 0.0
    values = tensor.detach().abs()
    values = values if values.layout is torch.strided else values.to_dense()
    return values.nan_to_num(0.0, 0.0, 0.0).max().double().item()


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
    program, fixed = _at_other_sizes(comparison, program, call, not training)
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
