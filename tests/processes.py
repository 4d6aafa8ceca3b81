"""Several processes at once, as torchrun would start them, forked from one that has torch loaded already."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

import torch

PRELOADED = [
    "tests.processes",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "accelerate",
    "mlgraph.train.engine.run",
    "mlgraph.passes.coalesce",
    "mlgraph.emit.module",
]


def context() -> multiprocessing.context.ForkServerContext:
    """The one server that all tests fork from."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(PRELOADED)
    return made


class Processes:
    """``count`` processes that call ``function(*arguments)`` as ranks of one world.

    ``ended`` waits and gives their exit codes, minus the signal for those that one ended; ``results`` what
    the function returned in each, and raises with the traceback of the first that failed.
    """

    def __init__(
        self,
        count: int,
        function: Callable[..., Any],
        *arguments: Any,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        forks, world = context(), _world(count) if count > 1 else {}
        self._pipes: list[Connection] = []
        self.each: list[Any] = []
        for rank in range(count):
            own, theirs = forks.Pipe(duplex=False)
            ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {}
            variables = {**world, **ranks, **(environment or {})}
            process = forks.Process(target=_call, args=(theirs, variables, function, arguments))
            process.start()
            theirs.close()
            self._pipes.append(own)
            self.each.append(process)

    def ended(self, seconds: float = 120.0) -> list[int]:
        """Exit codes; those that still run after ``seconds`` are killed and have none of their own."""
        last = time.monotonic() + seconds
        for process in self.each:
            process.join(max(last - time.monotonic(), 0.0))
        hung = [rank for rank, process in enumerate(self.each) if process.is_alive()]
        for process in self.each:
            process.kill()
            process.join()
        assert not hung, f"processes {hung} still ran after {seconds} s"
        return [process.exitcode for process in self.each]

    def results(self, seconds: float = 120.0) -> list[Any]:
        """What the function returned in each process."""
        found = [self._received(pipe, seconds) for pipe in self._pipes]
        self.ended(seconds)
        for rank, (_, failure) in enumerate(found):
            assert failure is None, f"process {rank}: {failure}"
        return [pickle.loads(value) for value, _ in found]

    @staticmethod
    def _received(pipe: Connection, seconds: float) -> tuple[Any, str | None]:
        try:
            return pipe.recv() if pipe.poll(seconds) else (None, f"gave nothing in {seconds} s")
        except EOFError:
            return None, "ended without a result"


def _world(count: int) -> dict[str, str]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    return {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def _call(
    pipe: Connection, variables: Mapping[str, str], function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    os.environ.update(variables)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    try:
        value = function(*arguments)
    except Exception:
        pipe.send((None, traceback.format_exc()))
        raise
    # as bytes: tensors would be shared with a process that ends
    pipe.send((pickle.dumps(value), None))
