"""Rules of ops that sum products: matrix products, convolutions, attention."""

from __future__ import annotations

import re

from torch import fx

from mlgraph.axes.factors import Misaligned, fresh, hint, regroup, size_of
from mlgraph.axes.rules.einsum import contract, einsum_rule, parse
from mlgraph.axes.rules.registry import (
    Context,
    DimList,
    RuleResult,
    overloads,
    rule,
    set_rule,
    set_rule_by_name,
)
from mlgraph.axes.rules.registry import Rule as _Rule
from mlgraph.graph.ops import argument, op_name

_EINSUM = {
    "linear": "... i, o i, o -> ... o",
    "mm": "m k, k n -> m n",
    "bmm": "b m k, b k n -> b m n",
    "mv": "m k, k -> m",
    "dot": "k, k -> ",
    "vdot": "k, k -> ",
    "outer": "m, n -> m n",
    "addmm": "... x n, m k, k n -> m n",
    "bilinear": "... i, ... j, o i j, o -> ... o",
    "_grouped_mm": "t k, e k n, e -> t n",
}


def _added(ctx: Context, node: fx.Node, product: DimList) -> DimList:
    """The product with the op's first argument added to it by broadcasting."""
    added = ctx.dims(node.args[0])
    for dim, target in zip(reversed(added), reversed(product), strict=False):
        if size_of(dim) != 1:
            ctx.unify(target, dim, node)
    ctx.emit(node.args[0])
    return product


@rule("addmm addbmm baddbmm addmv")
def _add_product(ctx: Context, node: fx.Node) -> RuleResult:
    spec = {"addmm": "m k, k n -> m n", "addmv": "m k, k -> m", "addbmm": "b m k, b k n -> m n"}
    terms, out = parse(spec.get(op_name(node), "b m k, b k n -> b m n"))
    return _added(ctx, node, contract(ctx, node, node.args[1:3], terms, out))


@rule("matmul")
def _matmul(ctx: Context, node: fx.Node) -> RuleResult:
    left, right = (len(ctx.dims(a)) for a in node.args)
    a = ("k",) if left == 1 else ("...", "m", "k") if left > 2 or right > 2 else ("m", "k")
    b = ("k",) if right == 1 else ("...", "k", "n") if left > 2 or right > 2 else ("k", "n")
    if left == 2 and right > 2:
        a = ("m", "k")
    if right == 2 and left > 2:
        b = ("k", "n")
    out = tuple(x for x in (("...",) if left > 2 or right > 2 else ()))
    out += ("m",) if left > 1 else ()
    out += ("n",) if right > 1 else ()
    return contract(ctx, node, node.args, (a, b), out)


@rule("einsum")
def _einsum(ctx: Context, node: fx.Node) -> RuleResult:
    equation = str(node.args[0]).replace(" ", "")
    left, arrow, right = equation.partition("->")

    def letters(term: str) -> tuple[str, ...]:
        return tuple(re.findall(r"\.\.\.|\w", term))

    terms = tuple(letters(term) for term in left.split(","))
    if not arrow:
        every = [x for term in terms for x in term]
        right = "".join(sorted({x for x in every if every.count(x) == 1 and x != "..."}))
        right = ("..." if "..." in every else "") + right
    operands = node.args[1]
    return contract(ctx, node, operands, terms, letters(right))  # type: ignore[arg-type]


