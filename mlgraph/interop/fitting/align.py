"""Two programs held side by side, from their outputs back to their inputs.

A class built from a config and a program made by a pass should compute the same thing. Where their graphs
differ, the differences sort themselves into sizes (a view into 12 heads against 6), constants (a factor that
the class derives from its width) and breaks (another op, another buffer).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from mlgraph.graph.ops import arguments, has, op_name
from mlgraph.graph.traits import MOVES, PASSES, Trait

if TYPE_CHECKING:
    from mlgraph.program import Program

aten = torch.ops.aten


@dataclass(frozen=True)
class FactorGap:
    """A scalar factor in which the two differ at ``node``: there theirs is ``ratio`` times ours."""

    node: str
    ratio: float
    source: str = ""

    def __str__(self) -> str:
        return f"a factor {self.ratio:.6g} at node {self.node}" + (f" ({self.source})" if self.source else "")


@dataclass
class Alignment:
    """What two programs differ in; all empty where they compute the same from the same parameters.

    ``sizes`` holds pairs (ours, theirs) of differing sizes in intermediate shapes and arguments; ``factors``
    are by node of the first program; ``constants`` and ``breaks`` are sentences without an end, of numbers
    that the second has otherwise and of what it does otherwise. ``places`` are the nodes of the first at
    which sizes or ops differ.
    """

    sizes: list[tuple[int, int]] = field(default_factory=list)
    factors: list[FactorGap] = field(default_factory=list)
    constants: list[str] = field(default_factory=list)
    breaks: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)

    @property
    def cost(self) -> int:
        return len(self.breaks) + len(self.sizes)

    @property
    def same(self) -> bool:
        """Whether the two do the same but for factors."""
        return not self.cost and not self.constants


def align(ours: Program, theirs: Program) -> Alignment:
    """Compare two programs with the same parameters. Both must have been captured on equal example sizes."""
    return _Aligner(ours, theirs).run()


class _Aligner:
    def __init__(self, ours: Program, theirs: Program) -> None:
        self.ours, self.theirs = ours, theirs
        self.found = Alignment()
        self.seen: set[tuple[str, str]] = set()
        self.inputs = (_placeholders(ours), _placeholders(theirs))

    def run(self) -> Alignment:
        mine, other = _results(self.ours), _results(self.theirs)
        if len(mine) != len(other):
            self.found.breaks.append(f"it returns {len(other)} tensors where the program returns {len(mine)}")
            return self.found
        pending = list(zip(mine, other, strict=True))
        while pending:
            a, b = pending.pop()
            before = self.found.cost
            pending.extend(self.pair(a, b))
            if self.found.cost > before and isinstance(a, fx.Node):
                self.found.places.append(a.name)
        return self.found

    def pair(self, a: Any, b: Any) -> Iterator[tuple[Any, Any]]:
        """Compare two values or nodes; yields the pairs that remain to be compared."""
        if not isinstance(a, fx.Node) and not isinstance(b, fx.Node):
            if a != b and not (isinstance(a, float) and isinstance(b, float) and math.isclose(a, b)):
                self.found.breaks.append(f"it has {b} where the program has {a}")
            return
        if not (isinstance(a, fx.Node) and isinstance(b, fx.Node)) or not (_is_tensor(a) and _is_tensor(b)):
            yield from self.scalars(a, b)
            return
        a, b = _skip(a), _skip(b)
        if (a.name, b.name) in self.seen:
            return
        self.seen.add((a.name, b.name))
        shape, other = _shape(a), _shape(b)
        if shape != other:
            self.found.sizes += _differing(shape, other)
        if a.op != b.op or (a.op == "call_function" and not _same_op(a, b)):
            yield from self.unequal(a, b)
        elif a.op == "placeholder":
            if self.inputs[0][a] != self.inputs[1][b]:
                self.found.breaks.append(f"it uses the input {b.name} where the program uses {a.name}")
        elif a.op == "get_attr":
            self.tensors(a, b)
        else:
            yield from self.calls(a, b)

    def scalars(self, a: Any, b: Any) -> Iterator[tuple[Any, Any]]:
        # a size may be a number here and arithmetic on sizes there: only its value counts
        left, right = _number(a), _number(b)
        if left is None or right is None:
            if isinstance(a, fx.Node) and isinstance(b, fx.Node) and a.target == b.target:
                yield from zip(a.all_input_nodes, b.all_input_nodes, strict=False)
            else:
                self.found.breaks.append(f"it has {b} where the program has {a}")
        elif left != right:
            self.found.sizes.append((int(left), int(right)))

    def unequal(self, a: fx.Node, b: fx.Node) -> Iterator[tuple[Any, Any]]:
        if _drops(a) != _drops(b):
            # a rate of zero leaves the op out; rates belong to training and are not compared
            yield (a.args[0], b) if _drops(a) else (a, b.args[0])
            return
        mine, other = _constant_factor(a, self.ours), _constant_factor(b, self.theirs)
        if mine is not None and (other is None or not _same_kind(a, b)):
            self.factor(a, 1 / mine[1])
            yield mine[0], b
        elif other is not None and op_name(a) != "scaled_dot_product_attention":
            self.factor(a, other[1])
            yield a, other[0]
        else:
            self.found.breaks.append(f"it computes {_op(b)} where the program computes {_op(a)}{_at(a)}")

    def calls(self, a: fx.Node, b: fx.Node) -> Iterator[tuple[Any, Any]]:
        mine, other = _constant_factor(a, self.ours), _constant_factor(b, self.theirs)
        if mine is not None and other is not None:
            self.factor(a, other[1] / mine[1])
            yield mine[0], other[0]
        elif mine is not None or other is not None:
            yield from self.unequal(a, b)
        elif a.target != b.target:
            yield self.equivalent(a, arguments(a), arguments(b))
        else:
            yield from self.arguments(a, b)

    def equivalent(self, node: fx.Node, mine: list[Any], other: list[Any]) -> tuple[Any, Any]:
        """The operands of two ops that differ in how sizes are written."""
        if has(node, Trait.SPLITS) and mine[2] != other[2]:
            self.found.breaks.append(
                f"it splits dim {other[2]} where the program splits {mine[2]}{_at(node)}"
            )
        return mine[0], other[0]

    def arguments(self, a: fx.Node, b: fx.Node) -> Iterator[tuple[Any, Any]]:
        """Compare what the same op is given."""
        left, right = arguments(a), arguments(b)
        if _is_slice(a):
            left, right = _without_slice_end(left), _without_slice_end(right)
        if len(left) != len(right):
            self.found.breaks.append(f"it calls {_op(b)} with other arguments than the program{_at(a)}")
            return
        if has(a, Trait.COMMUTES) and _crossed(left, right):
            right = [right[1], right[0], *right[2:]]
        sized = has(a, Trait.SIZED)
        for x, y in zip(left, right, strict=True):
            numbers = _number(x), _number(y)
            if isinstance(x, list | tuple) or isinstance(y, list | tuple):
                yield from self.lists(a, x, y, sized)
            elif None not in numbers:
                self.numbers(a, *numbers, sized)
            elif isinstance(x, fx.Node) or isinstance(y, fx.Node):
                yield x, y
            elif x != y and not isinstance(x, torch.device):
                self.found.breaks.append(f"it calls {_op(b)} with {y}, the program with {x}{_at(a)}")

    def lists(self, a: fx.Node, x: Any, y: Any, sized: bool) -> Iterator[tuple[Any, Any]]:
        if sized:
            return
        if not isinstance(x, list | tuple) or not isinstance(y, list | tuple) or len(x) != len(y):
            self.found.breaks.append(f"it calls {_op(a)} with {y}, the program with {x}{_at(a)}")
            return
        for p, q in zip(x, y, strict=True):
            if _number(p) is not None and _number(q) is not None:
                self.numbers(a, _number(p), _number(q), sized)
            elif p is not None or q is not None:
                yield p, q

    def numbers(self, node: fx.Node, x: Any, y: Any, sized: bool) -> None:
        if x == y or sized:
            return
        if isinstance(x, int) and isinstance(y, int) and not isinstance(x, bool):
            self.found.sizes.append((x, y))
        elif not math.isclose(float(x), float(y), rel_tol=1e-6):
            if op_name(node) == "scaled_dot_product_attention" and x and y:
                self.factor(node, float(y) / float(x))
            elif not _drops(node):
                self.found.constants.append(
                    f"it calls {_op(node)} with {y:.6g}, the program with {x:.6g}{_at(node)}"
                )

    def factor(self, node: fx.Node, ratio: float) -> None:
        if not math.isclose(ratio, 1, rel_tol=1e-7):
            self.found.factors.append(FactorGap(node.name, ratio, str(node.meta.get("source", ""))))

    def tensors(self, a: fx.Node, b: fx.Node) -> None:
        mine, other = str(a.target), str(b.target)
        held = mine in self.ours.tensors.persistent, other in self.theirs.tensors.persistent
        if all(held):
            if not _same_tensor(self.ours, mine, self.theirs, other):
                self.found.breaks.append(f"it uses {other} where the program uses {mine}")
            return
        if any(held):
            self.found.breaks.append(f"it has the constant {other} for the parameter {mine}")
            return
        x, y = self.ours.tensors[mine], self.theirs.tensors[other]
        if x.shape != y.shape:
            self.found.sizes += _differing(tuple(x.shape), tuple(y.shape))
            return
        if x.device.type == "meta" or y.device.type == "meta":
            return
        ratio = _ratio(x, y)
        if ratio is None:
            self.found.constants.append(f"its buffer {other} has other values than the program's")
        else:
            self.factor(a, ratio)


def constant(value: Any, program: Program) -> float | None:
    """The number that an operand stands for: a literal, or a buffer of one element outside the state dict."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, fx.Node):
        value = _skip(value)
        if value.op == "get_attr" and str(value.target) not in program.tensors.persistent:
            tensor = program.tensors[str(value.target)]
            if tensor.numel() == 1 and tensor.device.type != "meta":
                return float(tensor)
    return None


