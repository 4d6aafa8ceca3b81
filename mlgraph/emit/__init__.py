"""Programs turned back into executable modules and into files that other libraries read."""

from __future__ import annotations

from mlgraph.emit.checkpointing import checkpoint_blocks
from mlgraph.emit.module import EmittedModule, emit

__all__ = ["EmittedModule", "checkpoint_blocks", "emit"]
