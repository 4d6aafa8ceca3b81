"""Floating-point operations of a program, counted from its graph.

What is counted is what ``torch.utils.flop_counter`` counts: the multiply-adds of contractions (two
operations each), not pointwise work. Attention counts as its two matrix products, and four in the
backward pass: what a fused kernel computes again is not work that the model asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from mlgraph.graph.propagate import at_sizes

if TYPE_CHECKING:
    from mlgraph.program import Program

_aten = torch.ops.aten

InputLeaf = tuple[tuple[int, ...], torch.dtype | None]
"""The shape and dtype of an input leaf; no dtype where it is no tensor."""


@dataclass(frozen=True)
class Flops:
    """Operations on one batch: the ``forward`` pass, and a ``training`` step (forward and backward).

    ``samples`` is the first size of the first input, ``tokens`` the number of its elements where it holds
    integer ids and else ``samples``.
    """

    forward: int
    training: int
    samples: int
    tokens: int

    @property
    def per_token(self) -> float:
        """Training operations per token."""
        return self.training / max(self.tokens, 1)


def flops_at(program: Program, leaves: Sequence[InputLeaf] | None = None) -> Flops:
    """Operations of ``program`` on inputs of the given shapes and dtypes, one per input leaf.

    By default those are the sizes with which it was captured.
    """
    graph, captured = program.graph, [(leaf.shape, leaf.dtype) for leaf in program.signature.inputs]
    leaves = captured if leaves is None else leaves
    if [shape for shape, _ in leaves] != [shape for shape, _ in captured]:
        graph = at_sizes(program, [shape for shape, _ in leaves])
    forward, backward = _count(graph, program)
    samples, tokens = _extent(leaves)
    return Flops(forward, forward + backward, samples, tokens)


def forward_by_module(program: Program) -> dict[str, int]:
    """Operations of the forward pass that each module runs itself, by its qualified name."""
    totals: dict[str, int] = {}
    counted = forward_by_node(program.graph)
    for node in program.graph.nodes:
        if node.name in counted:
            module = str(node.meta.get("module", ""))
            totals[module] = totals.get(module, 0) + counted[node.name]
    return totals


def forward_by_node(graph: fx.Graph) -> dict[str, int]:
    """Operations of the forward pass of every node that has some, by its name."""
    return {
        node.name: sum(operations for operations, _ in count(node))
        for node in graph.nodes
        if (count := _rule_of(node)) is not None
    }


def forward_at_sizes(program: Program, sizes: Mapping[str, int]) -> dict[str, int]:
    """Operations of the forward pass, by node, once axes (by id) have the given sizes; nothing is run."""
    known: dict[fx.Node, Any] = {}

    def resized_node(node: fx.Node) -> Any:
        if node not in known:
            value, dims = node.meta.get("val"), program.axes.result_dims(node.name)
            if isinstance(value, torch.Tensor) and dims is not None and len(dims) == value.dim():
                shape = [
                    dim.new_size(sizes) if size == dim.size else size
                    for dim, size in zip(dims, value.shape, strict=True)
                ]
                value = torch.empty(shape, device="meta")
            known[node] = SimpleNamespace(target=node.target, meta={"val": value})
        return known[node]

    counted = {}
    for node in program.graph.nodes:
        count = _rule_of(node)
        if count is not None:
            own = resized_node(node)
            stand_in = SimpleNamespace(
                target=own.target, meta=own.meta, args=_mapped(tuple(node.args), resized_node)
            )
            operations = [found for found, _ in count(stand_in)]  # type: ignore[arg-type]
            counted[node.name] = sum(operations)
    return counted


def _mapped(value: Any, change: Callable[[fx.Node], Any]) -> Any:
    if isinstance(value, fx.Node):
        return change(value)
    if isinstance(value, tuple | list):
        return tuple(_mapped(item, change) for item in value)
    return value


def _extent(leaves: Sequence[InputLeaf]) -> tuple[int, int]:
    for shape, dtype in leaves:
        if dtype is not None and shape:
            ids = not dtype.is_floating_point and len(shape) > 1
            return shape[0], math.prod(shape) if ids else shape[0]
    return 0, 0


def _count(graph: fx.Graph, program: Program) -> tuple[int, int]:
    """Operations of the forward pass, and of the backward pass from the loss."""
    wanted = _differentiated(graph, program)
    below = feeding_loss(graph)
    forward = backward = 0
    for node in graph.nodes:
        count = _rule_of(node)
        if count is None:
            continue
        for operations, operands in count(node):
            forward += operations
            if node in below:
                backward += operations * sum(not wanted.isdisjoint(_nodes(operand)) for operand in operands)
    return forward, backward


def _nodes(operand: Any) -> tuple[Any, ...]:
    return operand if isinstance(operand, tuple) else (operand,)


def _differentiated(graph: fx.Graph, program: Program) -> set[fx.Node]:
    """Nodes whose value a gradient flows into."""
    wanted: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "get_attr":
            name = str(node.target)
            moves = name in program.tensors.parameters and name not in program.tensors.frozen
        else:
            moves = node.target is not _aten.detach.default and _is_floating(node.meta.get("val"))
            moves = moves and any(source in wanted for source in node.all_input_nodes)
        if moves:
            wanted.add(node)
    return wanted


def _is_floating(value: Any) -> bool:
    tensors = [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]
    return any(tensor.dtype.is_floating_point or tensor.dtype.is_complex for tensor in tensors)


def feeding_loss(graph: fx.Graph) -> set[fx.Node]:
    """Nodes that the loss depends on: the first scalar output, or all outputs where there is none."""
    output = next(iter(reversed(graph.nodes)))
    results = [node for node in output.all_input_nodes if isinstance(node.meta.get("val"), torch.Tensor)]
    scalars = [node for node in results if node.meta["val"].ndim == 0 and _is_floating(node.meta["val"])]
    todo, seen = scalars[:1] or results, set[fx.Node]()
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            todo.extend(node.all_input_nodes)
    return seen


# Products of a node: operations, and operands; a tuple of nodes is one operand that depends on them all.
Counted = list[tuple[int, tuple[Any, ...]]]
_RULES: dict[Any, Callable[[fx.Node], Counted]] = {}


def _rule_of(node: fx.Node) -> Callable[[fx.Node], Counted] | None:
    """The rule of a node's op; that of an op which a library registers late goes by its qualified name."""
    schema = getattr(node.target, "_schema", None)
    return _RULES.get(node.target) or (_RULES.get(schema.name) if schema is not None else None)


