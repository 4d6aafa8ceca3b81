"""Rules of look-ups and scatters: the dim that is indexed is frozen, the others pass through."""

from __future__ import annotations

from typing import Any

from torch import fx

from mlgraph.axes.factors import Factors, fresh, hint, size_of
from mlgraph.axes.factors import freeze as _freeze
from mlgraph.axes.rules.pointwise import broadcast
from mlgraph.axes.rules.registry import Context, DimList, RuleResult, frozen_whole, rule, structure
from mlgraph.graph.ops import argument, has, op_name
from mlgraph.graph.traits import Trait
from mlgraph.program.axis_table import Reason

_INDEXED = "it is indexed by data"


@structure("embedding")
def _embedding(ctx: Context, node: fx.Node, dims: DimList) -> RuleResult:
    ctx.freeze(dims[0], "it indexes a lookup table", node, "lookup")
    hint(dims[1], "embedded")
    if _given(node.args[1]):
        hint(dims[0], "tokens")
    return [*ctx.dims(node.args[1]), *dims[1:]]


def _given(index: Any) -> bool:
    """Whether indices are an input of the model, at most rearranged."""
    while has(index, Trait.IDENTITY | Trait.CASTS | Trait.RESHAPES | Trait.SELECTS):
        index = index.args[0]
    return isinstance(index, fx.Node) and index.op == "placeholder"


@structure("embedding_bag")
def _embedding_bag(ctx: Context, node: fx.Node, dims: DimList) -> RuleResult:
    ctx.freeze(dims[0], "it indexes a lookup table", node, "lookup")
    for operand in node.all_input_nodes:
        if operand is not node.args[0]:
            for dim in ctx.dims(operand):
                ctx.freeze(dim, "bags are cut out of it", node)
            ctx.emit(operand)
    out: list[DimList] = [ctx.fresh(node, "it numbers bags", output=i) for i in range(len(ctx.value(node)))]
    for result in (out[0], out[-1]):
        if len(result) == 2 and size_of(result[1]) == size_of(dims[1]):
            result[1] = dims[1]
    return out  # type: ignore[return-value]


@structure("index _unsafe_index")
def _index(ctx: Context, node: fx.Node, dims: DimList) -> RuleResult:
    given: list[Any] = list(node.args[1])  # type: ignore[arg-type]
    positions = [i for i, index in enumerate(given) if index is not None]
    span: list[int] = []
    cursor = 0
    masks = False
    for index in given:
        value = ctx.value(index) if index is not None else None
        width = (
            value.dim()
            if value is not None and value.dtype.is_floating_point is False and _is_bool(value)
            else 1
        )
        masks = masks or width > 1 or (value is not None and _is_bool(value))
        if index is not None:
            span.extend(range(cursor, cursor + width))
        cursor += width
    for i in span:
        ctx.freeze(dims[i], _INDEXED, node)
    kept = [dim for i, dim in enumerate(dims) if i not in span]
    if masks:
        result = ctx.fresh(node, "its size depends on data")
        new = len(result) - len(kept)
        where = _insertion(positions, given)
        return [*kept[:where], *result[where : where + new], *kept[where:]]
    looked_up = broadcast(ctx, node, [given[i] for i in positions])
    where = _insertion(positions, given)
    return [*kept[:where], *looked_up, *kept[where:]]


def _is_bool(value: Any) -> bool:
    return str(value.dtype) in ("torch.bool", "torch.uint8")


def _insertion(positions: list[int], given: list[Any]) -> int:
    adjacent = positions == list(range(positions[0], positions[0] + len(positions)))
    return positions[0] if adjacent else 0


@structure("index_select")
def _index_select(ctx: Context, node: fx.Node, dims: DimList) -> RuleResult:
    position = int(node.args[1]) % len(dims)  # type: ignore[arg-type]
    ctx.freeze(dims[position], _INDEXED, node)
    index = ctx.dims(node.args[2])
    return [*dims[:position], *(index or [()]), *dims[position + 1 :]]


@rule("gather take_along_dim")
def _gather(ctx: Context, node: fx.Node) -> RuleResult:
    argument = node.args[1] if op_name(node) == "gather" else node.args[2]
    index = node.args[2] if op_name(node) == "gather" else node.args[1]
    dims, out = ctx.dims(node.args[0]), list(ctx.dims(index))
    position = int(argument) % len(dims)  # type: ignore[arg-type]
    ctx.freeze(dims[position], _INDEXED, node)
    for i, (a, b) in enumerate(zip(dims, out, strict=True)):
        if i != position:
            _match(ctx, a, b, node)
    ctx.emit(node.args[0])
    return out


def _match(ctx: Context, a: Factors, b: Factors, node: fx.Node) -> None:
    if size_of(a) == size_of(b):
        ctx.unify(a, b, node)
    else:
        ctx.freeze(a, "part of it is indexed", node)
        ctx.freeze(b, "part of it is indexed", node)


