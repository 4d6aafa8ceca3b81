"""Trials of a change on a miniature: how they are run, and how far results are from what they must be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from mlgraph.graph.compare import relative_error
from mlgraph.rewrite.miniature import Trial, draws

if TYPE_CHECKING:
    from mlgraph.program import Program
    from mlgraph.program.dims import Dim
    from mlgraph.rewrite.copied import Copies
    from mlgraph.rewrite.plan import WidthPlan

TOLERANCE = 1e-8
"""Relative difference in float64 up to which results are equal."""
_FLOOR = 1e-6


def axes_in(dims: Iterable[Dim]) -> Iterator[str]:
    """The ids of the axes that some dims are made of."""
    return (leaf.axis for dim in dims for leaf in dim.leaves())


def kin(program: Program) -> dict[str, set[str]]:
    """The axes that lie where an axis lies in other blocks of its chain, by axis id."""
    out: dict[str, set[str]] = {}
    for chain in program.blocks:
        for column in chain.columns():
            held = [list(axes_in(program.axes.tensor_dims.get(name, ()))) for name in column]
            for alike in zip(*held, strict=False):
                together = {kin for axis in alike for kin in out.get(axis, {axis})}
                out |= dict.fromkeys(together, together)
    return out


class Results:
    """What a run gave: outputs, values of nodes, gradients of tensors and, if asked for, of nodes."""

    def __init__(self, outputs: list[Any], values: Mapping[fx.Node, Any]) -> None:
        self.outputs = outputs
        self.values = values
        self.gradients: dict[str, torch.Tensor] = {}
        self.inner: dict[fx.Node, torch.Tensor] = {}


def run_trial(
    trial: Trial,
    inputs: list[Any],
    gradients: bool = False,
    inner: bool = False,
    shares: Iterable[torch.Tensor | None] = (),
) -> Results:
    """What a trial gives: outputs, with ``gradients`` those of parameters, with ``inner`` those of values.

    ``shares`` are what elements of each output count in the loss, by default all the same.
    """
    given = [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in inputs]
    program = trial.program
    tensors = {
        name: t.clone().requires_grad_(
            gradients and t.is_floating_point() and name in program.tensors.parameters
        )
        for name, t in program.tensors.items()
    }
    trial.tensors = tensors
    with torch.set_grad_enabled(gradients), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        outputs = trial.run(given)
        results = Results(outputs, trial.values)
        counted = zip_longest(outputs, shares)
        floats = [(r, s) for r, s in counted if isinstance(r, torch.Tensor) and r.requires_grad]
        if not gradients or not floats:
            return results
        loss = sum((_mean_square(r, share) for r, share in floats), torch.zeros((), dtype=torch.float64))
        leaves_ = {n: t for n, t in tensors.items() if t.requires_grad}
        between = (
            {n: v for n, v in trial.values.items() if isinstance(v, torch.Tensor) and v.requires_grad}
            if inner
            else {}
        )
        try:
            found = torch.autograd.grad(loss, [*leaves_.values(), *between.values()], allow_unused=True)
        except RuntimeError:  # an op without a derivative: there are no gradients to compare
            return results
    results.gradients = {n: g.to_dense() for n, g in zip(leaves_, found, strict=False) if g is not None}
    results.inner = {n: g for n, g in zip(between, found[len(leaves_) :], strict=True) if g is not None}
    results.outputs = [r.detach() if isinstance(r, torch.Tensor) else r for r in outputs]
    return results


def gradient_pairs(
    plan: WidthPlan, small: Results, grown: Results
) -> Iterator[tuple[str, torch.Tensor, torch.Tensor, float]]:
    """Per tensor that grows: its gradient as it must be and as it is, and the largest of all gradients."""
    scale = max((float(g.abs().max()) for g in small.gradients.values() if g.numel()), default=0.0)
    for name, gradient in small.gradients.items():
        transfer, found = plan.transfers.get(name), grown.gradients.get(name)
        if transfer is not None and transfer.changes and found is not None:
            yield name, transfer.up(gradient, "gradient"), found, scale


def _mean_square(result: torch.Tensor, share: torch.Tensor | None) -> torch.Tensor:
    value = result.abs() if result.is_complex() else result
    if share is None or share.shape != value.shape:
        share = torch.ones(value.shape, dtype=torch.float64)
    loss = (value.square() * share).sum() / share.sum()
    if torch.isfinite(loss):
        return loss
    finite = torch.isfinite(value)
    return (value[finite].square() * share[finite]).sum() / share[finite].sum().clamp_min(1e-30)


def drawn(small: Results, copies: Copies) -> dict[fx.Node, Any]:
    """What random ops draw in the grown program: copies of what they drew in the small one."""
    return {node: copies(value, node) for node, value in small.values.items() if draws(node)}


def relative_miss(found: Any, wanted: Any, floor: float = _FLOOR) -> float:
    """The relative error, what is smaller than ``floor`` counting as being of that size."""
    if not isinstance(wanted, torch.Tensor):
        return 0.0
    found, wanted = found.detach(), wanted.detach()
    if found.shape == wanted.shape and wanted.is_floating_point() and wanted.numel():
        # one pass where all is finite and right, as nearly always
        largest = max(float(wanted.abs().max()), floor)
        if float((found - wanted).abs().max()) <= TOLERANCE * largest:
            return 0.0
    error = relative_error(found, wanted)
    if error <= TOLERANCE or error == float("inf"):
        return error
    finite = wanted[torch.isfinite(wanted)]
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    return error * max(largest, 1e-12) / max(largest, floor)


class Healed(Trial):
    """A run that notes every op whose result is not what it must be, and goes on with what it must be."""

    def __init__(
        self,
        side: Any,
        small: Results,
        copies: Copies,
        fixed: set[fx.Node],
        grown: set[str],
    ) -> None:
        super().__init__(side, drawn(small, copies))
        self.small = small
        self.copies = copies
        self.fixed = fixed
        self.grown = grown
        self.deviating: dict[fx.Node, float] = {}

    def settle(self, node: fx.Node, value: Any) -> Any:
        if node not in self.small.values:
            return value
        if node in self.fixed and self.grown.intersection(axes_in(self.copies.dims.get(node.name, ()))):
            # what parameters alone make may be divided by the number of copies
            return value
        wanted = self.copies(self.small.values[node], node)
        if isinstance(value, (tuple, list)) and isinstance(wanted, list):
            errors = [relative_miss(v, w) for v, w in zip(value, wanted, strict=True) if w is not None]
            if max(errors, default=0.0) > TOLERANCE:
                self.deviating[node] = max(errors)
                return type(value)(v if w is None else w for v, w in zip(value, wanted, strict=True))
        elif isinstance(value, torch.Tensor) and isinstance(wanted, torch.Tensor):
            error = relative_miss(value, wanted)
            if error > TOLERANCE:
                self.deviating[node] = error
                return wanted.to(value.dtype)
        return value
