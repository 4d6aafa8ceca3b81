"""What a captured graph is freed of before anything is said about it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx

from mlgraph.normalize.droppath import recognize_drop_path
from mlgraph.normalize.effects import functional
from mlgraph.normalize.importer import import_graph
from mlgraph.normalize.simplify import confine_casts, fold_constants, hoist_sizes, remove_dead, simplify

__all__ = ["import_graph", "normalize"]


def normalize(graph: fx.Graph, fresh_name: Callable[[str, str], str]) -> dict[str, torch.Tensor]:
    """Bring an imported graph into the form that analyses expect; in place.

    In-place ops become functional where that is sure, no-ops and duplicates go, and small constants are
    worked out once. Returns the new constants by the name that ``fresh_name(module, label)`` gave them.
    """
    functional(graph)
    confine_casts(graph)
    remove_dead(graph)
    hoist_sizes(graph)
    recognize_drop_path(graph)
    simplify(graph)
    constants = fold_constants(graph, fresh_name)
    for node in graph.nodes:
        node.meta.pop("symbolic", None)
    return constants
