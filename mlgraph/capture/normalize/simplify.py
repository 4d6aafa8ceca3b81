"""Nodes that do nothing, values computed twice, and small constants computed anew on every call."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import fx

from mlgraph.capture.normalize.scalars import put_number
from mlgraph.graph.effects import is_random, memory, mutates, written
from mlgraph.graph.ops import arguments, has, op_name
from mlgraph.graph.sizes import argument_size, dtype_of, same_sizes, sizes_of
from mlgraph.graph.traits import Trait

aten = torch.ops.aten

_INT64_MAX = 2**63 - 1
# A folded constant larger than this many bytes would swell files more than it saves time.
_FOLD_BYTES = 1 << 18

_FACTORIES = Trait.FILLS | Trait.RANGE


def simplify(graph: fx.Graph, trained: Collection[str]) -> None:
    """Remove no-ops, merge equal values and drop what nothing uses; in place.

    ``trained`` names the tensors to which gradients flow.
    """
    dirty = written(graph)
    _remove_no_ops(graph, dirty, trained)
    _contract_size_one(graph)
    _merge_equal(graph, dirty)
    remove_dead(graph)


def remove_dead(graph: fx.Graph) -> None:
    """Drop nodes whose results nothing reads and that write nothing that is read.

    A write counts when the memory belongs to an input or a tensor of the program, or is read
    by something that counts.
    """
    root = memory(graph)
    writers: dict[fx.Node, list[fx.Node]] = {}
    live: set[fx.Node] = set()
    pending: list[fx.Node] = []
    for node in graph.nodes:
        if mutates(node):
            writers.setdefault(root[node], []).append(node)
            if root[node].op in ("placeholder", "get_attr"):
                pending.append(node)
        elif node.op in ("output", "placeholder"):
            pending.append(node)
    while pending:
        node = pending.pop()
        if node in live:
            continue
        live.add(node)
        pending.extend(node.all_input_nodes)
        pending.extend(writers.get(root[node], ()))
    for node in reversed(list(graph.nodes)):
        if node not in live:
            graph.erase_node(node)


def carries_gradient(graph: fx.Graph, trained: Collection[str]) -> set[fx.Node]:
    """Nodes through which a gradient could flow back to a trained tensor or a floating-point input.

    A buffer that is written to may hold what such a node wrote, so it counts as one of them.
    """
    dirty = written(graph)
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or (
            node.op == "get_attr" and (str(node.target) in trained or node in dirty)
        ):
            value = node.meta.get("symbolic")
            if isinstance(value, torch.Tensor) and value.dtype.is_floating_point:
                found.add(node)
        elif op_name(node) == "detach":
            continue
        elif any(argument in found for argument in node.all_input_nodes):
            dtype = dtype_of(node)
            if dtype is None or dtype.is_floating_point or dtype.is_complex:
                found.add(node)
    return found


def _remove_no_ops(graph: fx.Graph, dirty: set[fx.Node], trained: Collection[str]) -> None:
    differentiable = carries_gradient(graph, trained)
    for node in list(graph.nodes):
        if node.op != "call_function" or node in dirty or not node.args:
            continue
        source = node.args[0]
        if not isinstance(source, fx.Node):
            continue
        if node.target is aten.detach.default and source not in differentiable:
            same = True
        else:
            test = _NO_OPS.get(node.target)
            same = test is not None and test(node, source)
        if same:
            node.replace_all_uses_with(source)
            graph.erase_node(node)


def _always(_node: fx.Node, _source: fx.Node) -> bool:
    return True


def _is_full_slice(node: fx.Node, source: fx.Node) -> bool:
    sizes = sizes_of(source)
    dim, start, end, step = arguments(node)[1:5]
    if step != 1 or start not in (None, 0):
        return False
    if end is None or end == _INT64_MAX:
        return True
    return sizes is not None and argument_size(end) == sizes[dim]


def _keeps_sizes(node: fx.Node, source: fx.Node) -> bool:
    return same_sizes(node, source)


def _keeps_integer_dtype(node: fx.Node, source: fx.Node) -> bool:
    # Casts between equal floating-point types are kept: they act under autocast and in lower precision.
    dtype = dtype_of(source)
    return dtype is not None and dtype == dtype_of(node) and not dtype.is_floating_point


def _is_neutral(neutral: float) -> Callable[[fx.Node, fx.Node], bool]:
    def test(node: fx.Node, source: fx.Node) -> bool:
        other = node.args[1]
        alpha = node.kwargs.get("alpha", 1)
        plain = isinstance(other, int | float) and not isinstance(other, bool)
        return bool(plain and other == neutral and alpha == 1 and dtype_of(node) == dtype_of(source))

    return test


def _pads_nothing(node: fx.Node, _source: fx.Node) -> bool:
    amounts = node.args[1]
    return isinstance(amounts, list | tuple) and all(amount == 0 for amount in amounts)


_NO_OPS: dict[Any, Callable[[fx.Node, fx.Node], bool]] = {
    aten.alias.default: _always,
    aten.lift_fresh_copy.default: _always,
    aten.lift_fresh.default: _always,
    aten.lift.default: _always,
    aten.slice.Tensor: _is_full_slice,
    aten.view.default: _keeps_sizes,
    aten.reshape.default: _keeps_sizes,
    aten.flatten.using_ints: _keeps_sizes,
    aten.expand.default: _keeps_sizes,
    aten.expand_as.default: _keeps_sizes,
    aten.view_as.default: _keeps_sizes,
    aten.to.dtype: _keeps_integer_dtype,
    aten.add.Tensor: _is_neutral(0),
    aten.sub.Tensor: _is_neutral(0),
    aten.mul.Tensor: _is_neutral(1),
    aten.div.Tensor: _is_neutral(1),
    aten.pad.default: _pads_nothing,
    aten.constant_pad_nd.default: _pads_nothing,
}


def _contract_size_one(graph: fx.Graph) -> None:
    """A product summed over one term is a broadcast multiplication."""
    for node in graph.nodes:
        if not has(node, Trait.MATMUL):
            continue
        left, right = node.args
        left_sizes, right_sizes = sizes_of(left), sizes_of(right)
        if left_sizes is None or right_sizes is None or min(len(left_sizes), len(right_sizes)) < 2:
            continue
        if left_sizes[-1] == 1 and right_sizes[-2] == 1:
            node.target = aten.mul.Tensor


def _merge_equal(graph: fx.Graph, dirty: set[fx.Node]) -> None:
    seen: dict[Any, list[fx.Node]] = {}
    for node in list(graph.nodes):
        if node.op != "call_function" or node in dirty or is_random(node) or mutates(node):
            continue
        if node.target is aten.empty.memory_format or "empty" in str(node.target):
            continue
        key = _key(node)
        if key is None or node.meta.get("apart"):
            continue
        known = seen.setdefault(key, [])
        if not known or any(user in other.users for other in known for user in node.users):
            # what enters a first block and what all blocks read may be one value in that block
            known.append(node)
            continue
        places = _places(node)
        first = next((other for other in known if places & _places(other)), known[0])
        first.meta["module"] = common_module(first.meta["module"], node.meta["module"])
        node.replace_all_uses_with(first)
        graph.erase_node(node)


def _places(node: fx.Node) -> set[tuple[Any, int]]:
    """The ops that read a node, and as which of their arguments."""
    return {(user.target, at) for user in node.users for at, arg in enumerate(user.args) if arg is node}


def _key(node: fx.Node) -> Any:
    def freeze(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return tuple(freeze(item) for item in value)
        if isinstance(value, dict):
            return tuple(sorted((k, freeze(v)) for k, v in value.items()))
        # 1, 1.0 and True are equal in Python and not in a graph
        return (type(value), value)

    key = (node.target, freeze(node.args), freeze(dict(node.kwargs)), node.meta.get("autocast"))
    try:
        hash(key)
    except TypeError:
        return None
    return key


def common_module(first: str, second: str) -> str:
    """The innermost module that holds both."""
    shared = []
    for a, b in zip(first.split("."), second.split("."), strict=False):
        if a != b:
            break
        shared.append(a)
    return ".".join(shared)


def fold_constants(graph: fx.Graph, fresh_name: Callable[[str, str], str]) -> dict[str, torch.Tensor]:
    """Replace what depends on no input, size or tensor by a constant, and return the constants by name.

    Only values worked out from ranges are folded (an index grid, a table of angles), not plain fills, and
    only up to a size; they are named by ``fresh_name(module, label)``.
    """
    constant = _constant_nodes(graph)
    values: dict[str, torch.Tensor] = {}
    folded: dict[fx.Node, torch.Tensor] = {}
    for node in list(graph.nodes):
        if node not in constant or has(node, _FACTORIES) or all(user in constant for user in node.users):
            continue
        symbolic = node.meta.get("symbolic")
        if not isinstance(symbolic, torch.Tensor) or not all(
            isinstance(s, int) for s in sizes_of(node) or ()
        ):
            continue
        if symbolic.numel() * symbolic.element_size() > _FOLD_BYTES or not _has_range(node):
            continue
        name = fresh_name(str(node.meta["module"]), "constant")
        values[name] = _evaluate(node, dict(folded))
        with graph.inserting_before(node):
            attribute = graph.create_node("get_attr", name, name=name.replace(".", "_"))
        attribute.meta = {**node.meta, "module": name.rpartition(".")[0]}
        folded[attribute] = values[name]
        node.replace_all_uses_with(attribute)
        graph.erase_node(node)
    if values:
        remove_dead(graph)
    return values


def _constant_nodes(graph: fx.Graph) -> set[fx.Node]:
    dirty = written(graph)
    constant: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op != "call_function" or node in dirty or is_random(node) or mutates(node):
            continue
        inputs = node.all_input_nodes
        pure = all(argument in constant for argument in inputs) and (inputs or has(node, _FACTORIES))
        if pure and node.target is not aten.empty.memory_format:
            constant.add(node)
    for node in reversed(list(graph.nodes)):
        # spread out, a constant is larger, and tied to the size that it is spread over
        if has(node, Trait.BROADCASTS) and not all(user in constant for user in node.users):
            constant.discard(node)
    return constant


def _has_range(node: fx.Node) -> bool:
    pending, seen = [node], set()
    while pending:
        current = pending.pop()
        if has(current, Trait.RANGE):
            return True
        if current not in seen:
            seen.add(current)
            pending.extend(current.all_input_nodes)
    return False


def _evaluate(node: fx.Node, cache: dict[fx.Node, Any]) -> Any:
    if node not in cache:
        for argument in node.all_input_nodes:
            _evaluate(argument, cache)
        args, kwargs = fx.map_arg((node.args, node.kwargs), cache.__getitem__)
        assert callable(node.target)
        with torch.no_grad():
            value = node.target(*args, **kwargs)
        cache[node] = value.contiguous() if isinstance(value, torch.Tensor) else value
    return cache[node]


def hoist_sizes(graph: fx.Graph) -> None:
    """Read every dynamic size once, from the first input that has it.

    Sizes of intermediate values that equal an input's are replaced by it, so that they tie no part of the
    graph to another.
    """
    first: dict[Any, tuple[fx.Node, int]] = {}
    after = None
    for node in graph.nodes:
        if node.op == "placeholder":
            after = node
            dynamic = [(d, s) for d, s in enumerate(sizes_of(node) or ()) if not isinstance(s, int)]
            for dim, size in dynamic:
                first.setdefault(size, (node, dim))
    if after is None:
        return
    made: dict[Any, fx.Node] = {}
    for node in list(graph.nodes):
        if node.target is not aten.sym_size.int:
            continue
        size = argument_size(node)
        if isinstance(size, int):
            # a size that was free when it was read, and fixed by what came later
            put_number(node, size)
            graph.erase_node(node)
            continue
        if size not in first:
            continue
        if size not in made:
            source, dim = first[size]
            with graph.inserting_after(after):
                made[size] = graph.call_function(aten.sym_size.int, (source, dim))
            made[size].meta = {**node.meta, "module": ""}
        node.replace_all_uses_with(made[size])
        graph.erase_node(node)
