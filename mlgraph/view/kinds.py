"""What ops are to the reader of a diagram."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from mlgraph.graph.dataflow import op_name

# fmt: off
LAYOUT = frozenset([
    "view", "reshape", "_unsafe_view", "transpose", "permute", "t", "mT", "expand", "expand_as", "unsqueeze",
    "squeeze", "contiguous", "slice", "select", "getitem", "split", "split_with_sizes", "chunk", "unbind",
    "flatten", "unflatten", "movedim", "repeat", "repeat_interleave", "to", "_to_copy", "type_as", "detach",
    "clone", "alias", "float", "narrow", "tensor_split", "view_as", "broadcast_to", "swapaxes", "numpy_T",
    "view_as_complex", "view_as_real",
])
_ACTIVATIONS = frozenset([
    "gelu", "relu", "silu", "tanh", "sigmoid", "leaky_relu", "elu", "selu", "mish", "hardswish", "hardtanh",
    "hardsigmoid", "softplus", "celu", "prelu", "relu6", "glu", "logsigmoid", "erf", "relu_square",
])
_NORMS = {
    "layer_norm": "layer norm", "rms_norm": "RMS norm", "group_norm": "group norm",
    "batch_norm": "batch norm", "native_layer_norm": "layer norm", "instance_norm": "instance norm",
}
_CONTRACTIONS = frozenset([
    "linear", "addmm", "mm", "matmul", "bmm", "baddbmm", "einsum", "conv1d", "conv2d", "conv3d",
    "convolution", "conv_transpose1d", "conv_transpose2d", "embedding", "embedding_bag", "_grouped_mm",
    "grouped_mm_fallback", "grouped_mm", "scaled_dot_product_attention", "bilinear",
])
_SCALINGS = frozenset(["mul", "div", "add", "sub", "true_divide"])
_LOSSES = frozenset(["cross_entropy_loss", "nll_loss", "mse_loss", "binary_cross_entropy_with_logits"])
_PATHS = frozenset(["cat", "stack", "neg", "slice", "roll"])
# fmt: on

SOFTMAXES = frozenset(["softmax", "_softmax"])
REDUCTIONS = frozenset(["mean", "var", "var_mean", "sum", "norm", "linalg_vector_norm", "std"])
ROOTS = frozenset(["rsqrt", "sqrt", "linalg_vector_norm", "norm"])
TURNS = frozenset(["cos", "sin", "polar"])


def name_of(node: fx.Node) -> str:
    """The op's name; that of an op in place is the op's."""
    name = op_name(node)
    return name if name.startswith("__") else name.rstrip("_")


def is_layout(node: fx.Node) -> bool:
    """Whether the node only rearranges, selects, casts or scales its input."""
    name = name_of(node)
    if name in LAYOUT:
        return True
    operands = [isinstance(arg, fx.Node) for arg in node.args]
    return name in _SCALINGS and sum(operands) == 1 and operands[0] and not _is_root(node)


def _is_root(node: fx.Node) -> bool:
    """Whether the node adds an epsilon that a root follows."""
    return any(name_of(user) in ROOTS for user in node.users)


def is_activation(node: fx.Node) -> bool:
    """Whether the op is a nonlinearity, element by element."""
    return name_of(node) in _ACTIVATIONS


def is_contraction(node: fx.Node) -> bool:
    """Whether the op sums products of two operands."""
    return name_of(node) in _CONTRACTIONS


def is_join(node: fx.Node) -> bool:
    """Whether the op concatenates, negates, cuts or rolls: what rotations by halves are made of."""
    return name_of(node) in _PATHS


def is_loss(node: fx.Node) -> bool:
    """Whether the op compares predictions with targets."""
    return name_of(node) in _LOSSES


def norm_words(node: fx.Node) -> str:
    """``"layer norm"`` for that op, ``""`` for one that is no norm."""
    name = name_of(node)
    return next((words for op, words in _NORMS.items() if op in name), "")


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
