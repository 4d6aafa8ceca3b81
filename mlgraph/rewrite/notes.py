"""What a change of width keeps or assumes, as notes: factors made from widths, and what nothing reads.

Constants in a graph that were computed from a width, such as the factor √d on embeddings, are kept: the
function is then that of the transferred weights, not that of the class at the new width. They cannot be told
from numbers that happen to be equal, so they are only reported, never changed. A parameter that no op reads
says nothing of its dims; those that its neighbours do not tell either are kept.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from mlgraph.graph.ops import argument, has, op_name
from mlgraph.graph.traits import Trait
from mlgraph.program import Note, Program
from mlgraph.program.tensors import is_fake
from mlgraph.rewrite.self_check import known_faults
from mlgraph.rewrite.sharded import all_finite

if TYPE_CHECKING:
    from mlgraph.program.dims import Dim
    from mlgraph.program.soundness import Soundness
    from mlgraph.rewrite.grouping import Grouping

_ARGUMENTS = ("scale", "alpha", "beta")
_EXACT = 1e-6
_HALF = 4e-3
# by how often models have them: a root of a width, then a width
_POWERS = {"1/√": -0.5, "√": 0.5, "1/": -1.0, "": 1.0}


def kept_constants(program: Program, sizes: Mapping[str, int]) -> list[Note]:
    """A note for every factor of ``program`` that equals a power of a width that ``sizes`` changes.

    The powers are ±1/2 and ±1. ``sizes`` gives new sizes by axis id. A factor counts where its op, or the op
    that feeds it, works on that width; 1, 2 and 1/2 never count, as they stand for nothing.
    """
    found = []
    for node in program.graph.nodes:
        for value, tolerance in _factors(program, node):
            width = _width(program, node, value, tolerance, sizes)
            if width is not None:
                place = _place(node)
                found.append(Note("kept", f"the factor {value:.5g} at {place}, {width}", place))
    return list(dict.fromkeys(found))


def kept_unread(program: Program, sizes: Mapping[str, int]) -> list[Note]:
    """A note for every parameter that no op reads: which dims are kept, which follow others."""
    found = []
    for name in program.axes.unread:
        dims = program.axes.tensor_dims[name]
        unknown = [i for i, dim in enumerate(dims) if any(leaf.axis.startswith("~") for leaf in dim.leaves())]
        changed = [i for i, dim in enumerate(dims) if dim.new_size(sizes) != dim.size]
        if unknown:
            found.append(Note("kept", f"{name}{unknown}, since nothing reads this parameter", name))
        if changed:
            text = f"{name}{changed}, which nothing reads, changes as its neighbours do"
            found.append(Note("assumed", text, name))
    return found


def depth_notes(program: Program, layers: Mapping[str, Grouping], mode: str | None = None) -> Iterator[Note]:
    """What trials of a change of depth showed, for a program that is made by changing these chains."""
    trials: Mapping[Any, Soundness] = program.__dict__.get("_depth_trials", {})
    for (tried, asked), sound in trials.items():
        if tried != mode or not set(layers.items()) <= asked:
            continue
        if sound.unchecked:
            yield Note("unchecked", f"not checked: {sound.unchecked}")
        for chain, reason in sound.faults.items():
            yield Note("approximate" if chain in layers else "kept", f"{chain}, since {reason}", chain)


def differing_rates(program: Program, layers: Mapping[str, Grouping]) -> Iterator[Note]:
    """A note for every chain in which blocks of one group drop out at different rates."""
    nodes = {node.name: node for node in program.graph.nodes}
    for chain in program.blocks if layers else ():
        if chain.name not in layers:
            continue
        rates = [[r for name in block.nodes for r in _rates(nodes[name])] for block in chain.blocks]
        if any(rates[block] != rates[group[0]] for group in layers[chain.name].kept for block in group):
            text = (
                f"{chain.name} drops out at rates that differ, and each group keeps those of its first block"
            )
            yield Note("kept", text, chain.name)


def _rates(node: fx.Node) -> list[Any]:
    """The rates at which a node drops out."""
    if has(node, Trait.DROPS):
        return [node.args[1]]
    rate = argument(node, "dropout_p") if node.op == "call_function" else None
    return [rate] if rate else []


def not_finite(program: Program, groups: Iterable[tuple[str, ...]]) -> Iterator[Note]:
    """A note for every group of blocks' tensors whose mean is not finite; of lazy values nothing is known."""
    tensors = program.tensors
    for names in groups if tensors.in_memory else ():
        given = [tensors[name] for name in names] if len(names) > 1 else []
        if any(t.is_floating_point() and not is_fake(t) and not all_finite(t.detach()) for t in given):
            listed = f"{names[0]} to {names[-1]}"
            text = f"{listed} have values that are not finite and are not averaged: the group has its first"
            yield Note("approximate", text, names[0])


