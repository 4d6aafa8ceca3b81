"""What is browsed: a program's folded tree, its tensors and axes, and the ways between them. No screen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from mlgraph.inspect.modules import Module, TensorLeaf, modules
from mlgraph.inspect.text.axes import any_block
from mlgraph.program.families import judged

if TYPE_CHECKING:
    from mlgraph.program import Program
    from mlgraph.program.axis_table import Axis


@dataclass(frozen=True)
class Subject:
    """Something to look at: ``kind`` is ``"module"``, ``"tensor"`` or ``"axis"``, ``key`` its path or id."""

    kind: str
    key: str


@dataclass(frozen=True)
class ShownDim:
    """A dim of a tensor: its size, how it is written in axes, and those axes."""

    index: int
    size: int
    text: str
    axes: tuple[Axis, ...]


@dataclass(frozen=True)
class SlotKind:
    """The slots of an axis in tensors whose names differ in block numbers only; ``first`` is one of them."""

    text: str
    first: Subject
    role: str
    number: int


class Explorer:
    """Answers what the screen asks; every answer is plain data."""

    def __init__(self, program: Program) -> None:
        self.program = program

    @cached_property
    def root(self) -> Module:
        """The tree of modules, repeats folded, with the forward operations of each."""
        return modules(self.program)

    @cached_property
    def axes(self) -> dict[str, Axis]:
        """Axes by id."""
        return {axis.id: axis for axis in judged(self.program)}

    @cached_property
    def places(self) -> tuple[Subject, ...]:
        """Everything that the folded tree shows, from top to bottom, and then the axes."""

        def inside(module: Module) -> Iterator[Subject]:
            for leaf in module.leaves:
                yield Subject("tensor", leaf.path)
            for child in module.children:
                if len(child.leaves) != 1 or child.children:
                    yield Subject("module", child.path)
                yield from inside(child)

        return (*inside(self.root), *(Subject("axis", axis) for axis in self.axes))

    def search(self, text: str) -> tuple[Subject, ...]:
        """The places whose path or id has every word of ``text``; where none has, tensors inside folds.

        Those come first that have the last word near their end.
        """
        words = text.lower().split()
        if not words:
            return ()

        def has(place: Subject) -> bool:
            return all(word in place.key.lower() for word in words)

        def is_far(place: Subject) -> bool:
            return words[-1] not in ".".join(
                place.key.lower().split(".")[-2 if place.kind == "tensor" else -1 :]
            )

        shown = tuple(sorted(filter(has, self.places), key=is_far))
        inside = (Subject("tensor", name) for name in self.program.tensors)
        return shown or tuple(place for place in inside if has(place))

    def shown_at(self, path: str) -> str:
        """The path under which the folded tree shows a module or tensor: that of the first of its repeats."""
        module, parts = self.root, path.split(".")
        shown: list[str] = []
        while parts:
            child = next((c for c in module.children if _holds(c, shown, parts)), None)
            if child is None:
                break
            shown = child.path.split(".")
            parts = parts[1:]
            module = child
        return ".".join([*shown, *parts])

    def leaf(self, path: str) -> TensorLeaf | None:
        """The tensor that the folded tree shows for ``path``."""
        return self._leaves.get(self.shown_at(path))

    @cached_property
    def _leaves(self) -> dict[str, TensorLeaf]:
        def inside(module: Module) -> Iterator[TensorLeaf]:
            yield from module.leaves
            for child in module.children:
                yield from inside(child)

        return {leaf.path: leaf for leaf in inside(self.root)}

    def module(self, path: str) -> Module:
        """The module that the folded tree shows at ``path``."""
        module = self.root
        while module.path != path:
            module = next(c for c in module.children if f"{path}.".startswith(f"{c.path}."))
        return module

    def dims(self, tensor: str) -> tuple[ShownDim, ...]:
        """The dims of a tensor with their axes; an alias has those of what it is tied to."""
        table, name = self.program.axes, self.program.tensors.aliases.get(tensor, tensor)
        expressions = table.tensor_dims.get(name)
        if expressions is None:
            return ()
        shape = self.program.skeleton().tensors[name].shape
        return tuple(
            ShownDim(
                index,
                shape[index],
                text,
                tuple(self.axes[a] for a in dict.fromkeys(x.axis for x in dim.leaves()) if a in self.axes),
            )
            for index, (text, dim) in enumerate(zip(table.dims(name), expressions, strict=True))
        )

    def slots(self, axis: str) -> tuple[SlotKind, ...]:
        """Where an axis occurs, the numbers of blocks written ``*``."""
        kinds: dict[tuple[str, str], list[str]] = {}
        for slot in self.axes[axis].slots:
            kinds.setdefault((any_block(f"{slot.tensor}[{slot.dim}]"), slot.role), []).append(slot.tensor)
        return tuple(
            SlotKind(
                text if len(set(names)) > 1 else f"{names[0]}[{text.rpartition('[')[2]}",
                Subject("tensor", names[0]),
                role,
                len(names),
            )
            for (text, role), names in kinds.items()
        )


def _holds(child: Module, above: list[str], parts: list[str]) -> bool:
    """Whether the first of ``parts``, below the path ``above``, names ``child`` or a repeat folded in it."""
    own = child.path.split(".")
    if own[:-1] != above:
        return False
    first, name = own[-1], parts[0]
    if child.repeat == 1 or not (first.isdecimal() and name.isdecimal()):
        return first == name
    ahead, rest = divmod(int(name) - int(first), child.step)
    return rest == 0 and 0 <= ahead < child.repeat
