"""What models do in forward that tracing cannot follow, given a traceable form while a model is captured.

All of it is temporary and general: a conversion of a module that changes nothing is left out; a check that
can only raise or warn is taken as it turned out on the example inputs, and so is a test for values that are
not finite; a loop over the indices that occur in a vector (experts with a token) runs over all of them; the
length of a tensor is no number yet; a cast is never the tensor that was cast.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import linecache
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from mlgraph.capture.data_attribute import with_data_detached
from mlgraph.capture.gradients import Gradients
from mlgraph.capture.place import SourceLine, outside, place_of_caller
from mlgraph.program import Note

_TESTS = {"isfinite", "isinf", "isnan", "isneginf", "isposinf"}
_LOGICAL = {
    "any",
    "all",
    "logical_not",
    "logical_or",
    "logical_and",
    "__or__",
    "__and__",
    "__invert__",
    "bitwise_not",
}
# How a tensor of one known index is read, and what leaves it one.
_READS: dict[str, Callable[..., Any]] = {
    "__format__": format,
    "item": int,
    "__int__": int,
    "__index__": int,
    "tolist": lambda index: index,
}
_SINGLE = {"__getitem__", "select", "squeeze", "view", "reshape", "flatten", "long", "int"}
# What gives a tensor itself where it has the dtype already.
_CASTS = {"to", "type", "type_as", "float", "double", "half", "bfloat16"}
_TELLING = {"warn", "warning", "warning_once", "warn_once", "info", "debug", "error", "exception", "print"}
# A formula of a size with more terms than this takes sympy minutes where it is divided again.
_LARGEST_SIZE = 64


class SizeTooComplex(Exception):
    """Dynamic sizes whose formulas grow beyond what can be worked out in reasonable time."""


@lru_cache(maxsize=64)
def _statements(filename: str) -> tuple[ast.stmt, ...]:
    try:
        tree = ast.parse("".join(linecache.getlines(filename)))
    except SyntaxError:
        return ()
    return tuple(node for node in ast.walk(tree) if isinstance(node, ast.stmt))


def _statement(place: SourceLine) -> ast.stmt | None:
    """The innermost statement on a line."""
    filename, line = place
    found = [s for s in _statements(filename) if s.lineno <= line <= (s.end_lineno or s.lineno)]
    return max(found, key=lambda s: (s.lineno, -(s.end_lineno or 0)), default=None)


def _called(statement: ast.stmt) -> str:
    value = statement.value if isinstance(statement, ast.Expr) else None
    function = value.func if isinstance(value, ast.Call) else None
    return getattr(function, "attr", getattr(function, "id", ""))


def only_checks(place: SourceLine) -> bool:
    """Whether the statement on a line can do no more with a condition than raise, warn or go on."""
    statement = _statement(place)
    if isinstance(statement, ast.Assert):
        return True
    if not isinstance(statement, ast.If):
        return statement is not None and _called(statement) in ("_assert", "_assert_async")
    if statement.orelse:
        return False
    return isinstance(statement.body[-1], ast.Raise) or all(_called(s) in _TELLING for s in statement.body)


class _Record(TorchFunctionMode):
    """How conditions turn out, by their place."""

    def __init__(self) -> None:
        super().__init__()
        self.outcomes: defaultdict[SourceLine, list[bool]] = defaultdict(list)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = with_data_detached(func, args, kwargs)
        if func is torch.Tensor.__bool__ and (place := place_of_caller()) is not None:
            self.outcomes[place].append(bool(result))
        return result


class _Follow(TorchFunctionMode):
    """Answers conditions of checks as they were recorded, and stops where sizes get too complex."""

    def __init__(self, outcomes: dict[SourceLine, list[bool]], limit: bool) -> None:
        super().__init__()
        self.outcomes, self.limit = outcomes, limit
        self.taken: dict[SourceLine, Note] = {}
        self._asked: defaultdict[SourceLine, int] = defaultdict(int)
        self._tests = WeakIdKeyDictionary()  # type: ignore[no-untyped-call]
        self._indices = WeakIdKeyDictionary()  # type: ignore[no-untyped-call]
        self._occurring = WeakIdKeyDictionary()  # type: ignore[no-untyped-call]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch.Tensor.__bool__:
            known = self._known(args[0])
            if known is not None:
                return known
        name = getattr(func, "__name__", "")
        if name == "unbind" and args[0] in self._occurring and (len(args) < 2 or args[1] == 0):
            return self._all_indices(args[0])
        if name in _READS and args and args[0] in self._indices:
            return _READS[name](self._indices[args[0]], *args[1:])
        if name in _CASTS and isinstance(args[0], torch.Tensor) and args[0].is_floating_point():
            # A cast that changes nothing gives its argument, to which every later use would be attributed.
            args = (torch.ops.aten.alias.default(args[0]), *args[1:])
        result = with_data_detached(func, args, kwargs)
        if name in _SINGLE and isinstance(result, torch.Tensor) and args[0] in self._indices:
            self._indices[result] = self._indices[args[0]]
        if name == "nonzero" and isinstance(result, torch.Tensor) and args[0].dim() == 1:
            self._occurring[result] = args[0].shape[0]
        if isinstance(result, torch.Tensor):
            tested = any(isinstance(a, torch.Tensor) and a in self._tests for a in args)
            if name in _TESTS or (name in _LOGICAL and tested):
                self._tests[result] = True
            if self.limit and name != "__get__" and any(map(_is_complex, result.shape)):
                raise SizeTooComplex("the formula of a dynamic size has too many terms")
        return result

    def _all_indices(self, occurring: torch.Tensor) -> Any:
        """All the indices there are, in the place of those that occur."""
        count = self._occurring[occurring]
        place = place_of_caller()
        if place is None or not isinstance(count, int):
            return occurring.unbind(0)
        filename, line = place
        text = linecache.getline(filename, line).strip()
        spot = f"{filename}:{line}"
        said = f"the loop over what occurs runs over all {count}: {spot}: {text}"
        self.taken[place] = Note("traced", said, spot)
        shape = (1,) * (occurring.dim() - 1)
        rows = tuple(torch.full(shape, index) for index in range(count))
        for index, row in enumerate(rows):
            self._indices[row] = index
        return rows

    def _known(self, condition: torch.Tensor) -> bool | None:
        place = place_of_caller()
        if place is None or not self.outcomes.get(place):
            return None
        finite = condition in self._tests
        if not finite and not only_checks(place):
            return None
        recorded = self.outcomes[place]
        index = self._asked[place] % len(recorded)
        self._asked[place] += 1
        kind = "a test for values that are not finite" if finite else "a check of values"
        filename, line = place
        spot, text = f"{filename}:{line}", linecache.getline(filename, line).strip()
        self.taken[place] = Note("traced", f"{kind} is left out: {spot}: {text}", spot)
        return recorded[index]


def _is_complex(size: Any) -> bool:
    if not isinstance(size, torch.SymInt):
        return False
    pending, seen = [size.node.expr], 0
    while pending and seen <= _LARGEST_SIZE:
        pending.extend(pending.pop().args)
        seen += 1
    return seen > _LARGEST_SIZE


@contextlib.contextmanager
def _conversions_that_change_nothing() -> Iterator[None]:
    """``module.to(...)`` returns the module as it is where all its tensors are so already."""
    convert = nn.Module.to

    def to(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        parsed: Any = torch._C._nn._parse_to(*args, **kwargs)  # type: ignore[attr-defined]
        device, dtype, _, memory_format = parsed
        for tensor in [*self.parameters(), *self.buffers()]:
            wanted = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
            place = torch.device(device) if device is not None else tensor.device
            same_place = place.type == tensor.device.type and place.index in (None, tensor.device.index)
            if memory_format or tensor.dtype is not wanted or not same_place:
                return convert(self, *args, **kwargs)
        return self

    nn.Module.to = to  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        nn.Module.to = convert  # type: ignore[method-assign]


@contextlib.contextmanager
def _late_buffers_as_attributes() -> Iterator[None]:
    """A buffer that a module registers as it runs is an attribute: torch.export takes it for an input."""
    register = nn.Module.register_buffer

    def keep(self: nn.Module, name: str, tensor: torch.Tensor | None, persistent: bool = True) -> None:
        if name in self._buffers:
            # torch.export knows it as it was before, in the state dict or not
            register(self, name, tensor, name not in self._non_persistent_buffers_set)
        elif name in self._parameters or name in self._modules:
            register(self, name, tensor, persistent)
        else:
            self.__dict__[name] = tensor

    nn.Module.register_buffer = keep  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_buffer = register  # type: ignore[method-assign]


@contextlib.contextmanager
def _dynamic_lengths() -> Iterator[None]:
    """``len`` of a tensor is its first size in a model's code, and stays dynamic where that is."""
    count = builtins.len

    def length(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and outside(sys._getframe(1).f_code.co_filename):
            return value.shape[0] if value.dim() else count(value)  # type: ignore[arg-type]
        return count(value)

    builtins.len = length
    try:
        yield
    finally:
        builtins.len = count


class Tracing:
    """The aids of one capture; ``notes`` tell which checks were left out of the last trace.

    ``gradients`` are those that the model defines itself.
    """

    def __init__(
        self, outcomes: dict[SourceLine, list[bool]] | None = None, gradients: Gradients | None = None
    ) -> None:
        self.outcomes = outcomes or {}
        self.gradients = gradients or Gradients()
        self.notes: tuple[Note, ...] = ()

    @classmethod
    def of(cls, run: Callable[[], Any]) -> Tracing:
        """Aids that know how conditions turn out when ``run`` runs the model on its example inputs."""
        record, gradients = _Record(), Gradients()
        try:
            with record, torch.no_grad(), _conversions_that_change_nothing(), gradients.rehearsed():
                run()
        except Exception:  # the trace will fail in the same place, and say where
            return cls()
        return cls(dict(record.outcomes), gradients)

    @contextlib.contextmanager
    def active(self, limit: bool) -> Iterator[None]:
        """While a model is traced; with ``limit``, raises SizeTooComplex rather than take minutes."""
        follow = _Follow(self.outcomes, limit)
        with (
            _conversions_that_change_nothing(),
            _late_buffers_as_attributes(),
            _dynamic_lengths(),
            self.gradients.traced(),
            follow,
        ):
            yield
        self.notes = tuple(follow.taken.values())
