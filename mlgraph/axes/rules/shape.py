"""Rules of ops that rearrange: views, permutations, expansions, grids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import fx

from mlgraph.axes.factors import Factors, Misaligned, fresh, hint, regroup, size_of
from mlgraph.axes.rules.registry import Context, DimList, RuleResult, rule, structure
from mlgraph.graph.ops import argument, op_name

if TYPE_CHECKING:
    from mlgraph.program.axis_table import ReasonKind

_MISALIGNED = "its indices do not align with a reshape"


def shape_of(ctx: Context, node: fx.Node, output: int | None = None) -> list[int]:
    """The sizes of a result; -1 where data decides."""
    value = ctx.value(node)
    return [int(s) if isinstance(s, int) else -1 for s in (value if output is None else value[output]).shape]


def freeze_all(
    ctx: Context, dims: Sequence[Factors], text: str, node: fx.Node, kind: ReasonKind = "op"
) -> None:
    """Freeze several dims for one reason."""
    for dim in dims:
        ctx.freeze(dim, text, node, kind)


@structure("view.default reshape _unsafe_view flatten unflatten _reshape_copy view_copy.default")
def _reshape(ctx: Context, node: fx.Node, dims: DimList) -> RuleResult:
    sizes = shape_of(ctx, node)
    before, after = list(ctx.value(node.args[0]).shape), list(ctx.value(node).shape)
    lead = _kept_by_data(before, after)
    tail = _kept_by_data(before[lead:][::-1], after[lead:][::-1])
    stop, end = len(dims) - tail, len(sizes) - tail
    inner, wanted = dims[lead:stop], sizes[lead:end]
    if any(size < 1 for size in [*wanted, *map(size_of, inner)]):
        freeze_all(ctx, inner, "its size depends on data", node)
        new = [fresh(size) for size in wanted]
        freeze_all(ctx, new, "its size depends on data", node)
    else:
        new = _regroup(ctx, node, inner, wanted)
    return [*dims[:lead], *new, *dims[stop:]]


def _kept_by_data(before: list[Any], after: list[Any]) -> int:
    """How many leading dims a reshape keeps, up to the last one whose size depends on data."""
    kept = 0
    for index, (old, new) in enumerate(zip(before, after, strict=False)):
        if str(old) != str(new):
            break
        if not isinstance(old, int):
            kept = index + 1
    return kept


def _regroup(ctx: Context, node: fx.Node, dims: DimList, sizes: list[int]) -> DimList:
    """Reshape span by span, so that a misaligned pair of dims does not spoil its neighbours."""
    out: DimList = []
    i = j = 0
    while i < len(dims) or j < len(sizes):
        a, b = i, j
        left = right = 1
        while True:
            if left == right and i > a and j > b:
                break
            if left <= right and i < len(dims):
                left *= size_of(dims[i])
                i += 1
            elif j < len(sizes):
                right *= sizes[j]
                j += 1
            elif i < len(dims):
                left *= size_of(dims[i])
                i += 1
            else:
                break
        try:
            out.extend(regroup(dims[a:i], sizes[b:j]))
        except Misaligned:
            freeze_all(ctx, dims[a:i], _MISALIGNED, node, "unaligned")
            new = [fresh(size) for size in sizes[b:j]]
            freeze_all(ctx, new, _MISALIGNED, node, "unaligned")
            out.extend(new)
    return out


@structure("transpose swapaxes swapdims")
def _transpose(ctx: Context, node: fx.Node, dims: DimList) -> RuleResult:
    out = list(dims)
    a, b = (int(x) for x in node.args[1:3])  # type: ignore[arg-type]
    if out:
        out[a], out[b] = out[b], out[a]
    return out


@structure("t numpy_T mT adjoint")
def _t(ctx: Context, node: fx.Node, dims: DimList) -> RuleResult:
    if op_name(node) == "numpy_T":
        return dims[::-1]
    return [*dims[:-2], *dims[-2:][::-1]]


@structure("permute")
def _permute(ctx: Context, node: fx.Node, dims: DimList) -> RuleResult:
    return [dims[i] for i in node.args[1]]  # type: ignore[union-attr, index]


@structure("movedim moveaxis")
def _movedim(ctx: Context, node: fx.Node, dims: DimList) -> RuleResult:
    given: list[Any] = list(node.args[1:3])
    source, target = ([x % len(dims) for x in ([a] if isinstance(a, int) else a)] for a in given)
    order = [i for i in range(len(dims)) if i not in source]
    for to, origin in sorted(zip(target, source, strict=True)):
        order.insert(to, origin)
    return [dims[i] for i in order]


@structure("unsqueeze")
def _unsqueeze(ctx: Context, node: fx.Node, dims: DimList) -> RuleResult:
    position = int(node.args[1]) % (len(dims) + 1)  # type: ignore[arg-type]
    return [*dims[:position], (), *dims[position:]]


@structure("squeeze")
def _squeeze(ctx: Context, node: fx.Node, dims: DimList) -> RuleResult:
    given: Any = node.args[1] if len(node.args) > 1 else None
    listed = range(len(dims)) if given is None else [given] if isinstance(given, int) else given
    chosen = {d % max(len(dims), 1) for d in listed}
    return [dim for i, dim in enumerate(dims) if i not in chosen or size_of(dim) != 1]


@structure("expand broadcast_to expand_copy")
def _expand(ctx: Context, node: fx.Node, dims: DimList) -> RuleResult:
    sizes = shape_of(ctx, node)
    padded = [()] * (len(sizes) - len(dims)) + dims
    out: DimList = []
    for size, dim in zip(sizes, padded, strict=True):
        if size_of(dim) == size:
            out.append(dim)
        else:
            new = fresh(size)
            hint(new, "rep")
            out.append(new)
    return out


@rule("expand_as view_as reshape_as")
def _like(ctx: Context, node: fx.Node) -> RuleResult:
    """The first argument at the sizes of the second, with which it changes."""
    function = _expand if op_name(node) == "expand_as" else _reshape
    out: Any = function(ctx, node, ctx.dims(node.args[0]))
    for a, b in zip(out, ctx.dims(node.args[1]), strict=True):
        ctx.unify(a, b, node)
    for operand in node.args[:2]:
        ctx.emit(operand)
    return out  # type: ignore[no-any-return]


@structure("repeat tile")
def _repeat(ctx: Context, node: fx.Node, dims: DimList) -> RuleResult:
    sizes = shape_of(ctx, node)
    padded = [()] * (len(sizes) - len(dims)) + dims
    return [
        dim if size_of(dim) == size else (*_repetition(size // size_of(dim)), *dim)
        for size, dim in zip(sizes, padded, strict=True)
    ]


def _repetition(count: int) -> Factors:
    new = fresh(count)
    hint(new, "rep")
    return new


@structure("repeat_interleave")
def _repeat_interleave(ctx: Context, node: fx.Node, dims: DimList) -> RuleResult:
    count: Any = node.args[1] if len(node.args) > 1 else None
    position: Any = argument(node, "dim")
    if not isinstance(count, int) or position is None:
        counted = ctx.dims(count) if isinstance(count, fx.Node) else []
        freeze_all(ctx, [*dims, *counted], "it is repeated by data", node)
        return ctx.fresh(node, "it is repeated by data")
    out = list(dims)
    out[position] = (*out[position], *_repetition(count))
    return out


@rule("meshgrid broadcast_tensors")
def _grid(ctx: Context, node: fx.Node) -> RuleResult:
    operands: Any = node.args[0]
    if op_name(node) == "broadcast_tensors":
        from mlgraph.axes.rules.pointwise import broadcast

        dims = broadcast(ctx, node, list(operands))
        return [list(dims) for _ in operands]
    for operand in operands:
        for dim in ctx.dims(operand):
            ctx.freeze(dim, "it spans a grid", node)
    return [ctx.fresh(node, "it spans a grid", output=i) for i in range(len(operands))]


@rule("diff")
def _diff(ctx: Context, node: fx.Node) -> RuleResult:
    text = "neighbouring indices are subtracted"
    dims = ctx.dims(node.args[0])
    position: int = argument(node, "dim") % len(dims)
    for operand in [argument(node, name) for name in ("self", "prepend", "append")]:
        for index, (a, b) in enumerate(zip(dims, ctx.dims(operand), strict=False)):
            if index == position:
                ctx.freeze(b, text, node)
            elif b is not a:
                ctx.unify(a, b, node)
        ctx.emit(operand)
    out = list(dims)
    out[position] = ctx.fresh(node, text)[position]
    return out


@structure("view_as_complex")
def _view_as_complex(ctx: Context, node: fx.Node, dims: DimList) -> RuleResult:
    ctx.freeze(dims[-1], "it holds real and imaginary parts", node)
    return dims[:-1]


@structure("view_as_real")
def _view_as_real(ctx: Context, node: fx.Node, dims: DimList) -> RuleResult:
    parts = fresh(2)
    freeze_all(ctx, [parts], "it holds real and imaginary parts", node)
    return [*dims, parts]


@structure("diagonal")
def _diagonal(ctx: Context, node: fx.Node, dims: DimList) -> RuleResult:
    taken = {int(argument(node, name)) % len(dims) for name in ("dim1", "dim2")}
    freeze_all(ctx, [dims[i] for i in taken], "its diagonal is taken", node)
    kept = [dim for i, dim in enumerate(dims) if i not in taken]
    return [*kept, ctx.fresh(node, "its diagonal is taken")[-1]]
