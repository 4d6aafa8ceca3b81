"""In-place writes replaced by what they compute."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor

from mlgraph.graph.effects import aten, memory, mutates, views
from mlgraph.graph.ops import has
from mlgraph.graph.sizes import dtype_of, same_sizes
from mlgraph.graph.traits import Trait

_SCATTER: dict[Any, Any] = {
    aten.slice.Tensor: aten.slice_scatter.default,
    aten.select.int: aten.select_scatter.default,
}


def functional(graph: fx.Graph) -> None:
    """Turn in-place ops on values made in the graph into functional ones, where that is sure to be the same.

    An op on a fresh value whose other views are no longer read is replaced by its functional form; an op on a
    slice or selection of a fresh value is scattered back. What writes to inputs or buffers stays.
    """
    order = {node: index for index, node in enumerate(graph.nodes)}
    apart = _last_views(graph, order)
    for node in list(graph.nodes):
        if not mutates(node) or node.target in (aten.batch_norm.default,):
            continue
        form = _functional_form(node.target)
        chain = _chain(node.args[0], apart)
        if form is None or chain is None:
            continue
        base, path = chain
        related = {n for n, r in memory(graph, apart).items() if r is base and n is not base}
        known = {node, *path}
        before = {n for n in related - known if order.get(n, len(order)) < order[node]}
        after = [n for n in before if any(order.get(u, -1) > order[node] for u in n.users)]
        if after or base in path:
            continue
        _rewrite(graph, node, form, base, path, order)


def _last_views(graph: fx.Graph, order: Mapping[fx.Node, int]) -> set[fx.Node]:
    """Possible views of fresh values that nothing else reads from then on: a write to them stays theirs."""
    root = memory(graph)
    relatives: defaultdict[fx.Node, list[fx.Node]] = defaultdict(list)
    for node, maker in root.items():
        relatives[maker].append(node)
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if not has(node, Trait.MAY_SHARE) or root[node].op != "call_function":
            continue
        own = {node}
        for other in relatives[root[node]]:
            if views(other) in own:
                own.add(other)
        others = [other for other in relatives[root[node]] if other not in own]
        if all(order[user] <= order[node] for other in others for user in other.users):
            found.add(node)
    return found


def _chain(node: Any, apart: Collection[fx.Node] = ()) -> tuple[fx.Node, list[fx.Node]] | None:
    """The fresh value behind a chain of slices and selections, and the chain from it on."""
    path: list[fx.Node] = []
    while isinstance(node, fx.Node) and node.target in _SCATTER:
        path.insert(0, node)
        node = node.args[0]
    if not isinstance(node, fx.Node) or node.op != "call_function":
        return None
    if views(node) is not None and node not in apart:
        return None
    return node, path


def _rewrite(
    graph: fx.Graph,
    node: fx.Node,
    form: Callable[..., Any],
    base: fx.Node,
    path: list[fx.Node],
    order: dict[fx.Node, int],
) -> None:
    later = [user for user in base.users if order.get(user, -1) > order[node]]
    changed = [[u for u in link.users if u is not node and order.get(u, -1) > order[node]] for link in path]
    with graph.inserting_before(node):
        if node.target is aten.copy_.default:
            new = _copied(graph, node)
        else:
            new = graph.call_function(form, node.args, dict(node.kwargs))
        new.meta = dict(node.meta)
        results = [new]
        value = new
        for outer, link in zip([base, *path][::-1][1:], path[::-1], strict=True):
            value = graph.call_function(_SCATTER[link.target], (outer, value, *link.args[1:]))
            value.meta = {**node.meta, "symbolic": outer.meta.get("symbolic")}
            results.append(value)
    for fresh in [*results]:
        order[fresh] = order[node]
    for link, users, replacement in zip([*path], changed, results[::-1][1:], strict=True):
        for user in users:
            user.replace_input_with(link, replacement)
    if not path:
        value = new
    for user in later:
        if user is not node and user not in results:
            user.replace_input_with(base, value)
    node.replace_all_uses_with(new)
    graph.erase_node(node)


def _copied(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """What a copy puts in the place of its first argument: ``aten.copy`` has no gradient."""
    into, value = node.args[0], node.args[1]
    assert isinstance(into, fx.Node)
    assert isinstance(value, fx.Node)
    meta = {**node.meta, "symbolic": value.meta.get("symbolic")}
    dtype = dtype_of(into)
    if dtype is not None and dtype is not dtype_of(value):
        value = graph.call_function(aten.to.dtype, (value, dtype))
        value.meta = {**meta, "symbolic": _with_dtype(meta["symbolic"], dtype)}
    if not same_sizes(into, value):
        value = graph.call_function(aten.expand_as.default, (value, into))
        value.meta = dict(node.meta)
    # what is written to the one later must not be written to the other
    return graph.call_function(aten.clone.default, (value,))


def _with_dtype(symbolic: Any, dtype: torch.dtype) -> Any:
    if not isinstance(symbolic, FakeTensor):
        return symbolic
    with symbolic.fake_mode, torch.no_grad():
        return symbolic.to(dtype)


# In-place overloads whose functional form has another name or overload.
_FORMS: dict[Any, Any] = {
    aten.copy_.default: aten.clone.default,
    aten.fill_.Tensor: aten.fill.Tensor,
    aten.fill_.Scalar: aten.full_like.default,
    aten.zero_.default: aten.zeros_like.default,
    aten.bernoulli_.float: aten.bernoulli.p,
}


def _functional_form(target: Any) -> Any:
    """The overload that makes what ``target`` writes from the same arguments, if there is one."""
    if target in _FORMS:
        return _FORMS[target]
    name = target._schema.name.split("::")[1]
    overloads = getattr(aten, name[:-1], None) if name.endswith("_") else None
    return getattr(overloads, target._overloadname, None)