def _constant_factor(node: fx.Node, program: Program) -> tuple[fx.Node, float] | None:
    """The operand and the constant that it is multiplied by, where ``node`` multiplies by one."""
    if not has(node, Trait.SCALING) or len(node.args) < 2:
        return None
    left, right = node.args[0], node.args[1]
    divides = has(node, Trait.QUOTIENT)
    value = constant(right, program)
    if value and isinstance(left, fx.Node):
        return left, 1 / value if divides else value
    value = constant(left, program)
    if value and isinstance(right, fx.Node) and not divides:
        return right, value
    return None


def _same_kind(a: fx.Node, b: fx.Node) -> bool:
    return has(a, Trait.SCALING) and has(b, Trait.SCALING)


def _ratio(x: torch.Tensor, y: torch.Tensor) -> float | None:
    x, y = x.detach().double().flatten(), y.detach().double().flatten()
    if torch.equal(x, y) or torch.allclose(x, y, rtol=1e-6, atol=1e-9):
        return 1.0
    finite = torch.isfinite(x) & torch.isfinite(y) & (x != 0)
    if not finite.any():
        return None
    ratio = float((y[finite] / x[finite])[0])
    return ratio if ratio > 0 and torch.allclose(x * ratio, y, rtol=1e-6, atol=1e-9) else None