@rule("scatter scatter_add scatter_reduce")
def _scatter(ctx: Context, node: fx.Node) -> RuleResult:
    """Index and source lie along the dim that is indexed, as much of the others as the index has."""
    dims = ctx.dims(node.args[0])
    position = int(node.args[1]) % max(len(dims), 1)  # type: ignore[arg-type]
    for operand in node.args[2:4]:
        other = ctx.dims(operand)
        for i, (a, b) in enumerate(zip(dims, other, strict=False)):
            if i == position:
                ctx.freeze(a, _INDEXED, node)
                ctx.freeze(b, _INDEXED, node)
            else:
                _match(ctx, a, b, node)
        ctx.emit(operand)
    ctx.emit(node.args[0])
    return dims


@rule("index_add index_copy index_fill index_reduce")
def _scatter_slices(ctx: Context, node: fx.Node) -> RuleResult:
    """Slices along one dim, taken in the order of a list of indices."""
    dims = ctx.dims(node.args[0])
    position = int(node.args[1]) % max(len(dims), 1)  # type: ignore[arg-type]
    source = ctx.dims(argument(node, "source"))
    frozen = [*dims[position : position + 1], *ctx.dims(argument(node, "index"))]
    if len(source) == len(dims):
        for i, (a, b) in enumerate(zip(dims, source, strict=True)):
            if i == position:
                frozen.append(b)
            else:
                _match(ctx, a, b, node)
    else:
        frozen += [*dims, *source]
    for dim in frozen:
        ctx.freeze(dim, _INDEXED, node)
    for operand in node.all_input_nodes:
        ctx.emit(operand)
    return dims


@rule("index_put _unsafe_index_put")
def _index_put(ctx: Context, node: fx.Node) -> RuleResult:
    """What is indexed is frozen, with the indices; the values' other dims are those of the slices written."""
    dims = ctx.dims(node.args[0])
    given: list[Any] = list(node.args[1])  # type: ignore[arg-type]
    positions = [i for i, index in enumerate(given) if index is not None]
    frozen: DimList = [dim for index in given if index is not None for dim in ctx.dims(index)]
    cursor = rank = 0
    kept: DimList = []
    for index in given:
        value = ctx.value(index) if index is not None else None
        masks = value is not None and _is_bool(value)
        width = 1 if value is None or not masks else value.dim()
        (frozen if index is not None else kept).extend(dims[cursor : cursor + width])
        rank = max(rank, 1 if masks else 0 if value is None else value.dim())
        cursor += width
    kept.extend(dims[cursor:])
    where = _insertion(positions, given)
    written: list[Factors | None] = [*kept[:where], *([None] * rank), *kept[where:]]
    values = ctx.dims(node.args[2])
    for a, b in zip(reversed(written), reversed(values), strict=False):
        if a is None:
            frozen.append(b)
        elif size_of(b) != 1:
            _match(ctx, a, b, node)
    for dim in frozen:
        ctx.freeze(dim, _INDEXED, node)
    for operand in node.all_input_nodes:
        ctx.emit(operand)
    return dims


@rule("masked_scatter _unsafe_masked_index _unsafe_masked_index_put_accumulate put take resize resize_as")
def _by_data(ctx: Context, node: fx.Node) -> RuleResult:
    return frozen_whole(ctx, node, _INDEXED)


@rule(
    "bucketize searchsorted histc bincount unique_consecutive unique_dim _unique2 nonzero nonzero_static "
    "nonzero_numpy where.default isin masked_select"
)
def _lookup(ctx: Context, node: fx.Node) -> RuleResult:
    name = op_name(node)
    elementwise = name in ("bucketize", "isin")
    for operand in node.all_input_nodes:
        if not (elementwise and operand is node.args[0]):
            for dim in ctx.dims(operand):
                ctx.freeze(dim, f"its indices depend on data in {name}", node)
        ctx.emit(operand)
    if elementwise:
        return ctx.dims(node.args[0])
    value = ctx.value(node)
    if isinstance(value, (tuple, list)):
        return [ctx.fresh(node, f"its size depends on data in {name}", output=i) for i in range(len(value))]
    return ctx.fresh(node, f"its size depends on data in {name}")


@rule("topk kthvalue")
def _topk(ctx: Context, node: fx.Node) -> RuleResult:
    dims = ctx.dims(node.args[0])
    position: Any = argument(node, "dim")
    position %= len(dims)
    ctx.freeze(dims[position], "its largest entries are selected", node, "selected")
    out = []
    for i in range(2):
        new = ctx.fresh(node, "a rank among the largest entries", output=i)
        if len(new) == len(dims):
            out.append([*dims[:position], new[position], *dims[position + 1 :]])
        else:
            out.append([dim for j, dim in enumerate(dims) if j != position])
    return out


@rule("one_hot")
def _one_hot(ctx: Context, node: fx.Node) -> RuleResult:
    classes = fresh(ctx.value(node).shape[-1])
    _freeze(classes, Reason("classes", "it indexes classes", node.name))
    return [*ctx.dims(node.args[0]), classes]
