"""Repair of a coarse program: its activations get the mean and variance that the fine ones have on data.

Averages of neurons vary less than the neurons do; gains and biases make up for it (Jordan et al.,
"REPAIR: REnormalizing Permuted Activations for Interpolation Repair", arXiv 2211.08403). One pass over the
data, output by output in graph order, each measured behind what was repaired before it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from mlgraph.graph.streaming import stream
from mlgraph.program import Note
from mlgraph.program.calibration import Moments
from mlgraph.program.tensors import TensorRecipe
from mlgraph.rewrite.calibration.axis_places import Output, outputs
from mlgraph.rewrite.coarsen import group_members, narrowed, realise, stack_down
from mlgraph.rewrite.grouping import groupings_of, layers_of
from mlgraph.rewrite.plan import plan_down
from mlgraph.rewrite.transfer import TensorTransfer

if TYPE_CHECKING:
    from mlgraph.program import Program
    from mlgraph.program.calibration import Calibration
    from mlgraph.rewrite.grouping import Groupings

_LEAST_VARIANCE = 1e-12


def repaired(program: Program, calibration: Calibration) -> Program:
    """A coarse program whose norms give, on the data of a calibration of the fine one, what the fine ones do.

    Where there is a bias, mean and variance of every channel are those of the fine channels that it stands
    for, averaged; where there is none, the mean square is.
    """
    targets = _targets(program, calibration)
    found = {o.node: o for o in outputs(program) if o.norm and o.weight in targets}
    changes: dict[str, _Change] = {}

    def settle(node: fx.Node, values: Sequence[Any]) -> Sequence[Any]:
        output = found[node.name]
        scale, shift = _affine(output, values, targets[output.weight])
        shape = [1] * values[0].dim()
        shape[output.dim] = -1
        changes[output.weight] = _Change(scale, None, output.weight_dim)
        if output.bias is not None:
            changes[output.bias] = _Change(scale, shift, 0)
        moved = []
        for value in values:
            out = value.float() * scale.view(shape)
            moved.append((out if shift is None else out + shift.view(shape)).to(value.dtype))
        return moved

    stream(program, calibration.inputs, found, settle=settle)
    recipes = {name: TensorRecipe(_maker(program, name, changes.get(name))) for name in program.tensors}
    left = [name for name, _ in targets.items() if name not in changes]
    tensors = realise(program, recipes, program.tensors.meta())
    notes = program.notes if not left or changes else (*program.notes, _nothing())
    return dataclasses.replace(
        program.with_values(program.tensors.replace(tensors)),
        notes=notes,
        history=(*program.history, "repair"),
    )


def _nothing() -> Note:
    return Note("kept", "repair changes nothing, for no norm has a gain of its own")


@dataclass(frozen=True)
class _Change:
    scale: torch.Tensor
    shift: torch.Tensor | None
    dim: int

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        shape = [1] * tensor.dim()
        shape[self.dim] = -1
        out = tensor.detach().float() * self.scale.to(tensor.device).view(shape)
        return (out if self.shift is None else out + self.shift.to(tensor.device)).to(tensor.dtype)


def _maker(program: Program, name: str, change: _Change | None) -> Any:
    return lambda: change.of(program.tensors[name]) if change else program.tensors[name].detach().clone()


def _affine(
    output: Output, values: Sequence[torch.Tensor], target: Moments
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """By what every channel is multiplied, and what is added behind that."""
    flat = torch.cat([value.movedim(output.dim, -1).flatten(0, -2).float() for value in values])
    variance, mean = torch.var_mean(flat, 0, correction=0)
    wanted, wanted_mean = target.variance.to(flat.device), target.mean.to(flat.device)
    if output.bias is None:
        variance, wanted = variance + mean.square(), wanted + wanted_mean.square()
    scale = (wanted / variance.clamp_min(_LEAST_VARIANCE)).sqrt()
    scale = torch.where(variance > _LEAST_VARIANCE, scale, torch.ones_like(scale))
    return scale, None if output.bias is None else wanted_mean - scale * mean


def _targets(program: Program, calibration: Calibration) -> dict[str, Moments]:
    """Per weight of a coarse program, the moments that its output is to have."""
    lineage = program.lineage
    assert lineage is not None, "only a coarse program is repaired"
    parent, layers, groupings = lineage.parent, layers_of(lineage), groupings_of(lineage)
    fine = {output.weight: output for output in outputs(parent)}
    narrow = narrowed(parent, plan_down(parent, groupings, str(lineage.options.get("tied", "exact"))))
    stacked = stack_down(narrow, layers)
    members = group_members(narrow, layers, stacked, counting=True)
    out = {}
    for name, source in stacked.sources.items():
        group = members.get(name, (source.name,))
        if not all(fine_name in calibration.moments and fine_name in fine for fine_name in group):
            continue
        moments = [_down(parent, fine[f], calibration.moments[f], groupings) for f in group]
        deviation = torch.stack([moment.variance.sqrt() for moment in moments]).mean(0)
        out[name] = Moments(torch.stack([moment.mean for moment in moments]).mean(0), deviation.square())
    return out


def _down(parent: Program, output: Output, moments: Moments, groupings: Groupings) -> Moments:
    """The mean of the means of a group, and the square of the mean of its standard deviations."""
    dim = parent.axes.tensor_dims[output.weight][output.weight_dim]
    roles = parent.axes.roles[output.weight, output.weight_dim]
    transfer = TensorTransfer((dim,), (roles,), groupings)
    return Moments(transfer.down(moments.mean), transfer.down(moments.variance.sqrt()).square())
