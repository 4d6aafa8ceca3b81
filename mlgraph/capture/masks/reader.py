"""Reads nodes as functions of their indices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from mlgraph.capture.masks.functions import NEVER, Affine, Condition, Indicator, Known, affine_of, move_dims
from mlgraph.graph.sizes import Size, argument_size, sizes_of

aten = torch.ops.aten

MaskRule = Callable[["MaskReader", fx.Node], Known | None]


class MaskReader:
    """Reads nodes as functions of their indices; ``None`` where that fails."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], rules: Mapping[Any, MaskRule]) -> None:
        self.tensors = tensors
        self.rules = rules
        self.known: dict[fx.Node, Known | None] = {}

    def read(self, node: fx.Node) -> Known | None:
        """What is known of a node; each is worked out once."""
        pending = [node]
        while pending:
            current = pending[-1]
            missing = [n for n in current.all_input_nodes if n not in self.known]
            if missing and current not in self.known:
                pending.extend(missing)
                continue
            pending.pop()
            if current not in self.known:
                self.known[current] = self._rule(current)
        return self.known[node]

    def value(self, argument: Any) -> Known | None:
        """What is known of an argument: a node or a number."""
        if isinstance(argument, bool):
            return Condition() if argument else NEVER
        if isinstance(argument, int | float):
            return Affine(argument)
        if isinstance(argument, fx.Node):
            if isinstance(argument.meta.get("symbolic"), torch.Tensor):
                return self.known[argument]
            size = argument_size(argument)
            return None if size is None else Affine(size)
        return None

    def _rule(self, node: fx.Node) -> Known | None:
        if node.op == "get_attr":
            return self._constant(node)
        rule = self.rules.get(node.target) if node.op == "call_function" else None
        if rule is None or sizes_of(node) is None:
            return None
        return rule(self, node)

    def _constant(self, node: fx.Node) -> Known | None:
        tensor = self.tensors.get(str(node.target))
        if tensor is None or tensor.device.type == "meta" or not tensor.numel():
            return None
        first = tensor.flatten()[0].item()
        if bool((tensor == first).all()):
            return self.value(first)
        if tensor.dim() >= 2 and tensor.numel() == tensor.shape[-1] * tensor.shape[-2]:
            triangle = torch.ones_like(tensor).tril()
            if torch.equal(tensor, triangle):
                condition = Condition(frozenset({affine_of(0, {2: 1, 1: -1})}))
                return condition if tensor.dtype is torch.bool else Indicator(condition)
        return None


def rank_of(node: fx.Node) -> int:
    """How many dims a value has; its sizes are known."""
    sizes = sizes_of(node)
    assert sizes is not None
    return len(sizes)


def broadcast(reader: MaskReader, node: fx.Node) -> tuple[Known | None, Known | None]:
    """Both operands; dims count from the end, so that broadcasting only forgets dims of size 1."""
    operands = []
    for argument in node.args[:2]:
        known = reader.value(argument)
        sizes = sizes_of(argument) if isinstance(argument, fx.Node) else None
        if sizes is not None:
            known = forget_single(known, sizes)
        operands.append(known)
    return operands[0], operands[1]


def forget_single(known: Known | None, sizes: tuple[Size, ...]) -> Known | None:
    """A function of indices without those that can only be 0."""
    return move_dims(known, lambda dim: None if sizes[-dim] == 1 else dim)


def is_integer(affine: Affine) -> bool:
    """Whether all its values are whole numbers."""
    values = [affine.constant, *(value for _, value in affine.coefficients)]
    return not any(isinstance(value, float) and not value.is_integer() for value in values)


def is_least(value: Any, dtype: torch.dtype | None) -> bool:
    """Whether a number hides what it is added to: minus infinity or about the least of its dtype."""
    if not isinstance(value, int | float) or dtype is None or not dtype.is_floating_point:
        return False
    return value <= torch.finfo(dtype).min
