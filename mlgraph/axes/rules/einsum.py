"""Rules written as einsum-like strings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from functools import lru_cache
from typing import Any

from torch import fx

from mlgraph.axes.factors import Factor, Factors, hint, resolve, size_of
from mlgraph.axes.rules.registry import (
    Context,
    DimList,
    Infer,
    Rule,
    RuleResult,
    set_rule,
)

Terms = tuple[tuple[str, ...], ...]


@lru_cache
def parse(spec: str) -> tuple[Terms, tuple[str, ...]]:
    """``"... i, o i -> ... o"`` as one tuple of letters per operand, and the result's."""
    left, _, right = spec.partition("->")
    terms = tuple(tuple(re.findall(r"\.\.\.|\w+", term)) for term in left.split(","))
    return terms, tuple(re.findall(r"\.\.\.|\w+", right))


def contract(
    ctx: Context, node: fx.Node, operands: Sequence[Any], terms: Terms, out: tuple[str, ...]
) -> DimList:
    """Unify the letters of an einsum over its operands; sum over those that the result lacks."""
    dims = [ctx.dims(operand) for operand in operands]
    bound: dict[str, list[tuple[int, int]]] = {}
    rank = 0
    for index, (term, present) in enumerate(zip(terms, dims, strict=True)):
        spread = len(present) - sum(letter != "..." for letter in term)
        labels: list[str] = []
        for letter in term:
            labels.extend([f"...{i}" for i in range(spread, 0, -1)] if letter == "..." else [letter])
        rank = max(rank, spread if "..." in term else 0)
        for position, label in enumerate(labels):
            bound.setdefault(label, []).append((index, position))
    result = [f"...{i}" for i in range(rank, 0, -1)] if "..." in out else []
    order: list[str] = []
    for letter in out:
        order.extend(result if letter == "..." else [letter])
    merged: dict[str, Factors] = {}
    for label, places in bound.items():
        chosen: Factors = ()
        for index, position in places:
            dim = dims[index][position]
            if size_of(dim) == 1:
                continue
            if size_of(chosen) != 1:
                ctx.unify(chosen, dim, node)
            else:
                chosen = dim
        merged[label] = chosen
        if label not in order:
            ctx.contract(node, chosen, [(operands[i], p) for i, p in places])
    for index, operand in enumerate(operands):
        kept = [p for label in order for i, p in bound.get(label, []) if i == index]
        ctx.emit(operand, kept)
    activations = {i for i, operand in enumerate(operands) if getattr(operand, "op", "") != "get_attr"}
    if len(activations) == 2:
        _hint_attention(merged, bound, order, activations)
    return [merged[label] for label in order]


def _hint_attention(
    merged: Mapping[str, Factors],
    bound: Mapping[str, Sequence[tuple[int, int]]],
    order: Sequence[str],
    activations: Set[int],
) -> None:
    """Two activations multiplied over heads: the dims of both behind the batch are heads."""
    shared: list[Factor] = []
    inside: list[tuple[str, str]] = []
    for label, places in bound.items():
        holders = {index for index, _ in places}
        if not activations <= holders:
            inside += [("v_dim", label)] if activations & holders else []
        elif label in order or holders > activations:
            shared += resolve(merged[label])
        else:
            inside.append(("head_dim", label))
    if len(shared) < 2:
        return
    hint(shared[1:], "heads")
    for name, label in inside:
        hint(merged[label], name)


def einsum_rule(spec: str) -> Infer:
    """A rule from einsum-like notation; operands are the op's leading arguments, ``None`` skipped."""
    terms, out = parse(spec)

    def infer(ctx: Context, node: fx.Node) -> RuleResult:
        given = [(a, t) for a, t in zip(node.args, terms, strict=False) if isinstance(a, fx.Node)]
        named = node.kwargs.get("bias")
        if isinstance(named, fx.Node):
            given.append((named, terms[-1]))
        return contract(ctx, node, [a for a, _ in given], tuple(t for _, t in given), out)

    return infer


def register_rule(op: Any, spec: str) -> None:
    """Give a custom op a rule in einsum-like notation.

    Args:
        op: an ``OpOverload``, e.g. ``torch.ops.my_library.my_linear.default``.
        spec: one term per tensor argument, and the result's, e.g. ``"... i, o i, o -> ... o"``. A
            letter that the result lacks is summed over; ``...`` stands for leading dims that
            broadcast; a term may be missing for an optional argument passed as ``None``.

    Example:
        >>> register_rule(torch.ops.my_library.scaled_linear.default, "... i, o i -> ... o")
    """

    set_rule(op, Rule(infer=einsum_rule(spec)))
