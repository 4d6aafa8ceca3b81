"""Dims as products and concatenations of axes, with union-find underneath.

A *factor* is an index set of some size. It is a leaf, or it has been refined into a product of
factors (768 became 12·64) or into a concatenation of dims (2304 became 768 | 768 | 768). A *dim* is
a tuple of factors from major to minor; a dim of size 1 is the empty tuple. Unifying two dims finds
their common refinement; where there is none (6·4 against 4·6) :class:`Misaligned` is raised and the
caller freezes both sides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from mlgraph.program.axis_table import Reason, Role


class Misaligned(Exception):
    """Two ways of dividing a dim have no common refinement."""


class Factor:
    """An index set of ``size`` elements; compare after :func:`find`."""

    __slots__ = ("blocked", "concat", "frozen", "hints", "parent", "product", "roles", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.parent: Factor | None = None
        self.product: Factors | None = None
        self.concat: tuple[Factors, ...] | None = None
        self.frozen: Reason | None = None
        self.blocked: list[Reason] = []
        self.roles: set[Role] = set()
        self.hints: set[str] = set()

    def __repr__(self) -> str:
        return f"Factor({self.size})"


Factors = tuple[Factor, ...]


def find(factor: Factor) -> Factor:
    """The representative of a factor."""
    root = factor
    while root.parent is not None:
        root = root.parent
    while factor.parent is not None:
        factor.parent, factor = root, factor.parent
    return root


def resolve(dim: Iterable[Factor]) -> list[Factor]:
    """The dim as leaves and concatenations, products expanded."""
    out: list[Factor] = []
    for factor in dim:
        root = find(factor)
        if root.product is not None:
            out.extend(resolve(root.product))
        elif root.size != 1:
            out.append(root)
    return out


def size_of(dim: Iterable[Factor]) -> int:
    """Number of indices of a dim."""
    return math.prod(factor.size for factor in dim)


def leaves(dim: Iterable[Factor]) -> Iterator[Factor]:
    """Every leaf in a dim, those inside concatenations too, in order of occurrence."""
    for factor in resolve(dim):
        if factor.concat is None:
            yield factor
        else:
            for part in factor.concat:
                yield from leaves(part)


def fresh(size: int) -> Factors:
    """A dim of one new leaf (none for size 1)."""
    return () if size == 1 else (Factor(size),)


def freeze(dim: Iterable[Factor], reason: Reason) -> None:
    """Freeze every factor of a dim; the first reason given is kept."""
    for factor in resolve(dim):
        if factor.concat is not None:
            for part in factor.concat:
                freeze(part, reason)
        elif factor.frozen is None:
            factor.frozen = reason


def block(dim: Iterable[Factor], reason: Reason) -> None:
    """Keep every leaf of a dim from being coarsened by default."""
    for leaf in leaves(dim):
        leaf.blocked.append(reason)


def add_role(dim: Iterable[Factor], role: Role) -> None:
    """Note that a parameter's dim emits or contracts."""
    for leaf in leaves(dim):
        leaf.roles.add(role)


def hint(dim: Iterable[Factor], name: str) -> None:
    """Suggest what a dim may be called."""
    for leaf in leaves(dim):
        leaf.hints.add(name)


def _inherit(child: Factor, parent: Factor) -> None:
    if child.frozen is None:
        child.frozen = parent.frozen
    child.blocked.extend(reason for reason in parent.blocked if reason not in child.blocked)
    child.roles |= parent.roles
    child.hints |= parent.hints


def _hand_down(factor: Factor, dims: Iterable[Factors]) -> None:
    for dim in dims:
        for leaf in leaves(dim):
            _inherit(leaf, factor)


def unify(a: Iterable[Factor], b: Iterable[Factor]) -> None:
    """Make two dims of equal size one, refining both as far as needed."""
    left, right = resolve(a), resolve(b)
    while left and right:
        x, y = left[-1], right[-1]
        if x is y:
            left.pop(), right.pop()
        elif x.size == y.size:
            left.pop(), right.pop()
            _merge(x, y)
        elif x.size > y.size:
            left[-1:] = _split_minor(x, y.size)
        else:
            right[-1:] = _split_minor(y, x.size)
        left, right = resolve(left), resolve(right)
    if left or right:
        raise Misaligned


def _merge(x: Factor, y: Factor) -> None:
    if x.concat is None or y.concat is None:
        if x.concat is not None:
            x, y = y, x
        x.parent = y
        _inherit_into(y, x)
        return
    cuts = sorted({*_boundaries(x.concat), *_boundaries(y.concat)})
    xs, ys = _recut(x.concat, cuts), _recut(y.concat, cuts)
    x.parent = y
    y.concat = ys
    for part_x, part_y in zip(xs, ys, strict=True):
        unify(part_x, part_y)


