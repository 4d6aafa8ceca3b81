"""Rules of ops that rearrange: views, permutations, splits, joins, expansions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx

from mlgraph.axes.factors import Dim, Misaligned, concatenate, fresh, hint, regroup, size_of, split
from mlgraph.axes.rules.table import Context, Dims, Result, rule, structure

_MISALIGNED = "its indices do not align with a reshape"
_CUT = "it is cut at a place that does not align with it"
_UNBIND_LIMIT = 64


def _shape(ctx: Context, node: fx.Node, output: int | None = None) -> list[int]:
    value = ctx.value(node)
    return [int(s) if isinstance(s, int) else -1 for s in (value if output is None else value[output]).shape]


def _freeze_all(ctx: Context, dims: Sequence[Dim], text: str, node: fx.Node) -> None:
    for dim in dims:
        ctx.freeze(dim, text, node)


@structure("view reshape _unsafe_view flatten unflatten view_as reshape_as _reshape_copy view_copy")
def _reshape(ctx: Context, node: fx.Node, dims: Dims) -> Result:
    sizes = _shape(ctx, node)
    if -1 in sizes or 0 in sizes:
        _freeze_all(ctx, dims, "its size depends on data", node)
        return ctx.fresh(node, "its size depends on data")
    return _regroup(ctx, node, dims, sizes)


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
            _freeze_all(ctx, dims[a:i], _MISALIGNED, node)
            new = [fresh(size) for size in sizes[b:j]]
            _freeze_all(ctx, new, _MISALIGNED, node)
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
    if node.target._opname == "numpy_T":  # type: ignore[union-attr]
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


@structure("expand expand_as broadcast_to")
def _expand(ctx: Context, node: fx.Node, dims: Dims) -> Result:
    sizes = _shape(ctx, node)
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


@structure("repeat tile")
def _repeat(ctx: Context, node: fx.Node, dims: Dims) -> Result:
    sizes = _shape(ctx, node)
    padded = [()] * (len(sizes) - len(dims)) + dims
    return [
        dim if size_of(dim) == size else (*_repetition(size // size_of(dim)), *dim)
        for size, dim in zip(sizes, padded, strict=True)
    ]


def _repetition(count: int) -> Dim:
    new = fresh(count)
    hint(new, "rep")
    return new


@structure("repeat_interleave")
def _repeat_interleave(ctx: Context, node: fx.Node, dims: Dims) -> Result:
    count: Any = node.args[1] if len(node.args) > 1 else None
    position: Any = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim")
    if not isinstance(count, int) or position is None:
        _freeze_all(ctx, dims, "it is repeated by data", node)
        return ctx.fresh(node, "it is repeated by data")
    out = list(dims)
    out[position] = (*out[position], *_repetition(count))
    return out


def cut(ctx: Context, node: fx.Node, dim: Dim, sizes: Sequence[int]) -> list[Dim]:
    """Split a dim, freezing it where the cuts do not align."""
    try:
        return split(dim, [int(size) for size in sizes])
    except Misaligned:
        ctx.freeze(dim, _CUT, node)
        parts = [fresh(size) for size in sizes]
        _freeze_all(ctx, parts, _CUT, node)
        return parts


@structure("split split_with_sizes chunk tensor_split unsafe_split unsafe_chunk split_copy")
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


def slice_bounds(ctx: Context, node: fx.Node, size: int) -> tuple[int, int, int]:
    """Start, end and step of a slice or narrow of a dim of the given size."""
    if node.target._opname == "narrow":  # type: ignore[union-attr]
        start = ctx.value(node.args[2])
        start = int(start) + (size if start < 0 else 0)
        return start, start + int(ctx.value(node.args[3])), 1
    given = [ctx.value(a) for a in node.args[2:5]]
    given += [None] * (3 - len(given))
    for position, name in enumerate(("start", "end", "step")):
        if name in node.kwargs:
            given[position] = ctx.value(node.kwargs[name])
    return slice(*given).indices(size)


@structure("slice narrow slice_copy")
def _slice(ctx: Context, node: fx.Node, dims: Dims) -> Result:
    position: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    position %= len(dims)
    dim = dims[position]
    size = size_of(dim)
    start, _, step = slice_bounds(ctx, node, size)
    length = _shape(ctx, node)[position]
    out = list(dims)
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


def _strided(ctx: Context, node: fx.Node, dim: Dim, length: int, step: int) -> Dim:
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
    for operand in operands:
        ctx.emit(operand)
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
    if node.target._opname == "broadcast_tensors":  # type: ignore[union-attr]
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
    given = [ctx.value(a) for a in node.args[3:6]]
    start, _, step = slice(*[*given, None, None, None][:3]).indices(size)
    for index, (a, b) in enumerate(zip(dims, source, strict=True)):
        if index != position or length == size:
            ctx.unify(a, b, node)
        elif step == 1:
            sizes = [s for s in (start, length, size - start - length) if s]
            ctx.unify(cut(ctx, node, a, sizes)[1 if start else 0], b, node)
        else:
            _freeze_all(ctx, [a, b], _CUT, node)
    return dims


@structure("constant_pad_nd pad reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d")
def _pad(ctx: Context, node: fx.Node, dims: Dims) -> Result:
    pads = [ctx.value(p) for p in node.args[1]]  # type: ignore[union-attr]
    out = list(dims)
    for i in range(len(pads) // 2):
        position = len(dims) - 1 - i
        before, after = pads[2 * i], pads[2 * i + 1]
        if before == after == 0:
            continue
        dim = out[position]
        if before < 0 or after < 0:
            ctx.freeze(dim, "padding cuts it", node)
            dim = fresh(_shape(ctx, node)[position])
            ctx.freeze(dim, "padding cuts it", node)
            out[position] = dim
            continue
        borders = [fresh(before), fresh(after)]
        _freeze_all(ctx, borders, "it is padding", node)
        out[position] = concatenate(
            [d for d, n in ((borders[0], before), (dim, 1), (borders[1], after)) if n]
        )
    return out


@rule("diff")
def _diff(ctx: Context, node: fx.Node) -> Result:
    dims = ctx.dims(node.args[0])
    position: Any = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", -1)
    ctx.freeze(dims[position], "neighbouring indices are subtracted", node)
    out = list(dims)
    out[position] = ctx.fresh(node, "neighbouring indices are subtracted")[position]
    return out


@structure("unfold")
def _unfold(ctx: Context, node: fx.Node, dims: Dims) -> Result:
    position = int(node.args[1]) % len(dims)  # type: ignore[arg-type]
    ctx.freeze(dims[position], "windows slide over it", node)
    new = ctx.fresh(node, "windows slide over it")
    return [*dims[:position], new[position], *dims[position + 1 :], new[-1]]


@structure("im2col col2im")
def _im2col(ctx: Context, node: fx.Node, dims: Dims) -> Result:
    """Channels times window positions; the spatial dims merge."""
    channel = len(dims) - 3 if node.target._opname == "im2col" else len(dims) - 2  # type: ignore[union-attr]
    for dim in dims[channel + 1 :]:
        ctx.freeze(dim, "windows slide over it", node)
    sizes = _shape(ctx, node)
    if node.target._opname == "im2col":  # type: ignore[union-attr]
        window = fresh(sizes[channel] // size_of(dims[channel]))
        blocks = fresh(sizes[-1])
        _freeze_all(ctx, [window, blocks], "windows slide over it", node)
        return [*dims[:channel], (*dims[channel], *window), blocks]
    channels, window = regroup([dims[channel]], [sizes[channel], size_of(dims[channel]) // sizes[channel]])
    ctx.freeze(window, "windows slide over it", node)
    spatial = [fresh(sizes[-2]), fresh(sizes[-1])]
    _freeze_all(ctx, spatial, "windows slide over it", node)
    return [*dims[:channel], channels, *spatial]


@structure("pixel_shuffle pixel_unshuffle")
def _pixel_shuffle(ctx: Context, node: fx.Node, dims: Dims) -> Result:
    factor = int(node.args[1])  # type: ignore[arg-type]
    *lead, c, h, w = dims
    inner = [fresh(factor), fresh(factor)]
    _freeze_all(ctx, inner, "pixels are rearranged by it", node)
    if node.target._opname == "pixel_shuffle":  # type: ignore[union-attr]
        channels, a, b = regroup([c], [size_of(c) // factor**2, factor, factor])
        _freeze_all(ctx, [a, b], "pixels are rearranged by it", node)
        return [*lead, channels, (*h, *a), (*w, *b)]
    high, a = regroup([h], [size_of(h) // factor, factor])
    wide, b = regroup([w], [size_of(w) // factor, factor])
    return [*lead, (*c, *a, *b), high, wide]


@structure("view_as_complex")
def _view_as_complex(ctx: Context, node: fx.Node, dims: Dims) -> Result:
    ctx.freeze(dims[-1], "it holds real and imaginary parts", node)
    return dims[:-1]


@structure("view_as_real")
def _view_as_real(ctx: Context, node: fx.Node, dims: Dims) -> Result:
    parts = fresh(2)
    _freeze_all(ctx, [parts], "it holds real and imaginary parts", node)
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
    _freeze_all(ctx, dims, "its diagonal is taken", node)
    return ctx.fresh(node, "its diagonal is taken")


@rule("tensordot kron chain_matmul linalg_matmul")
def _unsupported(ctx: Context, node: fx.Node) -> Result:
    return None
