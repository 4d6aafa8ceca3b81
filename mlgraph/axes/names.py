"""Names for axes, from how they are used; never from what a model calls itself."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlgraph.program.axis_table import Reason, Role


@dataclass(frozen=True)
class NamingFacts:
    """What naming goes by: the slots (tensor, dim, role) of an axis, tensor ranks, its freeze, usage hints,
    and whether it is found in constants alone."""

    key: int
    slots: tuple[tuple[str, int, Role], ...]
    ranks: Mapping[str, int]
    frozen: Reason | None
    hints: frozenset[str]
    constant: bool = False


def name_axes(candidates: Sequence[NamingFacts]) -> dict[int, tuple[str, str]]:
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


_OF_REASON = {
    "kernel": "kernel",
    "classes": "classes",
    "output": "classes",
    "selected": "experts",
    "input": "input",
}


def _family(candidate: NamingFacts) -> str:
    return _frozen_family(candidate) or _attention_family(candidate.hints) or _layer_family(candidate)


def _frozen_family(candidate: NamingFacts) -> str | None:
    """The name of an axis that its freeze tells, or that constants alone have."""
    kind = candidate.frozen.kind if candidate.frozen else None
    if kind == "lookup":
        return "vocab" if "tokens" in candidate.hints else "positions"
    return _OF_REASON.get(kind or "", "positions" if candidate.constant else None)


def _attention_family(hints: frozenset[str]) -> str | None:
    if "heads" in hints:
        return "rep" if "grouped" in hints else "kv_heads" if "shared" in hints else "heads"
    return next((name for name in ("head_dim", "v_dim", "rep") if name in hints), None)


def _layer_family(candidate: NamingFacts) -> str:
    if _is_inner(candidate):
        return "mlp"
    blocks = {_block(tensor) for tensor, _, _ in candidate.slots}
    if len(blocks) > 1 or "embedded" in candidate.hints:
        return "hidden"
    if not any(role in ("contracts", "both") for _, _, role in candidate.slots):
        return "features"
    places = [(candidate.ranks[tensor], dim) for tensor, dim, _ in candidate.slots]
    if all(rank == 3 and dim == 0 for rank, dim in places):
        return "experts"
    if any(rank >= 3 and dim > 0 for rank, dim in places):
        return "expert_mlp" if all(rank == 3 for rank, _ in places) else "channels"
    if blocks == {""} and "normalised" in candidate.hints:
        return "hidden"
    unaligned = candidate.frozen is not None and candidate.frozen.kind == "unaligned"
    return "features" if unaligned else "mlp"


def _is_inner(candidate: NamingFacts) -> bool:
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
