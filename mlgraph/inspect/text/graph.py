"""The graph of one block, and generated code, as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from rich.text import Text

from mlgraph.graph.ops import op_label
from mlgraph.inspect.text.console import heading
from mlgraph.inspect.text.explanation import short_source
from mlgraph.inspect.text.layout import wrapped

if TYPE_CHECKING:
    from torch import fx

    from mlgraph.program import Program
    from mlgraph.program.dims import Dim, Dims

_LEFT = 0.56
_INDENT = 2
_HANGING = 4
_NO_END = 2**62


def graph_view(program: Program, width: int = 80) -> list[Any]:
    """The nodes of the first block of each chain, or all where there is none, with dims and source lines."""
    notation = Notation(program)
    views: list[Any] = []
    for title, prefix, nodes in _segments(program):
        views += [heading(title), *_node_lines(notation, nodes, prefix, width), ""]
    return views[:-1]


def graph_data(program: Program) -> list[dict[str, Any]]:
    """The same for JSON: the nodes of each block in order."""
    notation = Notation(program)
    return [
        {
            "graph": title,
            "nodes": [
                {
                    "node": node.name,
                    "op": op_label(node),
                    "call": notation.call(node),
                    "dims": list(notation.dims(node.name)),
                    "module": str(node.meta.get("module", "")),
                    "source": str(node.meta.get("source") or ""),
                }
                for node in nodes
            ],
        }
        for title, _, nodes in _segments(program)
    ]


def _segments(program: Program) -> Iterator[tuple[str, str, list[fx.Node]]]:
    """A title, the prefix that its tensors share, and the nodes, of each block to be shown."""
    nodes = {node.name: node for node in program.graph.nodes}
    if not len(program.blocks):
        yield "graph", "", [node for node in nodes.values() if node.op != "get_attr"]
    for chain in program.blocks:
        first = chain.blocks[0]
        inner = [nodes[name] for name in first.nodes if nodes[name].op != "get_attr"]
        title = f"{chain.name} ×{len(chain)}: the first, from {first.entry} to {first.exit}"
        yield title, f"{chain.name}.{chain.numbers.start}.", inner


def _node_lines(notation: Notation, nodes: Iterable[fx.Node], prefix: str, width: int) -> Iterator[Text]:
    """Each node with its dims, below the source line that it comes from."""
    source = ""
    for node in nodes:
        line = short_source(str(node.meta.get("source") or ""))
        if line and line != source:
            source = line
            told = f"# {line}"
            yield Text(told if len(told) <= width else f"{told[: width - 1]}…", style="dim", no_wrap=True)
        yield from _columns(notation.call(node, prefix), notation.dims(node.name), width)


def _columns(call: str, dims: tuple[str, ...], width: int) -> Iterator[Text]:
    """A call to the left, which wraps with a hanging indent, and dims to the right of it."""
    start = int(_LEFT * width)
    whole = " ".join(dims)
    if len(call) + 2 * _INDENT <= start or len(call) + len(whole) + 2 * _INDENT > width:
        left = wrapped(call.split(" "), start - _INDENT - _HANGING)
        right = wrapped(dims, width - start)
    else:
        left, right, start = [call], [whole], len(call) + 2 * _INDENT
    for number, (one, other) in enumerate(zip_longest(left, right, fillvalue="")):
        line = Text(" " * (_INDENT + (_HANGING if number else 0)) + one, no_wrap=True, overflow="ignore")
        line.pad_right(max(start - len(line), 0))
        line.append(other, "cyan").rstrip()
        yield line


class Notation:
    """Writes nodes and their dims: axes by name, the sizes of inputs by theirs, the rest as numbers."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._axes = {axis.id: axis.name for axis in program.axes}
        self._inputs: dict[Dim, str] = {}
        self._sizes: dict[tuple[str, int], str] = {}
        inputs = [node for node in program.graph.nodes if node.op == "placeholder"]
        for node, leaf in zip(inputs, program.signature.inputs, strict=True):
            dims = program.axes.result_dims(node.name) or ()
            for position, symbol in enumerate(leaf.symbols):
                if symbol is None:
                    continue
                self._sizes[node.name, position] = symbol
                if position < len(dims) and dims[position]:
                    self._inputs.setdefault(dims[position], symbol)

    def call(self, node: fx.Node, prefix: str = "") -> str:
        """``transpose = transpose(view, 1, 2)``; tensors are named without ``prefix``."""
        told = [self._value(argument, prefix) for argument in node.args]
        for name, argument in node.kwargs.items():
            if argument is not None and name not in ("device", "pin_memory", "layout", "memory_format"):
                told.append(f"{name}={self._value(argument, prefix)}")
        while told and told[-1] == "None":
            told.pop()
        return f"{node.name} = {op_label(node)}({', '.join(told)})"

    def _value(self, value: Any, prefix: str) -> str:
        from torch import fx

        if isinstance(value, fx.Node):
            if value.op == "get_attr":
                return str(value.target).removeprefix(prefix)
            return self._size(value) or value.name
        if isinstance(value, list | tuple):
            return f"[{', '.join(self._value(item, prefix) for item in value)}]"
        if isinstance(value, float):
            return f"{value:.6g}"
        if isinstance(value, int) and value >= _NO_END:
            return "end"
        return str(value).removeprefix("torch.")

    def _size(self, node: fx.Node) -> str:
        """The name of the size that a node reads off an input, if it does."""
        if op_label(node) != "sym_size" or not hasattr(node.args[0], "name"):
            return ""
        return self._sizes.get((node.args[0].name, int(node.args[1])), "")  # type: ignore[union-attr, arg-type]

    def dims(self, name: str) -> tuple[str, ...]:
        """The dims of a node's result as parts between which a line may break."""
        found = self._program.axes.node_dims.get(name)
        return tuple(part for dims in found.results for part in self._parts(dims)) if found else ()

    def _parts(self, dims: Dims) -> Iterator[str]:
        texts = [self.dim(dim) for dim in dims]
        for place, text in enumerate(texts):
            yield f"{'[' if place == 0 else ''}{text}{']' if place == len(texts) - 1 else ','}"

    def dim(self, dim: Dim) -> str:
        """One dim: ``heads·head_dim``, ``batch·sequence``, ``expert_mlp | expert_mlp``."""
        if dim in self._inputs:
            return self._inputs[dim]
        return "·".join(self._term(term, alone=len(dim) == 1) for term in dim) or "1"

    def _term(self, term: Any, alone: bool) -> str:
        from mlgraph.program.dims import Dim, Leaf

        if Dim((term,)) in self._inputs:
            return self._inputs[Dim((term,))]
        if isinstance(term, Leaf):
            return self._axes.get(term.axis) or str(term.size)
        if all(not part for part in term.parts):
            return str(len(term.parts))
        joined = " | ".join(self.dim(part) for part in term.parts)
        return joined if alone else f"({joined})"


def forward_code(program: Program) -> str:
    """The source of every generated forward, each once, below the paths of the modules that run it."""
    sources = []
    for source, paths in _sources(program).items():
        title = paths[0] if len(paths) == 1 else f"{paths[0]} … {paths[-1]} ({len(paths)} modules)"
        sources.append(f"# {title}\n{source.rstrip()}\n")
    return "\n".join(sources)


def code_data(program: Program) -> list[dict[str, Any]]:
    """The same for JSON."""
    return [{"modules": paths, "source": source} for source, paths in _sources(program).items()]


def _sources(program: Program) -> Mapping[str, list[str]]:
    """Per generated source the paths of the modules that run it."""
    from mlgraph.emit.module import emit
    from mlgraph.emit.runtime import Outlined, generated_source

    users: dict[str, list[str]] = {}
    for path, module in emit(program).named_modules():
        if isinstance(module, Outlined):
            users.setdefault(generated_source(module), []).append(path or program.name)
    return users
