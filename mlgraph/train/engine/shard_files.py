"""Tensors of one moment in a folder: a file for each process, and a manifest of which rows lie where.

    manifest.json             the files with their sizes; of every tensor the shape, dtype and parts
    rows-00000.safetensors    what process 0 wrote
    rows-00000.json           what that holds, until the manifest is written

Whoever writes talks to no other process: what one has done another reads in its report. So it may be done
while training goes on. A set of files counts once it has a manifest, and then all of it is there: rows that
are missing, files of another size and bytes that do not match their checksum are refused by name.
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mlgraph.errors import FileError, MlgraphError
from mlgraph.files import reason, require_space, write_text
from mlgraph.program.tensors import Rows, Shapes, TensorSource
from mlgraph.rewrite.sharded import Layout, is_sharded, local_part
from mlgraph.storage.container import make_header, parse_header, read_raw_header
from mlgraph.storage.lazy import LazyTensors, TensorFile
from mlgraph.storage.plain_values import Malformed
from mlgraph.storage.write import write_tensor
from mlgraph.train.errors import RunDirectoryError

MANIFEST = "manifest.json"
_VERSION = 1
_CHUNK = 32 << 20


@dataclass(frozen=True)
class Part:
    """Rows ``start`` on of a tensor of ``shape``, as this process holds them."""

    rows: torch.Tensor
    shape: tuple[int, ...]
    start: int = 0

    def copied(self) -> Part:
        """The same in host memory of its own."""
        return Part(self.rows.to("cpu", copy=True), self.shape, self.start)


def own_parts(
    tensors: Mapping[str, torch.Tensor], rank: int, processes: int, first_only: Iterable[str] = ()
) -> dict[str, Part]:
    """What of ``tensors`` process ``rank`` writes.

    Rows are written by one of the processes that hold them; what all hold is dealt out, but for
    ``first_only``, which may differ between them.
    """
    only, parts = frozenset(first_only), dict[str, Part]()
    for number, (name, tensor) in enumerate(tensors.items()):
        shape = tuple(tensor.shape)
        if is_sharded(tensor):
            layout = Layout.of(tensor)
            start, stop = layout.extent(shape[0])
            if layout.copy == number % layout.copies and (start < stop or layout.rank == 0):
                parts[name] = Part(local_part(tensor), shape, start)
        elif rank == (0 if name in only else number % processes):
            parts[name] = Part(tensor.detach(), shape)
    return parts


def write_parts(folder: Path, rank: int, parts: Mapping[str, Part]) -> None:
    """Write what one process has, and its report: what it wrote, or a sentence on why it did not."""
    path = folder / f"rows-{rank:05d}.safetensors"
    try:
        report = _written(path, parts)
    except (OSError, MlgraphError) as error:
        said = reason(error) if isinstance(error, OSError) else str(error).rstrip(".")
        report = {"error": f"process {rank}: {path.name} could not be written: {said}"}
    write_text(folder / f"rows-{rank:05d}.json", json.dumps(report))


def _written(path: Path, parts: Mapping[str, Part]) -> dict[str, Any]:
    shapes = {name: (tuple(part.rows.shape), part.rows.dtype) for name, part in parts.items()}
    try:
        header = make_header(shapes, {"format": "pt"})
        require_space(path, header.file_size)
        with open(path, "wb") as file:
            file.write(header.raw)
            checksums = {
                extent.name: write_tensor(
                    file, extent, parts[extent.name].rows, count=lambda _: None, checksum=True
                )
                for extent in header.extents
            }
            file.flush()
            os.fsync(file.fileno())
    except Malformed as error:
        raise FileError(str(error)) from error
    listed = {
        name: {
            "shape": list(part.shape),
            "dtype": str(part.rows.dtype).removeprefix("torch."),
            "rows": [part.start, part.start + (part.rows.shape[0] if part.rows.ndim else 1)],
            "crc32": checksums[name],
        }
        for name, part in parts.items()
    }
    return {"size": header.file_size, "tensors": listed}


def complete(folder: Path, processes: int, abandoned: Callable[[], bool] = lambda: False) -> None:
    """Wait for the reports of all processes and write the manifest.

    Raises:
        FileError: a process could not write, or ``abandoned`` says that one will not.
    """
    reports = [folder / f"rows-{rank:05d}.json" for rank in range(processes)]
    while not all(report.exists() for report in reports):
        if abandoned():
            raise FileError(f"{folder} was not completed: another process has ended")
        time.sleep(0.02)
    files: dict[str, int] = {}
    tensors: dict[str, Any] = {}
    for report in reports:
        found = json.loads(report.read_text())
        if "error" in found:
            raise FileError(f"{folder.name}: {found['error']}")
        name = report.with_suffix(".safetensors").name
        files[name] = found["size"]
        for key, own in found["tensors"].items():
            entry = tensors.setdefault(key, {"shape": own["shape"], "dtype": own["dtype"], "parts": []})
            entry["parts"].append({"file": name, "rows": own["rows"], "crc32": own["crc32"]})
    manifest = {"version": _VERSION, "files": files, "tensors": tensors}
    write_text(folder / MANIFEST, json.dumps(manifest))
    for report in reports:
        report.unlink()
    # what would be refused when it is read is refused now
    ShardFiles(folder)


class ShardFiles:
    """A complete set of files. RunDirectoryError where something of it is missing or is not what it was."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[str, LazyTensors] = {}
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            if manifest["version"] != _VERSION:
                raise RunDirectoryError(
                    f"{folder} has format {manifest['version']}, and this version reads {_VERSION}."
                )
            files: dict[str, int] = manifest["files"]
            self._tensors: dict[str, Any] = manifest["tensors"]
            for name, entry in self._tensors.items():
                _check_coverage(folder, name, entry)
        except RunDirectoryError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunDirectoryError(
                f"{folder / MANIFEST} is missing or damaged ({error}){_ADVICE}"
            ) from error
        for name, size in files.items():
            path = folder / name
            if not path.exists():
                raise RunDirectoryError(f"{path} is missing{_ADVICE}")
            if path.stat().st_size != size:
                raise RunDirectoryError(f"{path} has {path.stat().st_size} bytes of {size}{_ADVICE}")

    def tensors(self, prefix: str) -> StoredTensors:
        """The tensors whose names begin with ``prefix``, by what follows it."""
        return StoredTensors(self, prefix)

    @functools.cached_property
    def entries(self) -> Mapping[str, Any]:
        """What the manifest says of every tensor."""
        return self._tensors

    def file(self, name: str) -> LazyTensors:
        """One of the files."""
        if name not in self._open:
            self._open[name] = self._opened(name)
        return self._open[name]

    def _opened(self, name: str) -> LazyTensors:
        path = self.folder / name
        checksums = {
            key: part["crc32"]
            for key, entry in self._tensors.items()
            for part in entry["parts"]
            if part["file"] == name
        }
        try:
            with open(path, "rb") as file:
                header = parse_header(read_raw_header(file), os.fstat(file.fileno()).st_size)
                return LazyTensors([TensorFile(str(path), file, header, checksums)])
        except (OSError, Malformed) as error:
            raise RunDirectoryError(f"{path} cannot be read ({error}){_ADVICE}") from error


