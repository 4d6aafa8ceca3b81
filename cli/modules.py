"""A program's tensors as a tree of modules in which repeats are folded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlgraph.program import Program

_LONGEST_PERIOD = 4


@dataclass(frozen=True)
class Leaf:
    """A parameter or buffer of a module; ``tied`` is the name under which it was met before, if any."""

    name: str
    path: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    bytes: int
    is_parameter: bool
    tied: str | None = None

    @property
    def numel(self) -> int:
        """Number of scalars."""
        product = 1
        for size in self.shape:
            product *= size
        return product


@dataclass(frozen=True)
class Module:
    """A module: what it holds and the modules inside it; ``repeat`` like modules are folded into one.

    ``operations`` are those of a forward pass through one of them.
    """

    name: str
    path: str
    leaves: tuple[Leaf, ...] = ()
    children: tuple[Module, ...] = ()
    repeat: int = 1
    operations: int = 0

    @property
    def parameters(self) -> int:
        """Scalars in the parameters of all the modules that are folded here, tied ones counted once."""
        here = sum(leaf.numel for leaf in self.leaves if leaf.is_parameter and leaf.tied is None)
        return self.repeat * (here + sum(child.parameters for child in self.children))

    @property
    def bytes(self) -> int:
        """Bytes of parameters and buffers, tied ones counted once."""
        here = sum(leaf.bytes for leaf in self.leaves if leaf.tied is None)
        return self.repeat * (here + sum(child.bytes for child in self.children))


def module_tree(program: Program, operations: dict[str, int] | None = None) -> Module:
    """The tree of a program's modules; reads no tensor.

    ``operations`` gives the forward operations of each module itself, by qualified name.
    """
    tensors = program.skeleton().tensors
    leaves: dict[str, list[Leaf]] = {}
    for path in [*tensors, *tensors.aliases]:
        owner, _, name = path.rpartition(".")
        tensor = tensors[path]
        leaf = Leaf(
            name,
            path,
            _dims(program, tensors.aliases.get(path, path), tuple(tensor.shape)),
            tuple(tensor.shape),
            tensor.numel() * tensor.element_size(),
            tensors.aliases.get(path, path) in tensors.parameters,
            tensors.aliases.get(path),
        )
        leaves.setdefault(owner, []).append(leaf)
    paths = {parent for path in (*leaves, *(operations or {})) for parent in _parents(path)}
    return fold(_build("", program.name, paths, leaves, operations or {}))


def _dims(program: Program, tensor: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    if tensor in program.axes.tensor_dims:
        return program.axes.dims(tensor)
    return tuple(str(size) for size in shape)


def _parents(path: str) -> Iterable[str]:
    parts = path.split(".") if path else []
    return (".".join(parts[:length]) for length in range(1, len(parts) + 1))


def _build(
    path: str, name: str, paths: set[str], leaves: dict[str, list[Leaf]], operations: dict[str, int]
) -> Module:
    prefix = f"{path}." if path else ""
    inner = sorted(
        {p for p in paths if p.startswith(prefix) and p != path and "." not in p[len(prefix) :]},
        key=lambda p: list(paths_in_order(leaves, p)),
    )
    children = tuple(_build(p, p[len(prefix) :], paths, leaves, operations) for p in inner)
    total = operations.get(path, 0) + sum(child.operations for child in children)
    return Module(name, path, tuple(leaves.get(path, ())), children, operations=total)


def paths_in_order(leaves: dict[str, list[Leaf]], path: str) -> Iterable[int]:
    """A sort key: the place of the first tensor under ``path``, in the order of the state dict."""
    for place, owner in enumerate(leaves):
        if owner == path or owner.startswith(path + "."):
            yield place
            return
    yield len(leaves)


def fold(module: Module) -> Module:
    """Fold runs of like numbered modules; a run may alternate between up to four kinds."""
    children = [fold(child) for child in module.children]
    folded: list[Module] = []
    position = 0
    while position < len(children):
        period, repeat = _longest_run(children, position)
        if repeat > 1:
            run = children[position : position + period]
            folded.extend(
                replace(child, repeat=repeat, name=_numbers(child, period, repeat)) for child in run
            )
        else:
            folded.append(children[position])
        position += period * repeat
    return replace(module, children=tuple(folded))


def _longest_run(children: Sequence[Module], start: int) -> tuple[int, int]:
    """(period, repeats) of the run of numbered modules at ``start`` that takes up the most modules."""
    best = (1, 1)
    if not children[start].name.isdecimal():
        return best
    likeness = [_likeness(child) if child.name.isdecimal() else child.path for child in children[start:]]
    for period in range(1, _LONGEST_PERIOD + 1):
        length = period
        while length < len(likeness) and likeness[length] == likeness[length - period]:
            length += 1
        repeats = length // period
        if repeats > 1 and repeats * period > best[0] * best[1]:
            best = (period, repeats)
    return best


def _likeness(module: Module) -> object:
    """Equal for modules that differ in nothing but their path."""
    leaves = tuple(
        (leaf.name, leaf.dims, leaf.shape, leaf.is_parameter, bool(leaf.tied)) for leaf in module.leaves
    )
    children = tuple((child.name, child.repeat, _likeness(child)) for child in module.children)
    return leaves, children, module.operations


def _numbers(child: Module, period: int, repeat: int) -> str:
    first = int(child.name)
    last = first + period * (repeat - 1)
    if period == 1:
        return f"{first}…{last}"
    return f"{first}, {first + period}…{last}" if repeat > 2 else f"{first}, {last}"
