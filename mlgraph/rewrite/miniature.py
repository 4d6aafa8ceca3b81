"""Miniatures: a program at widths of a few indices with random weights in float64, and the same one grown.

Since any axis can be rewritten to any size, what a change of width does can be tried in milliseconds, however
large the program. Both sides are made by the rewriting that is to be tried.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from mlgraph.graph import ops
from mlgraph.graph.constants import constants
from mlgraph.graph.effects import is_random, mutates
from mlgraph.graph.interpret import Interpretation
from mlgraph.program.block_table import Block, BlockTable, Chain
from mlgraph.program.dims import Dim, NodeDims
from mlgraph.rewrite.copied import Copies
from mlgraph.rewrite.grouping import Grouping
from mlgraph.rewrite.plan import WidthPlan, plan_up
from mlgraph.rewrite.resize import resize_graph
from mlgraph.rewrite.resizers import Unresizable
from mlgraph.rewrite.weight_norm import with_lengths

if TYPE_CHECKING:
    from mlgraph.program import Program
    from mlgraph.program.axis_table import AxisTable
    from mlgraph.rewrite.choices import Extend, Reduce

WIDTHS = (4, 5, 3)
"""Sizes that axes take in turn, so that neighbours differ."""

ROWS = 257
"""Rows of tables that have more than sixteen times as many, and entries of what is compared with them."""

MOST_ELEMENTS = 1 << 24
"""Elements in all tensors of a miniature: beyond it, it is none."""


class Misfit(Exception):
    """A node that does not run at other widths, or gives another shape than its axes foretell."""

    def __init__(self, node: fx.Node, text: str) -> None:
        super().__init__(text)
        self.node = node


class TooLarge(Exception):
    """Tensors on no axis that could shrink make even the miniature large."""


@dataclass(frozen=True)
class AxisGrowth:
    """How an axis grows on trial: so many copies of each index, of one of them fewer where ``uneven``; and
    how its groups go down and come back."""

    factor: int
    uneven: bool = False
    reduce: Reduce = "mean"
    extend: Extend = "copy"

    @property
    def is_plain(self) -> bool:
        """Whether it is by as many copies of every index, of which means are taken."""
        return self == AxisGrowth(self.factor)


@dataclass(frozen=True)
class Side:
    """One of the two programs: its graph and tensors, and the original node of every node copied."""

    program: Program
    origin: Mapping[fx.Node, fx.Node]
    dims: Mapping[str, NodeDims]


@dataclass(frozen=True, eq=False)
class Miniature:
    """A program in small, and what its growth by ``factors`` (by axis id) makes of it.

    Which copies belong to which index is drawn at random, so that an order of indices that matters shows.
    ``whole`` names axes that keep their size, ``large_tables`` has embedding tables keep theirs. ``chosen``
    gives, by chain, the blocks that it has, the first among them; of other chains it has as few as can be.
    ``alike`` names, of axes that are to be as wide as others, the one that they are like.
    """

    program: Program
    factors: Mapping[str, AxisGrowth]
    whole: frozenset[str] = frozenset()
    large_tables: bool = False
    seed: int = 0
    chosen: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    alike: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @cached_property
    def sizes(self) -> dict[str, int]:
        """The size of every axis that is small, by axis id."""
        grown = [axis.id for axis in self.program.axes if axis.id in self.factors]
        own = list(dict.fromkeys(self.alike.get(axis, axis) for axis in grown))
        width = {axis: WIDTHS[own.index(self.alike.get(axis, axis)) % len(WIDTHS)] for axis in grown}
        small = {
            axis.id: axis.size if axis.id in self.whole else min(axis.size, width[axis.id])
            for axis in self.program.axes
            if axis.id in self.factors
        }
        return small if self.large_tables else {**dict.fromkeys(self.large, ROWS), **small}

    @cached_property
    def large(self) -> list[str]:
        """The axes along which large embedding tables are looked up."""
        tables = self.program.axes.tables
        return [
            axis.id
            for axis in self.program.axes
            if axis.size > 16 * ROWS and any(slot.tensor in tables and slot.dim == 0 for slot in axis.slots)
        ]

    def inputs(self, leaves: Iterable[Any]) -> list[Any]:
        """Input leaves whose integers index tables of this size."""
        if self.large_tables or not self.large:
            return list(leaves)
        return [
            leaf % ROWS
            if isinstance(leaf, torch.Tensor)
            and not (leaf.is_floating_point() or leaf.is_complex())
            and leaf.dtype is not torch.bool
            else leaf
            for leaf in leaves
        ]

    @cached_property
    def groupings(self) -> dict[str, Grouping]:
        """The index that every index of a grown axis copies."""
        generator = torch.Generator().manual_seed(self.seed)
        out = {}
        for axis, growth in self.factors.items():
            out[axis] = _dealt(self.sizes[axis], growth, generator)
        return out

    @cached_property
    def table(self) -> AxisTable:
        """The program's axes at their small sizes; nodes are named as in the program."""
        table, sizes = self.program.axes, self.sizes
        return dataclasses.replace(
            table,
            axes=tuple(dataclasses.replace(a, size=sizes.get(a.id, a.size)) for a in table),
            tensor_dims={n: tuple(d.resized(sizes) for d in dims) for n, dims in table.tensor_dims.items()},
            node_dims={n: _resized(dims, sizes) for n, dims in table.node_dims.items()},
        )

    @cached_property
    def small(self) -> Side:
        """The program in small."""
        return self._side(self.sizes, self.tensors, ())

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        """Random weights for what the small graph reads; constants that keep their shape keep their values.

        Vectors and what is no parameter are positive, as gains and variances are.
        """
        generator = torch.Generator().manual_seed(self.seed)
        known, masks = self.program.tensors, constants(self.program)
        nodes = self.program.graph.nodes
        read = {str(n.target) for n in nodes if n.op == "get_attr" and n not in self.left_out}
        out: dict[str, torch.Tensor] = {}
        total = 0
        for name, like in known.meta().items():
            if name not in read:
                continue
            dims = self.table.tensor_dims.get(name)
            shape = tuple(dim.size for dim in dims) if dims is not None else tuple(like.shape)
            total += torch.Size(shape).numel()
            if total > MOST_ELEMENTS:
                raise TooLarge
            drawn_anew = shape != tuple(like.shape) or (name in known.parameters and name not in masks)
            held = None if drawn_anew else known[name]
            if held is not None and held.device.type != "meta":
                out[name] = held.detach().double() if held.is_floating_point() else held.detach().clone()
            elif like.is_complex():
                out[name] = torch.randn(shape, generator=generator, dtype=torch.complex128)
            elif not like.is_floating_point():
                out[name] = torch.zeros(shape, dtype=like.dtype)
            elif name in masks and name in known.parameters:
                # of two values, by which it is known for a mask
                out[name] = (torch.arange(torch.Size(shape).numel()) % 2).double().reshape(shape)
            elif len(shape) < 2 or name not in known.parameters:
                out[name] = 0.5 + torch.rand(shape, generator=generator, dtype=torch.float64)
            else:
                drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
                out[name] = drawn / max(shape[-1], 1) ** 0.5
        return out

    @cached_property
    def left_out(self) -> dict[fx.Node, fx.Node | None]:
        """The nodes of the blocks that it has not, and what stands in for their exits."""
        nodes = {node.name: node for node in self.program.graph.nodes}
        out: dict[fx.Node, fx.Node | None] = {}
        for chain in self.program.blocks:
            before = nodes[chain.blocks[0].exit]
            for block in chain:
                if block.index in self.kept[chain.name]:
                    before = nodes[block.exit]
                    continue
                out |= dict.fromkeys(map(nodes.__getitem__, block.nodes))
                out[nodes[block.exit]] = before
        return out

    @property
    def blocks(self) -> BlockTable:
        """The chains of the blocks that it has."""
        chains = []
        for chain in self.program.blocks:
            blocks: list[Block] = []
            for number in self.kept[chain.name]:
                entry = blocks[-1].exit if blocks else chain.blocks[number].entry
                blocks.append(dataclasses.replace(chain.blocks[number], index=len(blocks), entry=entry))
            chains.append(dataclasses.replace(chain, blocks=tuple(blocks)))
        return BlockTable(tuple(chains))

    @cached_property
    def kept(self) -> dict[str, tuple[int, ...]]:
        """The blocks of every chain that it has: those chosen, else the first, the last and such as grow
        otherwise.

        Chains in whose blocks something outside reads stay whole, and those whose stream changes its dims.
        """
        dims = self.program.axes.node_dims
        out = {}
        for chain in self.program.blocks:
            count = len(chain)
            alike = len({dims.get(block.exit) for block in chain}) == 1
            read = any(block.extras for block in chain) or (self.chosen and self._is_read(chain))
            if read or not alike:
                out[chain.name] = tuple(range(count))
                continue
            first, ends = self._grows(chain.blocks[0]), {0, count - 1}
            few = tuple(b.index for b in chain if b.index in ends or self._grows(b) != first)
            out[chain.name] = self.chosen.get(chain.name, few)
        return out

    def _is_read(self, chain: Chain) -> bool:
        """Whether what a block but the last gives is read other than by the next one."""
        inside = [set(block.nodes) for block in chain]
        nodes = {node.name: node for node in self.program.graph.nodes}
        return any(
            user.name not in after
            for block, after in zip(chain, inside[1:], strict=False)
            for user in nodes[block.exit].users
        )

    def _grows(self, block: Block) -> list[tuple[AxisGrowth | None, bool]]:
        """How every axis of every tensor of a block grows."""
        dims = self.program.axes.tensor_dims
        held = (leaf.axis for name in block.tensors for dim in dims.get(name, ()) for leaf in dim.leaves())
        return [(self.factors.get(axis), axis in self.whole) for axis in held]

    def plan(self, only: Iterable[str] | None = None, fold: bool = True) -> WidthPlan:
        """How the small program grows, along all axes or only some."""
        stand_in = self.program.replace()
        stand_in.__dict__["axes"] = self.table
        chosen = set(self.groupings) if only is None else set(only)
        return plan_up(stand_in, {a: g for a, g in self.groupings.items() if a in chosen}, fold=fold)

    def grown(self, plan: WidthPlan) -> Side:
        """The small program grown as planned: made from the program itself, not from the small one."""
        sizes = self.sizes | {axis: grouping.fine for axis, grouping in plan.groupings.items()}
        transfers = plan.transfers
        tensors = {n: transfers[n].up(t) if n in transfers else t for n, t in self.tensors.items()}
        return self._side(sizes, tensors, plan.gains)

    def moves(self, plan: WidthPlan) -> Copies:
        """Values of the small program as they must be in the grown one."""
        moves = {axis: torch.tensor(g.coarse_of) for axis, g in plan.groupings.items()}
        return Copies(self.table.node_dims, moves)

    def _side(self, sizes: Mapping[str, int], tensors: dict[str, torch.Tensor], gains: Sequence[Any]) -> Side:
        program = self.program
        try:
            made = resize_graph(program, sizes, program.tensors, gains, self.left_out)
        except Unresizable as error:
            raise Misfit(error.node, str(error)) from error
        held = program.tensors.replace({**tensors, **made.added})
        origin = {new: old for old, new in made.copies.items() if old not in self.left_out}
        dims = {n: _resized(d, sizes) for n, d in program.axes.node_dims.items()}
        return Side(with_lengths(program.replace(graph=made.graph, tensors=held)), origin, dims)