def _same_tensor(ours: Program, mine: str, theirs: Program, other: str) -> bool:
    return mine == other or bool(_names(ours, mine) & _names(theirs, other))


def _names(program: Program, name: str) -> set[str]:
    canonical = program.tensors.aliases.get(name, name)
    return {canonical, *(alias for alias, to in program.tensors.aliases.items() if to == canonical)}


def _skip(node: fx.Node) -> fx.Node:
    """The node whose value a node passes on, in that dtype."""
    while node.op == "call_function" and node.args and isinstance(node.args[0], fx.Node):
        source = node.args[0]
        if op_name(node) == "add" and _vanishes(node.args[1]):
            node = source
            continue
        if not has(node, Trait.IDENTITY) and not (has(node, Trait.CASTS) and _dtype(source) == _dtype(node)):
            return node
        node = source
    return node


def _vanishes(value: Any) -> bool:
    """Whether a value is zero by how it is made: a term that a capture adds for the gradient it has."""
    if not isinstance(value, fx.Node) or value.op != "call_function":
        return False
    if op_name(value) == "sub" and len(value.all_input_nodes) == 2:
        first, second = value.all_input_nodes
        return op_name(second) == "detach" and second.args[0] is first
    operands = value.args[:2] if has(value, Trait.PRODUCT) else value.args[:1]
    return has(value, Trait.PRODUCT | PASSES | MOVES) and any(map(_vanishes, operands))


