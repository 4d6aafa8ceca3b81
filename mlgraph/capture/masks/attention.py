"""Attention masks proved causal, or true everywhere, from the graph that computes them.

Models build their masks from ranges, comparisons and lookups, even where the result is always the lower
triangle. Each node of such a graph is read as a function of its indices: an integer tensor as an
affine function, a boolean one as a conjunction of affine inequalities, an additive mask by where it
is zero. What is proved so holds for every input size; no example is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from mlgraph.capture.masks.functions import Additive, Affine, Condition, affine_of
from mlgraph.capture.masks.reader import MaskReader
from mlgraph.capture.masks.rules import RULES
from mlgraph.graph.ops import has
from mlgraph.graph.sizes import same_sizes, sizes_of
from mlgraph.graph.traits import Trait

aten = torch.ops.aten


def simplify_masks(graph: fx.Graph, tensors: Mapping[str, torch.Tensor]) -> None:
    """Replace attention masks that are the lower triangle by ``is_causal`` and all-true ones by none.

    ``tensors`` holds the constants whose values may be relied on. The triangle is replaced only where
    query and key lengths are the same for every input. Of other masks the parts that are true
    everywhere are left out.
    """
    reader = MaskReader(tensors, RULES)
    for node in list(graph.nodes):
        if node.target is aten.scaled_dot_product_attention.default:
            _simplify_attention(node, reader)


def _simplify_attention(node: fx.Node, reader: MaskReader) -> None:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given: dict[str, Any] = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    mask = given.get("attn_mask")
    if not isinstance(mask, fx.Node) or given.get("is_causal", False):
        return
    known = reader.read(mask)
    if isinstance(known, Additive):
        known = known.condition
    elif known == Affine(0):
        # zeros added to the scores
        known = Condition()
    causal = known == Condition(frozenset({affine_of(0, {2: 1, 1: -1})}))
    if causal:
        query, key = sizes_of(given["query"]), sizes_of(given["key"])
        if query is None or key is None or query[-2] != key[-2]:
            return
    elif known != Condition():
        _drop_true_parts(mask, reader)
        return
    node.args = (given["query"], given["key"], given["value"], None, given.get("dropout_p", 0.0), causal)
    node.kwargs = {name: given[name] for name in ("scale", "enable_gqa") if name in given}


def _drop_true_parts(mask: fx.Node, reader: MaskReader) -> None:
    """Replace conjunctions with something true everywhere by their other side."""
    pending, seen = [mask], set()
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        pending.extend(node.all_input_nodes)
        if not has(node, Trait.CONJUNCTION):
            continue
        first, second = node.args
        for part, other in ((first, second), (second, first)):
            if not isinstance(part, fx.Node) or not isinstance(other, fx.Node):
                continue
            if reader.read(part) == Condition() and (same_sizes(other, node) or _broadcasts(node)):
                node.replace_all_uses_with(other)
                break


def _broadcasts(node: fx.Node) -> bool:
    """Whether a mask may have size 1 where it had more: everything that reads it broadcasts it."""
    for user in node.users:
        if has(user, Trait.CONJUNCTION):
            if not _broadcasts(user):
                return False
        elif user.target is aten.expand.default:
            if any(size == -1 for size in user.args[1]):  # type: ignore[union-attr]
                return False
        elif user.target is not aten.scaled_dot_product_attention.default:
            return False
    return True
