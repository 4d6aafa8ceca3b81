"""Modules that are like a sibling but for sizes, repeats or a few tensors, so that one line tells of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlgraph.inspect.text.console import shortened

if TYPE_CHECKING:
    from mlgraph.inspect.modules import Module, TensorLeaf

_FEWEST = 4
_SHARED = 0.6
_LONGEST_NAME = 24


@dataclass(frozen=True)
class Like:
    """A module told by another one's name and by what is different: ``axes`` sizes, ``others`` in words."""

    other: str
    axes: tuple[tuple[str, int], ...]
    others: tuple[str, ...]

    def words(self) -> tuple[str, ...]:
        """The sentence in parts between which a line may break."""
        told = [*(f"{name} {size:,}" for name, size in self.axes), *self.others]
        parts = [f"{part}," for part in told[:-1]] + told[-1:]
        return (f"like {self.other}{':' if self.axes else ''}", *parts)


def like_sibling(module: Module, before: Sequence[Module]) -> Like | None:
    """The first numbered sibling ``before`` that a numbered module is like, or None.

    Two modules are alike where most of their tensors have the same names and dims in axis names, and none of
    the same name has other dims.
    """
    if not module.name[:1].isdecimal():
        return None
    for other in before:
        if other.name[:1].isdecimal() and (found := _compare(module, other)) is not None:
            return found
    return None


def _compare(module: Module, other: Module) -> Like | None:
    ours, theirs = dict(_tensors(module)), dict(_tensors(other))
    common = ours.keys() & theirs.keys()
    fewest = _SHARED * max(len(ours), len(theirs))
    if len(common) < max(fewest, _FEWEST) or any(ours[p].dims != theirs[p].dims for p in common):
        return None
    kinds = {kind: None for leaf in ours.values() if leaf.is_parameter for kind in leaf.axes}
    known = {kind for leaf in theirs.values() if leaf.is_parameter for kind in leaf.axes}
    sizes = tuple(kind for kind in kinds if kind not in known)
    missing, extra = (tuple(_topmost(a, b)) for a, b in ((theirs, ours), (ours, theirs)))
    repeats = tuple(_repeats(module, other))
    told = [
        *repeats,
        *(f"without {shortened(path, _LONGEST_NAME)}" for path in missing),
        *(f"with {shortened(path, _LONGEST_NAME)}" for path in extra),
    ]
    return Like(other.name, sizes, tuple(told))


def _tensors(module: Module) -> Iterator[tuple[str, TensorLeaf]]:
    """Tensors by their paths below ``module``, folded numbers left out."""
    for leaf in module.leaves:
        yield leaf.name, leaf
    for child in module.children:
        step = _step(child)
        yield from ((f"{step}.{path}", leaf) for path, leaf in _tensors(child))


def _step(module: Module) -> str:
    return "*" if module.repeat > 1 else module.name


def _topmost(having: dict[str, TensorLeaf], lacking: dict[str, TensorLeaf]) -> Iterator[str]:
    """What ``lacking`` lacks, as short as can be: a module where it lacks all of it."""
    told: set[str] = set()
    for path in having:
        if path in lacking:
            continue
        parts = path.split(".")
        lengths = range(1, len(parts) + 1)
        starts = [".".join(parts[:length]) for length in lengths]
        start = next(s for s in starts if not any(p == s or p.startswith(f"{s}.") for p in lacking))
        if start not in told:
            told.add(start)
            yield start.rpartition("*.")[2]


def _repeats(module: Module, other: Module) -> Iterator[str]:
    """Inner modules that repeat more or less often: ``blocks ×6``."""
    theirs = {_step(child): child for child in other.children}
    for child in module.children:
        match = theirs.get(_step(child))
        if match is None:
            continue
        if child.repeat != match.repeat:
            yield f"×{child.repeat}"
        for told in _repeats(child, match):
            yield f"{child.name} {told}" if told.startswith("×") else told