def _dealt(size: int, growth: AxisGrowth, generator: torch.Generator) -> Grouping:
    """Copies dealt out at random, and so that an axis turned round does not look the same."""
    while True:
        drawn = tuple((torch.randperm(size * growth.factor, generator=generator) // growth.factor).tolist())
        turned = tuple(size - 1 - index for index in reversed(drawn))
        if size < 3 or drawn != turned:
            break
    if growth.uneven:
        drawn = drawn[1:]
    return Grouping(drawn).going(growth.reduce, growth.extend, max)


def _resized(dims: NodeDims, sizes: Mapping[str, int]) -> NodeDims:
    results = tuple(tuple(dim.resized(sizes) for dim in part) for part in dims.results)
    return NodeDims(results, dims.several)


class Trial(Interpretation):
    """A run of one side in evaluation mode that keeps the value of every original node, and holds shapes to
    what the axes foretell.

    ``drawn`` gives the results of ops that draw random numbers, by original node, where they are known.
    """

    def __init__(self, side: Side, drawn: Mapping[fx.Node, Any] | None = None) -> None:
        super().__init__(side.program, widened=True)
        self.side = side
        self.drawn = drawn or {}
        self.values: dict[fx.Node, Any] = {}
        self._sizes: dict[Dim, int] = {}

    def _call(self, node: fx.Node, env: Mapping[fx.Node, Any], device: torch.device) -> Any:
        old = self.side.origin.get(node)
        try:
            value = super()._call(node, env, device)
        except Exception as error:
            text = " ".join(str(error).split())
            raise Misfit(old if old is not None else next(iter(_readers(node, self.side))), text) from error
        if old is None:
            return value
        if draws(old) and self.drawn.get(old) is not None:
            value = value.copy_(self.drawn[old]) if mutates(old) else self.drawn[old]
        self._hold(old, value)
        self.values[old] = self.settle(old, value)
        return self.values[old]

    def settle(self, _node: fx.Node, value: Any) -> Any:
        """The value with which the run goes on."""
        return value

    def _hold(self, node: fx.Node, value: Any) -> None:
        if not isinstance(value, torch.Tensor):
            return
        known = self.side.dims.get(node.name)
        dims = known.tensor if known is not None else None
        if dims is None or len(dims) != value.dim():
            return
        for dim, size in zip(dims, value.shape, strict=True):
            if dim not in self._sizes:
                self._sizes[dim] = dim.size
            if self._sizes[dim] >= 0 and self._sizes[dim] != size:
                wanted = [d.size for d in dims]
                raise Misfit(node, f"shape {list(value.shape)} instead of {wanted}")


def _readers(node: fx.Node, side: Side) -> Iterable[fx.Node]:
    """The original nodes that read a node which was added."""
    for user in node.users:
        old = side.origin.get(user)
        if old is not None:
            yield old
        else:
            yield from _readers(user, side)


def draws(node: fx.Node) -> bool:
    """Whether an op draws random numbers in evaluation too."""
    if node.op != "call_function" or not is_random(node) or node.target is ops.drop_path:
        return False
    target: Any = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return True
    arguments = [argument.name for argument in target._schema.arguments]
    name = target._schema.name
    return "dropout" not in name and not any("dropout" in a or a in ("train", "training") for a in arguments)
