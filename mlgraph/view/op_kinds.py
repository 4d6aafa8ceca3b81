"""What ops are to the reader of a diagram."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from mlgraph.graph.ops import has, op_name
from mlgraph.graph.traits import CUTS, SPREADS, Trait

_LAYOUT = Trait.IDENTITY | Trait.CASTS | Trait.REORDERS | Trait.RESHAPES | SPREADS | Trait.SELECTS | CUTS


def is_layout(node: fx.Node) -> bool:
    """Whether the node only rearranges, selects, casts or scales its input."""
    if has(node, _LAYOUT):
        return True
    operands = [isinstance(arg, fx.Node) for arg in node.args]
    scales = has(node, Trait.SCALING | Trait.SUM)
    return scales and sum(operands) == 1 and operands[0] and not _is_root(node)


def _is_root(node: fx.Node) -> bool:
    """Whether the node adds an epsilon that a root follows."""
    return any(has(user, Trait.ROOT) for user in node.users)


def is_activation(node: fx.Node) -> bool:
    """Whether the op is a nonlinearity, element by element."""
    return has(node, Trait.ACTIVATION)


def is_contraction(node: fx.Node) -> bool:
    """Whether the op sums products of two operands, or looks rows up, which is such a sum."""
    return has(node, Trait.CONTRACTS | Trait.TABLE)


def is_join(node: fx.Node) -> bool:
    """Whether the op concatenates, negates or rolls: what rotations by halves are made of."""
    return has(node, Trait.JOINS | Trait.SHIFTS) or op_name(node) == "neg"


def meets(node: fx.Node) -> bool:
    """Whether the op combines values element by element."""
    return has(node, Trait.SUM | Trait.REPLACES) or op_name(node) == "mul"


def norm_words(node: fx.Node) -> str:
    """``"layer norm"`` for that op, ``""`` for one that is no norm."""
    if not has(node, Trait.NORM):
        return ""
    return op_name(node).removeprefix("native_").replace("_", " ").replace("rms", "RMS")


def is_pointwise(node: fx.Node) -> bool:
    """Whether torch calls the op pointwise."""
    return torch.Tag.pointwise in getattr(node.target, "tags", ())


def value_of(node: fx.Node) -> Any:
    """The example value of a node, of a sequence its first tensor."""
    value = node.meta.get("val")
    if isinstance(value, (tuple, list)):
        return next((item for item in value if isinstance(item, torch.Tensor)), None)
    return value


def is_index(node: fx.Node) -> bool:
    """Whether all that the node yields are whole numbers or truth values."""
    value = node.meta.get("val")
    values = value if isinstance(value, (tuple, list)) else [value]
    tensors = [item for item in values if isinstance(item, torch.Tensor)]
    return bool(tensors) and not any(item.is_floating_point() or item.is_complex() for item in tensors)