def _placeholders(program: Program) -> dict[fx.Node, int]:
    nodes = [node for node in program.graph.nodes if node.op == "placeholder"]
    return {node: at for at, node in enumerate(nodes)}


def _results(program: Program) -> tuple[Any, ...]:
    output = next(iter(reversed(program.graph.nodes)))
    results = output.args[0]
    return tuple(results) if isinstance(results, list | tuple) else (results,)


def _number(value: Any) -> Any:
    if isinstance(value, fx.Node):
        value = value.meta.get("val")
    return value if isinstance(value, int | float) else None


def _is_tensor(node: fx.Node) -> bool:
    value = node.meta.get("val")
    if isinstance(value, list | tuple):
        return any(isinstance(item, torch.Tensor) for item in value)
    return isinstance(value, torch.Tensor)


def _dtype(node: fx.Node) -> Any:
    return getattr(node.meta.get("val"), "dtype", None)


def _shape(node: fx.Node) -> tuple[Any, ...]:
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor):
        return tuple(value.shape)
    if isinstance(value, list | tuple):
        return tuple(size for item in value if isinstance(item, torch.Tensor) for size in item.shape)
    return ()


def _differing(ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> list[tuple[int, int]]:
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=False) if a != b and isinstance(a, int)]
    return pairs or [(len(ours), len(theirs))]


def _same_op(a: fx.Node, b: fx.Node) -> bool:
    """Whether two ops are one, or differ only in how the sizes of their results are written."""
    if a.target == b.target or (has(a, Trait.RESHAPES) and has(b, Trait.RESHAPES)):
        return True
    return all(has(node, Trait.SPLITS) and has(node, Trait.SIZED) for node in (a, b))


def _drops(node: fx.Node) -> bool:
    """Whether a node does nothing outside training."""
    return has(node, Trait.DROPS)


def _crossed(left: list[Any], right: list[Any]) -> bool:
    """Whether operands are made by the same ops in the other order, and not in this one."""
    mine, other = ([_made_by(value) for value in operands[:2]] for operands in (left, right))
    return mine != other and mine == other[::-1]


def _made_by(value: Any) -> Any:
    if not isinstance(value, fx.Node):
        return None
    node = _skip(value)
    return node.op if node.op != "call_function" else op_name(node)


def _without_slice_end(arguments: list[Any]) -> list[Any]:
    """The arguments of a slice: the end may be written as a size or as "to the end", and 0 be left out."""
    tensor, dim, start, _, *step = arguments
    return [tensor, dim, 0 if start is None else start, *step]


def _is_slice(node: fx.Node) -> bool:
    return op_name(node) == "slice"


def _op(node: fx.Node) -> str:
    return str(node.target) if node.op != "placeholder" else f"input {node.name}"


def _at(node: fx.Node) -> str:
    source = node.meta.get("source")
    return f" at {source}" if source else f" at node {node.name}"
