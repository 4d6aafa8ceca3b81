"""What a run measures: steps, loss, FLOPs, tokens, time and memory, as JSON lines."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import IO, Any

import torch

from mlgraph.files import write_text

Record = dict[str, Any]


class Clock:
    """Seconds of training: runs between ``start`` and ``stop``, and waits for the device first."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since: float | None = None

    def start(self) -> None:
        """Go on counting."""
        if self._since is None:
            _wait()
            self._since = time.perf_counter()

    def stop(self) -> None:
        """Stop counting, as for an evaluation or a checkpoint."""
        if self._since is not None:
            _wait()
            self.seconds += time.perf_counter() - self._since
            self._since = None

    def read(self) -> float:
        """Seconds so far."""
        return self.seconds + (time.perf_counter() - self._since if self._since is not None else 0.0)


def _wait() -> None:
    if _uses_cuda():
        torch.cuda.synchronize()


def _uses_cuda() -> bool:
    return torch.cuda.is_available() and bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def peak_memory() -> int:
    """Peak memory of this process so far in bytes: of the GPU where one is in use, else resident."""
    if _uses_cuda():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # Windows has no such count.
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Metrics:
    """The records of a run: kept as ``history`` and, with a ``path``, appended to a file of JSON lines."""

    def __init__(self, path: Path | None = None) -> None:
        self.history: list[Record] = []
        self._path = path
        self._file: IO[str] | None = None

    def resume(self, step: int) -> None:
        """Keep what the file holds of the first ``step`` steps; what came later will come again."""
        if self._path is None:
            return
        self.history = [record for record in read_metrics(self._path) if record.get("step", 0) <= step]
        text = "".join(json.dumps(record) + "\n" for record in self.history)
        write_text(self._path, text)

    def add(self, record: Record) -> None:
        """Add one record and flush it."""
        self.history.append(record)
        if self._path is not None:
            if self._file is None:
                self._file = open(self._path, "a")  # noqa: SIM115
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def read_metrics(path: str | os.PathLike[str]) -> list[Record]:
    """The records of a metrics file; a last line that was cut off is left out."""
    if not os.path.exists(path):
        return []
    records = []
    for line in Path(path).read_text().splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records
