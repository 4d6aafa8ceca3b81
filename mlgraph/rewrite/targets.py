"""Sizes that meet a target: candidates over depth and widths, counted without being made, and ranked."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mlgraph.errors import AxisError
from mlgraph.graph.flops import forward_at_sizes
from mlgraph.program.families import families

if TYPE_CHECKING:
    from mlgraph.program import Program
    from mlgraph.program.axis_table import AxisTable
    from mlgraph.program.families import Family

Quantity = Literal["parameters", "flops", "bytes"]
TOLERANCE = 0.05
_FACTORS = (1, 2, 3, 4, 6, 8, 12, 16)
_STEPS = 16
_AMOUNT = re.compile(r"(?P<number>\d+\.?\d*(?:e\d+)?) ?(?P<unit>[kmgtb]?i?b?)", re.IGNORECASE)
_UNITS = {"": 1.0, "b": 1e9, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12}
_UNITS |= {"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_UNITS |= {"kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30, "tib": 2.0**40}


@dataclass(frozen=True)
class Target:
    """How much is to be left: an ``amount`` of a quantity, or, of at most 1, a share of what there is."""

    quantity: Quantity
    amount: float

    def of(self, whole: float) -> float:
        """The amount, given what there is."""
        return self.amount * whole if self.amount <= 1 else self.amount


@dataclass(frozen=True)
class Candidate:
    """Sizes that may meet a target.

    ``requests`` say so of axes and chains, as ``axes`` of a coalescing does. ``ratios`` are what is left of
    depth, of the widths that change by a common factor, and of those that change freely; ``amounts`` are
    parameters, FLOPs of a forward pass and bytes; ``miss`` is the relative distance to the target.
    """

    requests: Mapping[str, int | str]
    ratios: tuple[float, float, float]
    amounts: Mapping[Quantity, float]
    miss: float

    @property
    def spread(self) -> float:
        """How unevenly depth and widths shrink: the largest logarithm of ``ratios`` less the least."""
        logs = [math.log(ratio) for ratio in self.ratios]
        return max(logs) - min(logs)


def amount_of(given: float | str) -> float:
    """An amount as a number: of ``"60M"``, ``"1.2B"``, ``"2GB"`` and ``"512MiB"`` what they say.

    Raises:
        AxisError: it is none, or not above 0.
    """
    found = _AMOUNT.fullmatch(given.strip()) if isinstance(given, str) else None
    if isinstance(given, str) and (found is None or found["unit"].lower() not in _UNITS):
        raise AxisError(f"{given!r} is no amount: write for example 60M, 2GB or a share as 0.5.")
    number = float(found["number"]) * _UNITS[found["unit"].lower()] if found is not None else float(given)
    if not 0 < number < math.inf:
        raise AxisError(f"nothing of {given} can be left: choose an amount above 0.")
    return number


def candidates(
    program: Program,
    target: Target,
    keep_depth: bool = False,
    multiple_of: int | None = None,
    freeze: Collection[str] = (),
) -> list[Candidate]:
    """The sizes within 5 % of a target, the best first: those that shrink depth and widths most evenly, of
    equally even ones the nearest.

    Depths are all numbers of blocks, the same share of every chain. Widths that norms, heads and residual
    streams have in common change by a factor; those of neurons inside one block to any sixteenth, or to any
    multiple of ``multiple_of``, which then also divides all other new widths that are multiples of it now.

    Raises:
        AxisError: there are none; the message names the nearest.
    """
    space = _Space(program, keep_depth, multiple_of, frozenset(freeze))
    wanted = target.of(space.whole[target.quantity])
    found = [space.candidate(*point, target.quantity, wanted) for point in space.points()]
    near = sorted((c for c in found if c.miss <= TOLERANCE), key=lambda c: (round(c.spread, 6), c.miss))
    if not near:
        raise AxisError(_none(target.quantity, wanted, found))
    return near


def _none(quantity: Quantity, wanted: float, found: Sequence[Candidate]) -> str:
    noun = {"parameters": "parameters", "flops": "FLOPs", "bytes": "bytes"}[quantity]
    below = [c for c in found if c.amounts[quantity] < wanted]
    above = [c for c in found if c.amounts[quantity] > wanted]
    nearest = [min(side, key=lambda c: c.miss) for side in (below, above) if side]
    told = " and ".join(f"{c.amounts[quantity]:,.0f} ({_sizes(c)})" for c in nearest)
    return f"no sizes have {wanted:,.0f} {noun} within 5 %: the nearest are {told}; choose one of these."


def _sizes(candidate: Candidate) -> str:
    return ", ".join(f"{name}={request}" for name, request in candidate.requests.items()) or "as it is"


class _Space:
    """All sizes that are considered, with what they count."""

    def __init__(
        self, program: Program, keep_depth: bool, multiple_of: int | None, freeze: frozenset[str]
    ) -> None:
        self.program, self.keep_depth, self.multiple = program, keep_depth, multiple_of
        self.chains = tuple(program.blocks)
        self.meta = program.tensors.meta()
        self.owner = {t: c.name for c in self.chains for b in c for t in b.tensors}
        self.block_of = {n: c.name for c in self.chains for b in c for n in b.nodes}
        self.still = freeze
        changing = [f for f in families(program) if f.fate == "coarsenable" and f.size > 1]
        changing = [f for f in changing if f.name not in freeze and freeze.isdisjoint(f.ids)]
        self.free = [family for family in changing if _is_free(program.axes, family, self.owner)]
        self.common = [family for family in changing if family not in self.free]
        self.counted: dict[tuple[int, int], Mapping[Quantity, Mapping[str | None, float]]] = {}
        everything = {chain.name: len(chain) for chain in self.chains}
        self.whole = self._amounts(1, _STEPS if multiple_of is None else 0, everything)

    def points(self) -> Iterator[tuple[int, int, int]]:
        """Blocks of the longest chain, common factor, and place of the free widths among their sizes."""
        longest = max(map(len, self.chains), default=1)
        depths = [longest] if self.keep_depth or not self.chains else range(1, longest + 1)
        factors = [f for f in _FACTORS if f == 1 or any(self._divides(family, f) for family in self.common)]
        for depth in depths:
            for factor in factors:
                for step in self._steps():
                    yield depth, factor, step

    def _steps(self) -> Sequence[int]:
        if not self.free:
            return [_STEPS if self.multiple is None else 0]
        if self.multiple is None:
            return range(1, _STEPS + 1)
        return range(self.multiple, max(f.size for f in self.free) + 1, self.multiple)

    def _divides(self, family: Family, factor: int) -> bool:
        if family.size % factor or family.size // factor < 1 + (family.size > 2):
            return False
        multiple = self.multiple or 1
        return family.size % multiple > 0 or (family.size // factor) % multiple == 0

    def _free_size(self, family: Family, step: int) -> int:
        if self.multiple is None:
            return max(round(family.size * step / _STEPS), 1)
        largest = max(f.size for f in self.free)
        if step in (0, largest):
            return family.size
        return max(round(family.size * step / largest / self.multiple), 1) * self.multiple

    def _new_sizes(self, factor: int, step: int) -> dict[str, int]:
        sizes = {a: self._free_size(family, step) for family in self.free for a in family.ids}
        for family in self.common:
            if self._divides(family, factor):
                sizes |= dict.fromkeys(family.ids, family.size // factor)
        return sizes

    def _amounts(self, factor: int, step: int, depths: Mapping[str, int]) -> dict[Quantity, float]:
        key = factor, step
        if key not in self.counted:
            self.counted[key] = self._count(self._new_sizes(factor, step))
        lengths = {chain.name: len(chain) for chain in self.chains}
        out: dict[Quantity, float] = {}
        for quantity, parts in self.counted[key].items():
            shares = {name: depths[name] / length for name, length in lengths.items()}
            out[quantity] = sum(n * (1.0 if c is None else shares[c]) for c, n in parts.items())
        return out

    def _count(self, sizes: Mapping[str, int]) -> dict[Quantity, dict[str | None, float]]:
        """Per quantity what chains have, and what is outside them (None)."""
        names: list[str | None] = [None, *(chain.name for chain in self.chains)]
        parameters, memory, flops = (dict.fromkeys(names, 0.0) for _ in range(3))
        dims = self.program.axes.tensor_dims
        for name, tensor in self.meta.items():
            where = self.owner.get(name)
            shape = [dim.new_size(sizes) for dim in dims[name]] if name in dims else list(tensor.shape)
            count = math.prod(shape)
            memory[where] += count * tensor.element_size()
            if name in self.program.tensors.parameters:
                parameters[where] += count
        for node, operations in forward_at_sizes(self.program, sizes).items():
            flops[self.block_of.get(node)] += operations
        return {"parameters": parameters, "flops": flops, "bytes": memory}

    def candidate(self, depth: int, factor: int, step: int, quantity: Quantity, wanted: float) -> Candidate:
        longest = max(map(len, self.chains), default=1)
        depths = {
            c.name: len(c) if c.name in self.still else max(round(len(c) * depth / longest), 1)
            for c in self.chains
        }
        amounts = self._amounts(factor, step, depths)
        requests: dict[str, int | str] = {
            c.name: f"to{depths[c.name]}" for c in self.chains if depths[c.name] < len(c)
        }
        for family in self.common:
            if factor > 1 and self._divides(family, factor):
                requests |= dict.fromkeys(self._names(family), factor)
        free = 1.0
        for family in self.free:
            size = self._free_size(family, step)
            free = size / family.size
            if size < family.size:
                requests |= dict.fromkeys(self._names(family), f"to{size}")
        ratios = (1.0 if self.keep_depth else depth / longest, 1 / factor, free)
        miss = abs(amounts[quantity] - wanted) / wanted
        return Candidate(requests, self._compared(ratios), amounts, miss)

    def _compared(self, ratios: tuple[float, float, float]) -> tuple[float, float, float]:
        """The ratios, those of what cannot change being those of the rest."""
        can = (bool(self.chains) and not self.keep_depth, bool(self.common), bool(self.free))
        mean = [ratio for ratio, does in zip(ratios, can, strict=True) if does]
        fill = math.prod(mean) ** (1 / len(mean)) if mean else 1.0
        a, b, c = (ratio if does else fill for ratio, does in zip(ratios, can, strict=True))
        return a, b, c

    def _names(self, family: Family) -> tuple[str, ...]:
        same = {axis.id for axis in self.program.axes if axis.name == family.name}
        return (family.name,) if same == set(family.ids) else family.ids


def _is_free(table: AxisTable, family: Family, owner: Mapping[str, str]) -> bool:
    """Whether axes are neurons inside one block each: no mean is taken over them, and no dim of a tensor has
    another axis beside them."""
    averaged = {axis for axis, _ in table.averages}
    for axis_id in family.ids:
        axis = table[axis_id]
        if axis.id in averaged or not all(slot.tensor in owner for slot in axis.slots):
            return False
        dims = [table.tensor_dims[slot.tensor][slot.dim] for slot in axis.slots]
        if any(leaf.axis != axis.id for dim in dims for leaf in dim.leaves()):
            return False
    return True
