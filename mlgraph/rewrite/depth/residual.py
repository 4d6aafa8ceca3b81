"""Residual streams: where a block's branches end, and what makes a copy of a block an identity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from mlgraph.errors import MlgraphError
from mlgraph.graph.ops import has, op_name, positions
from mlgraph.graph.traits import CUTS, MOVES, PASSES, Trait
from mlgraph.program import Program
from mlgraph.program.block_table import Block, Chain
from mlgraph.rewrite.grouping import Grouping

# What a stream passes unchanged, and what a value stays linear through.
_ON_STREAM = PASSES | Trait.REORDERS | Trait.RESHAPES
_UNARY = PASSES | MOVES | CUTS | Trait.PADS | Trait.LOOKS_UP | Trait.LINEAR | Trait.QUOTIENT


@dataclass(frozen=True)
class Stream:
    """The residual stream through a block.

    ``ends`` are the tensors in which the outputs of its residual branches are linear (weight and bias of
    their last maps), ``norms`` the gain and bias of every norm that the stream itself passes, the last
    first (none in a pre-norm block).
    """

    ends: tuple[str, ...]
    norms: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Affine:
    """What becomes of a copied tensor: ``scale * tensor + shift``."""

    scale: float
    shift: float = 0.0


def stream(program: Program, chain: Chain, block: Block, strict: bool) -> Stream:
    """Follow the residual stream of a block from its exit back to its entry.

    ``strict`` asks for branches that scale with their ends; else it is enough that they vanish with them.

    Raises:
        MlgraphError: there is no such stream, or a branch ends in no map of its own.
    """
    nodes = {node.name: node for node in program.graph.nodes}
    inside = set(block.nodes)
    ends: list[str] = []
    norms: list[tuple[str, ...]] = []
    node = nodes[block.exit]
    while node.name != block.entry:
        if op_name(node) == "add":
            sides = [a for a in node.args[:2] if isinstance(a, fx.Node)]
            streams = [a for a in sides if _reaches(a, block.entry)]
            if len(sides) != 2 or len(streams) != 1:
                break
            branch = sides[0] if streams[0] is sides[1] else sides[1]
            found = _linear_in(branch, inside, strict)
            if found is None:
                raise MlgraphError(
                    f"a residual branch of {chain.name} ends at {branch.target} "
                    f"({branch.meta.get('source', branch.name)}), which no parameter scales: use "
                    "depth_mode='copy'."
                )
            ends.extend(t for t in found if t not in ends)
            node = streams[0]
            continue
        if _is_plain_norm(node):
            norms.append(tuple(str(a.target) for a in _parameters(node) if a.op == "get_attr"))
        elif not has(node, _ON_STREAM):
            break
        source = node.args[0]
        if not isinstance(source, fx.Node):
            break
        node = source
    if node.name != block.entry or not ends:
        raise MlgraphError(
            f"the blocks of {chain.name} have no residual stream that can be followed (it ends at "
            f"{node.target}), so "
            "no copy of a block can be scaled or made an identity: use depth_mode='copy'."
        )
    return Stream(tuple(ends), tuple(norms))


def copies(
    program: Program, chain: Chain, members: Sequence[Block], depth_mode: str
) -> list[Mapping[str, Affine]]:
    """What becomes of the tensors of each copy of a block, in order, by tensor name.

    ``scaled`` divides the ends of residual branches by the number of copies. ``identity`` keeps the first
    copy's and zeroes those of the rest; where the stream itself is normalised (post-norm), every norm on it
    between the first copy's last and the last copy's last is made plain (gain 1, bias 0), and the last
    takes the gain and bias: normalising twice is normalising once, but for its epsilon.

    Raises:
        MlgraphError: see :func:`stream`; or a tensor concerned is shared with other blocks.
    """
    if depth_mode == "copy" or len(members) == 1:
        return [{} for _ in members]
    out: list[Mapping[str, Affine]] = []
    last = len(members) - 1
    for rank, block in enumerate(members):
        found = stream(program, chain, block, strict=depth_mode == "scaled")
        changed: dict[str, Affine] = {}
        if depth_mode == "scaled":
            changed.update(dict.fromkeys(found.ends, Affine(1 / len(members))))
        else:
            if rank > 0:
                changed.update(dict.fromkeys(found.ends, Affine(0.0)))
            for position, norm in enumerate(found.norms):
                if (rank < last) if position == 0 else (rank > 0):
                    changed.update({t: Affine(0.0, 1.0 if i == 0 else 0.0) for i, t in enumerate(norm)})
        for tensor in changed:
            if tensor not in block.tensors:
                raise MlgraphError(
                    f"{tensor}, which ends a residual branch of {chain.name}, is shared with other blocks, "
                    "so that no "
                    "copy of a block can be scaled: use depth_mode='copy'."
                )
        out.append(changed)
    return out


def residual_changes(
    program: Program, layers: Mapping[str, Grouping], depth_mode: str, blocks_of: str
) -> dict[tuple[str, int, int], Affine]:
    """Per (chain, fine block, tensor position), what becomes of copied tensors.

    ``blocks_of`` says whether ``program`` holds the ``"fine"`` blocks or the ``"coarse"`` ones that they
    copy.
    """
    out: dict[tuple[str, int, int], Affine] = {}
    chains = {chain.name: chain for chain in program.blocks} if depth_mode != "copy" else {}
    for name, grouping in layers.items():
        if name not in chains:
            continue
        for coarse, members in enumerate(grouping.members):
            indices = members if blocks_of == "fine" else (coarse,) * len(members)
            blocks = [chains[name].blocks[i] for i in indices]
            for member, block, changed in zip(
                members, blocks, copies(program, chains[name], blocks, depth_mode), strict=True
            ):
                for tensor, affine in changed.items():
                    out[name, member, block.tensors.index(tensor)] = affine
    return out


def _is_plain_norm(node: fx.Node) -> bool:
    """Whether the node is a norm whose statistics are its input's in both modes."""
    return has(node, Trait.NORM) and op_name(node) != "batch_norm"


