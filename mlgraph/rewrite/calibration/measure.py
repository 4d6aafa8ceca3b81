"""Measuring what data shows of a program, block by block."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from mlgraph.graph.interpret import Interpretation
from mlgraph.graph.streaming import stream
from mlgraph.program.calibration import AxisActivity, Calibration, ChainActivity, Moments
from mlgraph.rewrite.calibration.axis_places import AxisPlace, Output, activation_places, outputs
from mlgraph.rewrite.similarity import rows_of

if TYPE_CHECKING:
    from mlgraph.program import Program
    from mlgraph.program.block_table import Chain

Losses = Sequence[Callable[[Any], torch.Tensor]]
"""Per batch, the loss of what the program returns on it."""

_SAMPLES = 256


def measure(program: Program, batches: Sequence[Sequence[Any]], losses: Losses = ()) -> Calibration:
    """The calibration of a program on batches of flat input leaves.

    With ``losses`` the gradients are taken too, for which the whole program must fit in memory.
    """
    watch = _Watch(program, len(batches))
    cuts = [block.exit for chain in program.blocks for block in chain]
    stream(program, batches, cuts, see=watch.see)
    axes, chains = _Taylor(program), _BlockTaylor(program)
    for leaves_, loss in zip(batches, losses, strict=bool(losses)):
        gradients = _gradients(program, leaves_, loss)
        axes.add(gradients)
        chains.add(gradients)
    return Calibration(
        tuple(tuple(leaves_) for leaves_ in batches),
        {
            axis: found.result(axes.of(axis, len(losses)))
            for axis, found in watch.axes.items()
            if found.samples
        },
        {name: found.result(chains.of(name, len(losses))) for name, found in watch.chains.items()},
        {name: found.result() for name, found in watch.outputs.items() if found.count},
    )


@dataclass
class _AxisSums:
    """Sums over one axis so far; every place weighs the same."""

    places: int
    squares: dict[str, torch.Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    samples: list[torch.Tensor] = field(default_factory=list)

    def add(self, place: AxisPlace, value: torch.Tensor, wanted: int) -> None:
        own = place.by_index(value.detach())
        squares = torch.linalg.vector_norm(own.float(), dim=(0, 2)).square()
        self.squares[place.node] = self.squares.get(place.node, 0.0) + squares
        self.counts[place.node] += own.shape[0] * own.shape[2]
        wanted = max(wanted // self.places, 1)
        at = torch.linspace(0, own.shape[0] - 1, min(wanted, own.shape[0]), device=own.device).long()
        self.samples.append(own[at].transpose(0, 1).flatten(1).to("cpu", torch.bfloat16))

    def result(self, taylor: torch.Tensor | None) -> AxisActivity:
        parts = [squares / max(self.counts[node], 1) for node, squares in self.squares.items()]
        scaled = [part / part.mean().clamp_min(1e-30) for part in parts] if len(parts) > 1 else parts
        rms = torch.stack(scaled).mean(0).sqrt().cpu()
        return AxisActivity(rms, torch.cat(self.samples, 1), taylor)


@dataclass
class _OutputSums:
    output: Output
    count: int = 0
    mean: torch.Tensor | None = None
    squares: torch.Tensor | None = None

    def add(self, value: torch.Tensor) -> None:
        own = value.detach().movedim(self.output.dim, -1).flatten(0, -2).float()
        count = len(own)
        variance, mean = (found.double() for found in torch.var_mean(own, 0, correction=0))
        squares = variance * count
        if self.mean is None or self.squares is None:
            self.count, self.mean, self.squares = count, mean, squares
            return
        total = self.count + count
        apart = mean - self.mean
        self.squares = self.squares + squares + apart.square() * (self.count * count / total)
        self.mean = self.mean + apart * (count / total)
        self.count = total

    def result(self) -> Moments:
        assert self.mean is not None, "an output was never computed"
        assert self.squares is not None
        return Moments(self.mean.float().cpu(), (self.squares / self.count).float().cpu())


@dataclass
class _ChainSums:
    """Per block, sums over batches of 1 - cosine and of the relative change."""

    blocks: int
    influence: torch.Tensor = field(init=False)
    activation: torch.Tensor = field(init=False)
    seen: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.influence, self.activation, self.seen = torch.zeros(3, self.blocks)

    def add(self, block: int, before: torch.Tensor, after: torch.Tensor, dim: int) -> None:
        before, after = before.detach().float(), after.detach().float()
        cosine = torch.nn.functional.cosine_similarity(before, after, dim, eps=1e-12)
        self.influence[block] += float(1 - cosine.mean())
        scale = before.square().mean().sqrt().clamp_min(1e-12)
        self.activation[block] += float((after - before).square().mean().sqrt() / scale)
        self.seen[block] += 1

    def result(self, taylor: torch.Tensor | None) -> ChainActivity:
        seen = self.seen.clamp_min(1)
        return ChainActivity(self.influence / seen, self.activation / seen, taylor)


class _Watch:
    """Sums up what nodes give as it is made."""

    def __init__(self, program: Program, batches: int) -> None:
        places = activation_places(program)
        self.samples = max(_SAMPLES // max(batches, 1), 1)
        self.places: dict[str, list[AxisPlace]] = defaultdict(list)
        for place in places:
            self.places[place.node].append(place)
        axes = [place.axis for place in places]
        self.axes = {axis: _AxisSums(axes.count(axis)) for axis in dict.fromkeys(axes)}
        found = outputs(program)
        self.outputs = {output.weight: _OutputSums(output) for output in found}
        self.output_of = {output.node: output.weight for output in found}
        self.chains = {chain.name: _ChainSums(len(chain)) for chain in program.blocks}
        self.entries: dict[tuple[str, int], dict[int, torch.Tensor]] = {}
        self.enters: dict[str, list[tuple[str, int]]] = defaultdict(list)
        self.exits: dict[str, tuple[str, int, int]] = {}
        for chain in program.blocks:
            for block in chain:
                dim = _stream_dim(program, block.exit)
                self.enters[block.entry].append((chain.name, block.index))
                self.exits[block.exit] = chain.name, block.index, dim

    def see(self, node: fx.Node, batch: int, value: Any) -> None:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return
        for place in self.places.get(node.name, ()):
            self.axes[place.axis].add(place, value, self.samples)
        if node.name in self.output_of:
            self.outputs[self.output_of[node.name]].add(value)
        if node.name in self.exits:
            name, block, dim = self.exits[node.name]
            before = self.entries.get((name, block), {}).pop(batch, None)
            if before is not None and before.shape == value.shape:
                self.chains[name].add(block, before, value, dim)
        for entered in self.enters.get(node.name, ()):
            self.entries.setdefault(entered, {})[batch] = value


def _stream_dim(program: Program, node: str) -> int:
    """The dim of a block's value along which an axis of parameters runs; the last where none does."""
    named = {axis.id for axis in program.axes}
    dims = program.axes.result_dims(node) or ()
    found = [at for at, dim in enumerate(dims) if any(leaf.axis in named for leaf in dim.leaves())]
    return found[-1] if found else -1


