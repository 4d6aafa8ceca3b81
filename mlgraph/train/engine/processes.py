"""The accelerator of a run, and agreement between its processes."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

import torch

from mlgraph.errors import first_line
from mlgraph.train.engine.launched import as_launched, without_launched_sharding
from mlgraph.train.engine.saving import Saver
from mlgraph.train.errors import PeerError, TrainError
from mlgraph.train.settings import Settings

if TYPE_CHECKING:
    from mlgraph.rewrite.sharded import Layout

_PATIENCE = timedelta(minutes=30)


def make_accelerator(settings: Settings, out_dir: Path | None) -> Any:
    """An ``accelerate.Accelerator`` as the settings and the launcher's environment ask for."""
    from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
    from accelerate.state import AcceleratorState

    settings = as_launched(settings)
    group: dict[str, Any] = {"timeout": _PATIENCE}
    if settings.fsdp and torch.cuda.is_available():
        # what is kept on the host moves between processes too
        group["backend"] = "cuda:nccl,cpu:gloo"
    # Accelerate keeps one configuration per process; a run brings its own.
    AcceleratorState._reset_state()
    try:
        with warnings.catch_warnings(), without_launched_sharding():
            warnings.filterwarnings("ignore", category=UserWarning, module="accelerate.*")
            made = Accelerator(
                # Without it accelerate starts no process group on machines that have nothing but CPUs.
                cpu=not torch.accelerator.is_available(),
                mixed_precision=settings.mixed_precision,
                dynamo_backend="inductor" if settings.compile else None,
                log_with=_trackers(settings, out_dir),
                project_dir=None if out_dir is None else str(out_dir),
                kwargs_handlers=[DistributedDataParallelKwargs(), InitProcessGroupKwargs(**group)],
            )
    except (ValueError, ImportError) as error:
        reason = str(error).rstrip(".")
        raise TrainError(f"accelerate refuses these settings: {reason}.") from error
    if made.device.type == "cpu" and made.mixed_precision == "fp16":
        # Accelerate would compute in fp32 and say nothing.
        raise TrainError("mixed_precision = 'fp16' needs an accelerator and there is none: take bf16 or no.")
    launched = int(os.environ.get("WORLD_SIZE") or 1)
    if made.num_processes != launched:
        raise TrainError(
            f"The launcher started {launched} processes but accelerate counts {made.num_processes}, so each "
            "would train alone: make no Accelerator or PartialState before the run, or unset WORLD_SIZE."
        )
    return made


def shards(settings: Settings, accelerator: Any) -> bool:
    """Whether there are processes to shard over and the settings ask for it.

    Not where ``accelerator``, made by the user, does it itself.
    """
    return settings.fsdp and accelerator.num_processes > 1 and accelerator.distributed_type.value != "FSDP"


def wait_at_most(seconds: float | None, layout: Layout | None) -> None:
    """Let processes wait so long for one that does not answer; nothing: as long as a start may take."""
    if not torch.distributed.is_initialized():
        return
    groups = [torch.distributed.group.WORLD]
    if layout is not None:
        groups += [layout.mesh.get_group(dim) for dim in range(layout.mesh.ndim)]
    limit = _PATIENCE if seconds is None else timedelta(seconds=seconds)
    # public since torch 2.14
    known, names = torch.distributed.distributed_c10d, ("set_timeout", "_set_pg_timeout")
    set_timeout = next(getattr(known, name) for name in names if hasattr(known, name))
    for group in groups:
        set_timeout(limit, group)


def _trackers(settings: Settings, out_dir: Path | None) -> list[str] | None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
    from accelerate.utils import is_tensorboard_available

    if settings.trackers is not None:
        available = {str(tracker) for tracker in get_available_trackers()}
        for name in settings.trackers:
            # Accelerate leaves out what is not installed and says nothing.
            if name in LOGGER_TYPE_TO_CLASS and name not in available:
                raise TrainError(f"The tracker {name} is not installed: install it or take it off trackers.")
        return list(settings.trackers) or None
    return ["tensorboard"] if out_dir is not None and is_tensorboard_available() else None


@contextmanager
def peers_ended(accelerator: Any, saver: Saver) -> Iterator[None]:
    """Say in a sentence that another process has ended, where one has.

    Whoever computes with it is told by the next thing they do together; nothing that waits for it is begun.
    """
    try:
        yield
    except (RuntimeError, torch.distributed.DistBackendError) as error:
        if accelerator.num_processes == 1 or not _is_loss_of_peer(error):
            raise
        saver.give_up()
        where = f"goes on from {saver.last}" if saver.last else "begins anew"
        raise PeerError(
            f"Another process of this run has ended or does not answer ({first_line(error)}): start "
            f"all again; the run {where}."
        ) from error


# What gloo and NCCL say of a peer that is gone.
_LOST = ("Connection", "closed by peer", "timed out", "timeout", "Timed out", "Broken pipe", "remote process")


def _is_loss_of_peer(error: BaseException) -> bool:
    return any(said in str(error) for said in _LOST)


class Interruption:
    """Notes SIGTERM and SIGINT (Ctrl-C) while it is active, in the main thread; the run stops at the next
    step.

    A second SIGINT stops at once. ``code`` is the exit code: 0 after SIGTERM, 130 after SIGINT.
    """

    def __init__(self, active: bool) -> None:
        self._active = active and threading.current_thread() is threading.main_thread()
        self._before: dict[signal.Signals, Any] = {}
        self.asked = False
        self.code = 0

    def __enter__(self) -> Interruption:
        if self._active:
            known = (signal.SIGTERM, signal.SIGINT)
            self._before = {number: signal.signal(number, self._note) for number in known}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self.code:
                raise KeyboardInterrupt
            self.code = 130
            print("\nstopping at the next step; Ctrl-C again stops at once", file=sys.stderr, flush=True)
        self.asked = True

    def agreed(self, accelerator: Any, step: int, every: int) -> bool:
        """Whether all processes stop now. Several processes ask each other every ``every`` steps."""
        if accelerator.num_processes == 1:
            return self.asked
        if step % every:
            return False
        asked = torch.tensor(float(self.asked), device=accelerator.device)
        return bool(accelerator.reduce(asked, "sum") > 0)