def _inherit_into(keeper: Factor, gone: Factor) -> None:
    if keeper.concat is None:
        _inherit(keeper, gone)
    else:
        _hand_down(gone, keeper.concat)


def _boundaries(parts: Sequence[Factors]) -> list[int]:
    out, position = [], 0
    for part in parts:
        position += size_of(part)
        out.append(position)
    return out


def _recut(parts: Sequence[Factors], cuts: Sequence[int]) -> tuple[Factors, ...]:
    """The same concatenation with further boundaries (``cuts`` includes all present ones)."""
    out: list[Factors] = []
    position = 0
    for part in parts:
        end = position + size_of(part)
        inner = [cut for cut in cuts if position < cut <= end]
        sizes = [cut - before for before, cut in zip([position, *inner], inner, strict=False)]
        out.extend([part] if len(sizes) == 1 else split(part, sizes))
        position = end
    return tuple(out)


def _split_minor(factor: Factor, minor: int) -> list[Factor]:
    """Refine a factor into (major, ..., minor factors of total size ``minor``)."""
    if factor.size % minor:
        raise Misaligned
    if factor.concat is None:
        parts = (Factor(factor.size // minor), Factor(minor))
        factor.product = parts
        _hand_down(factor, [parts])
        return list(parts)
    majors: list[Factors] = []
    shared: Factors | None = None
    for part in factor.concat:
        if size_of(part) % minor:
            raise Misaligned
        *rest, tail = regroup([part], [size_of(part) // minor, minor])
        majors.append(rest[0])
        if shared is None:
            shared = tail
        else:
            unify(shared, tail)
    assert shared is not None
    major = Factor(factor.size // minor)
    if all(not resolve(part) for part in majors):
        major.frozen = Reason("op", "its indices are positions in a concatenation")
    else:
        major.concat = tuple(majors)
    factor.concat = None
    factor.product = (major, *shared)
    return [major, *resolve(shared)]


def regroup(dims: Iterable[Iterable[Factor]], sizes: Sequence[int]) -> list[Factors]:
    """Reshape: the factors of ``dims`` in order, redistributed over dims of the given sizes.

    Raises:
        Misaligned: a new boundary falls where no factor can be divided.
    """
    pool = [factor for dim in dims for factor in resolve(dim)]
    out = [_take(pool, size) for size in reversed(sizes)]
    if pool:
        raise Misaligned
    return out[::-1]


def _take(pool: list[Factor], size: int) -> Factors:
    """The last factors of the pool, of ``size`` together; the one that is more than what is left is split."""
    taken: list[Factor] = []
    while size > 1:
        if not pool:
            raise Misaligned
        last = pool.pop()
        if last.size > size:
            pool.extend(resolve(_split_minor(last, size)))
            continue
        if size % last.size:
            raise Misaligned
        taken.append(last)
        size //= last.size
    return tuple(reversed(taken))


def split(dim: Iterable[Factor], sizes: Sequence[int]) -> list[Factors]:
    """Cut a dim into contiguous parts of the given sizes; its leading factor becomes their concatenation.

    Raises:
        Misaligned: a cut falls inside a minor factor.
    """
    factors = resolve(dim)
    if len(sizes) == 1:
        return [tuple(factors)]
    head, tail = factors[0], tuple(factors[1:])
    inner = size_of(tail)
    if any(size % inner for size in sizes):
        raise Misaligned
    counts = [size // inner for size in sizes]
    cuts = _boundaries([(Factor(count),) for count in counts])
    if head.concat is None:
        parts = tuple(fresh(count) for count in counts)
        head.concat = parts
        _hand_down(head, parts)
        result = list(parts)
    else:
        all_cuts = sorted({*cuts, *_boundaries(head.concat)})
        head.concat = _recut(head.concat, all_cuts)
        result = _gather(head.concat, cuts)
    return [(*part, *tail) for part in result]


def _gather(parts: Sequence[Factors], cuts: Sequence[int]) -> list[Factors]:
    out: list[Factors] = []
    position, start = 0, 0
    current: list[Factors] = []
    for part in parts:
        current.append(part)
        position += size_of(part)
        if position in cuts:
            out.append(current[0] if len(current) == 1 else concatenate(current))
            current, start = [], position
    assert start == position
    return out


def concatenate(parts: Sequence[Iterable[Factor]]) -> Factors:
    """One dim that lists the given dims one after the other."""
    dims = [tuple(part) for part in parts]
    dims = [dim for dim in dims if size_of(dim) > 0]
    if len(dims) == 1:
        return dims[0]
    whole = Factor(sum(size_of(dim) for dim in dims))
    whole.concat = tuple(dims)
    return (whole,)
