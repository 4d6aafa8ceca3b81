"""The signature of a captured program: its inputs, their dynamic sizes, and what must hold of these."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import sympy
import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from mlgraph.capture.export import Call, Exported, has_values
from mlgraph.capture.size_guards import follows, size_guards
from mlgraph.errors import MlgraphError
from mlgraph.graph.interpret import run
from mlgraph.graph.propagate import at_sizes
from mlgraph.graph.sizes import Size, size_of
from mlgraph.program import Input, Program, Signature
from mlgraph.program.size_guards import Formula, Operation, holds

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def signature_of(
    call: Call, exported: ExportedProgram, graph: fx.Graph
) -> tuple[Signature, Mapping[str, Size]]:
    """How a graph is called, without guards, and torch.export's formula of every named size."""
    leaves, in_spec = pytree.tree_flatten((call.args, call.kwargs))
    out_spec = exported.call_spec.out_spec
    assert out_spec is not None
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    # a name that Python has taken (input) is another in the new graph; the order is the same
    given = [node.meta["val"] for node in exported.graph.nodes if node.op == "placeholder"]
    fakes = dict(zip((node.name for node in reversed(placeholders)), reversed(given), strict=False))
    namer = _SizeNames()
    inputs = []
    for node, leaf in zip(placeholders, leaves, strict=True):
        if isinstance(leaf, torch.Tensor):
            fake = fakes[node.name]
            symbols = tuple(namer.name(node.name, leaf, dim, fake.shape[dim]) for dim in range(leaf.dim()))
            inputs.append(Input(node.name, tuple(leaf.shape), leaf.dtype, symbols))
        else:
            inputs.append(Input(node.name, value=leaf))
    ranges = {}
    for symbol, label in namer.labels.items():
        for known, bounds in exported.range_constraints.items():
            if str(known) == symbol:
                upper = int(bounds.upper) if bounds.upper.is_Integer else None
                ranges[label] = (int(bounds.lower), upper)
    return Signature(tuple(inputs), in_spec, out_spec, ranges, call.parameters), namer.sizes


def with_guards(program: Program, exported: Exported, sizes: Mapping[str, Size], model: nn.Module) -> Program:
    """The program with everything in its signature that must hold of the sizes of its inputs.

    What its graph knows of sizes as formulas is forgotten.
    """
    environment = exported.environment
    if sizes and environment is not None:
        program = _guarded(program, exported, environment, sizes, model)
    for node in program.graph.nodes:
        node.meta.pop("symbolic", None)
    return program


def _guarded(
    program: Program, exported: Exported, environment: Any, sizes: Mapping[str, Size], model: nn.Module
) -> Program:
    signature = program.signature
    example = {label: size for leaf in signature.inputs for label, size in _named(leaf)}
    guards = list(size_guards(environment, exported.questions, sizes, example))
    bounds: list[Formula] = []
    for label in sizes:
        low, high = signature.ranges.get(label, (2, None))
        single = _at_one(sizes, example, label)
        if low == 2 and single is not None and _runs_at(program, sizes, single):
            broken = [guard for guard in guards if not holds(guard, single)]
            if not broken or _equal_at_one(model, program, exported.call, label):
                low = 1
                guards = [_unless_one(guard, label) if guard in broken else guard for guard in guards]
        # bounds that nobody gave follow from what was asked, of layouts too
        low = low if exported.sizes_given else min(low, 2)
        high = high if exported.sizes_given else None
        if low:
            bounds.append(Operation(">=", (label, low)))
        if high is not None:
            bounds.append(Operation("<=", (label, high)))
        guards = [guard for guard in guards if not follows(guard, label, low, high)]
    return program.replace(signature=dataclasses.replace(signature, guards=(*bounds, *guards)))


def _unless_one(guard: Formula, label: str) -> Formula:
    if follows(guard, label, 2, None):
        return Operation(">=", (label, 1))
    return Operation("or", (Operation("==", (label, 1)), guard))


def _named(leaf: Input) -> Iterator[tuple[str, int]]:
    for label, size in zip(leaf.symbols, leaf.shape, strict=True):
        if label is not None:
            yield label, size


def _at_one(sizes: Mapping[str, Size], example: Mapping[str, int], label: str) -> dict[str, int] | None:
    """The example's sizes with one of them 1, and those that follow from it."""
    if not isinstance(sizes[label], sympy.Symbol):
        return None
    tried = {**example, label: 1}
    values = {size: tried[name] for name, size in sizes.items() if isinstance(size, sympy.Symbol)}
    for name, size in sizes.items():
        found = _at(size, values)
        if found is None:
            return None
        tried[name] = found
    return tried


