"""The layer axis: groups of blocks, and where a block's residual branches end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from mlgraph.blocks import Block, Chain
from mlgraph.errors import AxisError, MlgraphError
from mlgraph.program import Program
from mlgraph.transfer import Grouping

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


def group_layers(
    program: Program, depth: int, pairing: str, requests: Mapping[str, object], freeze: Iterable[str]
) -> dict[str, Grouping]:
    """The grouping of blocks of every chain that is to change, by chain name.

    Raises:
        AxisError: there is no chain, or a chain's number of blocks does not divide.
    """
    chains = list(program.blocks)
    if depth != 1 and not chains:
        raise AxisError(
            "depth cannot change: the graph has no chain of repeated blocks; leave depth at 1, "
            "width still works."
        )
    frozen = set(freeze)
    out = {}
    for chain in chains:
        request = requests.get(chain.name, depth)
        if chain.name in frozen or request == 1:
            continue
        count = len(chain)
        if not isinstance(request, int):
            out[chain.name] = Grouping.of(request, count, chain.name)  # type: ignore[arg-type]
            continue
        if request < 1 or count % request:
            raise AxisError(
                f"the layer axis {chain.name} has {count} blocks"
                f"{f' of {chain.period} layers each' if chain.period > 1 else ''}, which {request} does "
                "not divide: "
                f"choose a divisor, give an explicit grouping, or freeze {chain.name}."
            )
        make = Grouping.halves if pairing == "halves" else Grouping.adjacent
        out[chain.name] = make(count, request)
    return out


@dataclass(frozen=True)
class BranchEnds:
    """Per residual branch of a block, the tensors in which its output is linear (weight and bias of its
    last map)."""

    tensors: tuple[str, ...]


def branch_ends(program: Program, chain: Chain, block: Block) -> BranchEnds:
    """The tensors to scale by c so that every residual branch of a block is scaled by c.

    Raises:
        MlgraphError: the block is no residual stream (post-norm), or a branch ends in no map of its own.
    """
    nodes = {node.name: node for node in program.graph.nodes}
    tensors: list[str] = []
    node = nodes[block.exit]
    while node.name != block.entry:
        if node.op != "call_function":
            break
        name = getattr(node.target, "_opname", "")
        if name == "add":
            sides = [a for a in node.args[:2] if isinstance(a, fx.Node)]
            streams = [a for a in sides if _streams(a, block.entry)]
            if len(sides) != 2 or len(streams) != 1:
                break
            branch = sides[0] if streams[0] is sides[1] else sides[1]
            found = _linear_in(branch, set(block.nodes))
            if found is None:
                raise MlgraphError(
                    f"a residual branch of {chain.name} ends at {branch.target} "
                    f"({branch.meta.get('source', branch.name)}), which no parameter scales: use "
                    "depth_mode='copy'."
                )
            tensors.extend(t for t in found if t not in tensors)
            node = streams[0]
        elif name in ("dropout", "to", "contiguous", "clone", "alias") and isinstance(node.args[0], fx.Node):
            node = node.args[0]
        else:
            break
    if node.name != block.entry or not tensors:
        raise MlgraphError(
            f"the blocks of {chain.name} normalise their residual stream or have none (at {node.target}), "
            "so no "
            "copy of a block can be made an identity or scaled: use depth_mode='copy'."
        )
    return BranchEnds(tuple(tensors))


def _streams(node: fx.Node, entry: str) -> bool:
    """Whether a value is the entry plus residual branches."""
    while node.name != entry:
        name = getattr(node.target, "_opname", "") if node.op == "call_function" else ""
        if name == "add":
            sides = [a for a in node.args[:2] if isinstance(a, fx.Node)]
            streams = [a for a in sides if _streams(a, entry)]
            if len(streams) != 1:
                return False
            node = streams[0]
        elif name in ("dropout", "to", "contiguous", "clone", "alias") and isinstance(node.args[0], fx.Node):
            node = node.args[0]
        else:
            return False
    return True


def _linear_in(node: fx.Node, inside: set[str]) -> list[str] | None:
    if node.op == "get_attr":
        return [str(node.target)]
    if node.op != "call_function" or node.name not in inside:
        return None
    name = getattr(node.target, "_opname", getattr(node.target, "__name__", ""))

    def operands(positions: Sequence[int]) -> list[str] | None:
        given = [node.args[p] for p in positions if p < len(node.args) and isinstance(node.args[p], fx.Node)]
        found = [_linear_in(a, inside) for a in given if isinstance(a, fx.Node)]
        if not found or any(f is None for f in found):
            return None
        return [t for f in found if f is not None for t in f]

    if name in _WEIGHTED:
        return operands(_WEIGHTED[name])
    if name in _NORMS:
        return operands(_NORMS[name])
    if name in ("mul", "matmul", "bmm", "mm", "_grouped_mm", "grouped_mm_fallback"):
        for position in (1, 0):
            argument = node.args[position]
            if isinstance(argument, fx.Node):
                found = _linear_in(argument, inside)
                if found is not None:
                    return found
        return None
    if name == "add" and len(node.args) > 1 and isinstance(node.args[1], fx.Node):
        return operands((0, 1))
    if name in ("cat", "stack"):
        parts = [_linear_in(a, inside) for a in node.args[0]]  # type: ignore[union-attr, arg-type]
        return None if any(p is None for p in parts) else [t for p in parts if p is not None for t in p]
    if name == "scaled_dot_product_attention":
        return operands((2,))
    if name in _UNARY:
        return operands((0,))
    return None
