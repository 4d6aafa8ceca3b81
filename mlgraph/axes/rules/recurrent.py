"""Rules of recurrent layers: gates are a concatenation of the hidden state's dim."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlgraph.axes.factors import Factors, concatenate, size_of, split
from mlgraph.axes.rules.registry import Context, RuleResult, rule
from mlgraph.graph.ops import op_name

if TYPE_CHECKING:
    from torch import fx

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


@rule("lstm.input gru.input rnn_tanh.input rnn_relu.input")
def _recurrent(ctx: Context, node: fx.Node) -> RuleResult:
    source, state, given = node.args[:3]
    weights: list[Any] = list(given)  # type: ignore[arg-type]
    biased, layers, _, _, bidirectional, batch_first = node.args[3:9]
    states: list[Any] = list(state) if isinstance(state, (tuple, list)) else [state]
    directions = 2 if bidirectional else 1
    per_cell = 4 if biased else 2
    if len(weights) != per_cell * int(layers) * directions:  # type: ignore[arg-type]
        return None
    dims = ctx.dims(source)
    batch, time = (dims[0], dims[1]) if batch_first else (dims[1], dims[0])
    ctx.freeze(time, "a recurrence runs over it", node)
    hidden = ctx.dims(states[0])[2]
    for other in states:
        stacked = ctx.dims(other)
        ctx.freeze(stacked[0], "it numbers recurrent layers", node)
        ctx.unify(stacked[2], hidden, node)
        if size_of(stacked[1]) > 1:
            ctx.unify(stacked[1], batch, node)
        ctx.emit(other)
    read: Factors = dims[2]
    reader: Any = source
    cells = [weights[start : start + per_cell] for start in range(0, len(weights), per_cell)]
    for layer in range(int(layers)):  # type: ignore[arg-type]
        for cell in cells[layer * directions : (layer + 1) * directions]:
            inward, recurrent = cell[:2]
            ctx.unify(ctx.dims(inward)[1], read, node)
            ctx.contract(node, read, [(reader, 2), (inward, 1)])
            ctx.unify(ctx.dims(recurrent)[1], hidden, node)
            ctx.contract(node, hidden, [(states[0], 2), (recurrent, 1)])
            for parameter in cell:
                _gates(ctx, node, parameter, hidden)
        read = hidden if directions == 1 else concatenate([hidden, hidden])
        reader = states[0]
    numbered = ctx.fresh(node, "it numbers recurrent layers", output=1)[0]
    last = [numbered, batch, hidden]
    return [[*dims[:2], read], *(list(last) for _ in states)]


def _gates(ctx: Context, node: fx.Node, parameter: Any, hidden: Factors) -> None:
    """The rows of a parameter are the hidden state's dim, once per gate."""
    for gate in split(ctx.dims(parameter)[0], [size_of(hidden)] * _GATES[op_name(node)]):
        ctx.unify(gate, hidden, node)
    ctx.emit(parameter, [0])
