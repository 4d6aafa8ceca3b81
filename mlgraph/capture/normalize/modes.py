"""A graph captured in evaluation, written as one that follows the mode."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from mlgraph.errors import CaptureError

aten = torch.ops.aten

_DROPOUTS = {
    aten.dropout.default: nn.Dropout,
    aten.feature_dropout.default: nn.modules.dropout._DropoutNd,
    aten.alpha_dropout.default: nn.AlphaDropout,
    aten.feature_alpha_dropout.default: nn.FeatureAlphaDropout,
}


def follow_modes(graph: fx.Graph, modules: Mapping[str, nn.Module]) -> None:
    """Let dropout and batch norm follow the mode, and dropout that evaluation keeps stay; in place.

    What a graph calls in evaluation with its training flag set it calls in every mode: such dropout is
    written out as the draw and the product that it is.
    """
    for node in list(graph.nodes):
        module = modules.get(str(node.meta.get("module")))
        if node.target in _DROPOUTS:
            always = node.args[2] is True
            if not always:
                node.args = (*node.args[:2], True)
            elif node.target is aten.dropout.default:
                _write_out(graph, node)
            else:
                raise CaptureError(
                    f"{node.meta.get('source')} drops out in evaluation too, which a program can hold of "
                    "plain dropout alone; use that, or let it follow the mode"
                )
        elif node.target is aten.batch_norm.default:
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
                node.args = (*node.args[:5], True, *node.args[6:])
        elif node.target is aten.scaled_dot_product_attention.default:
            _write_out_attention(graph, node)


def _write_out(graph: fx.Graph, node: fx.Node) -> None:
    x, p = node.args[0], node.args[1]
    assert isinstance(p, int | float)

    def call(target: Any, *args: Any) -> fx.Node:
        new = graph.call_function(target, args)
        new.meta = dict(node.meta)
        return new

    with graph.inserting_before(node):
        if p in (0, 1):
            new = call(aten.mul.Tensor, x, 1.0 - p)
        else:
            drawn = call(aten.bernoulli.p, call(aten.detach.default, x), 1.0 - p)
            new = call(aten.mul.Tensor, x, call(aten.div.Tensor, drawn, 1.0 - p))
    node.replace_all_uses_with(new)
    graph.erase_node(node)


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
