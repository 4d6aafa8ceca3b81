"""Rules of ops that rearrange: views, permutations, splits, joins, expansions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import fx

from mlgraph.axes.factors import Factors, Misaligned, concatenate, fresh, hint, regroup, size_of, split
from mlgraph.axes.rules.registry import Context, Dims, Result, arguments, rule, structure
from mlgraph.graph.ops import op_name

if TYPE_CHECKING:
    from mlgraph.program.axis_table import ReasonKind

_MISALIGNED = "its indices do not align with a reshape"
_CUT = "it is cut at a place that does not align with it"
_CUT_BY_DATA = "it is cut at a place that depends on data"
_UNBIND_LIMIT = 64


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
def _reshape(ctx: Context, node: fx.Node, dims: Dims) -> Result:
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


def _regroup(ctx: Context, node: fx.Node, dims: Dims, sizes: list[int]) -> Dims:
    """Reshape span by span, so that a misaligned pair of dims does not spoil its neighbours."""
    out: Dims = []
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
def _transpose(ctx: Context, node: fx.Node, dims: Dims) -> Result:
    out = list(dims)
    a, b = (int(x) for x in node.args[1:3])  # type: ignore[arg-type]
    if out:
        out[a], out[b] = out[b], out[a]
    return out


@structure("t numpy_T mT adjoint")
def _t(ctx: Context, node: fx.Node, dims: Dims) -> Result:
    if op_name(node) == "numpy_T":
        return dims[::-1]
    return [*dims[:-2], *dims[-2:][::-1]]


@structure("permute")
def _permute(ctx: Context, node: fx.Node, dims: Dims) -> Result:
    return [dims[i] for i in node.args[1]]  # type: ignore[union-attr, index]


@structure("movedim moveaxis")
def _movedim(ctx: Context, node: fx.Node, dims: Dims) -> Result:
    given: list[Any] = list(node.args[1:3])
    source, target = ([x % len(dims) for x in ([a] if isinstance(a, int) else a)] for a in given)
    order = [i for i in range(len(dims)) if i not in source]
    for to, origin in sorted(zip(target, source, strict=True)):
        order.insert(to, origin)
    return [dims[i] for i in order]


@structure("unsqueeze")
def _unsqueeze(ctx: Context, node: fx.Node, dims: Dims) -> Result:
    position = int(node.args[1]) % (len(dims) + 1)  # type: ignore[arg-type]
    return [*dims[:position], (), *dims[position:]]


@structure("squeeze")
def _squeeze(ctx: Context, node: fx.Node, dims: Dims) -> Result:
    given: Any = node.args[1] if len(node.args) > 1 else None
    listed = range(len(dims)) if given is None else [given] if isinstance(given, int) else given
    chosen = {d % max(len(dims), 1) for d in listed}
    return [dim for i, dim in enumerate(dims) if i not in chosen or size_of(dim) != 1]


@structure("expand broadcast_to expand_copy")
def _expand(ctx: Context, node: fx.Node, dims: Dims) -> Result:
    sizes = shape_of(ctx, node)
    padded = [()] * (len(sizes) - len(dims)) + dims
    out: Dims = []
    for size, dim in zip(sizes, padded, strict=True):
        if size_of(dim) == size:
            out.append(dim)
        else:
            new = fresh(size)
            hint(new, "rep")
            out.append(new)
    return out


@rule("expand_as view_as reshape_as")
def _like(ctx: Context, node: fx.Node) -> Result:
    """The first argument at the sizes of the second, with which it changes."""
    function = _expand if op_name(node) == "expand_as" else _reshape
    out: Any = function(ctx, node, ctx.dims(node.args[0]))
    for a, b in zip(out, ctx.dims(node.args[1]), strict=True):
        ctx.unify(a, b, node)
    for operand in node.args[:2]:
        ctx.emit(operand)
    return out  # type: ignore[no-any-return]


@structure("repeat tile")
def _repeat(ctx: Context, node: fx.Node, dims: Dims) -> Result:
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
def _repeat_interleave(ctx: Context, node: fx.Node, dims: Dims) -> Result:
    count: Any = node.args[1] if len(node.args) > 1 else None
    position: Any = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim")
    if not isinstance(count, int) or position is None:
        counted = ctx.dims(count) if isinstance(count, fx.Node) else []
        freeze_all(ctx, [*dims, *counted], "it is repeated by data", node)
        return ctx.fresh(node, "it is repeated by data")
    out = list(dims)
    out[position] = (*out[position], *_repetition(count))
    return out


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
def _split(ctx: Context, node: fx.Node, dims: Dims) -> Result:
    position: Any = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
    position %= len(dims)
    sizes = [int(part.shape[position]) for part in ctx.value(node)]
    parts = cut(ctx, node, dims[position], sizes)
    return [[*dims[:position], part, *dims[position + 1 :]] for part in parts]


@structure("unbind")
def _unbind(ctx: Context, node: fx.Node, dims: Dims) -> Result:
    position: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    position %= len(dims)
    count = size_of(dims[position])
    rest = [dim for i, dim in enumerate(dims) if i != position]
    if count > _UNBIND_LIMIT:
        ctx.freeze(dims[position], "its indices are taken one by one", node)
    elif count > 1:
        cut(ctx, node, dims[position], [1] * count)
    return [list(rest) for _ in range(count)]


@structure("select")
def _select(ctx: Context, node: fx.Node, dims: Dims) -> Result:
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
    given = [ctx.value(a) for a in node.args[2:5]]
    given += [None] * (3 - len(given))
    for position, name in enumerate(("start", "end", "step")):
        if name in node.kwargs:
            given[position] = ctx.value(node.kwargs[name])
    if any(bound is not None and not isinstance(bound, int) for bound in given):
        return None
    return slice(*given).indices(size)


@structure("slice narrow slice_copy")
def _slice(ctx: Context, node: fx.Node, dims: Dims) -> Result:
    position: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
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
def _cat(ctx: Context, node: fx.Node) -> Result:
    operands: Any = node.args[0]
    position: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    every = [ctx.dims(operand) for operand in operands]
    every = [dims for dims in every if not (len(dims) == 1 and size_of(dims[0]) == 0)]
    rank = len(every[0])
    position %= rank
    out: Dims = []
    for i in range(rank):
        column = [dims[i] for dims in every]
        if i == position:
            out.append(concatenate(column))
            continue
        for dim in column[1:]:
            ctx.unify(column[0], dim, node)
        out.append(column[0])
    ctx.join(node, operands, position)
    return out


@rule("stack")
def _stack(ctx: Context, node: fx.Node) -> Result:
    operands: Any = node.args[0]
    every = [ctx.dims(operand) for operand in operands]
    position: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    position %= len(every[0]) + 1
    for dims in every[1:]:
        for a, b in zip(every[0], dims, strict=True):
            if size_of(a) > 1:
                ctx.unify(a, b, node)
    for operand in operands:
        ctx.emit(operand)
    new = concatenate([() for _ in operands]) if len(operands) > 1 else ()
    return [*every[0][:position], new, *every[0][position:]]


@rule("meshgrid broadcast_tensors")
def _grid(ctx: Context, node: fx.Node) -> Result:
    operands: Any = node.args[0]
    if op_name(node) == "broadcast_tensors":
        from mlgraph.axes.rules.pointwise import broadcast

        dims = broadcast(ctx, node, list(operands))
        return [list(dims) for _ in operands]
    for operand in operands:
        for dim in ctx.dims(operand):
            ctx.freeze(dim, "it spans a grid", node)
    return [ctx.fresh(node, "it spans a grid", output=i) for i in range(len(operands))]


@rule("slice_scatter")
def _slice_scatter(ctx: Context, node: fx.Node) -> Result:
    """The first argument with a slice of it replaced by the second."""
    dims, source = ctx.dims(node.args[0]), ctx.dims(node.args[1])
    position: Any = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
    position %= len(dims)
    size, length = size_of(dims[position]), size_of(source[position])
    named = arguments(node)
    given = [ctx.value(named.get(name)) for name in ("start", "end", "step")]
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
def _select_scatter(ctx: Context, node: fx.Node) -> Result:
    """The first argument with one index of a dim replaced by the second."""
    dims, source = ctx.dims(node.args[0]), ctx.dims(node.args[1])
    position = int(node.args[2]) % len(dims)  # type: ignore[arg-type]
    index, count = ctx.value(arguments(node)["index"]), size_of(dims[position])
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


@rule("diff")
def _diff(ctx: Context, node: fx.Node) -> Result:
    text = "neighbouring indices are subtracted"
    given = arguments(node)
    dims = ctx.dims(node.args[0])
    position: int = given.get("dim", -1) % len(dims)
    for operand in (node.args[0], given.get("prepend"), given.get("append")):
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
def _view_as_complex(ctx: Context, node: fx.Node, dims: Dims) -> Result:
    ctx.freeze(dims[-1], "it holds real and imaginary parts", node)
    return dims[:-1]


@structure("view_as_real")
def _view_as_real(ctx: Context, node: fx.Node, dims: Dims) -> Result:
    parts = fresh(2)
    freeze_all(ctx, [parts], "it holds real and imaginary parts", node)
    return [*dims, parts]


@rule("glu")
def _glu(ctx: Context, node: fx.Node) -> Result:
    dims = list(ctx.dims(node.args[0]))
    position: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", -1)
    half = size_of(dims[position]) // 2
    value, gate = cut(ctx, node, dims[position], [half, half])
    ctx.unify(value, gate, node)
    dims[position] = value
    ctx.emit(node.args[0])
    return dims


@structure("diagonal")
def _diagonal(ctx: Context, node: fx.Node, dims: Dims) -> Result:
    given = arguments(node)
    taken = {int(given.get(name, default)) % len(dims) for name, default in (("dim1", 0), ("dim2", 1))}
    freeze_all(ctx, [dims[i] for i in taken], "its diagonal is taken", node)
    kept = [dim for i, dim in enumerate(dims) if i not in taken]
    return [*kept, ctx.fresh(node, "its diagonal is taken")[-1]]
