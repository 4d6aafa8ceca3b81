"""Activation checkpointing of an emitted model, block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.utils.checkpoint import checkpoint

from mlgraph.emit.module import EmittedBlock
from mlgraph.errors import MlgraphError

if TYPE_CHECKING:
    from torch import nn


def checkpoint_blocks(module: nn.Module) -> int:
    """Recompute each block's activations in the backward pass instead of keeping them; the number of blocks.

    Works in place and changes neither parameters nor their names. Raises ``MlgraphError`` where the
    module has no blocks.
    """
    blocks = [block for block in module.modules() if isinstance(block, EmittedBlock)]
    if not blocks:
        raise MlgraphError("the model has no chain of blocks to checkpoint; emit one that has")
    for block in blocks:
        if "forward" not in block.__dict__:
            block.forward = _Checkpointed(block)
    return len(blocks)


class _Checkpointed:
    """A block's forward under activation checkpointing; kept on the block, so that copies are too."""

    def __init__(self, block: EmittedBlock) -> None:
        self.block = block

    def __call__(self, *args: Any) -> Any:
        run = type(self.block).forward
        return checkpoint(run, self.block, *args, use_reentrant=False)
