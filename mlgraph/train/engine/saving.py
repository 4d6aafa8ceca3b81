"""What of a run is saved and how it is taken up again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mlgraph.program import Program
from mlgraph.train.data.stream import RandomState, Stream
from mlgraph.train.engine.checkpoint import Checkpoint, RunDirectory, restore
from mlgraph.train.engine.levels import Aside, Level, SetAside
from mlgraph.train.optimizer import OptimizerState


@dataclass(frozen=True)
class Resumed:
    """A run taken up: its level with all tensors restored, and the plain values of its checkpoint.

    ``own`` are those of this process: its place in the data, random generators and losses not logged yet.
    """

    level: Level
    optimizer: OptimizerState
    state: Mapping[str, Any]
    own: Mapping[str, Any]

    def restore_random(self, accelerator: Any) -> None:
        """Put every random generator, and the gradient scaler, where the checkpoint found them."""
        RandomState.from_json(self.own["random"]).restore()
        if self.own["cuda"] is not None and accelerator.device.type == "cuda":
            torch.cuda.set_rng_state(torch.tensor(self.own["cuda"], dtype=torch.uint8), accelerator.device)
        if self.state["scaler"] is not None and accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(self.state["scaler"])


class Saver:
    """Saves a run to its directory, where it has one; only the main process writes."""

    def __init__(self, accelerator: Any, directory: RunDirectory | None) -> None:
        self._accelerator, self._directory = accelerator, directory
        self._writes = directory is not None and bool(accelerator.is_main_process)
        self.last: Path | None = None

    @property
    def active(self) -> bool:
        """Whether there is a directory to save to."""
        return self._directory is not None

    @property
    def metrics(self) -> Path | None:
        """The file of metrics, for the process that writes it."""
        return self._directory.metrics if self._directory is not None and self._writes else None

    def write(
        self,
        at: Mapping[str, Any],
        level: Level,
        tensors: Mapping[str, torch.Tensor],
        optimizer: OptimizerState,
        stream: Stream,
        window: Sequence[torch.Tensor],
    ) -> None:
        """Write a checkpoint of ``level`` with its trained ``tensors``; all processes take part in it."""
        from accelerate.utils import gather_object

        if self._directory is None:
            return
        processes = gather_object([self._own(stream, window)])
        if self._writes:
            scaler = self._accelerator.scaler
            state = {
                **at,
                "architecture": level.architecture,
                "aside": [[aside.name, aside.architecture] for aside in level.aside],
                "new": sorted(level.new),
                "scaler": scaler.state_dict() if scaler is not None else None,
                "processes": processes,
            }
            self.last = self._directory.write(at["step"], at["phase"], tensors, optimizer, state)
        self._accelerator.wait_for_everyone()

    def _own(self, stream: Stream, window: Sequence[torch.Tensor]) -> dict[str, Any]:
        device = self._accelerator.device
        return {
            "stream": stream.state(),
            "random": RandomState.now().to_json(),
            "cuda": torch.cuda.get_rng_state(device).tolist() if device.type == "cuda" else None,
            "window": [float(loss) for loss in window],
        }

    def read(self, initial: Program) -> Resumed | None:
        """The run as the newest checkpoint has it, or none. ``initial`` is the user's program."""
        checkpoint = self._directory.latest() if self._directory is not None else None
        if self._directory is None or checkpoint is None:
            return None
        self.last = checkpoint.path
        state = checkpoint.state
        program = self._program(state["architecture"], initial, checkpoint)
        aside = [self._aside(name, architecture, initial) for name, architecture in state["aside"]]
        level = Level(program, state["architecture"], tuple(aside), frozenset(state["new"]))
        own = state["processes"][self._accelerator.process_index]
        return Resumed(level, checkpoint.optimizer(), state, own)

    def _program(self, architecture: str | None, initial: Program, checkpoint: Checkpoint) -> Program:
        program = self._architecture(architecture, initial)
        restore(program, checkpoint.tensors(), checkpoint.path)
        return program

    def _architecture(self, name: str | None, initial: Program) -> Program:
        assert self._directory is not None
        return initial if name is None else self._directory.load_level(name)

    def _aside(self, name: str, architecture: str | None, initial: Program) -> Aside:
        directory = self._directory
        assert directory is not None
        program = self._architecture(architecture, initial)
        restore(program, directory.read_aside(name), directory.path)
        return Aside(name, program, architecture, lambda: directory.read_aside_optimizer(name))

    def aside(self, state: OptimizerState) -> SetAside:
        """How programs are set aside in one change of level; ``state`` belongs to the first of them."""
        held = [state]

        def set_aside(name: str, program: Program, keeps: bool) -> Callable[[], OptimizerState]:
            own = held.pop() if held and keeps else {}
            directory = self._directory
            if directory is None:
                return lambda: own
            if self._writes:
                directory.set_aside(name, program.tensors, own if keeps else None)
            return lambda: directory.read_aside_optimizer(name)

        return set_aside

    def save_architecture(self, level: Level) -> None:
        """Save the architecture that a change of level made, if it is not the user's own."""
        name = level.architecture
        if (
            self._directory is not None
            and self._writes
            and name is not None
            and not self._directory.has_level(name)
        ):
            self._directory.save_level(name, level.program)
