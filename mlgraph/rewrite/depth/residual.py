"""Residual streams: where a block's branches end, and what makes a copy of a block an identity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import fx

from mlgraph.errors import MlgraphError
from mlgraph.graph.compare import relative_error
from mlgraph.graph.ops import has
from mlgraph.graph.traits import Trait
from mlgraph.program import Note, Program
from mlgraph.rewrite.depth.streams import StreamOp, StreamPath, follow, is_cast, last_stop, paths
from mlgraph.rewrite.depth.vanishing import Vanishing

if TYPE_CHECKING:
    from mlgraph.program.block_table import Block, Chain
    from mlgraph.rewrite.grouping import Grouping

_EXACT = 1e-10
_TOLERANCE = {torch.float64: _EXACT, torch.float32: 1e-5}
_HALF = 1e-2


@dataclass(frozen=True)
class ResidualStream:
    """The residual stream through a block.

    ``path`` are the ops on it, ``ends`` the tensors in which the outputs of its residual branches are linear
    (weight and bias of their last maps), ``norms`` the gain and bias of every norm that the stream itself
    passes, the last first (none in a pre-norm block), ``gains`` the parameters that multiply the stream.
    """

    path: StreamPath
    ends: tuple[str, ...]
    norms: tuple[tuple[str, ...], ...]
    gains: tuple[str, ...]


@dataclass(frozen=True)
class CopyScaling:
    """What becomes of a copied tensor: ``scale * tensor + shift``; or, ``fresh``, random values of its mean
    and variance."""

    scale: float
    shift: float = 0.0
    fresh: bool = False


@dataclass(frozen=True)
class Changes:
    """What becomes of copied tensors, by (chain, fine block, tensor position), and what of it is inexact."""

    affine: Mapping[tuple[str, int, int], CopyScaling]
    approximate: tuple[Note, ...] = ()


def stream(
    program: Program, chain: Chain, block: Block, depth_mode: str
) -> tuple[ResidualStream, Note | None]:
    """The residual stream of a block, and in which respect its copies are only nearly what they should be.

    Every way along which the entry may reach the exit is tried until one does what ``depth_mode`` asks.

    Raises:
        MlgraphError: there is no such stream, a branch ends in no map of its own, or what is done to the
            stream itself cannot be done twice.
    """
    failures: list[str] = []
    for path in paths(program, block):
        found = _ends(program, block, path, strict=depth_mode == "scaled")
        if isinstance(found, fx.Node):
            where = f" ({found.meta['source']})" if found.meta.get("source") else ""
            failures.append(
                f"a residual branch of {chain.name} ends at {found.target}{where}, which no parameter "
                "scales: use depth_mode='copy'."
            )
            continue
        norms = tuple(step.own for step in reversed(path) if step.is_norm)
        gains = tuple(dict.fromkeys(t for step in path if step.name == "mul" for t in step.own))
        candidate = ResidualStream(path, tuple(found), norms, gains)
        error = _error(program, block, candidate, depth_mode)
        if error <= _EXACT:
            return candidate, None
        if error <= _TOLERANCE.get(_dtype(program, block), _HALF):
            text = f"copies of blocks of {chain.name} normalise anew: exact but for epsilon"
            return candidate, Note("approximate", text, chain.name) if norms else None
        failures.append(_not_twice(chain, candidate, depth_mode))
    raise MlgraphError(
        failures[0]
        if failures
        else f"the blocks of {chain.name} have no residual stream that can be followed (it ends at "
        f"{last_stop(program, block).target}), so no copy of a block can be scaled or made an identity: use "
        "depth_mode='copy'."
    )


def _ends(program: Program, block: Block, path: StreamPath, strict: bool) -> list[str] | fx.Node:
    """The ends of all branches of a path, or the branch that has none."""
    own = program.tensors.parameters.intersection(block.tensors)
    vanishing = Vanishing(program, block.nodes, own, strict)
    ends: dict[str, None] = {}
    branches = [step.branch for step in path if step.branch is not None]
    for branch in branches:
        found = vanishing.ends(branch)
        if found is None:
            return branch
        ends.update(dict.fromkeys(found))
    return list(ends) if ends else (branches[0] if branches else path[-1].node)


def _dtype(program: Program, block: Block) -> torch.dtype:
    entry = next(node for node in program.graph.nodes if node.name == block.entry)
    value = entry.meta["val"]
    assert isinstance(value, torch.Tensor)
    return value.dtype


def _not_twice(chain: Chain, found: ResidualStream, depth_mode: str) -> str:
    done = [_described(step) for step in found.path if not _only_adds(step)]
    what = ", ".join(dict.fromkeys(done)) or "its parameters"
    if depth_mode == "scaled":
        return (
            f"the blocks of {chain.name} change their residual stream themselves ({what}), so the branches "
            "of copies cannot be scaled to one step: use depth_mode='copy'."
        )
    return (
        f"no copy of a block of {chain.name} can be made an identity, since what it does to its residual "
        f"stream ({what}) is not undone when its branches are zero: use depth_mode='copy'."
    )


def _only_adds(step: StreamOp) -> bool:
    return step.branch is not None and step.node.kwargs.get("alpha", 1) in (1, 1.0)


def _described(step: StreamOp) -> str:
    if has(step.node, Trait.SUM) and "alpha" in step.node.kwargs:
        return f"{step.name} with alpha={step.node.kwargs['alpha']}"
    if step.is_norm:
        eps = [a for a in (*step.node.args, *step.node.kwargs.values()) if isinstance(a, float)]
        return f"{step.name} with eps={eps[-1]}" if eps else step.name
    return f"{step.name} by {step.own[0]}" if step.own else step.name


def _error(program: Program, block: Block, found: ResidualStream, depth_mode: str) -> float:
    """By how much copies differ from the one block that they stand for, on random values, relatively.

    For ``identity`` two and three copies are run along the stream, with the branches of all but the first
    zero; for ``scaled`` it is asked whether nothing is done to the stream but that branches are added. A
    stream that only ever holds what a block before it gave (after a rectifier, a mask, a norm) is tried on
    such values.
    """
    entry = next(node for node in program.graph.nodes if node.name == block.entry)
    like = entry.meta["val"]
    casts = any(is_cast(step) for step in found.path)
    generator = torch.Generator().manual_seed(0)
    known: dict[tuple[str, ...], torch.Tensor] = {}

    def drawn(value: torch.Tensor, *key: str) -> torch.Tensor:
        if key not in known:
            real = torch.randn(tuple(map(int, value.shape)), generator=generator, dtype=torch.float64)
            wide = not casts and value.dtype.is_floating_point
            known[key] = real > 0 if value.dtype == torch.bool else real if wide else real.to(value.dtype)
        return known[key]

    def run(value: torch.Tensor, changed: Mapping[str, CopyScaling], zero: bool, key: str) -> torch.Tensor:
        """A block with changed tensors, on a stream of ``value``; ``zero``: without what its branches add."""

        def operand(step: StreamOp, node: fx.Node) -> torch.Tensor:
            if node is step.branch:
                branch = drawn(node.meta["val"], node.name, key)
                return torch.zeros_like(branch) if zero else branch
            given = drawn(node.meta["val"], node.name)
            affine = changed.get(str(node.target))
            return given if affine is None else given * affine.scale + affine.shift

        return follow(found.path, value, operand)

    start = run(drawn(like, "start"), {}, False, "before")
    if depth_mode == "scaled":
        if found.gains:
            return math.inf
        found = replace(found, path=tuple(step for step in found.path if not step.is_norm))
        start = run(start, {}, False, "before")
        return relative_error(run(start, {}, True, "here"), start)
    expected = run(start, {}, False, "here")
    errors = []
    for last in (1, 2):
        value = start
        for rank in range(last + 1):
            value = run(value, _changed(found, rank, last), rank > 0, "here")
        errors.append(relative_error(value, expected))
    return max(errors)


def copies(
    program: Program, chain: Chain, members: Sequence[int], blocks: Sequence[Block], depth_mode: str
) -> tuple[list[Mapping[str, CopyScaling]], Note | None]:
    """What becomes of the tensors of each copy of a block, in order, by tensor name; and what is inexact.

    ``members`` are the places of the copies in the chain. ``scaled`` divides the ends of residual branches
    by the number of copies. ``identity`` keeps the first copy's and zeroes those of the rest; what multiplies
    the stream becomes 1 in the rest; where the stream itself is normalised (post-norm), every norm on it
    between the first copy's last and the last copy's last is made plain (gain 1, bias 0), and the last
    takes the gain and bias: normalising twice is normalising once, but for its epsilon. ``random`` draws all
    parameters of the rest anew.

    Raises:
        MlgraphError: see :func:`stream`; or a tensor concerned is shared with other blocks.
    """
    if depth_mode == "copy" or len(members) == 1:
        return [{} for _ in members], None
    if depth_mode == "random":
        fresh = CopyScaling(0.0, fresh=True)
        own = [[t for t in block.tensors if t in program.tensors.parameters] for block in blocks]
        return [dict.fromkeys(names, fresh) if rank else {} for rank, names in enumerate(own)], None
    out: list[Mapping[str, CopyScaling]] = []
    last = len(members) - 1
    inexact: Note | None = None
    for rank, block in enumerate(blocks):
        found, respect = stream(program, chain, block, depth_mode)
        inexact = inexact or respect
        if depth_mode == "scaled":
            changed = dict.fromkeys(found.ends, CopyScaling(1 / len(members)))
        else:
            if found.norms and list(members) != list(range(members[0], members[0] + len(members))):
                raise MlgraphError(
                    f"the blocks of {chain.name} normalise their residual stream, so that only copies that "
                    "follow one another can be identities: use pairing='adjacent', or depth_mode='copy'."
                )
            changed = _changed(found, rank, last)
        _check_own(chain, block, found, changed)
        out.append(changed)
    return out, inexact


def _changed(found: ResidualStream, rank: int, last: int) -> dict[str, CopyScaling]:
    """What becomes of the tensors of copy ``rank`` of 0 to ``last``, so that together they are one block."""
    changed: dict[str, CopyScaling] = {}
    if rank > 0:
        changed.update(dict.fromkeys(found.gains, CopyScaling(0.0, 1.0)))
        changed.update(dict.fromkeys(found.ends, CopyScaling(0.0)))
    for position, norm in enumerate(found.norms):
        if (rank < last) if position == 0 else (rank > 0):
            changed.update({t: CopyScaling(0.0, 1.0 if i == 0 else 0.0) for i, t in enumerate(norm)})
    return changed


def _check_own(chain: Chain, block: Block, found: ResidualStream, changed: Mapping[str, CopyScaling]) -> None:
    for tensor in changed:
        if tensor not in block.tensors:
            raise MlgraphError(
                f"{tensor}, which ends a residual branch of {chain.name}, is shared with other blocks, "
                "so that no copy of a block can be scaled: use depth_mode='copy'."
            )
    on_stream = {*found.gains, *(tensor for norm in found.norms for tensor in norm)}
    for tensor in on_stream.intersection(found.ends):
        raise MlgraphError(
            f"{tensor} scales both a residual branch and the residual stream of {chain.name}, so that no "
            "copy of a block can be scaled or made an identity: use depth_mode='copy'."
        )


def residual_changes(
    program: Program, layers: Mapping[str, Grouping], depth_mode: str, blocks_of: str
) -> Changes:
    """What becomes of copied tensors in growing depth.

    ``blocks_of`` says whether ``program`` holds the ``"fine"`` blocks or the ``"coarse"`` ones that they
    copy. Where a grouping pads, copies are identities but for the one that was selected.
    """
    out: dict[tuple[str, int, int], CopyScaling] = {}
    approximate: dict[Note, None] = {}
    modes = {name: _mode(name, grouping, depth_mode) for name, grouping in layers.items()}
    chains = {chain.name: chain for chain in program.blocks} if set(modes.values()) - {"copy"} else {}
    for name, grouping in layers.items():
        if name not in chains:
            continue
        gathers = _gathers(program, chains[name]) if modes[name] == "identity" else None
        if gathers is not None:
            text = (
                f"identities of {name} change no block, but {gathers.target} reads the results of all of them"
            )
            approximate[Note("approximate", text, name)] = None
        for coarse, group in enumerate(grouping.members):
            members = tuple(sorted(group, key=lambda block: block not in grouping.kept[coarse]))
            indices = members if blocks_of == "fine" else (coarse,) * len(members)
            blocks = [chains[name].blocks[i] for i in indices]
            changes, inexact = copies(program, chains[name], members, blocks, modes[name])
            if inexact:
                approximate[inexact] = None
            for member, block, changed in zip(members, blocks, changes, strict=True):
                places = {tensor: place for place, tensor in enumerate(block.tensors)}
                out |= {(name, member, places[tensor]): affine for tensor, affine in changed.items()}
    return Changes(out, tuple(approximate))


def _gathers(program: Program, chain: Chain) -> fx.Node | None:
    """The first op outside a chain that computes with the results of several of its blocks."""
    exits = {block.exit: block.index for block in chain.blocks}
    inside = {name for block in chain.blocks for name in block.nodes}
    reached: dict[fx.Node, frozenset[int]] = {}
    node: fx.Node
    for node in program.graph.nodes:
        if node.op == "output":
            break
        if node.name in exits:
            reached[node] = frozenset({exits[node.name]})
        elif node.name not in inside:
            reached[node] = frozenset().union(*(reached.get(n, frozenset()) for n in node.all_input_nodes))
            if len(reached[node]) > 1:
                return node
    return None


def _mode(chain: str, grouping: Grouping, depth_mode: str) -> str:
    if grouping.extend == "copy" or depth_mode == "identity":
        return depth_mode
    if depth_mode in ("scaled", "random"):
        raise MlgraphError(
            f"the blocks that {chain} left out come back as identities, which cannot be {depth_mode}: leave "
            "depth_mode out."
        )
    return "identity"
