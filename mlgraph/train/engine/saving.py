"""What of a run is saved and how it is taken up again."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mlgraph.errors import MlgraphError
from mlgraph.program import Program
from mlgraph.program.tensors import TensorSource
from mlgraph.rewrite.sharded import Layout
from mlgraph.train.data.stream import RandomState, Stream
from mlgraph.train.engine.checkpoint import INITIAL, Checkpoint, FolderDraft, RunDirectory
from mlgraph.train.engine.levels import Aside, Level, SetAside
from mlgraph.train.engine.shard_files import own_parts
from mlgraph.train.engine.sharding import sharded, shell, trained
from mlgraph.train.engine.stored import StoredState, check_fit, flat, restored
from mlgraph.train.errors import RunDirectoryError
from mlgraph.train.optimizer import States


@dataclass(frozen=True)
class Resumed:
    """A run taken up: its level with all tensors restored, and the plain values of its checkpoint.

    ``own`` are those of this process: random generators and losses not logged yet; nothing where the run
    went on other processes before.
    """

    level: Level
    optimizer: States
    state: Mapping[str, Any]
    own: Mapping[str, Any] | None

    def restore_random(self, accelerator: Any) -> None:
        """Put every random generator, and the gradient scaler, where the checkpoint found them."""
        if self.own is not None:
            RandomState.from_json(self.own["random"]).restore()
            if self.own["cuda"] is not None and accelerator.device.type == "cuda":
                cuda = torch.tensor(self.own["cuda"], dtype=torch.uint8)
                torch.cuda.set_rng_state(cuda, accelerator.device)
        if self.state["scaler"] is not None and accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(self.state["scaler"])

    @property
    def window(self) -> list[float]:
        """The losses not logged yet, of this process or the mean over those of before."""
        if self.own is not None:
            return list(self.own["window"])
        windows = [process["window"] for process in self.state["processes"]]
        return [sum(losses) / len(losses) for losses in zip(*windows, strict=True)]

    @property
    def stream(self) -> Mapping[str, Any]:
        """Where the data goes on: this process's place, or the first one's of another number of processes."""
        processes = self.state["processes"]
        place = (processes[0] if self.own is None else self.own)["stream"]
        # the first format counted batches of each process
        return place if "batches" in place else {**place, "batches": place["rounds"] * len(processes)}


class Saver:
    """Saves a run to its directory, where it has one: every process its part, the main one what binds them.

    With ``background`` checkpoints are written while training goes on, from a copy. ``layout`` says how rows
    lie over processes.
    """

    def __init__(
        self,
        accelerator: Any,
        directory: RunDirectory | None,
        layout: Layout | None = None,
        background: bool = False,
    ) -> None:
        self._accelerator, self._directory, self._layout = accelerator, directory, layout
        self._background = background
        self._main = directory is not None and bool(accelerator.is_main_process)
        self._writing: _Writing | None = None
        self.last: Path | None = None

    @property
    def active(self) -> bool:
        """Whether there is a directory to save to."""
        return self._directory is not None

    @property
    def metrics(self) -> Path | None:
        """The file of metrics, for the process that writes it."""
        return self._directory.metrics if self._directory is not None and self._main else None

    def write(
        self,
        at: Mapping[str, Any],
        level: Level,
        program: Program,
        optimizer: States,
        stream: Stream,
        window: Sequence[torch.Tensor],
        last: bool = True,
    ) -> None:
        """Write a checkpoint of ``level`` with its trained ``program``; all processes take part in it.

        It is done when this returns, unless writing goes on in the background and ``last`` is false: then the
        next call of ``write`` or ``finish`` waits for it.
        """
        from accelerate.utils import gather_object

        directory = self._directory
        if directory is None:
            return
        self.finish()
        scaler = self._accelerator.scaler
        state = {
            **at,
            "architecture": level.architecture,
            "aside": [[aside.name, aside.architecture] for aside in level.aside],
            "new": sorted(level.new),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "processes": gather_object([self._own(stream, window)]),
        }
        background = self._background and not last
        target = directory.checkpoint(at["step"], at["phase"])
        texts = {"state.json": json.dumps(state)}
        self._start(target, program, optimizer, texts, background, lambda: directory.prune(target))
        if not background:
            self.finish()

    def _start(
        self,
        target: Path,
        program: Program,
        optimizer: States | None,
        texts: Mapping[str, str],
        background: bool,
        after: Callable[[], None],
    ) -> None:
        self.finish()
        rank, processes = self._accelerator.process_index, self._accelerator.num_processes
        tensors = {f"model/{name}": tensor for name, tensor in program.tensors.items()}
        tensors |= {f"optimizer/{name}": value for name, value in flat(optimizer or {}).items()}
        varying = [f"model/{name}" for name in program.tensors if name not in program.tensors.parameters]
        parts = own_parts(tensors, rank, processes, varying)
        if background:
            parts = {name: part.copied() for name, part in parts.items()}
        draft = FolderDraft(target, parts, rank, processes)
        if self._main:
            draft.make()
        self._accelerator.wait_for_everyone()
        self._writing = _Writing(draft, texts if self._main else None, after)
        if background:
            self._writing.start()
        else:
            draft.write()
            # so that whoever waits for reports waits for none that will not come
            self._accelerator.wait_for_everyone()
            self._writing.run()

    def finish(self) -> None:
        """Wait for what is being written; RunDirectoryError in every process where it failed in one."""
        from accelerate.utils import gather_object

        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        if writing.ident is not None:
            writing.join()
        for said in gather_object([writing.error]):
            if said is not None:
                raise RunDirectoryError(f"{said.rstrip('.')}; {self._whole()}.")
        if writing.draft.target.parent.name == "checkpoints":
            self.last = writing.draft.target

    def _whole(self) -> str:
        if self.last is None:
            return "there is no checkpoint before it"
        return f"the checkpoint before, {self.last}, is whole"

    def give_up(self) -> None:
        """Wait for nothing any more: other processes have ended."""
        if self._writing is not None:
            self._writing.abandoned.set()
            self._writing = None

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
        state, stored = checkpoint.state, checkpoint.open()
        program = self._program(state["architecture"], initial, stored.tensors, checkpoint)
        aside = [self._aside(name, architecture, initial) for name, architecture in state["aside"]]
        level = Level(program, state["architecture"], tuple(aside), frozenset(state["new"]))
        same = len(state["processes"]) == self._accelerator.num_processes
        own = state["processes"][self._accelerator.process_index] if same else None
        optimizer = self._state(stored.optimizer, program)
        return Resumed(level, optimizer, state, own)

    def stored(self) -> TensorSource | None:
        """The program's tensors in the newest checkpoint, read as they are asked for."""
        checkpoint = self._directory.latest() if self._directory is not None else None
        return None if checkpoint is None else checkpoint.open().tensors

    def _program(
        self, architecture: str | None, initial: Program, tensors: TensorSource, where: Checkpoint | None
    ) -> Program:
        assert self._directory is not None
        place = self._directory.path if where is None else where.path
        program = initial if architecture is None else self._directory.load_level(architecture)
        check_fit(program, tensors, place)
        if self._layout is not None:
            stored = program.with_values(program.tensors.replace(tensors))
            return sharded(stored, self._layout, self._accelerator.device, trained(program))
        return restored(program, tensors, in_place=architecture is None)

    def _aside(self, name: str, architecture: str | None, initial: Program) -> Aside:
        assert self._directory is not None
        stored = self._directory.open_aside(name)
        program = self._program(architecture, initial, stored.tensors, None)
        return Aside(name, program, architecture, self._kept(name, program))

    def _kept(self, name: str, program: Program) -> Callable[[], States]:
        directory = self._directory
        assert directory is not None
        return lambda: self._state(directory.open_aside(name).optimizer, program)

    def _state(self, source: TensorSource, program: Program) -> StoredState:
        names = trained(program) if self._layout is not None else ()
        return StoredState(source, self._layout, frozenset(names), self._accelerator.device)

    def aside(self, state: States) -> SetAside:
        """How programs are set aside in one change of level; ``state`` belongs to the first of them."""
        held = [state]

        def set_aside(name: str, program: Program, keeps: bool) -> Callable[[], States]:
            own = held.pop() if held and keeps else {}
            directory = self._directory
            if directory is None:
                return lambda: own
            self._start(directory.aside(name), program, own if keeps else None, {}, False, lambda: None)
            self.finish()
            return self._kept(name, program)

        return set_aside

    def save_architecture(self, level: Level) -> None:
        """Save the architecture of a level, without its weights."""
        name = level.architecture or INITIAL
        if self._directory is not None and self._main and not self._directory.has_level(name):
            self._directory.save_level(name, shell(level.program))


class _Writing(threading.Thread):
    """What one process does for a draft: write its parts and, in the main process, publish all."""

    def __init__(
        self, draft: FolderDraft, texts: Mapping[str, str] | None, after: Callable[[], None]
    ) -> None:
        super().__init__(name="mlgraph checkpoint", daemon=True)
        self.draft, self._texts, self._after = draft, texts, after
        self.abandoned = threading.Event()
        self.error: str | None = None

    def run(self) -> None:
        """Write and publish; what goes wrong is kept as a sentence."""
        try:
            if self.ident is not None:
                self.draft.write()
            if self._texts is not None:
                self.draft.publish(self._texts, self.abandoned.is_set)
                self._after()
        except (OSError, MlgraphError) as error:
            self.error = str(error)
