"""What a graph from a file may ask of the machine while its sizes are worked out.

Sizes are propagated without data, so that no node costs more than its name, with few exceptions: those that
make as many tensors as a size says, loop as often as an argument says, or compute plain integers of any
length.
"""

from __future__ import annotations

import contextlib
import logging
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch._C import DispatchKey
from torch._guards import detect_fake_mode
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from mlgraph.graph.ops import traits_of
from mlgraph.graph.traits import Trait
from mlgraph.storage.plain_values import Malformed

MAX_PARTS = 1 << 14
"""Tensors that one node may make."""

MAX_STEPS = 1 << 12
"""Operations of which one composite operation may consist."""

_MAX_INT = 1 << 64
_COUNTS = ("n", "r", "num_layers")
_SCALARS = (int, float, torch.SymInt, torch.SymFloat, torch.SymBool, torch.Tensor)


def bounded(target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a node's target on fake tensors and plain values.

    Raises ``Malformed`` where that would take too much time or memory.
    """
    if not isinstance(target, OpOverload):
        return _plain(target, args, kwargs)
    known = _facts(target)
    values = {**dict(zip(known.arguments, args, strict=False)), **kwargs}
    if _parts(known, values) > MAX_PARTS:
        raise Malformed("it would make too many tensors")
    if any(isinstance(values.get(count), int) and values[count] > MAX_STEPS for count in _COUNTS):
        raise Malformed("it would repeat itself too often")
    mode = detect_fake_mode(list(values.values()))
    if mode is not None:
        # An op without a rule for shapes would be run on real tensors of the sizes that the file claims.
        mode.allow_fallback_kernels = False
    if not known.composite or _largest(values.values()) <= MAX_STEPS:
        return target(*args, **kwargs)
    with _Steps():
        return target(*args, **kwargs)


@dataclass(frozen=True)
class _Facts:
    traits: Trait
    arguments: tuple[str, ...]
    makes_lists: bool
    composite: bool


@cache
def _facts(target: OpOverload[..., Any]) -> _Facts:
    schema = target._schema
    return _Facts(
        traits_of(target),
        tuple(argument.name for argument in schema.arguments),
        any("List[Tensor]" in str(result.type) for result in schema.returns),
        bool(target.has_kernel_for_dispatch_key(DispatchKey.CompositeImplicitAutograd)),
    )


def _largest(values: Iterable[Any]) -> int:
    """The largest integer among arguments, their items and their sizes."""
    largest = 0
    for value in values:
        items = value.shape if isinstance(value, torch.Tensor) else value
        for item in items if isinstance(items, list | tuple) else (items,):
            if isinstance(item, int) and item > largest:
                largest = item
            elif isinstance(item, torch.Tensor):
                largest = max(largest, _largest([item]))
    return largest


def _plain(target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if target is operator.getitem:
        return target(*args, **kwargs)
    if getattr(target, "__module__", None) in ("_operator", "math"):
        if kwargs or not all(isinstance(argument, _SCALARS) for argument in args):
            raise Malformed("its arguments are no numbers")
        if target in (operator.pow, operator.lshift) and isinstance(args[1], int) and abs(args[1]) > 64:
            raise Malformed("its result would be too large")
    result = target(*args, **kwargs)
    if isinstance(result, int) and abs(result) > _MAX_INT:
        raise Malformed("its result is too large")
    return result


def _parts(known: _Facts, values: Mapping[str, Any]) -> int:
    """How many tensors an op makes of arguments by name, or a bound on it."""
    recurrent = bool(known.traits & Trait.RECURRENT)
    if not recurrent and not known.makes_lists:
        return 0
    tensors = [value for value in values.values() if isinstance(value, torch.Tensor)]
    if not tensors:
        return 0
    if recurrent:
        # Their shapes are worked out by running every time step.
        return 4 * max(tensors[0].shape[:2], default=0)
    shape = tensors[0].shape
    if known.traits & Trait.SPLITS and shape:
        step = values.get("split_sizes", values.get("split_size", 1))
        parts = -(-shape[values.get("dim", 0)] // max(step, 1)) if isinstance(step, int) else len(step)
        return int(max(min(parts, values.get("chunks", parts)), values.get("sections", 0)))
    return max((size for tensor in tensors for size in tensor.shape if isinstance(size, int)), default=0)


class _Steps(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that a composite one is made of."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._left = MAX_STEPS

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._left -= 1
        if self._left < 0:
            raise Malformed("it consists of too many operations")
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep torch from logging a traceback of every node that does not run; the error says it."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    was = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = was
