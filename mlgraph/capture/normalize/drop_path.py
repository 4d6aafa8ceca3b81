"""Stochastic depth, recognised by what is computed: a tensor times a Bernoulli draw over its keep rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from mlgraph.graph.ops import drop_path, has
from mlgraph.graph.sizes import dtype_of, sizes_of
from mlgraph.graph.traits import Trait

aten = torch.ops.aten


@dataclass(frozen=True)
class _Draw:
    """Values that are ``scale`` with probability ``keep`` and 0 otherwise; ``uniform`` before rounding.

    ``offset`` belongs to a uniform draw in [offset, offset + 1). ``rule`` says how a uniform draw u keeps:
    ``"above"`` where u >= 1 - keep, ``"below"`` where u < keep; empty for a Bernoulli draw.
    """

    keep: float = 1.0
    scale: float = 1.0
    uniform: bool = False
    offset: float = 0.0
    rule: str = ""


def recognize_drop_path(graph: fx.Graph) -> None:
    """Replace each product of a tensor and a scaled Bernoulli draw of mean 1 by ``mlgraph.ops.drop_path``.

    The draw's sizes tell along which dims the draws are independent, and ``meta["draw"]`` of the new node is
    the rule by which the model's own draw keeps (``_Draw.rule``). Draws with another mean, which no
    mode switch can leave out, stay as they are.
    """
    draws: dict[fx.Node, _Draw] = {}
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        draw = _draw(node, draws)
        if draw is not None:
            draws[node] = draw
        elif node.target is aten.mul.Tensor:
            _replace(graph, node, draws)


def _draw(node: fx.Node, draws: dict[fx.Node, _Draw]) -> _Draw | None:
    start = _STARTS.get(node.target)
    if start is not None:
        return start(node)
    source, other = _operands(node, draws)
    if source is None:
        return None
    if has(node, _SAME):
        return draws[source]
    step = _STEPS.get(node.target)
    return step(draws[source], other, node.args[0] is source) if step is not None else None


def _uniform(_: fx.Node) -> _Draw | None:
    return _Draw(uniform=True)


def _bernoulli(node: fx.Node) -> _Draw | None:
    given: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("p", 0.5)
    return _Draw(keep=float(given)) if _is_number(given) else None


def _bernoulli_of(node: fx.Node) -> _Draw | None:
    rates: Any = node.args[0]
    if rates.target is not aten.full.default and rates.target is not aten.full_like.default:
        return None
    return _Draw(keep=float(rates.args[1])) if _is_number(rates.args[1]) else None


def _floor(draw: _Draw, _: Any, __: bool) -> _Draw | None:
    rounded = draw.uniform and 0.0 < draw.offset <= 1.0 and draw.scale == 1.0
    return _Draw(keep=draw.offset, rule="above") if rounded else None


def _shift(draw: _Draw, other: Any, _: bool) -> _Draw | None:
    return replace(draw, offset=draw.offset + other) if draw.uniform and _is_number(other) else None


def _below(draw: _Draw, other: Any, _: bool) -> _Draw | None:
    plain = _is_plain_uniform(draw) and _is_number(other)
    return _Draw(keep=float(other), rule="below") if plain else None


def _above(draw: _Draw, other: Any, _: bool) -> _Draw | None:
    plain = _is_plain_uniform(draw) and _is_number(other)
    return _Draw(keep=1.0 - float(other), rule="above") if plain else None


def _times(draw: _Draw, other: Any, _: bool) -> _Draw | None:
    scales = not draw.uniform and _is_number(other) and other != 0
    return replace(draw, scale=draw.scale * other) if scales else None


def _over(draw: _Draw, other: Any, first: bool) -> _Draw | None:
    scales = first and not draw.uniform and _is_number(other) and other != 0
    return replace(draw, scale=draw.scale / other) if scales else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _is_plain_uniform(draw: _Draw) -> bool:
    return draw.uniform and draw.offset == 0.0


# Ops that make a draw, and what ops make of a draw and a number; the flag tells that the draw comes first.
_SAME = Trait.IDENTITY | Trait.CASTS | Trait.RESHAPES | Trait.BROADCASTS
_STARTS: dict[Any, Callable[[fx.Node], _Draw | None]] = {
    aten.rand.default: _uniform,
    aten.rand_like.default: _uniform,
    aten.bernoulli.p: _bernoulli,
    aten.bernoulli.default: _bernoulli_of,
}
_STEPS: dict[Any, Callable[[_Draw, Any, bool], _Draw | None]] = {
    aten.floor.default: _floor,
    aten.add.Tensor: _shift,
    aten.lt.Scalar: _below,
    aten.le.Scalar: _below,
    aten.gt.Scalar: _above,
    aten.ge.Scalar: _above,
    aten.mul.Tensor: _times,
    aten.div.Tensor: _over,
}


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
    if source is None or not isinstance(kept, fx.Node):
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
        new = graph.call_function(drop_path, (x, 1.0 - draw.keep, dims, True))
    new.meta = {**node.meta, "draw": draw.rule}
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
