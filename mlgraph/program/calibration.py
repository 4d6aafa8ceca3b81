"""What data shows of a program: statistics of its activations and gradients, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlgraph.errors import AxisError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class AxisActivity:
    """What data shows along one axis of ``size`` indices.

    ``activation`` [size] is the root mean square of the activations that parameters contract over the axis.
    ``samples`` [size, features] are such activations at places spread evenly over the data, the same places
    for axes of like blocks. ``taylor`` [size] is the mean over batches of (Σ gradient·weight)², summed over
    all of an index (Molchanov et al., CVPR 2019, equation 8); None where there was no loss.
    """

    activation: torch.Tensor
    samples: torch.Tensor
    taylor: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class ChainActivity:
    """What data shows of the blocks of a chain, each a tensor [blocks].

    ``influence`` is 1 - cosine of a block's input and output, averaged over positions (Men et al.,
    "ShortGPT", arXiv 2403.03853, equation 1). ``activation`` is the root mean square of what a block adds to
    its input, relative to that. ``taylor`` is as for axes, over the block's parameters.
    """

    influence: torch.Tensor
    activation: torch.Tensor
    taylor: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and variance [channels] over the data of what an op gives that has a gain or weight of its own."""

    mean: torch.Tensor
    variance: torch.Tensor


@dataclass(frozen=True, eq=False)
class Calibration:
    """What data shows of a program, in evaluation.

    ``inputs`` are the batches themselves, each the flat input leaves in placeholder order. ``axes`` goes by
    axis id, ``chains`` by chain name, ``moments`` by the name of the gain or weight.
    """

    inputs: tuple[tuple[Any, ...], ...]
    axes: Mapping[str, AxisActivity] = field(default_factory=dict)
    chains: Mapping[str, ChainActivity] = field(default_factory=dict)
    moments: Mapping[str, Moments] = field(default_factory=dict)

    def axis(self, axis: str, size: int) -> AxisActivity:
        """What is known of an axis.

        Raises:
            AxisError: nothing is, or it has another size.
        """
        found = self.axes.get(axis)
        if found is None or len(found.activation) != size:
            raise AxisError(
                f"the calibration knows no axis {axis} of size {size} that activations have: calibrate the "
                "program that is coarsened, or choose score='norm', which looks at weights alone."
            )
        return found

    def chain(self, chain: str, blocks: int) -> ChainActivity:
        """What is known of a chain of so many blocks.

        Raises:
            AxisError: nothing is, or it has another number.
        """
        found = self.chains.get(chain)
        if found is None or len(found.influence) != blocks:
            raise AxisError(
                f"the calibration knows no chain {chain} of {blocks} blocks: calibrate the program that is "
                "coarsened."
            )
        return found
