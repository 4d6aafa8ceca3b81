"""Batches and losses: what of a batch a program is called with, and whether it fits."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.utils import _pytree as pytree

from mlgraph.errors import suggestion
from mlgraph.graph.propagate import PropagationError, at_sizes
from mlgraph.program import Input, Program
from mlgraph.train.data.lookups import check_lookups
from mlgraph.train.data.stream import RandomState
from mlgraph.train.errors import TrainError

Loss: TypeAlias = Callable[[Any, Any], torch.Tensor]
Metric: TypeAlias = Callable[[Any, Any], Mapping[str, torch.Tensor]]


class Binder:
    """Takes from a batch the arguments of a program.

    A mapping gives arguments by name, a tuple or list by position, a tensor is the only argument. With
    ``spare`` a batch may hold more than the program takes (labels that the loss reads from the batch).
    """

    def __init__(self, program: Program, spare: bool) -> None:
        self._program, signature = program, program.signature
        self._inputs, self._spec, self._spare = signature.inputs, signature.in_spec, spare
        args, kwargs = pytree.tree_unflatten(list(range(len(signature.inputs))), signature.in_spec)
        self._positional = len(args)
        self._order = list(kwargs)
        self._constants = {name: tree for name, tree in kwargs.items() if self._is_constant(tree)}
        for name, tree in self._constants.items():
            self._constants[name] = pytree.tree_map(lambda index: self._inputs[index].value, tree)
        order = [name for name in signature.parameters if name in kwargs]
        self.names: list[str] = [name for name in order or kwargs if name not in self._constants]
        self._fitting: set[tuple[Any, ...]] = set()

    def call(self, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The positional and keyword arguments; ``TrainError`` where a batch has too few or too many."""
        if isinstance(batch, Mapping):
            return self._by_name(batch)
        values = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
        takes = self._positional + len(self.names)
        if len(values) < takes or (len(values) > takes and not self._spare):
            raise TrainError(
                f"A batch holds {len(values)} entries where the model takes {takes} ({self._described()}): "
                "give that many, or a loss that uses the rest."
            )
        return values[: self._positional], dict(
            zip(self.names, values[self._positional : takes], strict=True)
        )

    def _by_name(self, batch: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        positional = [leaf.name for leaf in self._inputs[: self._positional]]
        for name in [*positional, *self.names]:
            if name not in batch:
                hint = suggestion(name, map(str, batch), "it has {}.")
                raise TrainError(f"A batch has no {name!r}, which the model takes: {hint}")
        if not self._spare:
            for name in batch:
                if name not in (*positional, *self._order):
                    raise TrainError(
                        f"The model takes no {name!r}, which a batch holds: remove it, or give a loss that "
                        "uses it."
                    )
        known = {name: batch[name] for name in [*self.names, *self._constants] if name in batch}
        return tuple(batch[name] for name in positional), self._complete(known)

    def _complete(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Keyword arguments in the order of the capture, those that are no tensors as they were then."""
        return {name: given[name] if name in given else self._constants[name] for name in self._order}

    def _is_constant(self, tree: Any) -> bool:
        return all(not self._inputs[index].is_tensor for index in pytree.tree_leaves(tree))

    def check(self, batch: Any, what: str) -> tuple[Any, ...]:
        """Raise ``TrainError`` where ``batch`` does not fit; return a key that is equal for equal shapes.

        Values are looked at in the first batch of every key.
        """
        args, kwargs = self.call(batch)
        leaves, spec = pytree.tree_flatten((args, kwargs))
        key = tuple(tuple(leaf.shape) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves)
        if key in self._fitting:
            return key
        if spec != self._spec or len(leaves) != len(self._inputs):
            raise TrainError(f"{what} is not nested as the model's inputs are ({self._described()}).")
        sizes: dict[str, tuple[int, str]] = {}
        for leaf, taken in zip(leaves, self._inputs, strict=True):
            _check_leaf(leaf, taken, what, sizes)
        try:
            at_sizes(self._program, [tuple(getattr(leaf, "shape", ())) for leaf in leaves])
        except PropagationError as error:
            raise TrainError(f"{what} does not fit the model: {error}.") from error
        check_lookups(self._program, leaves, what)
        self._fitting.add(key)
        return key

    def _described(self) -> str:
        return ", ".join(leaf.name for leaf in self._inputs)


def _check_leaf(leaf: Any, taken: Input, what: str, sizes: dict[str, tuple[int, str]]) -> None:
    if taken.dtype is None:
        return
    if not isinstance(leaf, torch.Tensor):
        raise TrainError(f"{what} gives a {type(leaf).__name__} for {taken.name}: the model takes a tensor.")
    if leaf.ndim != len(taken.shape):
        raise TrainError(
            f"{what} gives {taken.name} of shape {list(leaf.shape)}: the model takes {len(taken.shape)} dims."
        )
    if leaf.dtype.is_floating_point != taken.dtype.is_floating_point:
        raise TrainError(f"{what} gives {taken.name} as {leaf.dtype}: the model takes {taken.dtype}.")
    symbols = taken.symbols or (None,) * leaf.ndim
    for dim, (size, expected, symbol) in enumerate(zip(leaf.shape, taken.shape, symbols, strict=True)):
        if symbol is None and size != expected:
            raise TrainError(
                f"{what} gives {taken.name} of size {size} in dim {dim}: the model was captured with "
                f"{expected}, "
                "which it does not let vary."
            )
        if symbol is not None:
            seen, where = sizes.setdefault(symbol, (size, taken.name))
            if seen != size:
                raise TrainError(
                    f"{what} gives {taken.name} {size} as {symbol} but {where} {seen}: make them equal."
                )


def call_of(model: nn.Module, batch: Any, spare: bool) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments that a batch stands for where no program says which of it are inputs.

    With ``spare``, a mapping gives the entries that ``forward`` has names for, a tuple as many as
    ``forward`` requires.
    """
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    taken = [p for p in inspect.signature(model.forward).parameters.values() if p.kind in kinds]
    if isinstance(batch, Mapping):
        names = {p.name for p in taken}
        return (), {name: value for name, value in batch.items() if name in names or not spare}
    values = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
    required = sum(p.default is inspect.Parameter.empty for p in taken)
    return (values[: max(required, 1)] if spare else values), {}


def check_call(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise ``TrainError`` where ``forward`` does not take these arguments."""
    signature = inspect.signature(model.forward)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TrainError(
            f"The first training batch does not fit forward({', '.join(signature.parameters)}): {error}; "
            "give what it takes, or a loss that uses the rest."
        ) from error


def own_loss(outputs: Any, _batch: Any) -> torch.Tensor:
    """The loss that a model returns: ``outputs.loss``, ``outputs["loss"]``, a scalar, or a leading scalar."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
    if loss is None and isinstance(outputs, tuple | list) and outputs:
        loss = outputs[0]
    if loss is None and isinstance(outputs, torch.Tensor):
        loss = outputs
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        raise TrainError(
            "The model returns no loss: put labels in the batches if it computes one from them, or "
            "give loss=."
        )
    return loss.reshape(())


def cut(batch: Any, rows: int | None, tokens: int | None) -> Any:
    """The first ``rows`` samples of a batch and the first ``tokens`` of each.

    Samples are the first dim of its tensors, tokens the second of those that are as long there as the first
    tensor of integer ids.

    Raises:
        TrainError: tokens are to be cut and there are no ids.
    """
    leaves, spec = pytree.tree_flatten(dict(batch) if isinstance(batch, Mapping) else batch)
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.ndim > 0]
    size = tensors[0].shape[0] if tensors else 0
    length = next((t.shape[1] for t in tensors if t.ndim > 1 and not t.dtype.is_floating_point), None)
    if tokens is not None and length is None:
        raise TrainError("A phase cuts the sequence, and a batch has no ids of tokens: leave sequence out.")

    def less(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or leaf.ndim == 0 or leaf.shape[0] != size:
            return leaf
        shorter = leaf[:rows]
        return shorter[:, :tokens] if leaf.ndim > 1 and leaf.shape[1] == length else shorter

    return pytree.tree_unflatten([less(leaf) for leaf in leaves], spec)


def count_tokens(batch: Any) -> int:
    """Tokens in a batch of integer ids (all of the first such tensor), else samples."""
    leaves = pytree.tree_leaves(dict(batch) if isinstance(batch, Mapping) else batch)
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.ndim > 0]
    if not tensors:
        return 0
    first = tensors[0]
    return first.numel() if not first.dtype.is_floating_point and first.ndim > 1 else first.shape[0]


def peek(data: Any, what: str) -> tuple[Any, Any]:
    """The first batch, and data that still begins with it; random generators are left as they were."""
    if not isinstance(data, Iterable) and not hasattr(data, "__getitem__"):
        raise TrainError(f"The {what} is a {type(data).__name__}: give an iterable of batches.")
    before = RandomState.now()
    batches = iter(data)
    first = next(batches, _NONE)
    before.restore()
    if first is _NONE:
        raise TrainError(f"The {what} holds no batch: give at least one.")
    return first, chain([first], batches) if batches is data else data


_NONE: Any = object()
