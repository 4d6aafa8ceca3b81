"""Rules of elementwise ops, and of ops that keep or create dims without relating indices."""

from __future__ import annotations

from typing import Any

from torch import fx

from mlgraph.axes.factors import Factors, size_of
from mlgraph.axes.rules.registry import (
    Context,
    DimList,
    Rule,
    RuleResult,
    rule,
    set_rule,
    structure,
)
from mlgraph.graph import ops
from mlgraph.graph.ops import argument, op_name


def _tensors(ctx: Context, argument: Any) -> list[Any]:
    if isinstance(argument, (list, tuple)):
        return [item for entry in argument for item in _tensors(ctx, entry)]
    return [argument] if isinstance(argument, fx.Node) and ctx.value(argument) is not None else []


def broadcast(ctx: Context, node: fx.Node, operands: list[Any]) -> DimList:
    """Unify the operands' dims from the right; dims of size 1 spread."""
    every = [(operand, ctx.dims(operand)) for operand in operands]
    every = [(operand, dims) for operand, dims in every if dims]
    rank = max((len(dims) for _, dims in every), default=0)
    result: DimList = [() for _ in range(rank)]
    for _, dims in every:
        for offset, dim in enumerate(reversed(dims), start=1):
            present = result[rank - offset]
            if size_of(dim) == 1:
                continue
            if size_of(present) == 1:
                result[rank - offset] = dim
            else:
                ctx.unify(present, dim, node)
    return result


def _pointwise(ctx: Context, node: fx.Node) -> RuleResult:
    operands = _tensors(ctx, [*node.args, *node.kwargs.values()])
    for operand in operands:
        ctx.emit(operand)
    return broadcast(ctx, node, operands)


set_rule("pointwise", Rule(infer=_pointwise))

# Tagged pointwise only in part of the supported versions of torch.
for _names in (
    "where masked_fill clamp clamp_min clamp_max lerp addcmul addcdiv rrelu glu_jvp",
    "mish hardswish hardsigmoid hardtanh relu6 selu celu softplus softshrink hardshrink threshold "
    "log_sigmoid",
    "mse_loss.x smooth_l1_loss.x feature_dropout isclose nan_to_num",
    "zeros_like ones_like full_like empty_like fill copy",
):
    rule(_names)(_pointwise)


@rule("prelu")
def _prelu(ctx: Context, node: fx.Node) -> RuleResult:
    """Slopes lie along dim 1, unless there is one for all."""
    dims, slopes = ctx.dims(node.args[0]), ctx.dims(node.args[1])
    for operand in node.args[:2]:
        ctx.emit(operand)
    if len(slopes) == 1 and size_of(slopes[0]) != 1:
        ctx.unify(dims[1 if len(dims) > 1 else 0], slopes[0], node)
    elif len(slopes) > 1:
        return broadcast(ctx, node, list(node.args[:2]))
    return dims


@structure(
    "neg to _to_copy type_as contiguous clone alias detach lift_fresh_copy lift_fresh positive "
    "dropout feature_dropout alpha_dropout native_dropout"
)
def _same(ctx: Context, node: fx.Node, dims: DimList) -> RuleResult:
    return list(dims)


def _stochastic_depth(ctx: Context, node: fx.Node, dims: DimList) -> RuleResult:
    return list(dims)


set_rule(ops.drop_path, Rule(structure=_stochastic_depth))


@rule("rand_like randn_like randint_like bernoulli multinomial normal_functional")
def _random(ctx: Context, node: fx.Node) -> RuleResult:
    """Noise differs between twins, so the axis is not coarsened unless asked."""
    dims = ctx.dims(node.args[0])
    for dim in dims:
        ctx.block(dim, "random numbers are drawn along it", node)
    return dims


@rule("rand randn randint randperm")
def _random_factory(ctx: Context, node: fx.Node) -> RuleResult:
    dims = ctx.fresh(node)
    for dim in dims:
        ctx.block(dim, "random numbers are drawn along it", node)
    return dims


@rule("zeros ones full empty new_zeros new_ones new_full new_empty scalar_tensor")
def _uniform(ctx: Context, node: fx.Node) -> RuleResult:
    return ctx.fresh(node)


@rule("arange linspace logspace eye tril_indices triu_indices")
def _counted(ctx: Context, node: fx.Node) -> RuleResult:
    return ctx.fresh(node, "its indices are counted, not interchangeable")


def _reduced(node: fx.Node, rank: int, position: int = 1) -> tuple[list[int], bool]:
    """The dims that a reduction removes, and whether it keeps them at size 1."""
    dim: Any = node.args[position] if len(node.args) > position else node.kwargs.get("dim")
    keep: Any = (
        node.args[position + 1] if len(node.args) > position + 1 else node.kwargs.get("keepdim", False)
    )
    schema = node.target._schema  # type: ignore[union-attr]
    if not any(a.name == "dim" for a in schema.arguments) or dim is None or dim == []:
        return list(range(rank)), bool(keep) if isinstance(keep, bool) else False
    listed = [dim] if isinstance(dim, int) else list(dim)
    return [d % rank for d in listed], bool(keep)


def _reduce(ctx: Context, node: fx.Node, position: int = 1) -> tuple[list[Factors], DimList]:
    dims = ctx.dims(node.args[0])
    gone, keep = _reduced(node, max(len(dims), 1), position)
    out = [() if i in gone else dim for i, dim in enumerate(dims) if keep or i not in gone]
    return [dims[i] for i in gone if i < len(dims)], out


