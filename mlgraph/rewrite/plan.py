"""What changes when axes change size: which groupings, which factor on every slot, which gains on
activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import fx

from mlgraph.graph.ops import has, op_name, positions
from mlgraph.graph.traits import MOVES, PASSES, Trait
from mlgraph.program import Note, Program
from mlgraph.program.dims import Dim, Leaf
from mlgraph.rewrite.gains import Gain
from mlgraph.rewrite.transfer import TensorTransfer

if TYPE_CHECKING:
    from mlgraph.program.axis_table import AxisTable, Role, Sum
    from mlgraph.rewrite.grouping import Groupings


@dataclass(frozen=True)
class WidthPlan:
    """Groupings per axis id (fine index to coarse), how every tensor moves, and gains on activations.

    ``gains`` belong to the program that is made: the coarse one going down, the fine one going up.
    ``approximate`` tells what the move does not keep exactly.
    """

    groupings: Groupings
    transfers: Mapping[str, TensorTransfer]
    gains: tuple[Gain, ...]
    approximate: tuple[Note, ...]


def plan_down(program: Program, groupings: Groupings, tied: str = "exact") -> WidthPlan:
    """Plan coarsening: ``program`` is the fine one."""
    return _plan(program, groupings, tied, down=True)


def plan_up(program: Program, groupings: Groupings, tied: str = "exact", fold: bool = True) -> WidthPlan:
    """Plan growth without a parent: ``program`` is the coarse one, groupings map the wider indices to its
    own. Without ``fold`` every gain stands on its activation, none in a norm."""
    return _plan(program, groupings, tied, down=False, fold=fold)


def _plan(program: Program, groupings: Groupings, tied: str, down: bool, fold: bool = True) -> WidthPlan:
    table = program.axes
    fine = {axis: grouping.fine for axis, grouping in groupings.items()}
    summing: set[tuple[str, str]] = set()
    gains: list[Gain] = []
    approximate = [*_forced(table, groupings), *_uneven_means(table, groupings)]
    nodes = {node.name: node for node in program.graph.nodes}
    joined = _joined_tables(table)
    repaired: set[tuple[str, str]] = set()
    if tied == "paper":
        summing |= {(tensor, axis) for tensor in table.tables for axis in groupings}
    for found in table.sums:
        if found.axis not in groupings or groupings[found.axis].uniform == 1:
            continue
        if found.carrier is not None and (
            not found.shared or (tied == "paper" and found.carrier in table.tables)
        ):
            continue
        if not found.repairable:
            said = f"{nodes[found.node].target} sums over {found.axis} inside an op without a rule of its own"
            approximate.append(Note("approximate", said, found.axis))
            continue
        if (found.node, found.axis) in repaired:
            continue
        repaired.add((found.node, found.axis))
        if not joined[found.node, found.axis]:
            said = (
                f"{nodes[found.node].target} sums over {found.axis} against joined tensors, "
                "of which only some are used in both roles"
            )
            approximate.append(Note("approximate", said, found.axis))
        parameters = (
            _foldable(nodes[found.operands[0][0]], table, found)
            if fold and found.carrier is not None
            else None
        )
        if parameters is not None:
            summing |= {(name, found.axis) for name in parameters}
        else:
            gains.append(_gain(table, found, groupings, down))
    shared, uneven = _share_gains(table, nodes, groupings, down)
    gains += shared
    approximate += uneven
    transfers = {}
    for tensor, dims in table.tensor_dims.items():
        roles = []
        for index, dim in enumerate(dims):
            slots = zip(table.roles[tensor, index], dim.leaves(), strict=True)
            roles.append(tuple(_role(role, (tensor, leaf.axis) in summing) for role, leaf in slots))
        wide = tuple(dim.resized(fine) for dim in dims)
        transfers[tensor] = TensorTransfer(wide, tuple(roles), groupings)
    return WidthPlan(groupings, transfers, tuple(gains), tuple(dict.fromkeys(approximate)))


def _joined_tables(table: AxisTable) -> dict[tuple[str, str], bool]:
    """Per node and axis of a sum, whether all tensors that it sums against emit on the axis too."""
    out: dict[tuple[str, str], bool] = {}
    for found in table.sums:
        key = found.node, found.axis
        out[key] = out.get(key, True) and (found.carrier is None or found.shared)
    return out


def _role(role: Role, summed: bool) -> Role:
    """Tied slots emit (the gain is elsewhere), unless a factor is folded into them."""
    return "contracts" if summed or role == "contracts" else "emits"


def _forced(table: AxisTable, groupings: Groupings) -> list[Note]:
    """What is approximate about axes that no change of width leaves exact."""
    changing = [axis for axis in table if axis.id in groupings and groupings[axis.id].uniform != 1]
    return [
        Note("approximate", f"{axis.id} changes although {axis.kept}", axis.id)
        for axis in changing
        if not axis.exact
    ]


def _uneven_means(table: AxisTable, groupings: Groupings) -> list[Note]:
    """What is approximate about means: of groups of unequal sizes, or of which a part alone changes."""
    copies = {axis: frozenset(grouping.group_sizes) for axis, grouping in groupings.items()}
    found = []
    padded = {axis for axis, grouping in groupings.items() if grouping.extend == "pad"}
    for node, dim in table.means:
        zeros = [leaf.axis for leaf in dim.leaves() if leaf.axis in padded]
        if zeros:
            found += [
                Note("approximate", f"means over {axis} count the zeros that pad it", axis) for axis in zeros
            ]
            continue
        if len(dim.multiplicities(copies)) > 1:
            uneven = [leaf.axis for leaf in dim.leaves() if len(copies.get(leaf.axis, ())) > 1]
            said = "means over {} weigh its groups of unequal size alike"
            found += [Note("approximate", said.format(axis), axis) for axis in uneven]
            if not uneven:
                alone = sorted({leaf.axis for leaf in dim.leaves() if leaf.axis in copies})
                text = f"{node} takes a mean of which {', '.join(alone)} is a part that changes alone"
                found += [Note("approximate", text, axis) for axis in alone]
    return list(dict.fromkeys(found))


def _share_gains(
    table: AxisTable, nodes: Mapping[str, fx.Node], groupings: Groupings, down: bool
) -> tuple[list[Gain], list[Note]]:
    """Gains on softmaxes over what changes, whose copies share what one index had, and what stays inexact."""
    copies = {axis: frozenset(grouping.group_sizes) for axis, grouping in groupings.items()}
    gains, notes = [], []
    for name, position, dim in table.shares:
        found = dim.multiplicities(copies)
        if len(found) > 1:
            changing = sorted({leaf.axis for leaf in dim.leaves() if leaf.axis in copies})
            said = f"{name} shares out over {', '.join(changing)} in groups of unequal size"
            notes += [Note("approximate", said, axis) for axis in changing]
            continue
        (count,) = found
        if count > 1:
            factor = 1 / count if down else float(count)
            gains += [
                Gain(user.name, name, position, (factor,), every_use=True) for user in nodes[name].users
            ]
    return gains, notes


def _gain(table: AxisTable, found: Sum, groupings: Groupings, down: bool) -> Gain:
    operand, position = found.operands[0]
    dims = table.result_dims(operand) or ()
    grouping = groupings[found.axis]
    if down:
        given = grouping.weights(restricts=False)
        own = [sum(given[fine] ** 2 for fine in group) for group in grouping.members]
    else:
        own = list(grouping.weights(restricts=True))
    sizes = {axis: g.coarse if down else g.fine for axis, g in groupings.items()}
    values = _spread(dims[position], found.axis, own, sizes)
    return Gain(found.node, operand, position, tuple(values) if len(set(values)) > 1 else (values[0],))


def _spread(dim: Dim, axis: str, own: Sequence[float], sizes: Mapping[str, int]) -> list[float]:
    """The factor of every index of a dim, given those of one axis in it."""
    out = [1.0]
    for term in dim:
        if isinstance(term, Leaf):
            column = list(own) if term.axis == axis else [1.0] * sizes.get(term.axis, term.size)
        else:
            column = [value for part in term.parts for value in _spread(part, axis, own, sizes)]
        out = [a * b for a in out for b in column]
    return out


def _foldable(node: Any, table: AxisTable, found: Sum) -> list[str] | None:
    """Parameters into which a factor on this activation can be folded, if the activation has no other use.

    These are the gain and bias of the norm that made it (or the gain and bias that were applied to it by
    ops).
    """
    if not isinstance(node, fx.Node) or len(node.users) != 1 or node.op != "call_function":
        return None
    if [operand for operand, _ in found.operands].count(found.operands[0][0]) > 1:
        return None
    if has(node, PASSES | MOVES):
        return _foldable(node.args[0], table, found)
    if has(node, Trait.NORM):
        return _own_all(_norm_parameters(node), table, found)
    if len(node.args) != 2:
        return None
    left, right = node.args
    if has(node, Trait.SCALING) and isinstance(right, (int, float)):
        return _foldable(left, table, found)
    if has(node, Trait.SCALING) and has(node, Trait.PRODUCT):
        return _own_all([left], table, found) or _own_all([right], table, found)
    if op_name(node) == "add" and not node.kwargs:
        sides = [_own_all([side], table, found) or _foldable(side, table, found) for side in (left, right)]
        return None if None in sides else [tensor for side in sides if side is not None for tensor in side]
    return None


def _norm_parameters(node: fx.Node) -> list[Any]:
    at = positions(node)
    places = [place for place in (at.weight, at.bias) if place is not None] if at is not None else []
    return [a for place in places for a in node.args[place : place + 1] if isinstance(a, fx.Node)]


def _own_all(arguments: Sequence[Any], table: AxisTable, found: Sum) -> list[str] | None:
    """The parameters that arguments are, if each is one that lies on the axis and is read once."""
    names = []
    for argument in arguments:
        if not isinstance(argument, fx.Node) or argument.op != "get_attr" or len(argument.users) != 1:
            return None
        name = str(argument.target)
        if not any(leaf.axis == found.axis for dim in table.tensor_dims[name] for leaf in dim.leaves()):
            return None
        names.append(name)
    return names or None
