"""What one batch of a given size costs: operations, and bytes of activations, block by block."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mlgraph.inspect.summary import summarize

if TYPE_CHECKING:
    from mlgraph.program import Program


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
    from mlgraph.graph.input_sizes import shapes_at
    from mlgraph.graph.propagate import at_sizes

    inputs, shapes = program.signature.inputs, shapes_at(program, batch, sequence)
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
