"""The arguments of ops at other axis sizes: one function per op that carries a size, a bound or an index."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from mlgraph.errors import AxisError
from mlgraph.graph.ops import argument, op_name
from mlgraph.program.dims import Dim, Dims

if TYPE_CHECKING:
    from mlgraph.program import Program

_WHOLE = 2**63 - 1


class Unresizable(AxisError):
    """An op whose arguments cannot be recomputed at other sizes; ``node`` is the one that calls it."""

    def __init__(self, text: str, node: fx.Node) -> None:
        super().__init__(text)
        self.node = node


class Resizer:
    """Recomputes the size arguments of copied nodes."""

    def __init__(self, program: Program, sizes: Mapping[str, int], graph: fx.Graph) -> None:
        self.dims = program.axes.node_dims
        self.sizes = sizes
        self.graph = graph
        self.copies: dict[fx.Node, fx.Node] = {}

    def change(self, node: fx.Node, new: fx.Node) -> None:
        resize = RESIZERS.get(op_name(node))
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


_Resize = Callable[[Resizer, fx.Node, fx.Node], None]


RESIZERS: dict[str, _Resize] = {}


def _resizer(names: str) -> Callable[[_Resize], _Resize]:
    def register(function: _Resize) -> _Resize:
        RESIZERS.update(dict.fromkeys(names.split(), function))
        return function

    return register


def _sizes_at(position: int) -> _Resize:
    def resize(r: Resizer, node: fx.Node, new: fx.Node) -> None:
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
def _randint(r: Resizer, node: fx.Node, new: fx.Node) -> None:
    position = next(i for i, a in enumerate(node.args) if isinstance(a, (tuple, list)))
    _sizes_at(position)(r, node, new)


@_resizer("unflatten")
def _unflatten(r: Resizer, node: fx.Node, new: fx.Node) -> None:
    given: Any = node.args[2]
    dims = r.of(node)
    start = int(node.args[1]) % len(r.of(node.args[0]))  # type: ignore[arg-type]
    new.update_arg(2, [r.size(s, dim) for s, dim in zip(given, dims[start:], strict=False)])


@_resizer("repeat tile")
def _repeat(r: Resizer, node: fx.Node, new: fx.Node) -> None:
    given: list[Any] = list(node.args[1])  # type: ignore[arg-type]
    dims, source = r.of(node), r.of(node.args[0])
    padded = [Dim()] * (len(dims) - len(source)) + list(source)
    out: list[Any] = []
    for count, dim, inner in zip(given, dims, padded, strict=True):
        out.append(r.new_size(dim) // r.new_size(inner) if isinstance(count, int) else r.copies[count])
    new.update_arg(1, out)


@_resizer("repeat_interleave")
def _repeat_interleave(r: Resizer, node: fx.Node, new: fx.Node) -> None:
    if isinstance(node.args[1], int):
        position: Any = argument(node, "dim")
        new.update_arg(1, r.new_size(r.of(node)[position]) // r.new_size(r.of(node.args[0])[position]))


@_resizer("layer_norm rms_norm native_layer_norm _fused_rms_norm")
def _layer_norm(r: Resizer, node: fx.Node, new: fx.Node) -> None:
    count = len(list(node.args[1]))  # type: ignore[arg-type]
    new.update_arg(1, [r.new_size(dim) for dim in r.of(node.args[0])[-count:]])


def _leading(r: Resizer, dim: Dim, count: int) -> int:
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
def _group_norm(r: Resizer, node: fx.Node, new: fx.Node) -> None:
    groups = int(node.args[1])  # type: ignore[arg-type]
    if groups > 1:
        new.update_arg(1, _leading(r, r.of(node.args[0])[1], groups))


@_resizer("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d")
def _conv(r: Resizer, node: fx.Node, new: fx.Node) -> None:
    groups: Any = argument(node, "groups")
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
def _split(r: Resizer, node: fx.Node, new: fx.Node) -> None:
    position: Any = argument(node, "dim")
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
def _slice(r: Resizer, node: fx.Node, new: fx.Node) -> None:
    position: Any = argument(node, "dim")
    dim = r.of(node.args[0])[position]
    size = dim.size
    if r.new_size(dim) == size:
        return
    start, end, step = (argument(node, name) for name in ("start", "end", "step"))
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
def _slice_scatter(r: Resizer, node: fx.Node, new: fx.Node) -> None:
    position: Any = argument(node, "dim")
    dim = r.of(node.args[0])[position]
    if r.new_size(dim) == dim.size:
        return
    bounds = [argument(node, name) for name in ("start", "end", "step")]
    if any(isinstance(bound, fx.Node) for bound in bounds):
        raise ValueError("a computed bound")
    first, last, step = slice(*bounds).indices(dim.size)
    if step != 1:
        raise ValueError("a strided slice")
    new.args = (*new.args[:2], position, r.offset(dim, first), r.offset(dim, last), 1)
    new.kwargs = {}


@_resizer("select_scatter")
def _select_scatter(r: Resizer, node: fx.Node, new: fx.Node) -> None:
    dim = r.of(node.args[0])[int(node.args[2])]  # type: ignore[arg-type]
    if r.new_size(dim) != dim.size:
        index = int(node.args[3]) % dim.size  # type: ignore[arg-type]
        new.update_arg(3, r.offset(dim, index))


@_resizer("channel_shuffle native_channel_shuffle")
def _channel_shuffle(r: Resizer, node: fx.Node, new: fx.Node) -> None:
    new.update_arg(1, _leading(r, r.of(node.args[0])[1], int(node.args[1])))  # type: ignore[arg-type]


@_resizer("narrow")
def _narrow(r: Resizer, node: fx.Node, new: fx.Node) -> None:
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
def _select(r: Resizer, node: fx.Node, new: fx.Node) -> None:
    dim = r.of(node.args[0])[int(node.args[1])]  # type: ignore[arg-type]
    if r.new_size(dim) != dim.size:
        index = int(node.args[2]) % dim.size  # type: ignore[arg-type]
        new.update_arg(2, r.offset(dim, index))


@_resizer("scaled_dot_product_attention")
def _attention(r: Resizer, node: fx.Node, new: fx.Node) -> None:
    """A default scale follows the width of a head; it is pinned where that width changes."""
    dim = r.of(node.args[0])[-1]
    if node.kwargs.get("scale") is None and r.new_size(dim) != dim.size:
        new.kwargs = {**new.kwargs, "scale": 1 / math.sqrt(dim.size)}
