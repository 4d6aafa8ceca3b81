"""Integer tensors as affine functions of their indices, boolean ones as conjunctions of inequalities.

Dims are counted from the end, 1 is the last, so that broadcasting renames nothing. Constants and
coefficients are numbers or expressions in dynamic sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Affine:
    """``constant + Σ coefficients[d] · index_d`` as the value at each index; dims count from the end."""

    constant: Any
    coefficients: tuple[tuple[int, Any], ...] = ()

    def plus(self, other: Affine, factor: Any = 1) -> Affine:
        total = dict(self.coefficients)
        for dim, value in other.coefficients:
            total[dim] = total.get(dim, 0) + factor * value
        return affine_of(self.constant + factor * other.constant, total)

    def times(self, factor: Any) -> Affine:
        return Affine(0).plus(self, factor)


@dataclass(frozen=True)
class Condition:
    """True where every one of ``atoms`` (affine functions) is at least 0; with none, true everywhere."""

    atoms: frozenset[Affine] = frozenset()


@dataclass(frozen=True)
class Indicator:
    """A number: 1 where the condition is true, 0 elsewhere."""

    condition: Condition


@dataclass(frozen=True)
class Additive:
    """A float: 0 where the condition is true, minus infinity (or the least finite number) elsewhere."""

    condition: Condition


NEVER = Condition(frozenset({Affine(-1)}))
Known = Affine | Condition | Indicator | Additive


def affine_of(constant: Any, coefficients: Mapping[int, Any]) -> Affine:
    """An affine function, its coefficients in order and without zeros."""
    return Affine(constant, tuple(sorted((d, c) for d, c in coefficients.items() if c != 0)))


def map_affine(known: Known | None, change: Callable[[Affine], Affine | None]) -> Known | None:
    """A function of other indices: ``change`` is put to every affine part."""
    if known is None:
        return None
    if isinstance(known, Affine):
        return change(known)
    condition = known if isinstance(known, Condition) else known.condition
    atoms = [change(atom) for atom in condition.atoms]
    if any(atom is None for atom in atoms):
        return None
    changed = Condition(frozenset(atom for atom in atoms if atom is not None))
    return changed if isinstance(known, Condition) else type(known)(changed)


def move_dims(known: Known | None, where: Callable[[int], int | None]) -> Known | None:
    """Rename dims (counted from the end); a dim moved to ``None`` has size 1 and index 0."""

    def change(affine: Affine) -> Affine:
        moved = {}
        for dim, value in affine.coefficients:
            target = where(dim)
            if target is not None:
                moved[target] = value
        return affine_of(affine.constant, moved)

    return map_affine(known, change)


def at_least_zero(affine: Affine) -> Condition:
    """Indices are never negative, so signs may settle the inequality."""
    signs = [sign(value) for _, value in affine.coefficients]
    if all(s == 1 for s in signs) and sign(affine.constant) in (0, 1):
        return Condition()
    if all(s == -1 for s in signs) and sign(affine.constant) == -1:
        return NEVER
    return Condition(frozenset({affine}))


def sign(value: Any) -> int | None:
    """The sign of a number or of an expression in sizes, which are positive; None where it is open."""
    if isinstance(value, int | float):
        return (value > 0) - (value < 0)
    if value.is_zero:
        return 0
    if value.is_positive:
        return 1
    return -1 if value.is_negative else None


def conjunction(first: Condition, second: Condition) -> Condition:
    """Both are true."""
    if NEVER in (first, second):
        return NEVER
    return Condition(first.atoms | second.atoms)


def negation(condition: Condition) -> Condition | None:
    """It is false; ``None`` where that is no conjunction."""
    if condition == Condition():
        return NEVER
    if condition == NEVER:
        return Condition()
    if len(condition.atoms) != 1:
        return None
    (atom,) = condition.atoms
    return at_least_zero(Affine(-1).plus(atom, -1))


def disjunction(first: Condition, second: Condition) -> Condition | None:
    """One of them is true; ``None`` where that is no conjunction."""
    if Condition() in (first, second):
        return Condition()
    if first == NEVER or second == first:
        return second
    return first if second == NEVER else None
