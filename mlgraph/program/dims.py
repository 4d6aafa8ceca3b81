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

    def leaves(self) -> Iterator[Leaf]:
        """This one."""
        yield self

    def new_size(self, sizes: Sizes) -> int:
        """Number of indices once axes have the given sizes."""
        return sizes.get(self.axis, self.size)

    def resized(self, sizes: Sizes) -> Leaf:
        """The same axis with its new size."""
        return Leaf(self.axis, self.new_size(sizes))

    def offset(self, position: int, sizes: Sizes) -> int:
        """Where a cut at ``position`` lies once axes have the given sizes; ValueError: inside a new size."""
        new = self.new_size(sizes)
        if new != self.size and position not in (0, self.size):
            raise ValueError(position)
        return new if position == self.size else position


@dataclass(frozen=True)
class Join:
    """A concatenation of dims; a part that is the empty product is a single index."""

    parts: tuple[Dim, ...]

    @property
    def size(self) -> int:
        """Number of indices."""
        return sum(part.size for part in self.parts)

    def leaves(self) -> Iterator[Leaf]:
        """Leaves of all parts in order of occurrence."""
        return (leaf for part in self.parts for leaf in part.leaves())

    def new_size(self, sizes: Sizes) -> int:
        """Number of indices once axes have the given sizes."""
        return sum(part.new_size(sizes) for part in self.parts)

    def resized(self, sizes: Sizes) -> Join:
        """The same parts with axes of the given sizes."""
        return Join(tuple(part.resized(sizes) for part in self.parts))

    def offset(self, position: int, sizes: Sizes) -> int:
        """Where a cut at ``position`` lies once axes have the given sizes; ValueError: inside a new size."""
        done = 0
        for part in self.parts:
            if position < part.size:
                return done + part.offset(position, sizes)
            position -= part.size
            done += part.new_size(sizes)
            if not position:
                break
        return done


Term = Leaf | Join


@dataclass(frozen=True)
class Dim:
    """A dim of a tensor: the product of its terms, from major to minor; without terms, a single index."""

    terms: tuple[Term, ...] = ()

    def __iter__(self) -> Iterator[Term]:
        return iter(self.terms)

    def __len__(self) -> int:
        return len(self.terms)

    @property
    def size(self) -> int:
        """Number of indices."""
        return math.prod(term.size for term in self.terms)

    @property
    def only(self) -> Leaf | None:
        """The axis that makes up the whole dim, if one does."""
        first = self.terms[0] if len(self.terms) == 1 else None
        return first if isinstance(first, Leaf) else None

    def leaves(self) -> Iterator[Leaf]:
        """Leaves in order of occurrence, those inside concatenations included."""
        return (leaf for term in self.terms for leaf in term.leaves())

    def new_size(self, sizes: Sizes) -> int:
        """Number of indices once axes have the given sizes."""
        return math.prod(term.new_size(sizes) for term in self.terms)

    def resized(self, sizes: Sizes) -> Dim:
        """The same expression with axes of the given sizes; an axis of size 1 stays as a leaf."""
        return Dim(tuple(term.resized(sizes) for term in self.terms))

    def offset(self, position: int, sizes: Sizes) -> int:
        """Where a cut of the dim at ``position`` lies once axes have the given sizes.

        Raises:
            ValueError: an axis that changes its size is cut in the middle.
        """
        if position == 0:
            return 0
        if position == self.size:
            return self.new_size(sizes)
        if all(leaf.new_size(sizes) == leaf.size for leaf in self.leaves()):
            return position
        head, tail = self.terms[0], Dim(self.terms[1:])
        count, rest = divmod(position, tail.size)
        if rest and head.new_size(sizes) != head.size:
            raise ValueError(position)
        within = tail.offset(rest, sizes) if rest else 0
        return head.offset(count, sizes) * tail.new_size(sizes) + within

    def multiplicities(self, copies: Mapping[str, frozenset[int]]) -> frozenset[int]:
        """How many copies the indices have, given those of axes: one number if they are alike."""
        out = frozenset({1})
        for term in self.terms:
            if isinstance(term, Leaf):
                own = copies.get(term.axis, frozenset({1}))
            else:
                own = frozenset().union(*(part.multiplicities(copies) for part in term.parts))
            out = frozenset(a * b for a in out for b in own)
        return out

    def render(self, name: Callable[[str], str] = str) -> str:
        """``heads·head_dim | kv_heads·head_dim``; ``1`` for a dim of one index."""
        if not self.terms:
            return "1"
        return "·".join(_render_term(term, name, alone=len(self.terms) == 1) for term in self.terms)


Dims = tuple[Dim, ...]
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

    def __iter__(self) -> Iterator[Dim]:
        """All dims of all results."""
        return (dim for dims in self.results for dim in dims)


def _render_term(term: Term, name: Callable[[str], str], alone: bool) -> str:
    if isinstance(term, Leaf):
        return name(term.axis)
    if all(not part for part in term.parts):
        return str(len(term.parts))
    joined = " | ".join(part.render(name) for part in term.parts)
    return joined if alone else f"({joined})"
