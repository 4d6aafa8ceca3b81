"""Stochastic depth, recognised by what is computed: a tensor times a Bernoulli draw over its keep rate."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from mlgraph.graph import ops
from mlgraph.graph.sizes import dtype_of, sizes_of

aten = torch.ops.aten

_UNIFORM = {aten.rand.default, aten.rand_like.default}
_SAME = {
    aten.to.dtype,
    aten.type_as.default,
    aten.view.default,
    aten.reshape.default,
    aten.detach.default,
    aten.unsqueeze.default,
    aten.expand.default,
    aten.alias.default,
}


@dataclass(frozen=True)
class _Draw:
    """Values that are ``scale`` with probability ``keep`` and 0 otherwise; ``uniform`` before rounding.

    ``offset`` belongs to a uniform draw in [offset, offset + 1).
    """

    keep: float = 1.0
    scale: float = 1.0
    uniform: bool = False
    offset: float = 0.0


def recognize_drop_path(graph: fx.Graph) -> None:
    """Replace each product of a tensor and a scaled Bernoulli draw of mean 1 by ``mlgraph.ops.drop_path``.

    The draw's sizes tell along which dims the draws are independent. Draws with another mean, which no
    mode switch can leave out, stay as they are.
    """
    draws: dict[fx.Node, _Draw] = {}
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        draw = _draw(node, draws)
        if draw is not None:
            draws[node] = draw
        elif node.target in (aten.mul.Tensor, aten.div.Tensor):
            _replace(graph, node, draws)


def _draw(node: fx.Node, draws: dict[fx.Node, _Draw]) -> _Draw | None:
    target = node.target
    if target in _UNIFORM:
        return _Draw(uniform=True)
    if target is aten.bernoulli.p:
        given: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("p", 0.5)
        return _Draw(keep=float(given)) if isinstance(given, int | float) else None
    if target is aten.bernoulli.default:
        return _filled(node.args[0])
    source, other = _operands(node, draws)
    if source is None:
        return None
    draw = draws[source]
    if target in _SAME:
        return draw
    if target is aten.floor.default and draw.uniform and 0.0 < draw.offset <= 1.0 and draw.scale == 1.0:
        return _Draw(keep=draw.offset)
    if not isinstance(other, int | float):
        return None
    if target is aten.add.Tensor and draw.uniform:
        return replace(draw, offset=draw.offset + other)
    if draw.uniform and draw.offset == 0.0:
        if target in (aten.lt.Scalar, aten.le.Scalar):
            return _Draw(keep=float(other))
        if target in (aten.gt.Scalar, aten.ge.Scalar):
            return _Draw(keep=1.0 - float(other))
        return None
    if draw.uniform or other == 0:
        return None
    if target is aten.mul.Tensor:
        return replace(draw, scale=draw.scale * other)
    if target is aten.div.Tensor and node.args[0] is source:
        return replace(draw, scale=draw.scale / other)
    return None


def _filled(node: Any) -> _Draw | None:
    if isinstance(node, fx.Node) and node.target in (aten.full.default, aten.full_like.default):
        value = node.args[1]
        return _Draw(keep=float(value)) if isinstance(value, int | float) else None
    return None


def _operands(node: fx.Node, draws: dict[fx.Node, _Draw]) -> tuple[fx.Node | None, Any]:
    """The argument that is a draw, and the other one."""
    first = node.args[0] if node.args else None
    second = node.args[1] if len(node.args) > 1 else None
    if isinstance(first, fx.Node) and first in draws:
        return first, second
    if isinstance(second, fx.Node) and second in draws:
        return second, first
    return None, None


def _replace(graph: fx.Graph, node: fx.Node, draws: dict[fx.Node, _Draw]) -> None:
    source, kept = _operands(node, draws)
    if source is None or not isinstance(kept, fx.Node) or node.target is not aten.mul.Tensor:
        return
    draw = draws[source]
    if draw.uniform or not 0.0 < draw.keep <= 1.0:
        return
    x, scale = kept, draw.scale
    if not math.isclose(scale * draw.keep, 1.0, rel_tol=1e-6):
        x, scale = _unscaled(kept, scale)
    sizes, drawn = sizes_of(x), sizes_of(source)
    if sizes is None or drawn is None or not math.isclose(scale * draw.keep, 1.0, rel_tol=1e-6):
        return
    if dtype_of(x) is not dtype_of(node) or sizes != sizes_of(node) or len(drawn) > len(sizes):
        return
    shift = len(sizes) - len(drawn)
    dims = [shift + dim for dim, size in enumerate(drawn) if size != 1 and size == sizes[shift + dim]]
    with graph.inserting_before(node):
        new = graph.call_function(ops.drop_path, (x, 1.0 - draw.keep, dims, True))
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    graph.erase_node(node)


def _unscaled(node: fx.Node, scale: float) -> tuple[fx.Node, float]:
    """A tensor divided by (or multiplied with) a constant, as the tensor and the scale with that constant."""
    if len(node.args) < 2 or not isinstance(node.args[1], int | float) or node.args[1] == 0:
        return node, scale
    if node.target is aten.div.Tensor:
        return node.args[0], scale / node.args[1]  # type: ignore[return-value]
    if node.target is aten.mul.Tensor:
        return node.args[0], scale * node.args[1]  # type: ignore[return-value]
    return node, scale
