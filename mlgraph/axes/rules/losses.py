"""Rules of losses and distances: what is summed, what is averaged, what counts classes."""

from __future__ import annotations

import torch
from torch import fx

from mlgraph.axes.rules.pointwise import broadcast
from mlgraph.axes.rules.registry import Context, DimList, RuleResult, rule
from mlgraph.graph.ops import argument, arguments


def _reduced(ctx: Context, node: fx.Node, dims: DimList) -> DimList:
    """The result of a loss that is worked out for every index of ``dims``, by its ``reduction``."""
    reduction = argument(node, "reduction")
    if reduction == 0:
        return dims
    for dim in dims:
        if reduction == 1:
            ctx.average(node, dim)
        else:
            ctx.block(dim, "a loss is summed over it", node)
    return []


@rule("cross_entropy_loss nll_loss nll_loss_nd nll_loss2d nll_loss_forward nll_loss2d_forward")
def _cross_entropy(ctx: Context, node: fx.Node) -> RuleResult:
    logits, target = ctx.dims(node.args[0]), ctx.dims(node.args[1])
    classes = 1 if len(logits) > 1 else 0
    ctx.freeze(logits[classes], "it indexes classes", node, "classes")
    weight = argument(node, "weight")
    if ctx.dims(weight):
        ctx.unify(logits[classes], ctx.dims(weight)[0], node)
        ctx.emit(weight)
    rest = [dim for i, dim in enumerate(logits) if i != classes]
    for a, b in zip(logits if len(target) == len(logits) else rest, target, strict=False):
        ctx.unify(a, b, node)
    for operand in node.args[:2]:
        ctx.emit(operand)
    out = _reduced(ctx, node, rest)
    value = ctx.value(node)
    return [out, *([] for _ in value[1:])] if isinstance(value, (tuple, list)) else out


@rule(
    "mse_loss l1_loss smooth_l1_loss huber_loss binary_cross_entropy binary_cross_entropy_with_logits kl_div "
    "soft_margin_loss"
)
def _elementwise(ctx: Context, node: fx.Node) -> RuleResult:
    operands = [a for a in arguments(node) if isinstance(ctx.value(a), torch.Tensor)]
    for operand in operands:
        ctx.emit(operand)
    return _reduced(ctx, node, broadcast(ctx, node, operands))


@rule("cosine_similarity pairwise_distance cdist")
def _similarity(ctx: Context, node: fx.Node) -> RuleResult:
    for operand in node.args[:2]:
        for dim in ctx.dims(operand):
            ctx.freeze(dim, "a distance is taken over it", node)
    return ctx.fresh(node, "a distance is taken over it")