def _rule(*targets: Any) -> Callable[[Callable[[fx.Node], Counted]], Callable[[fx.Node], Counted]]:
    def register(function: Callable[[fx.Node], Counted]) -> Callable[[fx.Node], Counted]:
        _RULES.update(dict.fromkeys(targets, function))
        return function

    return register


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value.meta["val"].shape)


def _product(node: fx.Node, first: fx.Node, second: fx.Node) -> Counted:
    return [(2 * math.prod(_shape(node)) * _shape(first)[-1], (first, second))]


@_rule(_aten.linear.default, _aten.mm.default, _aten.bmm.default, _aten.matmul.default, _aten.mv.default)
def _matmul(node: fx.Node) -> Counted:
    return _product(node, node.args[0], node.args[1])  # type: ignore[arg-type]


@_rule(_aten._grouped_mm.default, "transformers::grouped_mm_fallback")
def _grouped_matmul(node: fx.Node) -> Counted:
    """Every row by the matrix of its group."""
    return _product(node, node.args[0], node.args[1])  # type: ignore[arg-type]


@_rule(_aten.addmm.default, _aten.baddbmm.default, _aten.addbmm.default)
def _added_matmul(node: fx.Node) -> Counted:
    return _product(node, node.args[1], node.args[2])  # type: ignore[arg-type]


@_rule(_aten.dot.default, _aten.vdot.default)
def _dot(node: fx.Node) -> Counted:
    return [(2 * _shape(node.args[0])[0], node.args[:2])]


@_rule(_aten.bilinear.default)
def _bilinear(node: fx.Node) -> Counted:
    rows, (out, left, right) = math.prod(_shape(node)[:-1]), _shape(node.args[2])
    return [(2 * rows * out * left * right, node.args[:3])]


@_rule(_aten.einsum.default)
def _einsum(node: fx.Node) -> Counted:
    """A product over every index of the equation, as for two operands; more are contracted left to right."""
    equation, operands = node.args[0], node.args[1]
    assert isinstance(equation, str)
    assert isinstance(operands, list | tuple)
    left, _, right = equation.replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    terms = [
        _labels(term, _shape(operand), sizes) for term, operand in zip(left.split(","), operands, strict=True)
    ]
    result = set(_labels(right, _shape(node), sizes)) if right else set()
    products: Counted = []
    done = set(terms[0])
    so_far: tuple[Any, ...] = (operands[0],)
    for number, term in enumerate(terms[1:], 1):
        done |= set(term)
        products.append((2 * math.prod(sizes[label] for label in done), (so_far, operands[number])))
        done &= result.union(*terms[number + 1 :])
        so_far = (*so_far, operands[number])
    return products


def _labels(term: str, shape: tuple[int, ...], sizes: dict[str, int]) -> list[str]:
    named = len(term.replace("...", ""))
    dots = [f".{n}" for n in range(len(shape) - named, 0, -1)]
    before, ellipsis, after = term.partition("...")
    labels = [*before, *(dots if ellipsis else ()), *after]
    for label, size in zip(labels, shape, strict=True):
        sizes[label] = max(size, sizes.get(label, 1))
    return labels


@_rule(_aten.scaled_dot_product_attention.default)
def _attention(node: fx.Node) -> Counted:
    """Queries by keys, and weights by values."""
    query, key, value = node.args[:3]
    rows = math.prod(_shape(node)[:-1])
    width, length = _shape(query)[-1], _shape(key)[-2]
    scores, mixed = 2 * rows * width * length, 2 * rows * length * _shape(value)[-1]
    return [(scores, (query, key)), (mixed, ((query, key), value))]


@_rule(
    _aten.conv1d.default,
    _aten.conv2d.default,
    _aten.conv3d.default,
    _aten.conv1d.padding,
    _aten.conv2d.padding,
    _aten.conv3d.padding,
)
def _convolution(node: fx.Node) -> Counted:
    taps = math.prod(_shape(node.args[1])[1:])
    return [(2 * math.prod(_shape(node)) * taps, node.args[:2])]


@_rule(_aten.conv_transpose1d.default, _aten.conv_transpose2d.input, _aten.conv_transpose3d.input)
def _transposed_convolution(node: fx.Node) -> Counted:
    taps = math.prod(_shape(node.args[1])[1:])
    return [(2 * math.prod(_shape(node.args[0])) * taps, node.args[:2])]


@_rule(_aten.convolution.default)
def _general_convolution(node: fx.Node) -> Counted:
    transposed = bool(node.args[6])
    return _transposed_convolution(node) if transposed else _convolution(node)
