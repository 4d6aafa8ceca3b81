"""The axes of a program as data: slots, dims in axes, what is frozen and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

from mlgraph.errors import AxisError, nearest
from mlgraph.program.display import Shown

if TYPE_CHECKING:
    from mlgraph.program.dims import Dim, Dims, NodeDims

Role = Literal["emits", "contracts", "both"]


@dataclass(frozen=True)
class Slot:
    """One occurrence of an axis: the dim of a tensor, and the role the axis has there.

    ``occurrence`` counts the leaves of the dim,
    from major to minor.
    """

    tensor: str
    dim: int
    role: Role
    occurrence: int = 0


ReasonKind = Literal[
    "input",  # it is a dim of an input
    "output",  # it is returned and nothing else
    "classes",  # it numbers classes
    "lookup",  # it numbers the rows of a table that indices look up
    "selected",  # some of its indices are selected by value
    "kernel",  # it is the extent of a convolution kernel
    "unaligned",  # it meets dims that are divided in another way
    "no rule",  # no rule covers an op on it
    "op",  # what else an op does with its indices
    "inexact",  # an op changes with its size: a softmax, a norm, a count
    "shared out",  # what a softmax gives sums to one over it
    "groups",  # it numbers groups of channels
    "mean",  # a mean is taken over it together with what keeps its size
    "summed",  # activations are summed over it
    "unread",  # nothing reads it
    "constant",  # its values are constants of the model
    "uncontracted",  # no parameter contracts it
    "minor",  # another axis of the same dim is coarsened instead
    "alike",  # its counterpart in another block stays
    "tried",  # a trial of its change on a miniature failed
]


@dataclass(frozen=True)
class Reason:
    """Why an axis is frozen or kept: a kind, a phrase, and the name of the node that gave rise to it.

    As a string, the phrase.
    """

    kind: ReasonKind
    text: str
    node: str = ""

    def __str__(self) -> str:
        return self.text

    def __contains__(self, words: str) -> bool:
        """Whether the phrase has these words."""
        return words in self.text


@dataclass(frozen=True)
class Axis:
    """A dimension that tensors share.

    ``id`` is unique in its program; ``name`` is shared by the like axes of all blocks. ``frozen`` is the
    reason why the axis cannot be coarsened at all, ``kept`` the reason why it is not coarsened by default.
    """

    id: str
    name: str
    size: int
    slots: tuple[Slot, ...]
    frozen: Reason | None = None
    kept: Reason | None = None

    @property
    def coarsenable_by_default(self) -> bool:
        return self.frozen is None and self.kept is None

    @property
    def exact(self) -> bool:
        """Whether a change of this axis, asked for by name, keeps the function where growth does."""
        return self.frozen is None and (self.kept is None or self.kept.kind != "inexact")

    @property
    def where(self) -> str:
        """The node that gave rise to the reason why the axis stays; empty where there is none."""
        reason = self.frozen or self.kept
        return reason.node if reason else ""


@dataclass(frozen=True)
class Sum:
    """A contraction over an axis: at ``node``, over dim ``position`` of each operand.

    ``carrier`` is the tensor whose slot is summed against (the last operand), ``None`` where activations
    meet; ``shared`` says that the carrier also emits on the axis (a tied table), so that no factor on it is
    right for both uses.
    """

    axis: str
    node: str
    operands: tuple[tuple[str, int], ...]
    carrier: str | None
    shared: bool
    repairable: bool


@dataclass(frozen=True, eq=False)
class AxisTable(Shown, Sequence[Axis]):
    """All axes of a program; indexed by position, by id, or by a name that one axis has.

    ``means`` lists the means that nodes take, each with the dim that it is taken over; ``shares`` the nodes
    whose results sum to one over a dim, with its position.
    """

    axes: tuple[Axis, ...]
    tensor_dims: dict[str, Dims]
    node_dims: dict[str, NodeDims]
    roles: dict[tuple[str, int], tuple[Role, ...]]
    sums: tuple[Sum, ...]
    means: tuple[tuple[str, Dim], ...]
    tables: frozenset[str]
    shares: tuple[tuple[str, int, Dim], ...] = ()
    unknown: dict[str, str] = field(default_factory=dict)
    unread: tuple[str, ...] = ()

    @property
    def averages(self) -> tuple[tuple[str, str], ...]:
        """Every axis that a mean is taken over, with the node that takes it."""
        named = {axis.id for axis in self.axes}
        found = ((leaf.axis, node) for node, dim in self.means for leaf in dim.leaves())
        return tuple(dict.fromkeys((axis, node) for axis, node in found if axis in named))

    def __len__(self) -> int:
        return len(self.axes)

    def __iter__(self) -> Iterator[Axis]:
        return iter(self.axes)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            found = self.select(key)
            if len(found) > 1:
                ids = ", ".join(axis.id for axis in found[:4])
                raise AxisError(
                    f"{len(found)} axes are named '{key}' ({ids}, ...): name one of them by its id."
                )
            return found[0]
        return self.axes[key]

    def select(self, name: str) -> tuple[Axis, ...]:
        """The axes with this id or this name, or whose ids are like it (``layers.*.mlp``).

        Raises:
            AxisError: there is none; the message lists the nearest.
        """
        found = (
            tuple(axis for axis in self.axes if axis.id == name)
            or tuple(axis for axis in self.axes if axis.name == name)
            or tuple(axis for axis in self.axes if fnmatchcase(axis.id, name))
        )
        if not found:
            known = sorted({axis.name for axis in self.axes} | {axis.id for axis in self.axes})
            near = nearest(name, known, 3) or sorted({axis.name for axis in self.axes})
            verb = "is" if len(near) == 1 else "are"
            raise AxisError(f"there is no axis '{name}'; the nearest {verb} {', '.join(near)}.")
        return found

    def result_dims(self, node: str) -> Dims | None:
        """The dims of the one tensor that a node gives; None where they are not known or it gives several."""
        found = self.node_dims.get(node)
        return found.tensor if found is not None else None

    def dims(self, tensor: str) -> tuple[str, ...]:
        """The dims of a tensor in axis names, e.g. ``("heads·head_dim", "hidden")``."""
        names = {axis.id: axis.name for axis in self.axes}
        return tuple(dim.render(lambda a: names.get(a, "?")) for dim in self.tensor_dims[tensor])
