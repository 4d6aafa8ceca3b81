"""Rewrites a graph to other axis sizes.

Every integer that an op carries is recomputed from the dims it was inferred from, never by matching
numbers; the result is propagated on fake tensors and every node's shape compared with the one its axes
foretell.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from mlgraph.errors import AxisError, MlgraphError
from mlgraph.graph.copying import copy_nodes
from mlgraph.graph.ops import op_name
from mlgraph.graph.propagate import propagate
from mlgraph.program.dims import Dim, Dims

if TYPE_CHECKING:
    from mlgraph.program import Program, Tensors

_WHOLE = 2**63 - 1


@dataclass(frozen=True)
class Gain:
    """A factor on an activation before it is contracted: on dim ``position`` of ``operand`` where ``node``
    reads it.

    ``values`` has one factor for all indices, or one per index of the dim at its new size. Where the node
    reads the operand twice, the factor is put on one of them, unless on ``every_use``.
    """

    node: str
    operand: str
    position: int
    values: tuple[float, ...]
    every_use: bool = False


def rewrite(
    program: Program,
    sizes: Mapping[str, int],
    tensors: Tensors,
    gains: Sequence[Gain] = (),
) -> Program:
    """The program with axes of other sizes.

    Args:
        sizes: new size per axis id; axes not named keep theirs.
        tensors: the tensors at their new shapes (values may be lazy or on the meta device).
        gains: factors to put on activations before they are contracted.

    Raises:
        MlgraphError: an op cannot run, or does not give the foretold shape, at the new sizes.
    """
    made = resize_graph(program, sizes, tensors, gains)
    made.graph.lint()
    if made.added:
        tensors = tensors.replace({**tensors, **made.added})
    propagate(made.graph, program.signature, tensors)
    _check(program, sizes, made.copies)
    return program.replace(graph=made.graph, tensors=tensors)


@dataclass(frozen=True)
class ResizedGraph:
    """A graph at other axis sizes: the copy of every node, and the tensors of gains that were added.

    Nodes have the metadata of those they were copied from; nothing has been run.
    """

    graph: fx.Graph
    copies: Mapping[fx.Node, fx.Node]
    added: Mapping[str, torch.Tensor]


class Unresizable(AxisError):
    """An op whose arguments cannot be recomputed at other sizes; ``node`` is the one that calls it."""

    def __init__(self, text: str, node: fx.Node) -> None:
        super().__init__(text)
        self.node = node


def resize_graph(
    program: Program,
    sizes: Mapping[str, int],
    tensors: Tensors,
    gains: Sequence[Gain] = (),
    left_out: Mapping[fx.Node, fx.Node | None] | None = None,
) -> ResizedGraph:
    """The graph of a program with its arguments recomputed for other axis sizes, not run yet.

    Nodes in ``left_out`` have no copy; an earlier node stands in where one is given.

    Raises:
        Unresizable: an op cuts an axis that changes inside one of its groups.
    """
    graph = fx.Graph()
    resizer = _Resizer(program, sizes, graph)
    copies, left_out = resizer.copies, left_out or {}
    for node in program.graph.nodes:
        if node not in left_out:
            copy_nodes([node], graph, resizer.change, copies)
        elif (stand_in := left_out[node]) is not None:
            copies[node] = copies[stand_in]
    copied = {node.name for node in copies}
    added = _insert_gains(graph, copies, [gain for gain in gains if gain.node in copied], tensors)
    return ResizedGraph(graph, copies, added)


def _check(program: Program, sizes: Mapping[str, int], copies: Mapping[fx.Node, fx.Node]) -> None:
    foretold = program.axes.node_dims
    for old, new in copies.items():
        found, value = foretold.get(old.name), new.meta.get("val")
        if found is None or old.op == "output":
            continue
        values: list[Any] = list(value) if isinstance(value, (tuple, list)) else [value]
        for part, got in zip(found.results, values, strict=True):
            if not isinstance(got, torch.Tensor):
                continue
            want = [dim.new_size(sizes) for dim in part]
            if any(isinstance(g, int) and w > 0 and g != w for w, g in zip(want, got.shape, strict=True)):
                changed = ", ".join(sorted(sizes)[:4])
                raise MlgraphError(
                    f"{old.target} at {old.meta.get('source', old.name)} gives shape {list(got.shape)} "
                    f"instead of {want} "
                    f"once {changed} change: freeze the axes it touches, or register a rule for it."
                )


class _Resizer:
    """Recomputes the size arguments of copied nodes."""

    def __init__(self, program: Program, sizes: Mapping[str, int], graph: fx.Graph) -> None:
        self.dims = program.axes.node_dims
        self.sizes = sizes
        self.graph = graph
        self.copies: dict[fx.Node, fx.Node] = {}

    def change(self, node: fx.Node, new: fx.Node) -> None:
        resize = _RESIZERS.get(op_name(node))
        if resize is not None and self._concerned(node):
            with self.graph.inserting_before(new):
                try:
                    resize(self, node, new)
                except ValueError as error:
                    raise Unresizable(
                        f"{node.target} at {node.meta.get('source', node.name)} cuts an axis that is to "
                        f"change inside one of its groups ({error}): freeze that axis or choose another "
                        "grouping.",
                        node,
                    ) from error

    def _concerned(self, node: fx.Node) -> bool:
        dims = (dim for n in [node, *node.all_input_nodes] for dim in self.dims.get(n.name, ()))
        return any(dim.new_size(self.sizes) != dim.size for dim in dims)

    def of(self, argument: Any) -> Dims:
        """The dims of the one tensor that a node gives."""
        dims = self.dims[argument.name].tensor
        assert dims is not None, f"{argument} gives several results"
        return dims

    def new_size(self, dim: Dim) -> int:
        return dim.new_size(self.sizes)

    def size(self, given: Any, dim: Dim) -> Any:
        """A size argument for a dim: literals are replaced, computed ones scaled."""
        old, new = dim.size, dim.new_size(self.sizes)
        if old == new or (isinstance(given, int) and given == -1):
            return self.copies[given] if isinstance(given, fx.Node) else given
        if isinstance(given, int):
            return new
        ratio = Fraction(new, old)
        node: Any = self.copies.get(given, given)
        if ratio.numerator != 1:
            node = self.graph.call_function(operator.mul, (node, ratio.numerator))
        if ratio.denominator != 1:
            node = self.graph.call_function(operator.floordiv, (node, ratio.denominator))
        return node

    def offset(self, dim: Dim, position: int) -> int:
        return dim.offset(position, self.sizes)


_Resize = Callable[[_Resizer, fx.Node, fx.Node], None]
_RESIZERS: dict[str, _Resize] = {}


def _resizer(names: str) -> Callable[[_Resize], _Resize]:
    def register(function: _Resize) -> _Resize:
        _RESIZERS.update(dict.fromkeys(names.split(), function))
        return function

    return register


def _sizes_at(position: int) -> _Resize:
    def resize(r: _Resizer, node: fx.Node, new: fx.Node) -> None:
        given: Any = node.args[position]
        dims = r.of(node)
        new.update_arg(position, [r.size(s, dim) for s, dim in zip(given, dims, strict=True)])

    return resize


for _names, _position in (
    ("view reshape _unsafe_view expand expand_copy broadcast_to new_zeros new_ones new_empty new_full", 1),
    ("view_copy _reshape_copy", 1),
    ("zeros ones empty full rand randn", 0),
):
    _resizer(_names)(_sizes_at(_position))


@_resizer("randint")
def _randint(r: _Resizer, node: fx.Node, new: fx.Node) -> None:
    position = next(i for i, a in enumerate(node.args) if isinstance(a, (tuple, list)))
    _sizes_at(position)(r, node, new)


@_resizer("unflatten")
def _unflatten(r: _Resizer, node: fx.Node, new: fx.Node) -> None:
    given: Any = node.args[2]
    dims = r.of(node)
    start = int(node.args[1]) % len(r.of(node.args[0]))  # type: ignore[arg-type]
    new.update_arg(2, [r.size(s, dim) for s, dim in zip(given, dims[start:], strict=False)])


@_resizer("repeat tile")
def _repeat(r: _Resizer, node: fx.Node, new: fx.Node) -> None:
    given: list[Any] = list(node.args[1])  # type: ignore[arg-type]
    dims, source = r.of(node), r.of(node.args[0])
    padded = [Dim()] * (len(dims) - len(source)) + list(source)
    out: list[Any] = []
    for count, dim, inner in zip(given, dims, padded, strict=True):
        out.append(r.new_size(dim) // r.new_size(inner) if isinstance(count, int) else r.copies[count])
    new.update_arg(1, out)


@_resizer("repeat_interleave")
def _repeat_interleave(r: _Resizer, node: fx.Node, new: fx.Node) -> None:
    if isinstance(node.args[1], int):
        position: Any = node.args[2] if len(node.args) > 2 else node.kwargs["dim"]
        new.update_arg(1, r.new_size(r.of(node)[position]) // r.new_size(r.of(node.args[0])[position]))


@_resizer("layer_norm rms_norm native_layer_norm _fused_rms_norm")
def _layer_norm(r: _Resizer, node: fx.Node, new: fx.Node) -> None:
    count = len(list(node.args[1]))  # type: ignore[arg-type]
    new.update_arg(1, [r.new_size(dim) for dim in r.of(node.args[0])[-count:]])


def _leading(r: _Resizer, dim: Dim, count: int) -> int:
    """New number of the leading indices of a dim that number ``count`` now (groups of channels)."""
    taken = 1
    for end, term in enumerate(dim, start=1):
        taken *= term.size
        if taken == count:
            return r.new_size(Dim(dim.terms[:end]))
        if taken > count:
            break
    if dim.new_size(r.sizes) != dim.size:
        raise ValueError(count)
    return count


@_resizer("group_norm")
def _group_norm(r: _Resizer, node: fx.Node, new: fx.Node) -> None:
    groups = int(node.args[1])  # type: ignore[arg-type]
    if groups > 1:
        new.update_arg(1, _leading(r, r.of(node.args[0])[1], groups))


@_resizer("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d")
def _conv(r: _Resizer, node: fx.Node, new: fx.Node) -> None:
    groups: Any = node.args[6] if len(node.args) > 6 else node.kwargs.get("groups", 1)
    if groups == 1:
        return
    source, weight = r.of(node.args[0]), r.of(node.args[1])
    count = _leading(r, source[1 if len(source) == len(weight) else 0], groups)
    if len(node.args) > 6:
        new.update_arg(6, count)
    else:
        new.update_kwarg("groups", count)


@_resizer(
    "split chunk tensor_split split_with_sizes unsafe_split unsafe_chunk unsafe_split_with_sizes split_copy "
    "split_with_sizes_copy"
)
def _split(r: _Resizer, node: fx.Node, new: fx.Node) -> None:
    position: Any = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
    results = r.dims[node.name].results
    parts = [r.new_size(part[position]) for part in results]
    old = [part[position].size for part in results]
    if parts == old or any(isinstance(a, fx.Node) for a in _flat(node.args[1])):
        return
    new.target = torch.ops.aten.split_with_sizes.default
    new.args = (new.args[0], parts, position)
    new.kwargs = {}


def _flat(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value]


@_resizer("slice slice_copy")
def _slice(r: _Resizer, node: fx.Node, new: fx.Node) -> None:
    position: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    dim = r.of(node.args[0])[position]
    size = dim.size
    if r.new_size(dim) == size:
        return
    given: dict[str, Any] = dict(node.kwargs)
    given |= dict(zip(("dim", "start", "end", "step"), node.args[1:], strict=False))
    start, end, step = given.get("start"), given.get("end"), given.get("step", 1)
    if isinstance(start, fx.Node) or isinstance(end, fx.Node):
        raise ValueError("a computed bound")
    first, last, _ = slice(start, end, step).indices(size)
    if step != 1:
        if first >= step or last < size - step + 1:
            raise ValueError("a strided slice")
        new.args, new.kwargs = (new.args[0], position, first, _WHOLE, step), {}
        return
    stop = _WHOLE if last >= size else r.offset(dim, last)
    new.args, new.kwargs = (new.args[0], position, r.offset(dim, first), stop, 1), {}


@_resizer("slice_scatter")
def _slice_scatter(r: _Resizer, node: fx.Node, new: fx.Node) -> None:
    given: dict[str, Any] = dict(zip(("dim", "start", "end", "step"), node.args[2:], strict=False))
    given |= node.kwargs
    position: Any = given.get("dim", 0)
    dim = r.of(node.args[0])[position]
    if r.new_size(dim) == dim.size:
        return
    bounds = [given.get("start"), given.get("end"), given.get("step", 1)]
    if any(isinstance(bound, fx.Node) for bound in bounds):
        raise ValueError("a computed bound")
    first, last, step = slice(*bounds).indices(dim.size)
    if step != 1:
        raise ValueError("a strided slice")
    new.args = (*new.args[:2], position, r.offset(dim, first), r.offset(dim, last), 1)
    new.kwargs = {}


@_resizer("select_scatter")
def _select_scatter(r: _Resizer, node: fx.Node, new: fx.Node) -> None:
    dim = r.of(node.args[0])[int(node.args[2])]  # type: ignore[arg-type]
    if r.new_size(dim) != dim.size:
        index = int(node.args[3]) % dim.size  # type: ignore[arg-type]
        new.update_arg(3, r.offset(dim, index))


@_resizer("channel_shuffle native_channel_shuffle")
def _channel_shuffle(r: _Resizer, node: fx.Node, new: fx.Node) -> None:
    new.update_arg(1, _leading(r, r.of(node.args[0])[1], int(node.args[1])))  # type: ignore[arg-type]


@_resizer("narrow")
def _narrow(r: _Resizer, node: fx.Node, new: fx.Node) -> None:
    start, length = node.args[2], node.args[3]
    position: Any = node.args[1]
    dim = r.of(node.args[0])[position]
    if r.new_size(dim) == dim.size:
        return
    if isinstance(start, fx.Node) or isinstance(length, fx.Node):
        raise ValueError("a computed bound")
    first = int(start) % dim.size  # type: ignore[arg-type]
    new.update_arg(2, r.offset(dim, first))
    new.update_arg(3, r.offset(dim, first + int(length)) - r.offset(dim, first))  # type: ignore[arg-type]


@_resizer("select")
def _select(r: _Resizer, node: fx.Node, new: fx.Node) -> None:
    dim = r.of(node.args[0])[int(node.args[1])]  # type: ignore[arg-type]
    if r.new_size(dim) != dim.size:
        index = int(node.args[2]) % dim.size  # type: ignore[arg-type]
        new.update_arg(2, r.offset(dim, index))


@_resizer("scaled_dot_product_attention")
def _attention(r: _Resizer, node: fx.Node, new: fx.Node) -> None:
    """A default scale follows the width of a head; it is pinned where that width changes."""
    dim = r.of(node.args[0])[-1]
    if node.kwargs.get("scale") is None and r.new_size(dim) != dim.size:
        new.kwargs = {**new.kwargs, "scale": 1 / math.sqrt(dim.size)}


def _insert_gains(
    graph: fx.Graph, copies: Mapping[fx.Node, fx.Node], gains: Sequence[Gain], tensors: Tensors
) -> dict[str, torch.Tensor]:
    by_name = {old.name: new for old, new in copies.items()}
    scaled: dict[tuple[str, str], fx.Node] = {}
    added: dict[str, torch.Tensor] = {}
    for gain in gains:
        node, key = by_name[gain.node], (gain.node, gain.operand)
        operand = scaled.get(key, by_name[gain.operand])
        values = gain.values
        with graph.inserting_before(node):
            factor: Any = values[0]
            if len(set(values)) > 1:
                value = by_name[gain.operand].meta["val"]
                trailing = value.dim() - 1 - gain.position % value.dim()
                name = _free_name(tensors, added)
                added[name] = torch.tensor(values, dtype=value.dtype).view(-1, *([1] * trailing))
                factor = graph.get_attr(name)
            new = graph.call_function(torch.ops.aten.mul.Tensor, (operand, factor))
        new.meta = {k: v for k, v in node.meta.items() if k in ("module", "source")}
        if gain.every_use:
            node.replace_input_with(operand, new)
        else:
            _replace_first(node, operand, new)
        scaled[key] = new
    return added


def _replace_first(node: fx.Node, old: fx.Node, new: fx.Node) -> None:
    """Replace the first use of an input: where a node reads a value twice, one factor suffices."""
    left = [new]
    swapped = fx.map_arg((node.args, node.kwargs), lambda n: left.pop() if n is old and left else n)
    node.args, node.kwargs = swapped


def _free_name(tensors: Tensors, added: Mapping[str, torch.Tensor]) -> str:
    count = 0
    while f"gain_{count}" in tensors or f"gain_{count}" in added:
        count += 1
    return f"gain_{count}"
