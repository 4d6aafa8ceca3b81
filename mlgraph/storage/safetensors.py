"""Directories of safetensors files, as Hugging Face lays them out, read lazily and written tensor by
tensor.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from mlgraph.errors import FileError
from mlgraph.files import OnProgress, atomic_write, file_errors, require_space, write_bytes
from mlgraph.program.tensors import Rows, Shapes
from mlgraph.storage.container import Header, make_header, nbytes, parse_header, read_raw_header
from mlgraph.storage.lazy import LazyTensors, TensorFile
from mlgraph.storage.plain_values import Malformed, shorten
from mlgraph.storage.strictjson import parse
from mlgraph.storage.write import write_tensor

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_MAX_INDEX = 64 << 20

TensorsToWrite = Mapping[str, torch.Tensor] | Callable[[str], Rows] | Iterable[tuple[str, Rows]]
"""Where tensors come from: a mapping or function by name, or pairs in any order."""


def open_safetensors(path: str | os.PathLike[str], *, keep: bool = False) -> LazyTensors:
    """The tensors of a safetensors file, or of a directory with one file or shards and an index.

    Nothing is read but headers. Tensors are mapped copy-on-write and given back with their last user, unless
    ``keep`` (see ``LazyTensors``); ``rows`` reads a part of one. Raises ``FileError``.
    """
    root = Path(path)
    if not root.is_dir():
        return LazyTensors([_open(root)], keep=keep)
    if (root / SINGLE).exists():
        return LazyTensors([_open(root / SINGLE)], keep=keep)
    if not (root / INDEX).exists():
        pickled = any(root.glob("*.bin"))
        hint = "; its .bin weights are pickled, convert them first" if pickled else ""
        raise FileError(f"{root} has neither {SINGLE} nor {INDEX}{hint}.")
    shard_of = _read_index(root / INDEX)
    files = {shard: _open(root / shard) for shard in sorted(set(shard_of.values()))}
    for name, shard in shard_of.items():
        if name not in {extent.name for extent in files[shard].header.extents}:
            raise FileError(f"{root / INDEX} places tensor {name} in {shard}, which does not hold it.")
    return LazyTensors(files.values(), keep=keep, order=shard_of)


def _open(path: Path) -> TensorFile:
    with file_errors(path, "be read"), open(path, "rb") as file:
        try:
            header = parse_header(read_raw_header(file), os.fstat(file.fileno()).st_size)
        except Malformed as error:
            raise FileError(f"{path} cannot be loaded: {error}.") from error
        return TensorFile(str(path), file, header)


def _read_index(path: Path) -> dict[str, str]:
    with file_errors(path, "be read"):
        size = path.stat().st_size
        data = path.read_bytes() if size <= _MAX_INDEX else b""
    try:
        if size > _MAX_INDEX:
            raise Malformed(f"it exceeds {_MAX_INDEX} bytes")
        table = parse(data, 1 << 30)
        shards = table.get("weight_map") if isinstance(table, dict) else None
        if not isinstance(shards, dict):
            raise Malformed("it has no weight_map")
        for name, shard in shards.items():
            if not isinstance(shard, str) or not shard or shard != os.path.basename(shard) or "\x00" in shard:
                raise Malformed(f"it places tensor {shorten(name)} outside its own directory")
    except Malformed as error:
        raise FileError(f"{path} cannot be loaded: {error}.") from error
    return shards


def write_safetensors(
    directory: str | os.PathLike[str],
    shapes: Shapes,
    tensors: TensorsToWrite,
    *,
    shard_size: int = 5_000_000_000,
    metadata: Mapping[str, str] | None = None,
    progress: OnProgress | None = None,
) -> list[Path]:
    """Write tensors to ``model.safetensors``, or to shards of at most ``shard_size`` bytes and an index.

    ``shapes`` lists every tensor's shape and dtype in the order in which shards are filled. ``tensors`` gives
    the values, each as a tensor or, if that is too much to hold at once, as an iterable of chunks along
    its first dim; every tensor is on the disk before the next is asked for. A tensor larger than
    ``shard_size`` has a shard to itself. ``metadata`` defaults to ``{"format": "pt"}``. The directory must
    exist.

    Returns the paths written, the index last. Files take their names when all are complete, the one that
    is read first last. Raises ``FileError``, also where what ``tensors`` gives is not what ``shapes`` says.
    """
    root = Path(directory)
    headers = _plan(root, shapes, shard_size, dict(metadata or {"format": "pt"}))
    total = sum(header.file_size for header in headers.values())
    require_space(root / SINGLE, total)
    written = 0

    def count(size: int) -> None:
        nonlocal written
        written += size
        if progress is not None:
            progress(written, total)

    with contextlib.ExitStack() as stack:
        files: dict[str, BinaryIO] = {}
        for shard, header in headers.items():
            files[shard] = stack.enter_context(atomic_write(root / shard))
            files[shard].write(header.raw)
            files[shard].truncate(header.file_size)
            count(len(header.raw))
        try:
            _fill(files, headers, tensors, count)
        except Malformed as error:
            raise FileError(f"{root} was not written: {error}.") from error
        # From here to the last rename, readers find no checkpoint rather than a mixture of two.
        stale = INDEX if len(headers) == 1 else SINGLE
        for name in (INDEX, stale):
            with file_errors(root / name, "be replaced"), contextlib.suppress(FileNotFoundError):
                (root / name).unlink()
    paths = [root / shard for shard in headers]
    if len(headers) > 1:
        write_bytes(root / INDEX, _index(headers))
        paths.append(root / INDEX)
    return paths


def _plan(root: Path, shapes: Shapes, shard_size: int, metadata: Mapping[str, str]) -> dict[str, Header]:
    """Headers by file name."""
    shards: list[dict[str, tuple[tuple[int, ...], torch.dtype]]] = [{}]
    filled = 0
    for name, (shape, dtype) in shapes.items():
        size = nbytes(tuple(shape), dtype)
        if shards[-1] and filled + size > shard_size:
            shards.append({})
            filled = 0
        shards[-1][name] = (tuple(shape), dtype)
        filled += size
    count = len(shards)
    names = (
        [SINGLE] if count == 1 else [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    )
    try:
        return {name: make_header(shard, metadata) for name, shard in zip(names, shards, strict=True)}
    except Malformed as error:
        raise FileError(f"{root} was not written: {error}.") from error


def _fill(
    files: Mapping[str, BinaryIO],
    headers: Mapping[str, Header],
    tensors: TensorsToWrite,
    count: Callable[[int], None],
) -> None:
    places = {extent.name: (shard, extent) for shard, header in headers.items() for extent in header.extents}
    for name, rows in _pairs(tensors, places):
        if name not in places:
            raise Malformed(f"tensor {name} is not expected, or came twice")
        shard, extent = places.pop(name)
        write_tensor(files[shard], extent, rows, count=count, checksum=False)
        del rows  # before the next is made
    if places:
        raise Malformed(f"tensor {next(iter(places))} did not come")


def _pairs(tensors: TensorsToWrite, names: Mapping[str, Any]) -> Iterator[tuple[str, Rows]]:
    if isinstance(tensors, Mapping):
        return ((name, tensors[name]) for name in list(names))
    if callable(tensors):
        return ((name, tensors(name)) for name in list(names))
    return iter(tensors)


def _index(headers: Mapping[str, Header]) -> bytes:
    import json

    places = {extent.name: shard for shard, header in headers.items() for extent in header.extents}
    total = sum(extent.nbytes for header in headers.values() for extent in header.extents)
    table = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    return (json.dumps(table, indent=2) + "\n").encode()