def _parameters(node: fx.Node) -> list[fx.Node]:
    """Weight and bias of an op that has them, gain and bias of a norm."""
    at = positions(node)
    given = [p for p in (at.weight, at.bias) if p is not None] if at is not None else []
    return [a for p in given for a in node.args[p : p + 1] if isinstance(a, fx.Node)]


def _reaches(node: fx.Node, entry: str) -> bool:
    """Whether a value is the entry, plus residual branches, perhaps normalised."""
    while node.name != entry:
        source = node.args[0] if node.args else None
        if op_name(node) == "add":
            sides = [a for a in node.args[:2] if isinstance(a, fx.Node)]
            streams = [a for a in sides if _reaches(a, entry)]
            if len(streams) != 1:
                return False
            node = streams[0]
        elif has(node, _ON_STREAM | Trait.NORM) and isinstance(source, fx.Node):
            node = source
        else:
            return False
    return True


def _depends(value: object, tensors: set[str], inside: set[str]) -> bool:
    stack, seen = [value], set()
    while stack:
        node = stack.pop()
        if not isinstance(node, fx.Node) or node in seen:
            continue
        seen.add(node)
        if node.op == "get_attr" and str(node.target) in tensors:
            return True
        if node.name in inside:
            stack.extend(node.all_input_nodes)
    return False


def _linear_in(value: object, inside: set[str], strict: bool) -> list[str] | None:
    """Tensors in which a value is linear; ``strict`` refuses values that a norm makes scale-free in them."""
    if not isinstance(value, fx.Node):
        return None
    if value.op == "get_attr":
        return [str(value.target)]
    if value.op != "call_function" or value.name not in inside:
        return None
    if has(value, Trait.PRODUCT):
        return _linear_factor(value, inside, strict)
    found = [_linear_in(part, inside, strict) for part in _linear_parts(value)]
    listed = [names for names in found if names is not None]
    return [name for names in listed for name in names] if found and len(listed) == len(found) else None


def _linear_parts(node: fx.Node) -> list[Any]:
    """The operands that a node's value scales with, taken together; none where there are no such."""
    if positions(node) is not None:
        return list(_parameters(node))
    if op_name(node) == "add":
        return list(node.args[:2]) if len(node.args) > 1 and isinstance(node.args[1], fx.Node) else []
    if has(node, Trait.JOINS):
        return list(node.args[0])  # type: ignore[arg-type]
    if op_name(node) == "scaled_dot_product_attention":
        return list(node.args[2:3])
    return list(node.args[:1]) if has(node, _UNARY) else []


def _linear_factor(node: fx.Node, inside: set[str], strict: bool) -> list[str] | None:
    """Tensors in which the last possible factor of a product is linear."""
    given = node.args[1] if op_name(node) == "einsum" else node.args[:2]
    factors = [a for a in given if isinstance(a, fx.Node)]  # type: ignore[union-attr]
    for factor in reversed(factors):
        found = _linear_in(factor, inside, strict)
        others = [other for other in factors if other is not factor]
        if found is not None and not (strict and any(_depends(o, set(found), inside) for o in others)):
            return found
    return None
