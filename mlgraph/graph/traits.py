"""What is true of every use of an op: the one table of ops, asked through :mod:`mlgraph.graph.ops`.

An op is listed by its name without namespace, overload and in-place mark; in-place forms and overloads share
a row. An op that is not listed has no traits: nothing is assumed of it. Rules that need more than these facts
(how axes go through an op, the code for it, its FLOPs) are kept with the code that applies them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Flag, auto


class Trait(Flag):
    """A fact about an op, whatever its arguments. "Value" means the value of the first operand."""

    NONE = 0
    # The value stays as it is.
    IDENTITY = auto()
    """Returns the value, in other memory perhaps."""
    DROPS = auto()
    """Zeroes at random and scales in training; returns the value in evaluation."""
    CASTS = auto()
    """Returns the value in another dtype."""
    # The value's elements stay as they are.
    REORDERS = auto()
    """Changes the order of dims."""
    RESHAPES = auto()
    """Splits, merges, adds or removes dims; keeps the order of elements."""
    BROADCASTS = auto()
    """Reads elements several times."""
    REPEATS = auto()
    """Copies elements several times."""
    SHIFTS = auto()
    """Changes the order of elements along a dim."""
    SELECTS = auto()
    """Keeps the elements at given positions."""
    LOOKS_UP = auto()
    """Keeps the elements that an index tensor names."""
    SPLITS = auto()
    """Cuts the value into several tensors."""
    ITEM = auto()
    """Takes one of several tensors."""
    PADS = auto()
    """Surrounds the value by a constant."""
    JOINS = auto()
    """Puts a list of tensors one after the other."""
    REPLACES = auto()
    """Puts others in the place of some elements."""
    BOUNDS = auto()
    """Raises elements to a least value, given second."""
    # Arithmetic.
    SUM = auto()
    """Adds or subtracts two operands, element by element."""
    SCALING = auto()
    """Multiplies or divides two operands, element by element."""
    QUOTIENT = auto()
    """Divides the value by the second operand, element by element."""
    COMMUTES = auto()
    """Gives the same for its first two operands in either order."""
    PRODUCT = auto()
    """Linear in each of its first two operands (of all listed operands in an einsum)."""
    MATMUL = auto()
    """The matrix product of the last two dims of two operands."""
    CONTRACTS = auto()
    """Sums products of two operands over a dim."""
    LINEAR = auto()
    """Linear in the value."""
    HOMOGENEOUS = auto()
    """Multiplied by a positive number where the value is."""
    REDUCES = auto()
    """Sums, means or norms over dims."""
    ROOT = auto()
    """Takes a square root."""
    TURNS = auto()
    """Sines and cosines of the value."""
    CONJUNCTION = auto()
    """Logical and."""
    RANKS = auto()
    """Sorts, counts, or finds the largest."""
    # What a layer is made of.
    ACTIVATION = auto()
    """A nonlinearity, element by element."""
    SOFTMAX = auto()
    NORM = auto()
    """Normalises the value, then applies a gain and a bias where they are given."""
    COUNTS = auto()
    """Normalises by statistics that it keeps, where it is given them."""
    TABLE = auto()
    """Looks rows of a table up."""
    LOSS = auto()
    """Compares predictions with targets."""
    CLASSIFIES = auto()
    """A loss that takes (scores, classes, weight, reduction, ignore_index)."""
    RECURRENT = auto()
    """Runs a step for every position of a sequence."""
    # Tensors made anew.
    FILLS = auto()
    """Makes a tensor from sizes, the same each time."""
    DRAWS = auto()
    """Makes a tensor of random numbers from sizes."""
    RANGE = auto()
    """Makes equally spaced numbers from their bounds."""
    LIKE = auto()
    """Makes a tensor that depends on the value's size, dtype and device only."""
    ZEROS = auto()
    """Makes zeros."""
    UNSET = auto()
    """Gives memory that was not written to."""
    ADDS_AT = auto()
    """Adds its last argument to the value at places."""
    # How it is called and what it does besides.
    SIZED = auto()
    """Its integers are sizes: the shapes of what comes out say all that they say."""
    ONE_DTYPE = auto()
    """Refuses operands of different floating-point dtypes."""
    MAY_SHARE = auto()
    """May return the value itself, though its schema does not say that they share memory."""
    READS = auto()
    """Returns the only element of the value as a number."""
    CHECKS = auto()
    """Computes nothing: raises where a condition does not hold."""


