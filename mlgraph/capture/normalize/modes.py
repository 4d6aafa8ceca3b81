"""A graph captured in evaluation, written as one that follows the mode."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn

from mlgraph.errors import CaptureError
from mlgraph.graph.effects import mutates
from mlgraph.graph.interpret import follows_mode, has_statistics
from mlgraph.graph.ops import has, op_name
from mlgraph.graph.traits import Trait

aten = torch.ops.aten

# Where self-normalising networks saturate, which dropped values are put at.
_SATURATION = 1.7580993408473766


def follow_modes(graph: fx.Graph, modules: Mapping[str, nn.Module]) -> None:
    """Let dropout and batch norm follow the mode, and dropout that evaluation keeps stay; in place.

    What a graph calls in evaluation with its training flag set it calls in every mode: such dropout is
    written out as the draw and the product that it is, and any other op refused.
    """
    for node in list(graph.nodes):
        module = modules.get(str(node.meta.get("module")))
        if has(node, Trait.DROPS) and op_name(node) != "drop_path":
            if node.args[2] is True:
                _write_out(graph, node)
            else:
                node.args = (*node.args[:2], True)
        elif has_statistics(node):
            if getattr(module, "track_running_stats", False):
                node.args = (*node.args[:5], True, *node.args[6:])
        elif node.target is aten.scaled_dot_product_attention.default:
            _write_out_attention(graph, node)
        elif follows_mode(node) is not None:
            place = node.meta.get("source") or "the model"
            raise CaptureError(
                f"{place} runs {op_name(node)} as in training in evaluation too, which a program cannot; let "
                "it follow the mode"
            )


def _write_out(graph: fx.Graph, node: fx.Node) -> None:
    """Dropout of any kind as the draw that torch makes for it, and what is done with that."""
    x, p = node.args[0], node.args[1]
    assert isinstance(x, fx.Node)
    assert isinstance(p, int | float)

    mode = x.meta["symbolic"].fake_mode

    def call(target: Any, *args: Any) -> fx.Node:
        new = graph.call_function(target, args)
        with mode, torch.no_grad():
            value = target(*(a.meta["symbolic"] if isinstance(a, fx.Node) else a for a in args))
        new.meta = {**node.meta, "symbolic": value}
        return new

    with graph.inserting_before(node):
        if p in (0, 1):
            new = call(aten.mul.Tensor, x, 1.0 - p)
        else:
            new = _dropped(call, x, p, alpha="alpha" in op_name(node), features="feature" in op_name(node))
        if mutates(node):
            new = call(aten.copy_.default, x, new)
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    graph.erase_node(node)


def _dropped(call: Callable[..., fx.Node], x: fx.Node, p: float, alpha: bool, features: bool) -> fx.Node:
    drawn = call(aten.detach.default, x)
    for dim in range(2, x.meta["symbolic"].dim() if features else 0):
        drawn = call(aten.slice.Tensor, drawn, dim, 0, 1)
    kept = call(aten.bernoulli.p, drawn, 1.0 - p)
    if not alpha:
        return call(aten.mul.Tensor, x, call(aten.div.Tensor, kept, 1.0 - p))
    # Klambauer et al., 2017: scaled and shifted so that mean and variance stay
    scale = 1.0 / math.sqrt((_SATURATION**2 * p + 1.0) * (1.0 - p))
    shift = call(aten.sub.Tensor, kept, 1.0)
    shift = call(aten.add.Tensor, call(aten.mul.Tensor, shift, _SATURATION * scale), _SATURATION * scale * p)
    return call(aten.add.Tensor, call(aten.mul.Tensor, x, call(aten.mul.Tensor, kept, scale)), shift)


def _write_out_attention(graph: fx.Graph, node: fx.Node) -> None:
    """Attention that drops out in evaluation as the op that does not follow the mode."""
    names = [argument.name for argument in aten.scaled_dot_product_attention.default._schema.arguments]
    given: dict[str, Any] = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    if not given.get("dropout_p"):
        return
    order = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    keywords: dict[str, Any] = {key: given[key] for key in ("scale", "enable_gqa") if key in given}
    args = tuple(given.get(key, False if key == "is_causal" else None) for key in order)
    with graph.inserting_before(node):
        both = graph.call_function(aten._scaled_dot_product_attention_math.default, args, keywords)
        both.meta = {k: v for k, v in node.meta.items() if k != "symbolic"}
        new = graph.call_function(operator.getitem, (both, 0))
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    graph.erase_node(node)