@rule("mean")
def _mean(ctx: Context, node: fx.Node) -> RuleResult:
    gone, out = _reduce(ctx, node)
    for dim in gone:
        ctx.average(node, dim)
    ctx.emit(node.args[0])
    return out


@rule("sum nansum")
def _sum(ctx: Context, node: fx.Node) -> RuleResult:
    dims = ctx.dims(node.args[0])
    gone, keep = _reduced(node, max(len(dims), 1))
    for index in gone:
        if index < len(dims):
            ctx.contract(node, dims[index], [(node.args[0], index)])
    ctx.emit(node.args[0], [i for i in range(len(dims)) if i not in gone])
    return [() if i in gone else dim for i, dim in enumerate(dims) if keep or i not in gone]


@rule("count_nonzero")
def _count(ctx: Context, node: fx.Node) -> RuleResult:
    gone, out = _reduce(ctx, node)
    for dim in gone:
        ctx.block(dim, "a count over it grows with its copies", node)
    ctx.emit(node.args[0])
    return out


@rule("amax amin any all")
def _extreme(ctx: Context, node: fx.Node) -> RuleResult:
    """Copies do not change an extreme."""
    _, out = _reduce(ctx, node)
    ctx.emit(node.args[0])
    return out


@rule("max min median mode aminmax")
def _extreme_with_index(ctx: Context, node: fx.Node) -> RuleResult:
    if isinstance(node.args[1] if len(node.args) > 1 else None, fx.Node):
        return _pointwise(ctx, node)
    gone, out = _reduce(ctx, node)
    if isinstance(ctx.value(node), (tuple, list)):
        for dim in gone:
            ctx.freeze(dim, "the index of its extreme is returned", node)
        return [list(out), list(out)]
    return out


@rule("argmax argmin")
def _arg(ctx: Context, node: fx.Node) -> RuleResult:
    gone, out = _reduce(ctx, node)
    for dim in gone:
        ctx.freeze(dim, "the index of its extreme is returned", node)
    return out


@rule("var std prod logsumexp norm linalg_vector_norm frobenius_norm var_mean std_mean")
def _statistic(ctx: Context, node: fx.Node) -> RuleResult:
    position = 2 if op_name(node) in ("norm", "linalg_vector_norm") else 1
    gone, out = _reduce(ctx, node, position)
    for dim in gone:
        if _is_mean_square(node):
            ctx.average(node, dim)
        else:
            ctx.block(dim, "a reduction over it changes with its size", node)
    ctx.emit(node.args[0])
    value = ctx.value(node)
    return [list(out), list(out)] if isinstance(value, (tuple, list)) else out


def _is_mean_square(node: fx.Node) -> bool:
    """Whether a variance or deviation divides by the number of indices itself."""
    name = op_name(node)
    return name in ("var", "std", "var_mean", "std_mean") and (
        argument(node, "unbiased") is False or argument(node, "correction") in (0, 0.0)
    )


@rule("softmax log_softmax _softmax _log_softmax _safe_softmax")
def _softmax(ctx: Context, node: fx.Node) -> RuleResult:
    dims = ctx.dims(node.args[0])
    position = int(node.args[1]) % len(dims)  # type: ignore[arg-type]
    if "log" in op_name(node):
        ctx.block(dims[position], "a softmax normalises over it", node)
    else:
        ctx.share(node, position, dims[position])
    ctx.emit(node.args[0])
    return dims


@rule("cumsum cumprod cummax cummin logcumsumexp sort argsort flip roll")
def _ordered(ctx: Context, node: fx.Node) -> RuleResult:
    """Ops whose result depends on the order of indices along a dim."""
    dims = ctx.dims(node.args[0])
    name = op_name(node)
    position = 2 if name == "roll" else 1
    given: Any = (
        node.args[position] if len(node.args) > position else node.kwargs.get("dim", node.kwargs.get("dims"))
    )
    if isinstance(given, bool) or (given is None and name in ("sort", "argsort")):
        given = node.kwargs.get("dim", -1)
    if name in ("sort", "argsort") and len(node.args) > 1 and isinstance(node.args[1], bool):
        given = node.args[2] if len(node.args) > 2 else given
    listed = [given] if isinstance(given, int) else list(given or range(len(dims)))
    for index in listed:
        ctx.freeze(dims[index], f"the order of its indices matters to {name}", node)
    ctx.emit(node.args[0])
    value = ctx.value(node)
    return [list(dims) for _ in value] if isinstance(value, (tuple, list)) else list(dims)


@rule("renorm")
def _renorm(ctx: Context, node: fx.Node) -> RuleResult:
    """Every slice along one dim is scaled by its norm over all the others."""
    dims = ctx.dims(node.args[0])
    position = int(node.args[2]) % len(dims)  # type: ignore[arg-type]
    for index, dim in enumerate(dims):
        if index != position:
            ctx.block(dim, "a norm over it grows with its copies", node)
    ctx.emit(node.args[0])
    return dims


@rule("tril triu")
def _triangle(ctx: Context, node: fx.Node) -> RuleResult:
    dims = ctx.dims(node.args[0])
    for dim in dims[-2:]:
        ctx.freeze(dim, "the order of its indices matters to a triangular mask", node)
    return dims
