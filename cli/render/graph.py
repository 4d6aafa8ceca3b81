"""The graph of one block, and generated code, as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from mlgraph.cli.render.console import heading
from mlgraph.cli.render.explanation import short_source

if TYPE_CHECKING:
    from torch import fx

    from mlgraph.axes.expressions import DimExpr
    from mlgraph.program import Program


def graph_view(program: Program) -> list[Any]:
    """The nodes of the first block of each chain, or all where there is none, with dims and source lines."""
    nodes = {node.name: node for node in program.graph.nodes}
    if not len(program.blocks):
        return [heading("graph"), *_node_lines(program, nodes.values(), "")]
    views: list[Any] = []
    for chain in program.blocks:
        title = heading(f"{chain.name}, one block of {len(chain)}; enters {chain.blocks[0].entry}")
        inner = (nodes[name] for name in chain.blocks[0].nodes)
        views += [title, *_node_lines(program, inner, f"{chain.name}.{chain.numbers.start}."), ""]
    return views[:-1]


def _node_lines(program: Program, nodes: Iterable[fx.Node], prefix: str) -> Iterator[Any]:
    """Each node with its dims, below the source line that it comes from."""
    source = ""
    for node in nodes:
        if node.op == "get_attr":
            continue
        line = short_source(str(node.meta.get("source", "")))
        if line and line != source:
            source = line
            yield Text(f"# {line}", style="dim", overflow="ellipsis", no_wrap=True)
        grid = Table.grid(padding=(0, 1, 0, 0), expand=True)
        grid.add_column(overflow="fold", ratio=3)
        grid.add_column(overflow="fold", ratio=2)
        grid.add_row(Text(f"  {describe_call(node, prefix)}"), Text(node_dims(program, node.name)))
        yield grid


def describe_call(node: fx.Node, prefix: str = "") -> str:
    """``linear_3 = linear(add_2, query.weight)``: a node with what it reads, tensors without ``prefix``."""
    inputs = ", ".join(
        str(source.target).removeprefix(prefix) if source.op == "get_attr" else source.name
        for source in node.all_input_nodes
    )
    return f"{node.name} = {op_name(node)}({inputs})"


def op_name(node: fx.Node) -> str:
    """The name of a node's op, without its overload."""
    if node.op != "call_function":
        return node.op
    name = getattr(node.target, "_opname", None) or getattr(node.target, "__name__", None)
    return str(name or node.target)


def node_dims(program: Program, name: str) -> str:
    """The dims of a node's result in axis names, fixed and anonymous ones as numbers."""
    from mlgraph.axes.expressions import render

    names = {axis.id: axis.name for axis in program.axes}
    found = program.axes.node_dims.get(name)
    if not found:
        return ""

    def text(dims: Any) -> str:
        if dims and all(isinstance(dim, tuple) and dim and isinstance(dim[0], tuple) for dim in dims):
            return ", ".join(text(inner) for inner in dims)
        return f"[{', '.join(render(dim, partial(_axis_name, names, dim)) for dim in dims)}]"

    return text(found)


def _axis_name(names: Mapping[str, str], dim: DimExpr, axis: str) -> str:
    from mlgraph.axes.expressions import leaves

    sizes = {leaf.axis: leaf.size for leaf in leaves(dim)}
    return names.get(axis) or str(sizes[axis])


def forward_code(program: Program) -> str:
    """The source of every generated forward, each once, below the paths of the modules that run it."""
    from mlgraph.emit.module import emit
    from mlgraph.emit.runtime import Outlined, generated_source

    users: dict[str, list[str]] = {}
    for path, module in emit(program).named_modules():
        if isinstance(module, Outlined):
            users.setdefault(generated_source(module), []).append(path or program.name)
    sources = []
    for source, paths in users.items():
        title = paths[0] if len(paths) == 1 else f"{paths[0]} … {paths[-1]} ({len(paths)} modules)"
        sources.append(f"# {title}\n{source.rstrip()}\n")
    return "\n".join(sources)