def nothing_changed(program: Program, width: int) -> Note:
    """The note on a width that no axis of the program takes, with the reasons that keep most of them."""
    faults = known_faults(program)
    reasons = Counter(
        str(axis.frozen or faults.get(axis.id) or axis.kept or "it is exempt")
        for axis in program.axes
        if axis.size > 1
    )
    told = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3))
    return Note("kept", f"width={width} changes nothing, for no axis can change: {told or 'there is none'}")


def _place(node: fx.Node) -> str:
    """``file.py:12``, or the node where the line is not known."""
    path, colon, rest = str(node.meta.get("source") or "").partition(":")
    return f"{PurePath(path).name}:{rest.partition(':')[0]}" if colon else node.name


def _factors(program: Program, node: fx.Node) -> Iterator[tuple[float, float]]:
    """Scalars by which an op multiplies or divides, with the relative error they may carry."""
    name = op_name(node)
    if has(node, Trait.SCALING):
        arguments = list(node.args)
    elif node.op == "call_function":
        # what else such an op is given by position, a dropout rate say, scales nothing
        arguments = [node.kwargs.get(key) for key in _ARGUMENTS]
    else:
        return
    for value in arguments:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            yield float(value), _EXACT
        elif isinstance(value, fx.Node):
            yield from _stored(program, value)
    if name == "scaled_dot_product_attention" and node.kwargs.get("scale") is None:
        query = node.args[0]
        dims = program.axes.result_dims(query.name) if isinstance(query, fx.Node) else None
        if dims:
            yield 1 / math.sqrt(dims[-1].size), _EXACT


def _stored(program: Program, node: fx.Node) -> Iterator[tuple[float, float]]:
    """The value of a buffer with one element that a node passes on, converted perhaps."""
    while has(node, Trait.IDENTITY | Trait.CASTS):
        node = node.all_input_nodes[0]
    if node.op != "get_attr" or node.target in program.tensors.parameters:
        return
    like = node.meta.get("val")
    if isinstance(like, torch.Tensor) and like.numel() == 1 and like.is_floating_point():
        value = program.tensors[str(node.target)]
        if value.device.type != "meta":
            yield value.item(), _HALF if like.dtype in (torch.bfloat16, torch.float16) else _EXACT


def _width(
    program: Program, node: fx.Node, value: float, tolerance: float, sizes: Mapping[str, int]
) -> str | None:
    """The width, a dim at hand that changes, of which ``value`` is a power, and of none that stays."""
    if not math.isfinite(value) or abs(value) in (0.0, 0.5, 1.0, 2.0):
        return None
    for mark, exponent in _POWERS.items():
        dims = [
            dim
            for dim in _dims(program, node)
            if dim.size > 1 and math.isclose(abs(value), dim.size**exponent, rel_tol=tolerance)
        ]
        for dim in dims:
            after = dim.new_size(sizes)
            if after != dim.size and not any(leaf.axis.startswith("~") for leaf in dim.leaves()):
                named = _named(program, dim)
                return f"which is {mark}{named} at {named} = {dim.size}, now {after}"
        if dims:
            # a likelier power of a width that stays
            return None
    return None


def _named(program: Program, dim: Dim) -> str:
    names = [program.axes[leaf.axis].name for leaf in dim.leaves()]
    return names[0] if len(names) == 1 else f"({'·'.join(names)})"


def _dims(program: Program, node: fx.Node) -> Iterator[Dim]:
    """Dims of what a node reads and of what was contracted to make that, each once."""
    near = [node, *node.all_input_nodes, *(n for i in node.all_input_nodes for n in i.all_input_nodes)]
    seen: set[Dim] = set()
    for each in near:
        for dim in program.axes.result_dims(each.name) or ():
            if dim not in seen:
                seen.add(dim)
                yield dim
