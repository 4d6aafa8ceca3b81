"""Rules of normalisations."""

from __future__ import annotations

from torch import fx

from mlgraph.axes.factors import Misaligned, regroup, size_of
from mlgraph.axes.rules.registry import Context, DimList, RuleResult, rule


@rule("layer_norm rms_norm native_layer_norm _fused_rms_norm")
def _layer_norm(ctx: Context, node: fx.Node) -> RuleResult:
    dims = ctx.dims(node.args[0])
    normalised = dims[len(dims) - len(list(node.args[1])) :]  # type: ignore[arg-type]
    for parameter in [*node.args[2:4], node.kwargs.get("weight"), node.kwargs.get("bias")]:
        if isinstance(parameter, fx.Node):
            for a, b in zip(normalised, ctx.dims(parameter), strict=True):
                ctx.unify(a, b, node)
            ctx.emit(parameter)
    for dim in normalised:
        ctx.average(node, dim)
    ctx.emit(node.args[0])
    value = ctx.value(node)
    if isinstance(value, (tuple, list)):
        kept = [() if dim in normalised else dim for dim in dims]
        return [dims, *([list(kept)] * (len(value) - 1))]
    return dims


@rule("group_norm")
def _group_norm(ctx: Context, node: fx.Node) -> RuleResult:
    dims = ctx.dims(node.args[0])
    groups = int(node.args[1])  # type: ignore[arg-type]
    channels = dims[1]
    for parameter in [*node.args[2:4], node.kwargs.get("weight"), node.kwargs.get("bias")]:
        if isinstance(parameter, fx.Node):
            ctx.unify(channels, ctx.dims(parameter)[0], node)
            ctx.emit(parameter)
    try:
        outer, inner = regroup([channels], [groups, size_of(channels) // groups])
        if size_of(inner) > 1:
            ctx.block(outer, "it is a number of normalisation groups", node, "groups")
            ctx.average(node, inner)
    except Misaligned:
        ctx.freeze(channels, "normalisation groups do not align with it", node, "unaligned")
    for dim in dims[2:]:
        ctx.average(node, dim)
    ctx.emit(node.args[0])
    return dims


@rule("batch_norm instance_norm native_batch_norm cudnn_batch_norm _native_batch_norm_legit_functional")
def _batch_norm(ctx: Context, node: fx.Node) -> RuleResult:
    dims = ctx.dims(node.args[0])
    for parameter in node.args[1:5]:
        if isinstance(parameter, fx.Node):
            ctx.unify(dims[1], ctx.dims(parameter)[0], node)
            ctx.emit(parameter)
    for index, dim in enumerate(dims):
        if index != 1:
            ctx.average(node, dim)
    ctx.emit(node.args[0])
    value = ctx.value(node)
    if isinstance(value, (tuple, list)):
        results: list[DimList] = [dims]
        for index, statistic in enumerate(value[1:], start=1):
            alike = statistic.dim() == 1 and statistic.shape[0] == size_of(dims[1])
            results.append([dims[1]] if alike else ctx.fresh(node, "statistics of a batch", output=index))
        return results
    return dims


@rule("_weight_norm")
def _weight_norm(ctx: Context, node: fx.Node) -> RuleResult:
    """A weight kept as direction and length, which move by it: the direction stands for the weight."""
    direction, length = node.args[:2]
    if not _is_only_normalised(direction) or not _is_only_normalised(length):
        return None
    dims = ctx.dims(direction)
    for dim, own in zip(dims, ctx.dims(length), strict=False):
        if size_of(own) > 1:
            ctx.unify(dim, own, node)
    ctx.emit(length)
    ctx.stand_for(node, direction)
    return dims


def _is_only_normalised(node: object) -> bool:
    """Whether a tensor of the program is read as a part of one normalised weight and nowhere else."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return False
    return len(node.users) == 1