@dataclass(frozen=True)
class Positions:
    """Where an op takes its activation, parameters and epsilon, by position; None where it has none."""

    input: int
    weight: int
    bias: int | None = None
    epsilon: int | None = None


@dataclass(frozen=True)
class Facts:
    """An op's row."""

    traits: Trait = Trait.NONE
    positions: Positions | None = None


T = Trait
PASSES = T.IDENTITY | T.DROPS | T.CASTS
"""In evaluation the result is the value, up to its dtype."""
SPREADS = T.BROADCASTS | T.REPEATS
MOVES = T.REORDERS | T.RESHAPES | SPREADS | T.SHIFTS | T.SELECTS
"""The result's elements are the value's, rearranged, repeated or left out by position."""
CUTS = T.SPLITS | T.ITEM

_WEIGHTED = Positions(0, 1, 2)
_ADDED = Positions(1, 2, 0)

# fmt: off
OPS: dict[str, Facts | Trait] = {
    "alias": T.IDENTITY,
    "clone": T.IDENTITY,
    "contiguous": T.IDENTITY | T.MAY_SHARE,
    "detach": T.IDENTITY,
    "lift": T.IDENTITY,
    "lift_fresh": T.IDENTITY,
    "lift_fresh_copy": T.IDENTITY,

    "alpha_dropout": T.DROPS,
    "drop_path": T.DROPS,
    "dropout": T.DROPS | T.MAY_SHARE,
    "feature_alpha_dropout": T.DROPS,
    "feature_dropout": T.DROPS,

    "_to_copy": T.CASTS,
    "to": T.CASTS | T.MAY_SHARE,
    "type_as": T.CASTS | T.MAY_SHARE,

    "mT": T.REORDERS,
    "matrix_H": T.REORDERS | T.MAY_SHARE,
    "movedim": T.REORDERS,
    "numpy_T": T.REORDERS,
    "permute": T.REORDERS,
    "swapaxes": T.REORDERS,
    "t": T.REORDERS,
    "transpose": T.REORDERS,

    "_unsafe_view": T.RESHAPES | T.SIZED,
    "flatten": T.RESHAPES | T.MAY_SHARE,
    "reshape": T.RESHAPES | T.SIZED | T.MAY_SHARE,
    "squeeze": T.RESHAPES,
    "unflatten": T.RESHAPES | T.SIZED,
    "unsqueeze": T.RESHAPES,
    "view": T.RESHAPES | T.SIZED,
    "view_as": T.RESHAPES | T.SIZED | T.MAY_SHARE,
    "view_as_complex": T.RESHAPES,
    "view_as_real": T.RESHAPES,

    "broadcast_to": T.BROADCASTS | T.SIZED,
    "expand": T.BROADCASTS | T.SIZED,
    "expand_as": T.BROADCASTS | T.MAY_SHARE,
    "repeat": T.REPEATS | T.SIZED,
    "repeat_interleave": T.REPEATS,

    "flip": T.SHIFTS,
    "roll": T.SHIFTS,

    "narrow": T.SELECTS,
    "select": T.SELECTS,
    "slice": T.SELECTS,

    "gather": T.LOOKS_UP,
    "index": T.LOOKS_UP,
    "index_select": T.LOOKS_UP,

    "chunk": T.SPLITS | T.SIZED,
    "split": T.SPLITS | T.SIZED,
    "split_with_sizes": T.SPLITS | T.SIZED,
    "tensor_split": T.SPLITS,
    "unbind": T.SPLITS,
    "unsafe_chunk": T.SPLITS | T.SIZED,
    "unsafe_split": T.SPLITS | T.SIZED,
    "unsafe_split_with_sizes": T.SPLITS | T.SIZED,

    "getitem": T.ITEM,

    "constant_pad_nd": T.PADS,
    "pad": T.PADS,

    "cat": T.JOINS,
    "concat": T.JOINS,
    "stack": T.JOINS,

    "clamp": T.REPLACES | T.BOUNDS,
    "clamp_min": T.REPLACES | T.BOUNDS,
    "copy": T.REPLACES,
    "index_put": T.REPLACES | T.ONE_DTYPE,
    "masked_fill": T.REPLACES,
    "masked_scatter": T.REPLACES | T.ONE_DTYPE,
    "select_scatter": T.REPLACES,
    "slice_scatter": T.REPLACES,
    "where": T.REPLACES,

    "add": T.SUM | T.COMMUTES,
    "sub": T.SUM,

    "div": T.SCALING | T.QUOTIENT,
    "maximum": T.COMMUTES,
    "minimum": T.COMMUTES,
    "mul": T.SCALING | T.PRODUCT | T.COMMUTES,
    "multiply": T.SCALING | T.PRODUCT | T.COMMUTES,
    "true_divide": T.SCALING | T.QUOTIENT,

    "_grouped_mm": T.PRODUCT | T.CONTRACTS,
    "bmm": T.PRODUCT | T.CONTRACTS | T.MATMUL | T.ONE_DTYPE,
    "dot": T.PRODUCT | T.CONTRACTS,
    "einsum": T.PRODUCT | T.CONTRACTS | T.ONE_DTYPE,
    "grouped_mm": T.PRODUCT | T.CONTRACTS,
    "grouped_mm_fallback": T.PRODUCT | T.CONTRACTS,
    "matmul": Facts(T.PRODUCT | T.CONTRACTS | T.MATMUL | T.ONE_DTYPE, Positions(0, 1)),
    "mm": Facts(T.PRODUCT | T.CONTRACTS | T.MATMUL | T.ONE_DTYPE, Positions(0, 1)),
    "mv": T.PRODUCT | T.CONTRACTS,
    "outer": T.PRODUCT,

    "addmm": Facts(T.CONTRACTS | T.ONE_DTYPE, _ADDED),
    "baddbmm": Facts(T.CONTRACTS | T.ONE_DTYPE, _ADDED),
    "bilinear": T.CONTRACTS,
    "conv1d": Facts(T.CONTRACTS | T.ONE_DTYPE, _WEIGHTED),
    "conv2d": Facts(T.CONTRACTS | T.ONE_DTYPE, _WEIGHTED),
    "conv3d": Facts(T.CONTRACTS | T.ONE_DTYPE, _WEIGHTED),
    "conv_transpose1d": Facts(T.CONTRACTS | T.ONE_DTYPE, _WEIGHTED),
    "conv_transpose2d": Facts(T.CONTRACTS | T.ONE_DTYPE, _WEIGHTED),
    "conv_transpose3d": Facts(T.CONTRACTS | T.ONE_DTYPE, _WEIGHTED),
    "convolution": Facts(T.CONTRACTS | T.ONE_DTYPE, _WEIGHTED),
    "linear": Facts(T.CONTRACTS | T.ONE_DTYPE, _WEIGHTED),
    "scaled_dot_product_attention": T.CONTRACTS | T.ONE_DTYPE,

    "embedding": Facts(T.TABLE, Positions(1, 0)),
    "embedding_bag": T.TABLE,

    "adaptive_avg_pool1d": T.LINEAR,
    "adaptive_avg_pool2d": T.LINEAR,
    "avg_pool2d": T.LINEAR,
    "cumsum": T.LINEAR,
    "diff": T.LINEAR,
    "mean": T.LINEAR | T.REDUCES,
    "neg": T.LINEAR,
    "pixel_shuffle": T.LINEAR,
    "sum": T.LINEAR | T.REDUCES,
    "tril": T.LINEAR,
    "triu": T.LINEAR,
    "upsample_bicubic2d": T.LINEAR,
    "upsample_bilinear2d": T.LINEAR,

    "abs": T.HOMOGENEOUS,
    "amax": T.HOMOGENEOUS,
    "max": T.HOMOGENEOUS,
    "max_pool2d": T.HOMOGENEOUS,

    "linalg_vector_norm": T.REDUCES | T.ROOT,
    "norm": T.REDUCES | T.ROOT,
    "std": T.REDUCES,
    "var": T.REDUCES,
    "var_mean": T.REDUCES,
    "rsqrt": T.ROOT,
    "sqrt": T.ROOT,
    "cos": T.TURNS,
    "polar": T.TURNS,
    "sin": T.TURNS,

    "__and__": T.CONJUNCTION,
    "bitwise_and": T.CONJUNCTION,
    "logical_and": T.CONJUNCTION,

    "argmax": T.RANKS,
    "argsort": T.RANKS,
    "bincount": T.RANKS,
    "histc": T.RANKS,
    "sort": T.RANKS,
    "topk": T.RANKS,

    "celu": T.ACTIVATION,
    "elu": T.ACTIVATION,
    "erf": T.ACTIVATION,
    "gelu": T.ACTIVATION,
    "glu": T.ACTIVATION,
    "hardsigmoid": T.ACTIVATION,
    "hardswish": T.ACTIVATION,
    "hardtanh": T.ACTIVATION,
    "leaky_relu": T.ACTIVATION,
    "log_sigmoid": T.ACTIVATION,
    "mish": T.ACTIVATION,
    "prelu": T.ACTIVATION,
    "relu": T.ACTIVATION | T.HOMOGENEOUS,
    "relu6": T.ACTIVATION,
    "selu": T.ACTIVATION,
    "sigmoid": T.ACTIVATION,
    "silu": T.ACTIVATION,
    "softplus": T.ACTIVATION,
    "tanh": T.ACTIVATION,

    "_softmax": T.SOFTMAX,
    "log_softmax": T.SOFTMAX,
    "softmax": T.SOFTMAX,

    "batch_norm": Facts(T.NORM | T.COUNTS, Positions(0, 1, 2)),
    "group_norm": Facts(T.NORM, Positions(0, 2, 3, epsilon=4)),
    "instance_norm": Facts(T.NORM | T.COUNTS, Positions(0, 1, 2)),
    "layer_norm": Facts(T.NORM, Positions(0, 2, 3, epsilon=4)),
    "native_layer_norm": Facts(T.NORM, Positions(0, 2, 3, epsilon=4)),
    "rms_norm": Facts(T.NORM, Positions(0, 2, epsilon=3)),

    "binary_cross_entropy_with_logits": T.LOSS,
    "cross_entropy_loss": T.LOSS | T.CLASSIFIES,
    "mse_loss": T.LOSS,
    "nll_loss": T.LOSS | T.CLASSIFIES,
    "nll_loss_nd": T.LOSS | T.CLASSIFIES,

    "gru": T.RECURRENT,
    "lstm": T.RECURRENT,
    "quantized_gru": T.RECURRENT,
    "quantized_lstm": T.RECURRENT,
    "rnn_relu": T.RECURRENT,
    "rnn_tanh": T.RECURRENT,

    "empty": T.FILLS | T.SIZED | T.UNSET,
    "empty_strided": T.UNSET,
    "eye": T.FILLS,
    "full": T.FILLS | T.SIZED,
    "ones": T.FILLS | T.SIZED,
    "scalar_tensor": T.FILLS,
    "zeros": T.FILLS | T.SIZED | T.ZEROS,
    "rand": T.DRAWS,
    "randn": T.DRAWS,
    "arange": T.RANGE,
    "linspace": T.RANGE,
    "empty_like": T.LIKE | T.UNSET,
    "full_like": T.LIKE,
    "new_empty": T.LIKE | T.SIZED | T.UNSET,
    "new_full": T.LIKE | T.SIZED,
    "new_ones": T.LIKE | T.SIZED,
    "new_zeros": T.LIKE | T.SIZED | T.ZEROS,
    "ones_like": T.LIKE,
    "rand_like": T.LIKE,
    "randn_like": T.LIKE,
    "zeros_like": T.LIKE | T.ZEROS,
    "sym_size": T.SIZED,
    "index_add": T.ONE_DTYPE | T.ADDS_AT,
    "index_copy": T.ONE_DTYPE,
    "scatter": T.ONE_DTYPE,
    "scatter_add": T.ONE_DTYPE | T.ADDS_AT,

    "_local_scalar_dense": T.READS,
    "item": T.READS,

    "_assert_async": T.CHECKS,
    "_assert_scalar": T.CHECKS,
    "_assert_tensor_metadata": T.CHECKS,
    "_functional_assert_async": T.CHECKS,
    "_functional_sym_constrain_range": T.CHECKS,
    "_functional_sym_constrain_range_for_size": T.CHECKS,
    "sym_constrain_range": T.CHECKS,
    "sym_constrain_range_for_size": T.CHECKS,
}
# fmt: on
