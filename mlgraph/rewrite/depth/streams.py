"""The residual stream of a block: the ops on it, and what becomes of a value that runs along it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import fx

from mlgraph.graph.effects import is_random, mutates
from mlgraph.graph.ops import has, is_tensor_valued, op_name
from mlgraph.graph.ops import positions as places
from mlgraph.graph.traits import Trait

if TYPE_CHECKING:
    from mlgraph.program import Program
    from mlgraph.program.block_table import Block

_TRIED = 32


@dataclass(frozen=True)
class StreamOp:
    """An op on a stream, and which of its arguments the stream is."""

    node: fx.Node
    position: int

    @property
    def name(self) -> str:
        return op_name(self.node)

    @property
    def other(self) -> fx.Node | None:
        """The tensor that is added to the stream or multiplies it, if one is."""
        if not has(self.node, Trait.SUM | Trait.PRODUCT):
            return None
        other = self.node.args[1 - self.position]
        return other if _is_tensor(other) else None

    @property
    def branch(self) -> fx.Node | None:
        """The residual branch that is added to the stream, if one is."""
        return self.other if has(self.node, Trait.SUM) else None

    @property
    def own(self) -> tuple[str, ...]:
        """The gain and bias of a norm, or the parameter by which the stream is multiplied."""
        given: list[Any] = [self.other] if has(self.node, Trait.PRODUCT) else []
        if self.is_norm and (at := places(self.node)) is not None:
            given = [
                self.node.args[p] for p in (at.weight, at.bias) if p is not None and p < len(self.node.args)
            ]
        return tuple(str(a.target) for a in given if isinstance(a, fx.Node) and a.op == "get_attr")

    @property
    def is_norm(self) -> bool:
        return has(self.node, Trait.NORM)


StreamPath = tuple[StreamOp, ...]
"""The ops on a stream, from a block's entry to its exit."""


def paths(program: Program, block: Block) -> list[StreamPath]:
    """The ways along which the entry of a block may be its residual stream, at most a few dozen.

    There are several where a branch is itself made of such ops alone.
    """
    nodes = {node.name: node for node in program.graph.nodes}
    entry = nodes[block.entry]
    moving = {entry}
    for name in block.nodes:
        if not moving.isdisjoint(nodes[name].all_input_nodes):
            moving.add(nodes[name])
    parameters = program.tensors.parameters.intersection(block.tensors)

    def positions(node: fx.Node) -> tuple[int, ...]:
        return _positions(node, parameters, moving) if node in moving else ()

    @cache
    def reaches(node: fx.Node) -> bool:
        if node is entry:
            return True
        given = (node.args[position] for position in positions(node))
        return any(isinstance(arg, fx.Node) and reaches(arg) for arg in given)

    def ways(node: fx.Node) -> Iterator[StreamPath]:
        if node is entry:
            yield ()
            return
        for position in positions(node):
            arg = node.args[position]
            if isinstance(arg, fx.Node) and reaches(arg):
                yield from ((*path, StreamOp(node, position)) for path in ways(arg))

    return list(islice(ways(nodes[block.exit]), _TRIED))


def _positions(node: fx.Node, parameters: Collection[str], moving: Collection[fx.Node]) -> tuple[int, ...]:
    """Which arguments of a node the stream may be; ``moving`` nodes depend on the block's entry."""
    tensors = [arg for arg in node.all_input_nodes if is_tensor_valued(arg)]
    if has(node, Trait.SUM) and len(tensors) == 2:
        return (0, 1) if op_name(node) == "add" else (0,)
    if op_name(node) == "mul" and len(tensors) == 2:
        pairs = ((0, node.args[1]), (1, node.args[0]))
        return tuple(
            p for p, a in pairs if isinstance(a, fx.Node) and a.op == "get_attr" and a.target in parameters
        )
    if has(node, Trait.NORM):
        # norms that keep statistics are no function of the stream alone
        return () if has(node, Trait.COUNTS) else (0,)
    if not _is_tensor(node) or (is_random(node) and not has(node, Trait.DROPS)):
        return ()
    # whatever an op does to one tensor alone is tried
    alone = tensors == [node.args[0]] or (op_name(node) == "masked_fill" and node.args[1] not in moving)
    return (0,) if alone else ()


def last_stop(program: Program, block: Block) -> fx.Node:
    """The op nearest to a block's exit that is none of a residual stream."""
    nodes = {node.name: node for node in program.graph.nodes}
    node: fx.Node = nodes[block.exit]
    while (
        node.name in block.nodes and node.args and [a for a in node.args if _is_tensor(a)] == [node.args[0]]
    ):
        node = node.all_input_nodes[0]
    return node


def _is_tensor(value: object) -> TypeGuard[fx.Node]:
    return isinstance(value, fx.Node) and isinstance(value.meta.get("val"), torch.Tensor)


Operand = Callable[[StreamOp, fx.Node], torch.Tensor]
"""The value of a tensor that a step reads beside the stream."""


def follow(path: StreamPath, value: torch.Tensor, operand: Operand) -> torch.Tensor:
    """What becomes of the entry's value along a stream, in evaluation."""
    for step in path:
        if has(step.node, Trait.DROPS):
            continue
        node = step.node
        given: dict[fx.Node, Any] = {}
        for arg in node.all_input_nodes:
            given[arg] = operand(step, arg) if is_tensor_valued(arg) else arg.meta["val"]
        args = list(fx.node.map_arg(node.args, given.__getitem__))
        args[step.position] = value.clone() if mutates(node) else value
        kwargs: Mapping[str, Any] = fx.node.map_arg(dict(node.kwargs), given.__getitem__)
        value = node.target(*args, **{k: v for k, v in kwargs.items() if k != "device"})  # type: ignore[operator]
    return value


def is_cast(step: StreamOp) -> bool:
    """Whether a step may change the type of the stream."""
    return has(step.node, Trait.CASTS)