@rule("scaled_dot_product_attention")
def _attention(ctx: Context, node: fx.Node) -> RuleResult:
    query, key, value = node.args[:3]
    mask = argument(node, "attn_mask")
    q, k = ctx.dims(query), ctx.dims(key)
    if node.kwargs.get("enable_gqa") and size_of(q[-3]) != size_of(k[-3]):
        repeat = fresh(size_of(q[-3]) // size_of(k[-3]))
        hint(repeat, "rep")
        ctx.unify(q[-3], (*k[-3], *repeat), node)
        heads, v = q[-3], ctx.dims(value)
        ctx.unify(k[-3], v[-3], node)
        batches = [(x, y) for other in (k, v) for x, y in zip(q[:-3], other[:-3], strict=True)]
        for x, y in ((q[-1], k[-1]), (k[-2], v[-2]), *batches):
            ctx.unify(x, y, node)
        for name, operands in ((q[-1], [(query, len(q) - 1), (key, len(k) - 1)]), (k[-2], [])):
            ctx.contract(node, name, operands)
        result = [*q[:-1], v[-1]]
        for operand in (query, key, value):
            ctx.emit(operand, range(len(ctx.dims(operand)) - 1))
    else:
        terms, out = parse("... l d, ... s d, ... s v -> ... l v")
        result = contract(ctx, node, (query, key, value), terms, out)
        heads = result[-3] if len(result) > 2 else ()
    v = ctx.dims(value)
    if len(q) > 3:
        hint(heads, "heads")
    hint(q[-1], "head_dim")
    hint(v[-1], "v_dim")
    ctx.block(k[-2], "attention is normalised over it", node)
    if argument(node, "is_causal") is True:
        for dim in (q[-2], k[-2]):
            ctx.freeze(dim, "the order of its indices matters to causal attention", node)
    scores = [*result[:-1], k[-2]]
    for dim, target in zip(reversed(ctx.dims(mask)), reversed(scores), strict=False):
        if size_of(dim) > 1:
            ctx.unify(target, dim, node)
    ctx.emit(mask)
    return result


def _convolution(ctx: Context, node: fx.Node, groups: int, transposed: bool) -> DimList:
    source, weight = node.args[:2]
    bias = argument(node, "bias")
    x, w = ctx.dims(source), ctx.dims(weight)
    spatial = len(w) - 2
    batched = len(x) == len(w)
    channels = x[1 if batched else 0]
    c_in, c_out = (w[0], w[1]) if transposed else (w[1], w[0])
    contracted, emitted = (0, 1) if transposed else (1, 0)
    if groups == 1:
        ctx.unify(channels, c_in, node)
        ctx.contract(node, c_in, [(source, 1 if batched else 0), (weight, contracted)])
        ctx.emit(weight, [emitted])
        result = c_out
    else:
        try:
            x_groups, x_inner = regroup([channels], [groups, size_of(channels) // groups])
            side = c_in if transposed else c_out
            w_groups, w_inner = regroup([side], [groups, size_of(side) // groups])
        except Misaligned:
            for dim in (channels, c_in, c_out):
                ctx.freeze(dim, "convolution groups do not align with it", node, "unaligned")
            return ctx.fresh(node, "convolution groups do not align with it", kind="unaligned")
        ctx.unify(x_groups, w_groups, node)
        if transposed:
            ctx.unify(x_inner, w_inner, node)
            ctx.contract(node, x_inner, [(source, 1 if batched else 0), (weight, 0)])
            result = (*w_groups, *c_out)
        else:
            ctx.unify(x_inner, c_in, node)
            ctx.contract(node, c_in, [(source, 1 if batched else 0), (weight, 1)])
            result = (*w_groups, *w_inner)
        ctx.emit(weight, [emitted])
        if size_of(channels) > groups:
            ctx.block(w_groups, "it is a number of convolution groups", node, "groups")
    if isinstance(bias, fx.Node):
        ctx.unify(result, ctx.dims(bias)[0], node)
        ctx.emit(bias)
    for dim in w[2:]:
        ctx.freeze(dim, "it is a convolution kernel's extent", node, "kernel")
    for dim in x[len(x) - spatial :]:
        ctx.freeze(dim, "a convolution slides over it", node)
    out = ctx.fresh(node, "a convolution slides over it")
    return [*([x[0]] if batched else []), result, *out[len(out) - spatial :]]


@rule("conv1d conv2d conv3d")
def _conv(ctx: Context, node: fx.Node) -> RuleResult:
    groups = argument(node, "groups")
    return _convolution(ctx, node, int(groups), transposed=False)  # type: ignore[arg-type]


@rule("conv_transpose1d conv_transpose2d conv_transpose3d")
def _conv_transpose(ctx: Context, node: fx.Node) -> RuleResult:
    groups = argument(node, "groups")
    return _convolution(ctx, node, int(groups), transposed=True)  # type: ignore[arg-type]


@rule("convolution")
def _general_conv(ctx: Context, node: fx.Node) -> RuleResult:
    return _convolution(ctx, node, int(node.args[8]), transposed=bool(node.args[6]))  # type: ignore[arg-type]


for _name, _spec in _EINSUM.items():
    if _name != "addmm":
        for _op in overloads(_name):
            set_rule(_op, _Rule(infer=einsum_rule(_spec)))
set_rule_by_name("transformers::grouped_mm_fallback", _Rule(infer=einsum_rule(_EINSUM["_grouped_mm"])))
