"""Bytes that the results of a graph's operations take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from mlgraph.graph.ops import has
from mlgraph.graph.traits import Trait

# What gives the same elements, in the memory of its operand.
_VIEWS = Trait.IDENTITY | Trait.REORDERS | Trait.RESHAPES | Trait.BROADCASTS | Trait.SPLITS | Trait.ITEM


def activations(graph: fx.Graph) -> dict[str, int]:
    """Bytes of the results of every node that has memory of its own, by its name.

    Together they are what training holds between its forward and its backward pass, at most: a fused kernel
    keeps less, and so does a block whose activations are computed again.
    """
    return {
        node.name: size
        for node in graph.nodes
        if node.op == "call_function"
        and not has(node, _VIEWS)
        and (size := sum(_bytes(node.meta.get("val"))))
    }


def _bytes(value: Any) -> Iterator[int]:
    for leaf in pytree.tree_leaves(value):
        if isinstance(leaf, torch.Tensor) and all(isinstance(size, int) for size in leaf.shape):
            yield leaf.numel() * leaf.element_size()
