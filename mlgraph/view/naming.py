"""What a box is called and of which kind it is, by the ops inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import fx

from mlgraph.graph.ops import has, op_name
from mlgraph.graph.traits import Trait
from mlgraph.view import op_kinds as ops
from mlgraph.view.patterns import Group, meets

if TYPE_CHECKING:
    from mlgraph.view.scope import Wires

_SIGNS = {"add": "+", "mul": "×", "sub": "−", "div": "÷"}
_MEETING = {"add": "sum", "mul": "product, element by element"}
_PLAIN = {
    "index": "gather",
    "index_select": "gather",
    "index_put": "scatter",
    "where": "masked",
    "masked_fill": "masked",
}

_Words = tuple[str, str, str]


def describe(wires: Wires, found: Group) -> _Words:
    """(kind, note, title) of a group; the title is empty where its module's name says it best."""
    nodes = found.nodes
    names = [op_name(node) for node in nodes]
    if found.pattern == "attention" or "scaled_dot_product_attention" in names:
        return "attention", "softmax attention", "attention"
    if found.pattern == "rotary":
        return "rotary", "rotary positions", "rotary"
    if found.pattern == "plumbing":
        return _plumbing_words(wires, nodes)
    rules: tuple[tuple[Callable[[], bool], _Words], ...] = (
        (lambda: "topk" in names, ("router", "router: top-k", "")),
        (lambda: any("embedding" in name for name in names), ("embedding", "embedding", "")),
        (lambda: any("conv" in name for name in names), ("convolution", "convolution", "")),
        (lambda: any("grouped_mm" in name for name in names), ("experts", "expert by expert", "")),
        (lambda: any(has(node, Trait.LOSS) for node in nodes), ("loss", "loss", names[-1].replace("_", " "))),
        (lambda: any(map(ops.is_contraction, nodes)), _contraction_words(wires, nodes)),
    )
    for holds, words in rules:
        if holds():
            return words
    norm = next((known for node in nodes if (known := ops.norm_words(node))), "")
    if norm:
        return "norm", norm, ""
    if all(any(has(node, trait) for node in nodes) for trait in (Trait.ROOT, Trait.REDUCES)):
        return "norm", "norm" if "sub" in names else "RMS norm", ""
    if any(has(node, Trait.TURNS) for node in nodes):
        return "rotary", "sines and cosines", ""
    return _pointwise_words(wires, nodes, names, found.pattern)


def _plumbing_words(wires: Wires, nodes: Sequence[fx.Node]) -> _Words:
    inside = set(nodes)
    exits = [n for n in nodes if any(user not in inside for user in wires.consumers[n])] or list(nodes[-1:])
    if any(has(node, Trait.RANKS) for node in nodes):
        return "plumbing", "which token goes where", "routing"
    value = ops.value_of(exits[-1])
    if isinstance(value, torch.Tensor) and (value.dtype == torch.bool or value.is_floating_point()):
        return "plumbing", "which positions are seen", "mask"
    return "plumbing", "whole numbers", "indices"


def _contraction_words(wires: Wires, nodes: Sequence[fx.Node]) -> _Words:
    first = next((node for node in nodes if ops.is_contraction(node)), nodes[0])
    weighted = any(origin.op == "get_attr" for origin in wires.origins(first))
    return ("linear", "linear", "") if weighted else ("op", "product of activations", op_name(first))


def _pointwise_words(wires: Wires, nodes: Sequence[fx.Node], names: Sequence[str], pattern: str) -> _Words:
    meeting = [node for node in nodes if meets(wires, node)]
    if len(nodes) == 1:
        if meeting and names[0] in _MEETING:
            return names[0], _MEETING[names[0]], names[0]
        read = [str(origin.target) for origin in wires.origins(nodes[0]) if origin.op == "get_attr"]
        if names[0] in _SIGNS and read:
            return "op", "", f"{_SIGNS[names[0]]} {read[0].rpartition('.')[2]}"
        kind = "activation" if ops.is_activation(nodes[0]) else "op"
        return kind, "", _PLAIN.get(names[0], names[0].strip("_").replace("_", " "))
    if any(map(ops.is_activation, nodes)) and all(ops.is_pointwise(node) for node in nodes):
        known = {"tanh": "gelu (tanh)", "erf": "gelu"} if "pow" in names or "erf" in names else {}
        title = next((known[name] for name in names if name in known), "")
        if not title and set(names) == {"sigmoid", "mul"}:
            title = "silu"
        return "activation", "", title
    return ("module", " → ".join(dict.fromkeys(names)), "") if pattern == "module" else ("op", "", names[0])
