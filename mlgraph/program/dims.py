"""Dims written in axes: immutable expressions, their sizes, and offsets inside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Leaf:
    """One occurrence of an axis in a dim."""

    axis: str
    size: int


@dataclass(frozen=True)
class Join:
    """A concatenation of dims; a part that is the empty product is a single index."""

    parts: tuple[DimExpr, ...]

    @property
    def size(self) -> int:
        return sum(size_of(part) for part in self.parts)


Term = Leaf | Join
DimExpr = tuple[Term, ...]
Dims = tuple[DimExpr, ...]
Sizes = Mapping[str, int]


@dataclass(frozen=True)
class NodeDims:
    """The dims of what a node gives: of its one tensor or, where it gives ``several`` results, of each.

    A result that is no tensor has no dims.
    """

    results: tuple[Dims, ...]
    several: bool = False

    @property
    def tensor(self) -> Dims | None:
        """The dims of the one tensor that the node gives; None where it gives several."""
        return None if self.several else self.results[0]

    def __iter__(self) -> Iterator[DimExpr]:
        """All dims of all results."""
        return (dim for dims in self.results for dim in dims)


def size_of(dim: DimExpr) -> int:
    """Number of indices of a dim."""
    return math.prod(term.size for term in dim)


def leaves(dim: DimExpr) -> Iterator[Leaf]:
    """Leaves in order of occurrence, those inside concatenations included."""
    for term in dim:
        if isinstance(term, Leaf):
            yield term
        else:
            for part in term.parts:
                yield from leaves(part)


def multiplicities(dim: DimExpr, copies: Mapping[str, frozenset[int]]) -> frozenset[int]:
    """How many copies the indices of a dim have, given those of axes: one number if they are alike."""
    out = frozenset({1})
    for term in dim:
        if isinstance(term, Leaf):
            own = copies.get(term.axis, frozenset({1}))
        else:
            own = frozenset().union(*(multiplicities(part, copies) for part in term.parts))
        out = frozenset(a * b for a in out for b in own)
    return out


def resized(dim: DimExpr, sizes: Sizes) -> int:
    """Number of indices of a dim once axes have the given sizes."""
    return math.prod(_resized_term(term, sizes) for term in dim)


def _resized_term(term: Term, sizes: Sizes) -> int:
    if isinstance(term, Leaf):
        return sizes.get(term.axis, term.size)
    return sum(resized(part, sizes) for part in term.parts)


def resize(dim: DimExpr, sizes: Sizes) -> DimExpr:
    """The same expression with axes of other sizes; an axis of size 1 stays as a leaf."""
    out: list[Term] = []
    for term in dim:
        if isinstance(term, Leaf):
            out.append(Leaf(term.axis, sizes.get(term.axis, term.size)))
        else:
            out.append(Join(tuple(resize(part, sizes) for part in term.parts)))
    return tuple(out)


def offset(dim: DimExpr, position: int, sizes: Sizes) -> int:
    """Where a cut of the dim at ``position`` lies once axes have the given sizes.

    Raises:
        ValueError: an axis that changes its size is cut in the middle.
    """
    if position == 0:
        return 0
    if position == size_of(dim):
        return resized(dim, sizes)
    if all(sizes.get(leaf.axis, leaf.size) == leaf.size for leaf in leaves(dim)):
        return position
    head, tail = dim[0], dim[1:]
    inner, new_inner = size_of(tail), resized(tail, sizes)
    count, rest = divmod(position, inner)
    if rest and _resized_term(head, sizes) != head.size:
        raise ValueError(position)
    within = offset(tail, rest, sizes) if rest else 0
    return _offset_term(head, count, sizes) * new_inner + within


def _offset_term(term: Term, position: int, sizes: Sizes) -> int:
    if isinstance(term, Leaf):
        if sizes.get(term.axis, term.size) != term.size and position not in (0, term.size):
            raise ValueError(position)
        return sizes.get(term.axis, term.size) if position == term.size else position
    done = 0
    for part in term.parts:
        size = size_of(part)
        if position < size:
            return done + offset(part, position, sizes)
        position -= size
        done += resized(part, sizes)
        if not position:
            return done
    return done


def render(dim: DimExpr, name: Callable[[str], str] = str) -> str:
    """``heads·head_dim | kv_heads·head_dim``; ``1`` for a dim of one index."""
    if not dim:
        return "1"
    return "·".join(_render_term(term, name, alone=len(dim) == 1) for term in dim)


def _render_term(term: Term, name: Callable[[str], str], alone: bool) -> str:
    if isinstance(term, Leaf):
        return name(term.axis)
    if all(not part for part in term.parts):
        return str(len(term.parts))
    joined = " | ".join(render(part, name) for part in term.parts)
    return joined if alone else f"({joined})"