def _runs_at(program: Program, sizes: Mapping[str, Size], tried: Mapping[str, int]) -> bool:
    """Whether every tensor has at given sizes the size that its formula tells.

    torch.export takes it for granted that no size is 1, and what follows from that may be in the graph.
    """
    shapes = []
    for leaf in program.signature.inputs:
        shapes.append(tuple(tried.get(s or "", n) for s, n in zip(leaf.symbols, leaf.shape, strict=True)))
    try:
        graph = at_sizes(program, shapes)
    except MlgraphError:
        return False
    values = {formula: tried[name] for name, formula in sizes.items() if isinstance(formula, sympy.Symbol)}
    known: dict[Size, Any] = {}
    for node in graph.nodes:
        for wanted, found in _sizes(node.meta.get("symbolic"), node.meta.get("val")):
            if wanted not in known:
                known[wanted] = _at(wanted, values)
            if known[wanted] not in (None, found):
                return False
    return True


def _equal_at_one(model: nn.Module, program: Program, call: Call, label: str) -> bool:
    """Whether model and program agree where one dynamic size is 1, the model's code telling that apart."""
    if not has_values(model):
        return False
    inputs = iter(program.signature.inputs)

    def cut(leaf: Any) -> Any:
        for dim, symbol in enumerate(next(inputs).symbols):
            if symbol == label:
                leaf = leaf.narrow(dim, 0, 1).contiguous()
        return leaf

    single = call.map(cut)
    model.eval()
    try:
        with torch.no_grad():
            wanted = pytree.tree_leaves(model(*single.args, **single.kwargs))
            found = pytree.tree_leaves(run(program, single.args, single.kwargs))
    except Exception:  # a size that the model or the graph does not take
        return False
    return len(wanted) == len(found) and all(map(_alike, wanted, found))


def _alike(first: Any, second: Any) -> bool:
    if not isinstance(first, torch.Tensor) or not isinstance(second, torch.Tensor):
        return type(first) is type(second)
    if first.shape != second.shape:
        return False
    scale = first.detach().double().nan_to_num(0.0, 0.0, 0.0).abs().max().item() if first.numel() else 0.0
    return torch.allclose(first, second, rtol=1e-4, atol=1e-5 * scale, equal_nan=True)


def _at(size: Size, values: Mapping[Any, int]) -> int | None:
    """A size at given values of its symbols; ``None`` where that leaves some open."""
    if isinstance(size, int):
        return size
    known = size.xreplace({symbol: sympy.Integer(value) for symbol, value in values.items()})
    return int(known) if known.is_Integer else None


def _sizes(symbolic: Any, value: Any) -> Iterator[tuple[Size, Size]]:
    """Every size of a node's value as a formula, and as it is."""
    if isinstance(symbolic, torch.Tensor) and isinstance(value, torch.Tensor):
        if symbolic.dim() != value.dim():
            yield 0, 1
        else:
            yield from zip(map(size_of, symbolic.shape), map(size_of, value.shape), strict=True)
    elif isinstance(symbolic, torch.SymInt) and isinstance(value, int):
        yield size_of(symbolic), value
    elif isinstance(symbolic, tuple | list) and isinstance(value, tuple | list):
        for one, other in zip(symbolic, value, strict=False):
            yield from _sizes(one, other)


class _SizeNames:
    """Readable names of dynamic sizes; one symbol, one name."""

    def __init__(self) -> None:
        self.labels: dict[str, str] = {}
        self.sizes: dict[str, Size] = {}

    def name(self, leaf: str, tensor: torch.Tensor, dim: int, size: Any) -> str | None:
        size = size_of(size)
        if isinstance(size, int):
            return None
        symbol = str(size)
        if symbol not in self.labels:
            label = self._role(tensor, dim)
            taken = set(self.labels.values())
            if label in taken:
                label = f"{leaf}_{label}"
            self.labels[symbol] = label
            self.sizes[label] = size
        return self.labels[symbol]

    @staticmethod
    def _role(tensor: torch.Tensor, dim: int) -> str:
        if dim == 0:
            return "batch"
        if dim == 1 and tensor.dim() in (2, 3):
            return "sequence"
        return f"size{dim}"
