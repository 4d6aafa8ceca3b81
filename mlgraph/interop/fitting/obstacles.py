"""What of a coarsening stands in the way of a class: the axes and chains that it has no other sizes for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from mlgraph.rewrite.trials import kin

if TYPE_CHECKING:
    from mlgraph.interop.fitting.gap import Gap
    from mlgraph.program import Program
    from mlgraph.program.dims import Dim
    from mlgraph.program.program import Lineage


def obstacles_of(program: Program, gap: Gap) -> tuple[str, ...]:
    """The axes and chains that changed and that the shapes of the nearest class differ along.

    They are those of the program's parent, axes by id; none where the program was not coarsened. Where the
    class changes a dim that the program kept, they are the axes that changed as that dim would have.
    """
    change = _change(program)
    if change is None:
        return ()
    found: list[str] = []
    for name, position, size, wanted in gap.wrong:
        dims = change.parent.axes.tensor_dims.get(name)
        here = list(_moved(dims[position], change)) if dims is not None and position < len(dims) else []
        found += here or _changed_so(change, wanted, size)
    chains = {chain.name: chain.prefix or chain.name for chain in change.parent.blocks}
    for container in gap.counts:
        found += [n for n in change.layers if n in chains and chains[n].startswith(container)]
    return _with_kin(change, found)


def obstacles_at(program: Program, nodes: Iterable[str]) -> tuple[str, ...]:
    """The axes that changed and lie on the first of these nodes of the program, or on what it reads."""
    change = _change(program)
    if change is None:
        return ()
    by_name = {node.name: node for node in program.graph.nodes}
    for name in nodes:
        node = by_name[name]
        near = [node.name, *(operand.name for operand in node.all_input_nodes)]
        found = [axis for at in near for axis in _at(program, change, at)]
        if found:
            return _with_kin(change, found)
    return ()


def _change(program: Program) -> Lineage | None:
    lineage = program.lineage
    return lineage if lineage is not None and lineage.direction == "down" else None


def _moved(dim: Dim, change: Lineage) -> Iterator[str]:
    return (leaf.axis for leaf in dim.leaves() if leaf.axis in change.groupings)


def _changed_so(change: Lineage, before: int, after: int) -> list[str]:
    sizes = {axis: (len(coarse_of), max(coarse_of) + 1) for axis, coarse_of in change.groupings.items()}
    return [axis for axis, pair in sizes.items() if pair == (before, after)]


def _at(program: Program, change: Lineage, node: str) -> Iterator[str]:
    """The axes of the parent that changed and lie on a node, found by the parameters that they lie on."""
    known, axes = program.axes.node_dims.get(node), {axis.id: axis for axis in program.axes}
    if known is None:
        return
    for leaf in (leaf for dims in known.results for dim in dims for leaf in dim.leaves()):
        for slot in axes[leaf.axis].slots if leaf.axis in axes else ():
            dims = change.parent.axes.tensor_dims.get(slot.tensor, ())
            leaves = list(dims[slot.dim].leaves()) if slot.dim < len(dims) else []
            if slot.occurrence < len(leaves) and leaves[slot.occurrence].axis in change.groupings:
                yield leaves[slot.occurrence].axis


def _with_kin(change: Lineage, found: Iterable[str]) -> tuple[str, ...]:
    """With their counterparts in the other blocks of a chain, which change together."""
    alike = kin(change.parent)
    every = [other for axis in found for other in sorted(alike.get(axis, {axis}))]
    return tuple(dict.fromkeys(axis for axis in every if axis in change.groupings or axis in change.layers))
