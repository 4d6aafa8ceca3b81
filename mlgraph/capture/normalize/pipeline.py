"""The order in which a captured graph is cleaned."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

from mlgraph.capture.masks.attention import simplify_masks
from mlgraph.capture.normalize.drop_path import recognize_drop_path
from mlgraph.capture.normalize.functional import functional
from mlgraph.capture.normalize.out_arguments import write_by_copies
from mlgraph.capture.normalize.scalars import read_sizes_directly
from mlgraph.capture.normalize.simplify import (
    fold_constants,
    hoist_sizes,
    remove_dead,
    simplify,
)

if TYPE_CHECKING:
    import torch
    from torch import fx


def normalize(
    graph: fx.Graph,
    constants: Mapping[str, torch.Tensor],
    trained: Collection[str],
    fresh_name: Callable[[str, str], str],
    training: bool,
) -> dict[str, torch.Tensor]:
    """Bring an imported graph into the form that analyses expect; in place.

    In-place ops become functional where that is sure, no-ops and duplicates go, masks that are provably
    causal or true everywhere are dropped, and small constants are worked out once. ``constants`` are the
    tensors whose values never change, ``trained`` names those to which gradients flow. Returns the new
    constants by the name that ``fresh_name(module, label)`` gave them. In a graph not captured in
    ``training`` the random draws are those that evaluation makes too, and stay as they are.
    """
    write_by_copies(graph)
    functional(graph)
    read_sizes_directly(graph)
    remove_dead(graph)
    hoist_sizes(graph)
    if training:
        recognize_drop_path(graph)
    simplify(graph, trained)
    simplify_masks(graph, constants)
    remove_dead(graph)
    return fold_constants(graph, fresh_name)
