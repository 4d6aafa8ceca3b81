"""Rules of ops over space or time: padding, pooling, resampling, sliding windows, pixels to channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlgraph.axes.factors import concatenate, fresh, regroup, size_of
from mlgraph.axes.rules.registry import Context, DimList, RuleResult, rule, structure
from mlgraph.axes.rules.shape import freeze_all, shape_of
from mlgraph.graph.ops import argument, op_name

if TYPE_CHECKING:
    from torch import fx

_SLIDING = "windows slide over it"


@structure(
    "constant_pad_nd pad reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d "
    "replication_pad2d replication_pad3d"
)
def _pad(ctx: Context, node: fx.Node, dims: DimList) -> RuleResult:
    pads = [ctx.value(p) for p in node.args[1]]  # type: ignore[union-attr]
    name: str = op_name(node)
    mode = argument(node, "mode") if name == "pad" else name.partition("_pad")[0]
    out = list(dims)
    for i in range(len(pads) // 2):
        position = len(dims) - 1 - i
        before, after = pads[2 * i], pads[2 * i + 1]
        if before == after == 0:
            continue
        dim = out[position]
        data = not isinstance(before, int) or not isinstance(after, int)
        if mode != "constant" or data or before < 0 or after < 0:
            text = (
                "padding cuts it" if mode == "constant" else f"{mode} padding takes some of its indices twice"
            )
            out[position] = fresh(shape_of(ctx, node)[position])
            freeze_all(ctx, [dim, out[position]], text, node)
            continue
        borders = [fresh(before), fresh(after)]
        freeze_all(ctx, borders, "it is padding", node)
        out[position] = concatenate(
            [d for d, n in ((borders[0], before), (dim, 1), (borders[1], after)) if n]
        )
    return out


@structure("unfold")
def _unfold(ctx: Context, node: fx.Node, dims: DimList) -> RuleResult:
    position = int(node.args[1]) % len(dims)  # type: ignore[arg-type]
    ctx.freeze(dims[position], _SLIDING, node)
    new = ctx.fresh(node, _SLIDING)
    return [*dims[:position], new[position], *dims[position + 1 :], new[-1]]


@structure("im2col col2im")
def _im2col(ctx: Context, node: fx.Node, dims: DimList) -> RuleResult:
    """Channels times window positions; the spatial dims merge."""
    channel = len(dims) - 3 if op_name(node) == "im2col" else len(dims) - 2
    for dim in dims[channel + 1 :]:
        ctx.freeze(dim, _SLIDING, node)
    sizes = shape_of(ctx, node)
    if op_name(node) == "im2col":
        window = fresh(sizes[channel] // size_of(dims[channel]))
        blocks = fresh(sizes[-1])
        freeze_all(ctx, [window, blocks], _SLIDING, node)
        return [*dims[:channel], (*dims[channel], *window), blocks]
    channels, window = regroup([dims[channel]], [sizes[channel], size_of(dims[channel]) // sizes[channel]])
    ctx.freeze(window, _SLIDING, node)
    spatial = [fresh(sizes[-2]), fresh(sizes[-1])]
    freeze_all(ctx, spatial, _SLIDING, node)
    return [*dims[:channel], channels, *spatial]


@structure("pixel_shuffle pixel_unshuffle")
def _pixel_shuffle(ctx: Context, node: fx.Node, dims: DimList) -> RuleResult:
    factor = int(node.args[1])  # type: ignore[arg-type]
    *lead, c, h, w = dims
    inner = [fresh(factor), fresh(factor)]
    freeze_all(ctx, inner, "pixels are rearranged by it", node)
    if op_name(node) == "pixel_shuffle":
        channels, a, b = regroup([c], [size_of(c) // factor**2, factor, factor])
        freeze_all(ctx, [a, b], "pixels are rearranged by it", node)
        return [*lead, channels, (*h, *a), (*w, *b)]
    high, a = regroup([h], [size_of(h) // factor, factor])
    wide, b = regroup([w], [size_of(w) // factor, factor])
    freeze_all(ctx, [a, b], "pixels are rearranged by it", node)
    return [*lead, (*c, *a, *b), high, wide]


@structure("channel_shuffle native_channel_shuffle")
def _channel_shuffle(ctx: Context, node: fx.Node, dims: DimList) -> RuleResult:
    groups = int(node.args[1])  # type: ignore[arg-type]
    major, minor = regroup([dims[1]], [groups, size_of(dims[1]) // groups])
    return [dims[0], (*minor, *major), *dims[2:]]


@rule("grid_sampler grid_sampler_2d grid_sampler_3d")
def _grid_sampler(ctx: Context, node: fx.Node) -> RuleResult:
    """Samples of the first argument's channels at points that the second gives by their coordinates."""
    dims, grid = ctx.dims(node.args[0]), ctx.dims(node.args[1])
    freeze_all(ctx, [*dims[2:], grid[-1]], "points are given by coordinates in it", node)
    if size_of(dims[0]) != 1:
        ctx.unify(dims[0], grid[0], node)
    for operand in node.args[:2]:
        ctx.emit(operand)
    return [dims[0], dims[1], *grid[1:-1]]


_POOLED = {"1d": 1, "2d": 2, "3d": 3}


@rule(
    "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d "
    "adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d max_pool2d_with_indices "
    "_adaptive_avg_pool2d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d "
    "upsample_bicubic2d upsample_linear1d upsample_trilinear3d _upsample_bilinear2d_aa "
    "_upsample_bicubic2d_aa "
    "_upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d"
)
def _pool(ctx: Context, node: fx.Node) -> RuleResult:
    """Leading dims are kept; windows or resampling run over the trailing, spatial ones."""
    dims = ctx.dims(node.args[0])
    name: str = op_name(node)
    spatial = next((n for suffix, n in _POOLED.items() if suffix in name), 2)
    lead = len(dims) - spatial
    still = _unmoved(node, spatial)
    for dim, kept in zip(dims[lead:], still, strict=True):
        if not kept:
            ctx.freeze(dim, _SLIDING, node)
    ctx.emit(node.args[0])

    def result(output: int | None) -> Any:
        value = ctx.value(node) if output is None else ctx.value(node)[output]
        sizes = value.shape[value.dim() - spatial :]
        out = [fresh(size if isinstance(size, int) else -1) for size in sizes]
        freeze_all(ctx, [new for new, kept in zip(out, still, strict=True) if not kept], _SLIDING, node)
        return [*dims[:lead], *(d if k else n for d, n, k in zip(dims[lead:], out, still, strict=True))]

    value = ctx.value(node)
    if isinstance(value, (tuple, list)):
        return [result(i) for i in range(len(value))]
    return result(None)  # type: ignore[no-any-return]


def _unmoved(node: fx.Node, spatial: int) -> list[bool]:
    """Per spatial dim, whether the windows of a pooling are single indices of it, each taken once."""
    name: str = op_name(node)
    if not name.startswith(("max_pool", "avg_pool")):
        return [False] * spatial

    def per_dim(name: str, default: Any) -> list[Any]:
        value: Any = argument(node, name) or default
        listed = list(value) if isinstance(value, (list, tuple)) else [value]
        return listed * spatial if len(listed) == 1 else listed

    windows = per_dim("kernel_size", 0)
    steps = zip(windows, per_dim("stride", windows), per_dim("padding", 0), strict=True)
    return [step == (1, 1, 0) for step in steps]
