"""What indices and blocks count, by which some are selected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mlgraph.errors import AxisError
from mlgraph.program.calibration import AxisActivity, ChainActivity
from mlgraph.rewrite.grouping import Grouping
from mlgraph.rewrite.similarity import weight_rows, weights

if TYPE_CHECKING:
    from mlgraph.program import Program
    from mlgraph.program.axis_table import Axis
    from mlgraph.program.block_table import Chain
    from mlgraph.program.calibration import Calibration
    from mlgraph.rewrite.choices import Extend, Score

_OF_CALIBRATION: dict[str, Callable[[AxisActivity | ChainActivity], torch.Tensor | None]] = {
    "activation": lambda found: found.activation,
    "taylor": lambda found: found.taylor,
    "influence": lambda found: found.influence if isinstance(found, ChainActivity) else None,
}


@dataclass(frozen=True)
class Scores:
    """What every index or block counts, by a rule that looks at weights or at a calibration.

    ``norm``: the norm of all that an index has in weights, each tensor weighing the same. ``activation``: its
    root mean square over data; of a block, of what it adds to its input. ``taylor``: what the loss would
    change without it, to first order. ``influence``, of blocks: 1 - cosine of input and output.
    """

    rule: Score
    calibration: Calibration | None = None

    def of_axis(self, program: Program, axis: Axis) -> torch.Tensor:
        """The score [size] of every index.

        Raises:
            AxisError: the rule needs what is not known of the axis.
        """
        if self.rule == "norm":
            norms = [rows.norm(dim=1) for rows in weight_rows(program, axis)]
            scaled = [norm / norm.mean().clamp_min(1e-30) for norm in norms]
            return torch.stack(scaled or [torch.ones(axis.size)]).sum(0)
        if self.rule == "influence":
            raise AxisError(
                f"score='influence' is of blocks, and axis {axis.id} has none: choose 'activation', 'taylor' "
                "or 'norm'."
            )
        return self._found(self._known(axis.id).axis(axis.id, axis.size), f"axis {axis.id}")

    def of_chain(self, program: Program, chain: Chain) -> torch.Tensor:
        """The score [blocks] of every block.

        Raises:
            AxisError: the rule needs what is not known of the chain.
        """
        if self.rule == "norm":
            names = [name for name in chain.columns() if program.tensors.parameters.intersection(name)]
            columns = [torch.stack([weights(program, n).norm() for n in column]) for column in names]
            return torch.stack([c / c.mean().clamp_min(1e-30) for c in columns]).sum(0)
        return self._found(self._known(chain.name).chain(chain.name, len(chain)), f"chain {chain.name}")

    def _known(self, what: str) -> Calibration:
        if self.calibration is None:
            raise AxisError(
                f"score={self.rule!r} of {what} looks at data: give a calibration, or choose score='norm'."
            )
        return self.calibration

    def _found(self, activity: AxisActivity | ChainActivity, what: str) -> torch.Tensor:
        found = _OF_CALIBRATION[self.rule](activity)
        if found is None:
            raise AxisError(
                f"the calibration has no gradients, which score={self.rule!r} of {what} needs: calibrate "
                "with batches of which the model gives a loss."
            )
        return found.float()


def best(scores: torch.Tensor, count: int, what: str, extend: Extend) -> Grouping:
    """A group for each of the ``count`` indices with the highest scores; the first of equal ones."""
    order = scores.argsort(descending=True, stable=True)[:count]
    return Grouping.keeping(sorted(order.tolist()), len(scores), what, extend)


def best_of_groups(grouping: Grouping, scores: torch.Tensor, extend: Extend) -> Grouping:
    """These groups, the member with the highest score selected in each."""
    values = scores.tolist()
    return grouping.going("select", extend, lambda group: max(group, key=lambda i: (values[i], -i)))
