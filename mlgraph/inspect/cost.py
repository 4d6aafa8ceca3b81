"""What one batch of a given size costs: operations, and bytes of activations, block by block."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mlgraph.errors import MlgraphError
from mlgraph.inspect.summary import summarize

if TYPE_CHECKING:
    from mlgraph.program import Input, Program


@dataclass(frozen=True)
class PartCost:
    """A part of a model, ``number`` of them alike: forward operations and activation bytes of one."""

    name: str
    number: int
    forward: int
    activations: int


@dataclass(frozen=True)
class Cost:
    """One batch: the ``inputs`` with their sizes, operations, and bytes of activations and of weights.

    ``activations`` are what training holds for its backward pass, at most (see
    :func:`mlgraph.graph.activations.activations`).
    """

    inputs: tuple[tuple[str, tuple[int, ...]], ...]
    forward: int
    training: int
    activations: int
    weights: int
    parts: tuple[PartCost, ...]


def cost(program: Program, batch: int | None = None, sequence: int | None = None) -> Cost:
    """What a batch of ``batch`` samples of ``sequence`` tokens costs; by default those of the example.

    Nothing is run, and no tensor read. Raises MlgraphError where the program has no such size to vary, or
    does not take it.
    """
    from mlgraph.graph.activations import activations
    from mlgraph.graph.flops import flops_at, forward_by_node
    from mlgraph.graph.propagate import at_sizes

    inputs = program.signature.inputs
    shapes = [_shape(leaf, {"batch": batch, "sequence": sequence}) for leaf in inputs]
    for name, size in (("batch", batch), ("sequence", sequence)):
        if size is not None and not any(_varies(symbol, name) for leaf in inputs for symbol in leaf.symbols):
            raise MlgraphError(f"{program.name} has no {name} size that varies: leave --{name} out.")
    _check(program, shapes)
    graph = at_sizes(program, shapes)
    resized = tuple(replace(leaf, shape=shape) for leaf, shape in zip(inputs, shapes, strict=True))
    sized = program.with_values(program.tensors, graph, replace(program.signature, inputs=resized))
    total, operations, held = flops_at(sized), forward_by_node(graph), activations(graph)
    parts = []
    outside = set(operations) | set(held)
    for chain in program.blocks:
        figures = [
            (sum(operations.get(n, 0) for n in block.nodes), sum(held.get(n, 0) for n in block.nodes))
            for block in chain
        ]
        outside -= {node for block in chain for node in block.nodes}
        # the largest stands for all; blocks of a chain are alike
        parts.append(PartCost(chain.name, len(chain), *max(figures)))
    rest = (sum(operations.get(n, 0) for n in outside), sum(held.get(n, 0) for n in outside))
    return Cost(
        tuple((leaf.name, leaf.shape) for leaf in resized if leaf.is_tensor),
        total.forward,
        total.training,
        sum(held.values()),
        summarize(program).bytes,
        (*parts, PartCost("outside of blocks", 1, *rest)),
    )


def _varies(symbol: str | None, name: str) -> bool:
    return symbol is not None and (symbol == name or symbol.endswith(f"_{name}"))


def _shape(leaf: Input, wanted: dict[str, int | None]) -> tuple[int, ...]:
    symbols = leaf.symbols or (None,) * len(leaf.shape)
    found = []
    for symbol, size in zip(symbols, leaf.shape, strict=True):
        asked = next((w for name, w in wanted.items() if w is not None and _varies(symbol, name)), None)
        found.append(size if asked is None else asked)
    return tuple(found)


def _check(program: Program, shapes: list[tuple[int, ...]]) -> None:
    for leaf, shape in zip(program.signature.inputs, shapes, strict=True):
        for symbol, size in zip(leaf.symbols, shape, strict=False):
            low, high = program.signature.ranges.get(str(symbol), (0, None))
            if symbol is not None and (size < low or (high is not None and size > high)):
                most = "" if high is None else f" and at most {high}"
                raise MlgraphError(f"{leaf.name} takes {symbol} of at least {low}{most}, not {size}.")
