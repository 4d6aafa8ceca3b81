"""Names for axes, from how they are used; never from what a model calls itself."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlgraph.program.axis_table import Reason


@dataclass(frozen=True)
class Candidate:
    """What naming goes by: the slots (tensor, dim, role) of an axis, tensor ranks, its freeze, usage hints,
    and whether it is found in constants alone."""

    key: int
    slots: tuple[tuple[str, int, str], ...]
    ranks: Mapping[str, int]
    frozen: Reason | None
    hints: frozenset[str]
    constant: bool = False


def name_axes(candidates: Sequence[Candidate]) -> dict[int, tuple[str, str]]:
    """A unique id and a family name per axis, by candidate key."""
    families = {c.key: _family(c) for c in candidates}
    by_family = defaultdict(list)
    for candidate in candidates:
        by_family[families[candidate.key]].append(candidate)
    taken: Counter[str] = Counter()
    out: dict[int, tuple[str, str]] = {}
    for family, members in by_family.items():
        for candidate in members:
            prefix = _common_path([tensor for tensor, _, _ in candidate.slots])
            full = family if len(members) == 1 or not prefix else f"{prefix}.{family}"
            taken[full] += 1
            out[candidate.key] = (full if taken[full] == 1 else f"{full}#{taken[full]}", family)
    return out


def _family(candidate: Candidate) -> str:
    hints = candidate.hints
    frozen = candidate.frozen.kind if candidate.frozen else None
    blocks = {_block(tensor) for tensor, _, _ in candidate.slots}
    roles = {role for _, _, role in candidate.slots}
    if frozen == "kernel":
        return "kernel"
    if frozen == "lookup":
        return "vocab" if "tokens" in hints else "positions"
    if frozen in ("classes", "output"):
        return "classes"
    if frozen == "selected":
        return "experts"
    if frozen == "input":
        return "input"
    if candidate.constant:
        return "positions"
    if "heads" in hints:
        return "rep" if "grouped" in hints else "kv_heads" if "shared" in hints else "heads"
    if "head_dim" in hints:
        return "head_dim"
    if "v_dim" in hints:
        return "v_dim"
    if "rep" in hints:
        return "rep"
    if _is_inner(candidate):
        return "mlp"
    if len(blocks) > 1 or "embedded" in hints:
        return "hidden"
    contracted = roles & {"contracts", "both"}
    if contracted and all(dim == 0 and candidate.ranks[t] == 3 for t, dim, _ in candidate.slots):
        return "experts"
    if contracted and any(
        rank >= 3 and dim > 0 for (t, dim, _) in candidate.slots for rank in [candidate.ranks[t]]
    ):
        return "expert_mlp" if all(candidate.ranks[t] == 3 for t, _, _ in candidate.slots) else "channels"
    if contracted and blocks == {""} and "normalised" in hints:
        return "hidden"
    if contracted and frozen != "unaligned":
        return "mlp"
    return "features"


def _is_inner(candidate: Candidate) -> bool:
    """Whether this is the width inside a feed-forward: activated, contracted by one matrix, and no stream."""
    if "activated" not in candidate.hints or candidate.hints & {"embedded", "normalised"}:
        return False
    flat = all(candidate.ranks[tensor] <= 2 for tensor, _, _ in candidate.slots)
    return flat and sum(role in ("contracts", "both") for _, _, role in candidate.slots) == 1


def _block(tensor: str) -> str:
    """The part of a name up to its last number: the block that a tensor belongs to."""
    parts = tensor.split(".")
    numbered = [i for i, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbered[-1] + 1]) if numbered else ""


def _common_path(names: Sequence[str]) -> str:
    parents = [name.rpartition(".")[0].split(".") for name in names]
    shared: list[str] = []
    for column in zip(*parents, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return ".".join(shared)
