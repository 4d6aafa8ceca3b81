"""Rules of ops that cut dims to pieces and join pieces to dims: splits, selections, slices, joins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlgraph.axes.factors import Factors, Misaligned, concatenate, fresh, regroup, size_of, split
from mlgraph.axes.rules.registry import Context, DimList, RuleResult, rule, structure
from mlgraph.axes.rules.shape import freeze_all, shape_of
from mlgraph.graph.ops import argument, op_name

if TYPE_CHECKING:
    from torch import fx

_CUT = "it is cut at a place that does not align with it"
_CUT_BY_DATA = "it is cut at a place that depends on data"
_UNBIND_LIMIT = 64


def cut(ctx: Context, node: fx.Node, dim: Factors, sizes: Sequence[int]) -> list[Factors]:
    """Split a dim, freezing it where the cuts do not align."""
    try:
        return split(dim, [int(size) for size in sizes])
    except Misaligned:
        ctx.freeze(dim, _CUT, node)
        parts = [fresh(size) for size in sizes]
        freeze_all(ctx, parts, _CUT, node)
        return parts


@structure(
    "split split_with_sizes chunk tensor_split unsafe_split unsafe_chunk unsafe_split_with_sizes split_copy "
    "split_with_sizes_copy"
)
def _split(ctx: Context, node: fx.Node, dims: DimList) -> RuleResult:
    position: Any = argument(node, "dim")
    position %= len(dims)
    sizes = [shape_of(ctx, node, at)[position] for at in range(len(ctx.value(node)))]
    if -1 in sizes:
        parts = [fresh(size) for size in sizes]
        freeze_all(ctx, [dims[position], *parts], _CUT_BY_DATA, node)
    else:
        parts = cut(ctx, node, dims[position], sizes)
    return [[*dims[:position], part, *dims[position + 1 :]] for part in parts]


@structure("unbind")
def _unbind(ctx: Context, node: fx.Node, dims: DimList) -> RuleResult:
    position: Any = argument(node, "dim")
    position %= len(dims)
    count = size_of(dims[position])
    rest = [dim for i, dim in enumerate(dims) if i != position]
    if count > _UNBIND_LIMIT:
        ctx.freeze(dims[position], "its indices are taken one by one", node)
    elif count > 1:
        cut(ctx, node, dims[position], [1] * count)
    return [list(rest) for _ in range(count)]


@structure("select")
def _select(ctx: Context, node: fx.Node, dims: DimList) -> RuleResult:
    position = int(node.args[1]) % len(dims)  # type: ignore[arg-type]
    index = ctx.value(node.args[2])
    count = size_of(dims[position])
    if not isinstance(index, int) or count > _UNBIND_LIMIT:
        ctx.freeze(dims[position], "one of its indices is taken", node)
    elif count > 1:
        index %= count
        cut(ctx, node, dims[position], [s for s in (index, 1, count - index - 1) if s])
    return [dim for i, dim in enumerate(dims) if i != position]


def slice_bounds(ctx: Context, node: fx.Node, size: int) -> tuple[int, int, int] | None:
    """Start, end and step of a slice or narrow of a dim of the given size; None where data decides."""
    if op_name(node) == "narrow":
        start, length = ctx.value(node.args[2]), ctx.value(node.args[3])
        if not isinstance(start, int) or not isinstance(length, int):
            return None
        start += size if start < 0 else 0
        return start, start + length, 1
    given = [ctx.value(argument(node, name)) for name in ("start", "end", "step")]
    if any(bound is not None and not isinstance(bound, int) for bound in given):
        return None
    return slice(*given).indices(size)


@structure("slice narrow slice_copy")
def _slice(ctx: Context, node: fx.Node, dims: DimList) -> RuleResult:
    position: Any = argument(node, "dim")
    position %= len(dims)
    dim = dims[position]
    size = size_of(dim)
    bounds = slice_bounds(ctx, node, size)
    length = shape_of(ctx, node)[position]
    out = list(dims)
    if bounds is None:
        out[position] = fresh(length)
        freeze_all(ctx, [dim, out[position]], _CUT_BY_DATA, node)
        return out
    start, _, step = bounds
    if length == size:
        return out
    if step != 1:
        out[position] = _strided(ctx, node, dim, length, step)
    elif length < 1:
        ctx.freeze(dim, _CUT, node)
        out[position] = fresh(length)
    else:
        sizes = [s for s in (start, length, size - start - length) if s]
        out[position] = cut(ctx, node, dim, sizes)[1 if start else 0]
    return out


def _strided(ctx: Context, node: fx.Node, dim: Factors, length: int, step: int) -> Factors:
    if size_of(dim) == length * step:
        try:
            major, minor = regroup([dim], [length, step])
            ctx.freeze(minor, "its indices are taken one by one", node)
            return major
        except Misaligned:
            pass
    ctx.freeze(dim, _CUT, node)
    out = fresh(length)
    ctx.freeze(out, _CUT, node)
    return out


@rule("cat concat concatenate")
def _cat(ctx: Context, node: fx.Node) -> RuleResult:
    operands: Any = node.args[0]
    position: Any = argument(node, "dim")
    every = [ctx.dims(operand) for operand in operands]
    every = [dims for dims in every if not (len(dims) == 1 and size_of(dims[0]) == 0)]
    rank = len(every[0])
    position %= rank
    out: DimList = []
    for i in range(rank):
        column = [dims[i] for dims in every]
        if i == position and any(size_of(dim) < 0 for dim in column):
            # what is as long as data make it is a size of the batch, whatever its parts are
            out.append(fresh(-1))
            freeze_all(ctx, [*column, out[-1]], _CUT_BY_DATA, node)
            continue
        if i == position:
            out.append(concatenate(column))
            continue
        for dim in column[1:]:
            ctx.unify(column[0], dim, node)
        out.append(column[0])
    ctx.join(node, operands, position)
    return out


@rule("stack")
def _stack(ctx: Context, node: fx.Node) -> RuleResult:
    operands: Any = node.args[0]
    every = [ctx.dims(operand) for operand in operands]
    position: Any = argument(node, "dim")
    position %= len(every[0]) + 1
    for dims in every[1:]:
        for a, b in zip(every[0], dims, strict=True):
            if size_of(a) > 1:
                ctx.unify(a, b, node)
    for operand in operands:
        ctx.emit(operand)
    new = concatenate([() for _ in operands]) if len(operands) > 1 else ()
    return [*every[0][:position], new, *every[0][position:]]


@rule("slice_scatter")
def _slice_scatter(ctx: Context, node: fx.Node) -> RuleResult:
    """The first argument with a slice of it replaced by the second."""
    dims, source = ctx.dims(node.args[0]), ctx.dims(node.args[1])
    position: Any = argument(node, "dim")
    position %= len(dims)
    size, length = size_of(dims[position]), size_of(source[position])
    given = [ctx.value(argument(node, name)) for name in ("start", "end", "step")]
    if any(bound is not None and not isinstance(bound, int) for bound in given):
        freeze_all(ctx, [dims[position], source[position]], _CUT_BY_DATA, node)
        start = step = 0
    else:
        start, _, step = slice(*given).indices(size)
    for index, (a, b) in enumerate(zip(dims, source, strict=True)):
        if index != position or length == size:
            ctx.unify(a, b, node)
        elif step == 1:
            sizes = [s for s in (start, length, size - start - length) if s]
            ctx.unify(cut(ctx, node, a, sizes)[1 if start else 0], b, node)
        else:
            freeze_all(ctx, [a, b], _CUT, node)
    for operand in node.args[:2]:
        ctx.emit(operand)
    return dims


@rule("select_scatter")
def _select_scatter(ctx: Context, node: fx.Node) -> RuleResult:
    """The first argument with one index of a dim replaced by the second."""
    dims, source = ctx.dims(node.args[0]), ctx.dims(node.args[1])
    position = int(node.args[2]) % len(dims)  # type: ignore[arg-type]
    index, count = ctx.value(argument(node, "index")), size_of(dims[position])
    if not isinstance(index, int) or count > _UNBIND_LIMIT:
        ctx.freeze(dims[position], "one of its indices is replaced", node)
    elif count > 1:
        index %= count
        cut(ctx, node, dims[position], [s for s in (index, 1, count - index - 1) if s])
    for a, b in zip([dim for i, dim in enumerate(dims) if i != position], source, strict=True):
        ctx.unify(a, b, node)
    for operand in node.args[:2]:
        ctx.emit(operand)
    return dims


@rule("glu")
def _glu(ctx: Context, node: fx.Node) -> RuleResult:
    dims = list(ctx.dims(node.args[0]))
    position: Any = argument(node, "dim")
    half = size_of(dims[position]) // 2
    value, gate = cut(ctx, node, dims[position], [half, half])
    ctx.unify(value, gate, node)
    dims[position] = value
    ctx.emit(node.args[0])
    return dims
