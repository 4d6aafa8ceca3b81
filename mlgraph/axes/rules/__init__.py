"""One rule per op: how an op relates the dims of its operands to those of its result."""

from mlgraph.axes.rules import (
    contraction,
    cuts,
    indexing,
    losses,
    normalization,
    pointwise,
    recurrent,
    shape,
    spatial,
)
from mlgraph.axes.rules.einsum import register_rule
from mlgraph.axes.rules.registry import Context, Rule, find_rule

__all__ = [
    "Context",
    "Rule",
    "contraction",
    "cuts",
    "find_rule",
    "indexing",
    "losses",
    "normalization",
    "pointwise",
    "recurrent",
    "register_rule",
    "shape",
    "spatial",
]
