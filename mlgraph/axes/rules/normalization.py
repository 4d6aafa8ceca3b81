"""Rules of normalisations."""

from __future__ import annotations

from torch import fx

from mlgraph.axes.factors import Misaligned, regroup, size_of
from mlgraph.axes.rules.registry import Context, Dims, Result, rule
from mlgraph.graph.ops import op_name


@rule("layer_norm rms_norm native_layer_norm _fused_rms_norm")
def _layer_norm(ctx: Context, node: fx.Node) -> Result:
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


@rule("group_norm native_group_norm")
def _group_norm(ctx: Context, node: fx.Node) -> Result:
    dims = ctx.dims(node.args[0])
    native = op_name(node).startswith("native")
    groups = int(node.args[6 if native else 1])  # type: ignore[arg-type]
    parameters = node.args[1:3] if native else node.args[2:4]
    channels = dims[1]
    for parameter in parameters:
        if isinstance(parameter, fx.Node):
            ctx.unify(channels, ctx.dims(parameter)[0], node)
            ctx.emit(parameter)
    try:
        outer, inner = regroup([channels], [groups, size_of(channels) // groups])
        if size_of(inner) > 1:
            ctx.block(outer, "it is a number of normalisation groups", node)
            ctx.average(node, inner)
    except Misaligned:
        ctx.freeze(channels, "normalisation groups do not align with it", node, "unaligned")
    value = ctx.value(node)
    if isinstance(value, (tuple, list)):
        return [dims, *(ctx.fresh(node, "statistics of groups", output=i) for i in range(1, len(value)))]
    return dims


@rule("batch_norm instance_norm native_batch_norm cudnn_batch_norm _native_batch_norm_legit_functional")
def _batch_norm(ctx: Context, node: fx.Node) -> Result:
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
        results: list[Dims] = [dims]
        for index, statistic in enumerate(value[1:], start=1):
            alike = statistic.dim() == 1 and statistic.shape[0] == size_of(dims[1])
            results.append([dims[1]] if alike else ctx.fresh(node, "statistics of a batch", output=index))
        return results
    return dims