def _gradients(
    program: Program, leaves_: Sequence[Any], loss: Callable[[Any], torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Gradient times weight, elementwise, by name."""
    tensors = {
        name: tensor.detach().requires_grad_(name in program.tensors.parameters)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in program.tensors.items()
    }
    with torch.enable_grad():
        results = Interpretation(program, tensors).run(leaves_)
        value = loss(pytree.tree_unflatten(results, program.signature.out_spec))
        trained = {name: tensor for name, tensor in tensors.items() if tensor.requires_grad}
        found = torch.autograd.grad(value, list(trained.values()), allow_unused=True)
    given = zip(trained.items(), found, strict=True)
    return {name: (g * t.detach()).float().cpu() for (name, t), g in given if g is not None}


class _Taylor:
    """Squares of what an index of an axis counts in the loss, to first order, summed over batches."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.sums: dict[str, torch.Tensor] = {}

    def add(self, products: Mapping[str, torch.Tensor]) -> None:
        for axis in self.program.axes:
            parts = [part.sum(1) for part in self._parts(axis, products)]
            if parts:
                self.sums[axis.id] = self.sums.get(axis.id, 0.0) + torch.stack(parts).sum(0).square()

    def _parts(self, axis: Any, products: Mapping[str, torch.Tensor]) -> Iterator[torch.Tensor]:
        for tensor, dim in dict.fromkeys((slot.tensor, slot.dim) for slot in axis.slots):
            if tensor in products:
                yield from rows_of(products[tensor], self.program.axes.tensor_dims[tensor][dim], axis, dim)

    def of(self, axis: str, batches: int) -> torch.Tensor | None:
        return self.sums[axis] / batches if axis in self.sums else None


class _BlockTaylor:
    def __init__(self, program: Program) -> None:
        self.chains: Sequence[Chain] = tuple(program.blocks)
        self.sums = {chain.name: torch.zeros(len(chain)) for chain in self.chains}

    def add(self, products: Mapping[str, torch.Tensor]) -> None:
        for chain in self.chains:
            for block in chain:
                total = sum(float(products[name].sum()) for name in block.tensors if name in products)
                self.sums[chain.name][block.index] += total**2

    def of(self, chain: str, batches: int) -> torch.Tensor | None:
        return self.sums[chain] / batches if batches else None
