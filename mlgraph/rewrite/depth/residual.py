"""Residual streams: where a block's branches end, and what makes a copy of a block an identity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from mlgraph.errors import MlgraphError
from mlgraph.program import Program
from mlgraph.program.block_table import Block, Chain
from mlgraph.rewrite.grouping import Grouping

# fmt: off
_UNARY = {
    "dropout", "to", "_to_copy", "view", "reshape", "transpose", "permute", "unsqueeze", "squeeze",
    "contiguous", "slice", "select", "flatten", "unflatten", "clone", "expand", "alias", "sum", "mean",
    "neg", "roll", "div", "index", "drop_path", "movedim", "constant_pad_nd", "pad", "_unsafe_view",
    "split", "chunk", "getitem", "t", "index_select", "gather", "split_with_sizes",
}
# fmt: on
_WEIGHTED = {
    "linear": (1, 2),
    "conv1d": (1, 2),
    "conv2d": (1, 2),
    "conv3d": (1, 2),
    "addmm": (2, 0),
    "baddbmm": (2, 0),
}
_NORMS = {"layer_norm": (2, 3), "rms_norm": (2, 3), "group_norm": (2, 3), "batch_norm": (1, 2)}
_MULTILINEAR = ("mul", "matmul", "bmm", "mm", "einsum", "_grouped_mm", "grouped_mm_fallback")
_PASSED = ("dropout", "to", "contiguous", "clone", "alias", "view", "reshape", "transpose", "drop_path")


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
        name = getattr(node.target, "_opname", "") if node.op == "call_function" else ""
        if name == "add":
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
        elif name in _NORMS and name != "batch_norm" and isinstance(node.args[0], fx.Node):
            own = [a for p in _NORMS[name] for a in node.args[p : p + 1] if isinstance(a, fx.Node)]
            norms.append(tuple(str(a.target) for a in own if a.op == "get_attr"))
            node = node.args[0]
        elif name in _PASSED and isinstance(node.args[0], fx.Node):
            node = node.args[0]
        else:
            break
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


def _reaches(node: fx.Node, entry: str) -> bool:
    """Whether a value is the entry, plus residual branches, perhaps normalised."""
    while node.name != entry:
        name = getattr(node.target, "_opname", "") if node.op == "call_function" else ""
        if name == "add":
            sides = [a for a in node.args[:2] if isinstance(a, fx.Node)]
            streams = [a for a in sides if _reaches(a, entry)]
            if len(streams) != 1:
                return False
            node = streams[0]
        elif (name in _PASSED or name in _NORMS) and isinstance(node.args[0], fx.Node):
            node = node.args[0]
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


def _linear_in(node: fx.Node, inside: set[str], strict: bool) -> list[str] | None:
    """Tensors in which a value is linear; ``strict`` refuses values that a norm makes scale-free in them."""
    if node.op == "get_attr":
        return [str(node.target)]
    if node.op != "call_function" or node.name not in inside:
        return None
    name = getattr(node.target, "_opname", getattr(node.target, "__name__", ""))

    def operands(positions: Sequence[int]) -> list[str] | None:
        given = [node.args[p] for p in positions if p < len(node.args) and isinstance(node.args[p], fx.Node)]
        found = [_linear_in(a, inside, strict) for a in given if isinstance(a, fx.Node)]
        if not found or any(f is None for f in found):
            return None
        return [t for f in found if f is not None for t in f]

    if name in _WEIGHTED:
        return operands(_WEIGHTED[name])
    if name in _NORMS:
        return operands(_NORMS[name])
    if name in _MULTILINEAR:
        factors = node.args[1] if name == "einsum" else node.args[:2]
        listed: list[fx.Node] = [a for a in factors if isinstance(a, fx.Node)]  # type: ignore[union-attr]
        for factor in reversed(listed):
            found = _linear_in(factor, inside, strict)
            others = [other for other in listed if other is not factor]
            if found is not None and not (strict and any(_depends(o, set(found), inside) for o in others)):
                return found
        return None
    if name == "add" and len(node.args) > 1 and isinstance(node.args[1], fx.Node):
        return operands((0, 1))
    if name in ("cat", "stack"):
        joined: list[fx.Node] = list(node.args[0])  # type: ignore[arg-type]
        parts = [_linear_in(a, inside, strict) for a in joined]
        return None if any(p is None for p in parts) else [t for p in parts if p is not None for t in p]
    if name == "scaled_dot_product_attention":
        return operands((2,))
    if name in _UNARY:
        return operands((0,))
    return None