_ADVICE = ": remove its directory to go on from the one before."


def _check_coverage(folder: Path, name: str, entry: Mapping[str, Any]) -> None:
    shape = entry["shape"]
    wanted, covered = (shape[0] if shape else 1), 0
    for part in sorted(entry["parts"], key=lambda part: part["rows"]):
        start, stop = part["rows"]
        if start != covered and start < stop:
            break
        covered = max(covered, stop)
    if covered != wanted:
        raise RunDirectoryError(f"{folder} lacks rows {covered} on of {name}{_ADVICE}")


class StoredTensors(TensorSource):
    """Tensors in a set of files by name; rows are read wherever they lie, when they are asked for."""

    reads_rows = True

    def __init__(self, files: ShardFiles, prefix: str) -> None:
        self._files = files
        self._prefix = prefix
        self._names = [name.removeprefix(prefix) for name in files.entries if name.startswith(prefix)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return f"{self._prefix}{name}" in self._files.entries

    @functools.cached_property
    def shapes(self) -> Shapes:  # type: ignore[override]
        entries = self._files.entries
        return {
            name: (
                tuple(entries[f"{self._prefix}{name}"]["shape"]),
                getattr(torch, entries[f"{self._prefix}{name}"]["dtype"]),
            )
            for name in self._names
        }

    def __getitem__(self, name: str) -> torch.Tensor:
        entry = self._files.entries[f"{self._prefix}{name}"]
        shape, parts = entry["shape"], entry["parts"]
        if len(parts) == 1:
            return self._read(parts[0]["file"], name, 0, None)
        return self.rows(name, 0, shape[0])

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        entry = self._files.entries[f"{self._prefix}{name}"]
        shape, dtype = self.shapes[name]
        out = torch.empty(max(stop - start, 0), *shape[1:], dtype=dtype)
        for part in entry["parts"]:
            first, last = part["rows"]
            low, high = max(first, start), min(last, stop)
            if low < high:
                out[low - start : high - start] = self._read(part["file"], name, low - first, high - first)
        return out

    def chunks(self, name: str) -> Rows:
        shape, dtype = self.shapes[name]
        size = dtype.itemsize * torch.Size(shape).numel()
        if len(shape) < 2 or size <= _CHUNK:
            return self[name]
        step = max(1, _CHUNK * shape[0] // size)
        return (self.rows(name, start, min(start + step, shape[0])) for start in range(0, shape[0], step))

    def _read(self, file: str, name: str, start: int, stop: int | None) -> torch.Tensor:
        key = f"{self._prefix}{name}"
        try:
            source = self._files.file(file)
            return source[key] if stop is None else source.rows(key, start, stop)
        except FileError as error:
            if _ADVICE in str(error):
                raise
            raise RunDirectoryError(f"{str(error).partition('; make')[0].rstrip('.')}{_ADVICE}") from error
