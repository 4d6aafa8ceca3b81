"""bert2BERT's advanced knowledge initialisation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from mlgraph.errors import MlgraphError
from mlgraph.graph.ops import has, op_name
from mlgraph.graph.traits import Trait
from mlgraph.passes.growth import DeepGrowth, first_then_circular, first_then_random, grown_groupings
from mlgraph.program import Program
from mlgraph.program.block_table import Chain
from mlgraph.program.dims import Dim, Leaf
from mlgraph.rewrite.grouping import Grouping
from mlgraph.rewrite.plan import plan_up
from mlgraph.rewrite.refine import apply_up


@dataclass(frozen=True)
class Aki(DeepGrowth):
    """Advanced knowledge initialisation of bert2BERT (Chen et al., arXiv 2110.07143): new outputs come from
    the layer above.

    Widening as in FPI, but in a block's matrices and biases the rows (out-dimension) of new indices are
    those of the next block's, which breaks the symmetry of copies and lets low layers start with what high
    layers know. The last block, and everything outside the blocks, is widened as in FPI. ``depth`` stacks
    afterwards.
    """

    def __call__(self, program: Program) -> Program:
        from mlgraph.passes.stack import Stack

        if not len(program.blocks):
            raise MlgraphError(
                f"{program.name} has no chain of repeated blocks, so none lies above another: use fpi."
            )
        mapped = first_then_circular if float(self.width).is_integer() else first_then_random
        groupings = grown_groupings(program, self.width, self.axes, self.seed, mapped, "aki")
        wide = apply_up(program, groupings, {}, "exact", "copy", str(self))
        values = dict(wide.tensors)
        plan = plan_up(program, groupings)
        norms = _norm_tensors(program)
        for chain in program.blocks:
            for name, upper in _neighbours(chain):
                transfer = plan.transfers.get(name)
                if transfer is None or not transfer.changes or name in norms or name == upper:
                    continue
                new = _new_outputs(transfer.dims, transfer.roles, groupings)
                own = wide.tensors[name]
                values[name] = torch.where(new.to(own.device), wide.tensors[upper], own)
        grown = wide.replace(tensors=wide.tensors.replace(values))
        return grown if self.depth == 1 else Stack(self.depth)(grown)


def _neighbours(chain: Chain) -> Iterator[tuple[str, str]]:
    """Every tensor of a block with the one in its place in the block above."""
    for block, above in pairwise(chain.blocks):
        yield from zip(block.tensors, above.tensors, strict=True)


def _norm_tensors(program: Program) -> set[str]:
    """Gains and biases of norms, by the ops that read them."""
    out = set()
    for node in program.graph.nodes:
        if has(node, Trait.NORM):
            out |= {str(n.target) for n in node.all_input_nodes if n.op == "get_attr"}
    for name, dims in program.axes.tensor_dims.items():
        if (
            len(dims) == 1
            and any(name == t for t in program.tensors.parameters)
            and _only_scales(program, name)
        ):
            out.add(name)
    return out


def _only_scales(program: Program, name: str) -> bool:
    users = [u for n in program.graph.nodes if n.op == "get_attr" and n.target == name for u in n.users]
    return bool(users) and all(op_name(u) == "mul" for u in users)


def _new_outputs(dims: tuple[Dim, ...], roles: Any, groupings: dict[str, Grouping]) -> torch.Tensor:
    """Where any emitting index is a copy, not the first of its kind: a mask that broadcasts over the
    tensor."""
    total = torch.zeros([1] * len(dims), dtype=torch.bool)
    for position, (dim, own) in enumerate(zip(dims, roles, strict=True)):
        mask = _copies(dim, iter(own), groupings)
        shape = [1] * len(dims)
        shape[position] = -1
        total = total | mask.view(shape)
    return total


def _copies(dim: Dim, roles: Any, groupings: dict[str, Grouping]) -> torch.Tensor:
    out = torch.zeros(1, dtype=torch.bool)
    for term in dim:
        if isinstance(term, Leaf):
            role = next(roles)
            own = torch.zeros(term.size, dtype=torch.bool)
            if term.axis in groupings and role == "emits":
                own[groupings[term.axis].coarse :] = True
        else:
            own = torch.cat([_copies(part, roles, groupings) for part in term.parts])
        out = (out[:, None] | own).flatten()
    return out
