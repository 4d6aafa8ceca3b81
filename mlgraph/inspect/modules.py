"""A program's tensors as a tree of modules in which repeats are folded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mlgraph.program.display import Shown

if TYPE_CHECKING:
    from mlgraph.program import Program

_LONGEST_PERIOD = 4


@dataclass(frozen=True)
class TensorLeaf:
    """A parameter or buffer of a module; ``tied`` is the name under which it was met before, if any.

    ``axes`` are the names and sizes of the axes in its ``dims``.
    """

    name: str
    path: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    bytes: int
    is_parameter: bool
    tied: str | None = None
    axes: tuple[tuple[str, int], ...] = ()

    @property
    def numel(self) -> int:
        """Number of scalars."""
        product = 1
        for size in self.shape:
            product *= size
        return product


@dataclass(frozen=True)
class Module(Shown):
    """A module: what it holds and the modules inside it; ``repeat`` like modules are folded into one.

    ``path`` is that of the first of them, ``step`` what the numbers of two in a row differ by;
    ``operations`` are the FLOPs of a forward pass of the example inputs through one. Prints as a table.
    """

    name: str
    path: str
    leaves: tuple[TensorLeaf, ...] = ()
    children: tuple[Module, ...] = ()
    repeat: int = 1
    operations: int = 0
    step: int = 1

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


def modules(program: Program) -> Module:
    """The modules of a program as a tree, repeats folded, with dims in axis names and FLOPs; reads no tensor.

    >>> print(mlgraph.modules(program))
    >>> [(child.path, child.repeat, child.parameters) for child in mlgraph.modules(program).children]
    """
    from mlgraph.graph.flops import forward_by_module
    from mlgraph.program import require_program

    require_program(program)

    return module_tree(program, forward_by_module(program))


def module_tree(program: Program, operations: Mapping[str, int] | None = None) -> Module:
    """The tree of a program's modules; reads no tensor.

    ``operations`` gives the forward operations of each module itself, by qualified name.
    """
    return fold(full_tree(program, operations))


def full_tree(program: Program, operations: Mapping[str, int] | None = None) -> Module:
    """The tree of a program's modules with no repeats folded; reads no tensor."""
    tensors = program.skeleton().tensors
    names = {axis.id: axis.name for axis in program.axes}
    leaves: dict[str, list[TensorLeaf]] = {}
    for path in [*tensors, *tensors.aliases]:
        owner, _, name = path.rpartition(".")
        tensor, canonical = tensors[path], tensors.aliases.get(path, path)
        dims, axes = _dims(program, canonical, tuple(tensor.shape), names)
        leaf = TensorLeaf(
            name,
            path,
            dims,
            tuple(tensor.shape),
            tensor.numel() * tensor.element_size(),
            canonical in tensors.parameters,
            tensors.aliases.get(path),
            axes,
        )
        leaves.setdefault(owner, []).append(leaf)
    return _build(program.name, leaves, operations or {})


def _dims(
    program: Program, tensor: str, shape: tuple[int, ...], names: Mapping[str, str]
) -> tuple[tuple[str, ...], tuple[tuple[str, int], ...]]:

    dims = program.axes.tensor_dims.get(tensor)
    if dims is None:
        return tuple(str(size) for size in shape), ()
    found = {
        (names[leaf.axis], leaf.size): None for dim in dims for leaf in dim.leaves() if leaf.axis in names
    }
    return tuple(dim.render(lambda axis: names.get(axis, "?")) for dim in dims), tuple(found)


def _build(name: str, leaves: Mapping[str, list[TensorLeaf]], operations: Mapping[str, int]) -> Module:
    """The modules that own tensors in the order of the state dict, then those that only compute."""
    inside: dict[str, dict[str, None]] = {"": {}}
    for path in (*leaves, *operations):
        parts = path.split(".") if path else []
        for length in range(len(parts)):
            child = ".".join(parts[: length + 1])
            inside.setdefault(".".join(parts[:length]), {})[child] = None
            inside.setdefault(child, {})

    def build(path: str, label: str) -> Module:
        children = tuple(build(child, child.rpartition(".")[2]) for child in inside[path])
        total = operations.get(path, 0) + sum(child.operations for child in children)
        return Module(label, path, tuple(leaves.get(path, ())), children, operations=total)

    return build("", name)


def fold(module: Module) -> Module:
    """Fold runs of like numbered modules; a run may alternate between up to four kinds."""
    children = [fold(child) for child in module.children]
    folded: list[Module] = []
    position = 0
    keys = [_likeness(child) if child.name.isdecimal() else None for child in children]
    while position < len(children):
        period, repeat = longest_run(keys[position:])
        if repeat > 1:
            run = children[position : position + period]
            folded.extend(
                replace(child, repeat=repeat, step=period, name=numbers(child.name, period, repeat))
                for child in run
            )
        else:
            folded.append(children[position])
        position += period * repeat
    return replace(module, children=tuple(folded))


def longest_run(keys: Sequence[object]) -> tuple[int, int]:
    """(period, repeats) of the run of equal keys at the start that is longest; None belongs to no run."""
    best = (1, 1)
    end = next((place for place, key in enumerate(keys) if key is None), len(keys))
    for period in range(1, min(_LONGEST_PERIOD, end) + 1):
        length = period
        while length < end and keys[length] == keys[length - period]:
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


def numbers(name: str, period: int, repeat: int) -> str:
    """``0…11``: the numbers of ``repeat`` modules, the first one's name being a number."""
    first = int(name)
    last = first + period * (repeat - 1)
    if period == 1:
        return f"{first}…{last}"
    return f"{first}, {first + period}…{last}" if repeat > 2 else f"{first}, {last}"
