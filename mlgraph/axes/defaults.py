"""Which axes are coarsened by default, and why others are not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mlgraph.axes import factors
from mlgraph.axes.factors import Factor, Factors
from mlgraph.program.axis_table import Reason, Role

if TYPE_CHECKING:
    from mlgraph.axes.infer import Contraction, Inference

RoleTable = dict[tuple[str, int], list[Factor]]
Occurrences = dict[int, tuple[Factor, list[tuple[str, int, int]]]]


def role_of(leaf: Factor) -> Role:
    """The role of an occurrence, by the uses that inference marked on the factor."""
    roles = {role for part in factors.leaves((leaf,)) for role in part.roles}
    return "both" if len(roles) > 1 else next(iter(roles), "emits")


def freeze_outputs(run: Inference, roles: RoleTable) -> None:
    """Freeze what the outputs count: classes and vocabulary, whose only use is to be returned.

    An axis that a parameter contracts, or that was activated and is as wide as what it was made from (a
    pooler), is a feature and may be exposed.
    """
    contracted = {id(leaf) for leaf, role in _occurrences(run, roles) if role_of(role) != "emits"}
    square: set[int] = set()
    for dims in run.main.values():
        if len(dims) == 2 and factors.size_of(dims[0]) == factors.size_of(dims[1]):
            square |= {id(leaf) for dim in dims for leaf in factors.leaves(dim)}
    if run.program.submodule:
        around = Reason("op", "it is returned to the module around this one", "output")
        for dim in run.outputs:
            factors.freeze(dim, around)
    counted = Reason("output", "it is returned by the model and nothing else contracts it", "output")
    for leaf in (leaf for dim in run.outputs for leaf in factors.leaves(dim)):
        feature = id(leaf) in contracted or ("activated" in leaf.hints and id(leaf) in square)
        if not feature and leaf.frozen is None:
            leaf.frozen = counted


def _occurrences(run: Inference, roles: RoleTable) -> Iterator[tuple[Factor, Factor]]:
    """Every leaf of a tensor's dims, with the private leaf that carries its roles there."""
    for tensor, dims in run.main.items():
        for index, dim in enumerate(dims):
            yield from zip(factors.leaves(dim), roles[tensor, index], strict=True)


def mark_shared_heads(run: Inference) -> None:
    """Heads that others repeat (grouped-query attention) stand beside their repetition in some dim."""
    for dim in (dim for dims in run.main.values() for dim in dims):
        heads = [leaf for leaf in factors.leaves(dim) if "heads" in leaf.hints]
        repeated = [leaf for leaf in heads if "rep" in leaf.hints]
        shared = [leaf for leaf in heads if "rep" not in leaf.hints]
        if repeated and shared:
            factors.hint(shared, "shared")
            factors.hint(repeated, "grouped")


def unmade(
    run: Inference,
    leaf: Factor,
    places: Sequence[tuple[str, int, int]],
    roles: RoleTable,
) -> Reason | None:
    """Why an axis that parameters do not both make and use is kept."""
    used = [(t, {r for part in factors.leaves((roles[t, d][c],)) for r in part.roles}) for t, d, c in places]
    if not any(found for _, found in used):
        return Reason("unread", "nothing reads it")
    parameters = run.program.tensors.parameters
    if not any(t in parameters and found != {"contracts"} for t, found in used):
        return Reason("constant", "its values are constants of the model")
    if "activated" not in leaf.hints and not any("contracts" in found for _, found in used):
        return Reason("uncontracted", "no parameter contracts it")
    return None


def minors(run: Inference) -> dict[int, int]:
    """Axes that stand behind another coarsenable one in some dim: only the major one of a dim is
    coarsened."""
    out: dict[int, int] = {}
    for dims in run.main.values():
        for dim in dims:
            _scan(dim, out)
    for parts in _summed_together(run):
        _scan(tuple(factor for part in parts for factor in part), out)
    return out


def _scan(dim: Factors, minors: dict[int, int]) -> None:
    """Add the axes of a dim that stand behind its first free one, and those within its concatenations."""
    lead: Factor | None = None
    for factor in factors.resolve(dim):
        for part in factor.concat or ():
            _scan(part, minors)
        free = [leaf for leaf in factors.leaves((factor,)) if leaf.frozen is None and not leaf.blocked]
        if lead is None:
            lead = free[0] if free else None
            continue
        for leaf in free:
            if leaf is not lead:
                minors.setdefault(id(leaf), id(lead))


def _summed_together(run: Inference) -> Iterator[list[Factors]]:
    """Dims that one op sums over at once, of one activation against one parameter: one dim in pieces."""
    by_op: defaultdict[tuple[str, str], list[Contraction]] = defaultdict(list)
    for found in run.contractions:
        if found.carrier is not None:
            by_op[found.node.name, found.carrier].append(found)
    for together in by_op.values():
        together.sort(key=lambda found: found.operands[-1][1])
        first = together[0]
        activations = {node for node, _ in first.operands[:-1]}
        alike = [f for f in together if activations & {node for node, _ in f.operands[:-1]}]
        if len(alike) > 1:
            yield [found.dim for found in alike]
