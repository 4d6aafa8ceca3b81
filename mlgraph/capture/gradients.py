"""Gradients that a model defines itself: autograd functions, and hooks that change what flows back.

A traced forward says nothing of them. A function whose backward is that of its forward's own operators is
traced as these. Any other backward is linear in the gradient, g ↦ B g, and so has a transposed map; the
function's result is then y + Bᵀ (x - x), with y and the second x detached: the same value, and B as its
derivative. A backward that is not linear, or cannot be traced, is refused by its line.
"""

from __future__ import annotations

import contextlib
import linecache
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.autograd import Function
from torch.autograd.function import FunctionCtx
from torch.utils import checkpoint

from mlgraph.capture.place import SourceLine, outside, place_of_caller
from mlgraph.errors import CaptureError

_PLAIN, _LINEAR, _OTHER = "plain", "linear", "other"
_RTOL = {torch.float16: 1e-2, torch.bfloat16: 6e-2}
_SINGLE = 1e-4


class _Context(FunctionCtx):
    """What a function's forward leaves for its backward, as torch's own context does."""

    def __init__(self, needs: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs
        self.saved_tensors: tuple[Any, ...] = ()
        self.without_gradient: set[int] = set()
        self.dirty: tuple[Any, ...] = ()

    def save_for_backward(self, *tensors: Any) -> None:
        self.saved_tensors = tensors

    def mark_non_differentiable(self, *tensors: Any) -> None:
        self.without_gradient |= {id(tensor) for tensor in tensors}

    def mark_dirty(self, *tensors: Any) -> None:
        self.dirty = tensors


@dataclass
class Gradients:
    """The functions and hooks met while a model ran, by their lines, and how its trace treats them.

    ``taken`` are the lines on which its forward takes gradients itself.
    """

    functions: dict[SourceLine, str] = field(default_factory=dict)
    hooks: dict[SourceLine, str] = field(default_factory=dict)
    taken: list[SourceLine] = field(default_factory=list)
    _kinds: defaultdict[tuple[type, SourceLine | None], set[str]] = field(
        default_factory=lambda: defaultdict(set)
    )

    @contextlib.contextmanager
    def rehearsed(self) -> Iterator[None]:
        """While the model runs on values: see what the backward of every function is."""

        def apply(cls: type[Function], *args: Any, **kwargs: Any) -> Any:
            if outside(_file_of(cls)):
                self._kinds[cls, place_of_caller()].add(_kind(cls, args))
            return _APPLY.__get__(None, cls)(*args, **kwargs)

        with _applied(apply):
            yield

    @contextlib.contextmanager
    def traced(self) -> Iterator[None]:
        """While the model is traced: every function becomes operators with its gradient."""
        register = torch.Tensor.register_hook

        def apply(cls: type[Function], *args: Any, **kwargs: Any) -> Any:
            if cls is checkpoint.CheckpointFunction:
                return _without_checkpoint(*args)
            if not outside(_file_of(cls)):
                return _APPLY.__get__(None, cls)(*args, **kwargs)
            return self._trace(cls, args)

        def register_hook(tensor: torch.Tensor, hook: Any) -> Any:
            place = place_of_caller()
            if place is not None:
                self.hooks[place] = f"the hook on a gradient at {_line(place)}"
            return register(tensor, hook)  # type: ignore[no-untyped-call]

        def grad(*args: Any, **kwargs: Any) -> Any:
            file, line = sys._getframe(1).f_code.co_filename, sys._getframe(1).f_lineno
            if outside(file):
                self.taken.append((file, line))
            return take(*args, **kwargs)

        take = torch.autograd.grad
        torch.Tensor.register_hook = register_hook  # type: ignore[method-assign]
        torch.autograd.grad = grad
        try:
            with _applied(apply):
                yield
        finally:
            torch.Tensor.register_hook = register  # type: ignore[method-assign]
            torch.autograd.grad = take

    def _trace(self, cls: type[Function], args: tuple[Any, ...]) -> Any:
        place = place_of_caller()
        kinds = self._kinds.get((cls, place), {_LINEAR})
        where = f"{cls.__name__} at {_line(place)}" if place is not None else cls.__name__
        if place is not None:
            self.functions[place] = f"the autograd function {where}"
        if _OTHER in kinds:
            raise CaptureError(
                f"the backward of {where} is not linear in the gradient, or its forward writes to its input, "
                "which a graph cannot hold; write it with plain tensor ops, or capture a submodule that does "
                "without it"
            )
        context, results, single = _forward(cls, args)
        if kinds == {_PLAIN}:
            return results[0] if single else results
        made = _with_backward(cls, args, context, results)
        return made[0] if single else made


@contextlib.contextmanager
def without_checkpoints() -> Iterator[None]:
    """While a model runs: what it would compute again for its gradient it keeps."""

    def apply(cls: type[Function], *args: Any, **kwargs: Any) -> Any:
        if cls is checkpoint.CheckpointFunction:
            return _without_checkpoint(*args)
        return _APPLY.__get__(None, cls)(*args, **kwargs)

    with _applied(apply):
        yield


def _without_checkpoint(run: Callable[..., Any], _: bool, *operands: Any) -> Any:
    return run(*operands)


def _line(place: SourceLine) -> str:
    file, line = place
    return f"{file}:{line}: {linecache.getline(file, line).strip()}"


def _file_of(cls: type[Function]) -> str:
    return cls.forward.__code__.co_filename if hasattr(cls.forward, "__code__") else ""


_APPLY: Any = Function.__dict__["apply"]


@contextlib.contextmanager
def _applied(apply: Callable[..., Any]) -> Iterator[None]:
    Function.apply = classmethod(apply)  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        Function.apply = _APPLY  # type: ignore[method-assign]


def _differentiable(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and (value.is_floating_point() or value.is_complex())


def _forward(cls: type[Function], args: tuple[Any, ...]) -> tuple[_Context, tuple[Any, ...], bool]:
    """The context and results of a function, and whether it returns one alone."""
    context = _Context(tuple(isinstance(a, torch.Tensor) and a.requires_grad for a in args))
    if cls.setup_context is not Function.setup_context:
        output = cls.forward(*args)
        cls.setup_context(context, args, output)
    else:
        output = cls.forward(context, *args)
    single = not isinstance(output, tuple | list)
    return context, (output,) if single else tuple(output), single


def _backward(cls: type[Function], context: _Context, gradients: list[Any]) -> tuple[Any, ...]:
    function = cls.backward if cls.backward is not Function.backward else cls.vjp
    # @once_differentiable forbids a second derivative, and keeps the function itself
    function = getattr(function, "__wrapped__", function)
    found = function(context, *gradients)
    return tuple(found) if isinstance(found, tuple | list) else (found,)


def _with_backward(
    cls: type[Function], args: tuple[Any, ...], context: _Context, results: tuple[Any, ...]
) -> tuple[Any, ...]:
    """The results with the function's own backward as their derivative."""
    made = [r.detach() if isinstance(r, torch.Tensor) else r for r in results]
    smooth = [
        at for at, r in enumerate(results) if _differentiable(r) and id(r) not in context.without_gradient
    ]
    inputs = {at: a for at, a in enumerate(args) if _differentiable(a)}
    context.saved_tensors = tuple(_apart(t) for t in context.saved_tensors)
    context.needs_input_grad = tuple(at in inputs for at in range(len(args)))
    if not smooth or not inputs:
        return tuple(made)
    with torch.enable_grad():
        probes = [torch.zeros_like(r, requires_grad=at in smooth) for at, r in enumerate(made)]
        gradients = _backward(cls, context, list(probes))
        flowing = {
            at: g for at, g in enumerate(gradients) if at in inputs and g is not None and g.requires_grad
        }
        wanted = [probes[at] for at in smooth]
        for at, gradient in flowing.items():
            x = inputs[at]
            back = torch.autograd.grad(gradient, wanted, x - x.detach(), retain_graph=True, allow_unused=True)
            terms = {result: term for result, term in zip(smooth, back, strict=True) if term is not None}
            for result, term in terms.items():
                made[result] = made[result] + term
    return tuple(made)


def _apart(value: Any) -> Any:
    return value.detach() if isinstance(value, torch.Tensor) else value


def _kind(cls: type[Function], args: tuple[Any, ...]) -> str:
    """Whether a function's backward is its operators' own, another linear map, or neither."""
    inputs = [at for at, a in enumerate(args) if _differentiable(a)]
    try:
        with torch.enable_grad(), torch.random.fork_rng(list(range(torch.cuda.device_count()))):
            given = tuple(
                a.detach().clone().requires_grad_(at in inputs) if isinstance(a, torch.Tensor) else a
                for at, a in enumerate(args)
            )
            # what a function writes in place is no leaf
            passed = tuple(a.clone() if at in inputs else a for at, a in enumerate(given))
            context, results, _ = _forward(cls, passed)
            if context.dirty:
                return _OTHER
            context.needs_input_grad = tuple(at in inputs for at in range(len(args)))
            context.saved_tensors = tuple(_apart(t) for t in context.saved_tensors)
            smooth = [r for r in results if _differentiable(r) and id(r) not in context.without_gradient]
            leaves = [given[at] for at in inputs]
            first, second = ([torch.randn_like(r) for r in results] for _ in range(2))
            mine = _called(cls, context, first, inputs)
            other = _called(cls, context, second, inputs)
            both = [a + 2 * b for a, b in zip(first, second, strict=True)]
            joint = _called(cls, context, both, inputs)
            rtol = max(_RTOL.get(t.dtype, _SINGLE) for t in [*results, *args] if _differentiable(t))
            sums = [_sum(a, b) for a, b in zip(mine, other, strict=True)]
            if not all(_close(a, b, rtol) for a, b in zip(joint, sums, strict=True)):
                return _OTHER
            pairs = [(r, g) for r, g in zip(results, first, strict=True) if any(r is s for s in smooth)]
            pairs = [(r, g) for r, g in pairs if r.requires_grad]
            own: list[Any] = [None] * len(leaves)
            if pairs:
                own = list(
                    torch.autograd.grad(
                        [r for r, _ in pairs], leaves, [g for _, g in pairs], allow_unused=True
                    )
                )
    except Exception:  # tracing it will fail in the same place, and say where
        return _LINEAR
    return _PLAIN if all(_close(a, b, rtol) for a, b in zip(own, mine, strict=True)) else _LINEAR


def _called(cls: type[Function], context: _Context, gradients: list[Any], inputs: list[int]) -> list[Any]:
    with torch.no_grad():
        found = _backward(cls, context, [g.clone() for g in gradients])
    return [found[at] if at < len(found) else None for at in inputs]


def _sum(a: Any, b: Any) -> Any:
    return None if a is None or b is None else a + 2 * b


def _close(a: Any, b: Any, rtol: float) -> bool:
    a, b = (None if t is None or not bool((t != 0).any()) else t for t in (a, b))
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and bool((a - b).abs().max() <= rtol * b.abs().max())
