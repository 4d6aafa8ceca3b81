"""Tensors that stay in their files until they are asked for."""

from __future__ import annotations

import math
import mmap
import os
import sys
import weakref
import zlib
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from functools import cached_property
from typing import BinaryIO

import torch

from mlgraph.errors import FileError
from mlgraph.program.tensors import Rows, Shapes, TensorSource
from mlgraph.storage.container import Extent, Header, chunks

# Python gained the name in 3.13.
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)
# Every mapping of Python's holds a file descriptor; beyond this many, whole files are mapped.
_MAX_MAPPINGS = 64


class Pages(mmap.mmap):
    """Mapped pages of a file, copied when written to; ``start`` is the position of the first in the file."""

    start = 0


class TensorFile:
    """An open container. Tensors are mapped copy-on-write: what is written to them never reaches the file.

    With ``checksums`` (a CRC-32 per tensor name) a tensor is checked when it is first read.
    """

    def __init__(
        self, path: str, file: BinaryIO, header: Header, checksums: Mapping[str, int] | None = None
    ) -> None:
        self.path = path
        self.header = header
        self._descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._descriptor)
        self._unchecked = dict(checksums or {})

    def map(self, start: int = 0, stop: int | None = None) -> Pages:
        """The pages that hold bytes ``start`` to ``stop`` of the file, by default all."""
        first = start - start % mmap.ALLOCATIONGRANULARITY
        length = (self.header.file_size if stop is None else stop) - first
        try:
            if os.name == "posix":
                # Without the flag, a mapping larger than memory that may be written to is refused.
                flags = mmap.MAP_PRIVATE | (_NO_RESERVE if sys.platform == "linux" else 0)
                protection = mmap.PROT_READ | mmap.PROT_WRITE
                pages = Pages(self._descriptor, length, flags=flags, prot=protection, offset=first)
            else:
                pages = Pages(self._descriptor, length, access=mmap.ACCESS_COPY, offset=first)
        except (OSError, ValueError) as error:
            raise FileError(f"{self.path} could not be mapped into memory: {error}.") from error
        pages.start = first
        return pages

    def view(self, extent: Extent, pages: Pages) -> torch.Tensor:
        """A tensor on mapped pages."""
        flat = torch.frombuffer(
            pages, dtype=torch.uint8, count=extent.nbytes, offset=extent.start - pages.start
        )
        if extent.start % extent.dtype.itemsize:
            # Other tools' files may leave tensors at odd addresses, where not every kernel works.
            flat = flat.clone()
        self._check(extent, [flat.numpy().data])
        return flat.view(extent.dtype).reshape(extent.shape)

    def read(self, extent: Extent, start: int, stop: int) -> torch.Tensor:
        """Bytes ``start`` to ``stop`` of a tensor as a fresh flat tensor of its dtype."""
        if extent.name in self._unchecked:
            self._check(extent, self._stream(extent))
        flat = torch.empty(stop - start, dtype=torch.uint8)
        self._read_into(flat.numpy().data, extent.start + start)
        return flat.view(extent.dtype)

    def _stream(self, extent: Extent, size: int = 4 << 20) -> Iterator[memoryview]:
        buffer = memoryview(bytearray(min(size, extent.nbytes)))
        for start in range(0, extent.nbytes, size):
            piece = buffer[: min(size, extent.nbytes - start)]
            self._read_into(piece, extent.start + start)
            yield piece

    def _read_into(self, buffer: memoryview, position: int) -> None:
        try:
            done = 0
            while done < len(buffer):
                count = os.preadv(self._descriptor, [buffer[done:]], position + done)
                if not count:
                    raise FileError(f"{self.path} has become shorter since it was opened.")
                done += count
        except OSError as error:
            raise FileError(f"{self.path} could not be read: {error.strerror}.") from error

    def _check(self, extent: Extent, pieces: Iterable[memoryview]) -> None:
        expected = self._unchecked.get(extent.name)
        if expected is None:
            return
        found, wide = 0, False
        for piece in pieces:
            for part in chunks(piece):
                found = zlib.crc32(part, found)
                wide = wide or (extent.dtype is torch.bool and _exceeds_one(part))
        if found != expected or wide:
            raise FileError(
                f"{self.path} is damaged: the bytes of tensor {extent.name} do not match their checksum; "
                "make the file again."
            )
        del self._unchecked[extent.name]


class LazyTensors(TensorSource):
    """Tensors by name, each read from its file when it is asked for.

    With ``keep``, a tensor once asked for stays mapped, so that changes made in place to it are seen by every
    later reader (a trained module is a trained program). Without, its memory is given back with the last
    tensor that uses it: read an entry once and let it go. Files are never written to.

    ``order`` lists the names to show, by default all; ``shapes_only`` adds tensors on the meta device,
    which no file holds.
    """

    reads_rows = True

    def __init__(
        self,
        files: Iterable[TensorFile],
        *,
        keep: bool = False,
        order: Iterable[str] | None = None,
        shapes_only: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        found = {extent.name: (file, extent) for file in files for extent in file.header.extents}
        self._shapes_only = dict(shapes_only or {})
        self._names = list(order) if order is not None else [*found, *self._shapes_only]
        self._places = {name: found[name] for name in self._names if name not in self._shapes_only}
        self._keep = keep
        self._whole: MutableMapping[str, Pages] = {} if keep else weakref.WeakValueDictionary()
        self._parts: weakref.WeakValueDictionary[str, Pages] = weakref.WeakValueDictionary()

    def __getitem__(self, name: str) -> torch.Tensor:
        if name in self._shapes_only:
            return self._shapes_only[name]
        file, extent = self._places[name]
        if not extent.nbytes:
            return torch.empty(extent.shape, dtype=extent.dtype)
        pages = self._parts.get(name)
        if pages is None:
            pages = self._parts[name] = self._map(file, extent)
        return file.view(extent, pages)

    def _map(self, file: TensorFile, extent: Extent) -> Pages:
        if not self._keep and len(self._parts) < _MAX_MAPPINGS:
            return file.map(extent.start, extent.stop)
        whole = self._whole.get(file.path)
        if whole is None:
            whole = self._whole[file.path] = file.map()
        return whole

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._places or name in self._shapes_only

    @cached_property
    def shapes(self) -> Shapes:  # type: ignore[override]
        """Shape and dtype of every tensor; nothing is read."""
        found = {name: (extent.shape, extent.dtype) for name, (_, extent) in self._places.items()}
        other = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in self._shapes_only.items()}
        return {name: found.get(name) or other[name] for name in self._names}

    @property
    def absent(self) -> frozenset[str]:
        """Tensors that no file holds."""
        return frozenset(self._shapes_only)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(extent.nbytes for _, extent in self._places.values())

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows ``start`` to ``stop`` (along the first dim) of a tensor, for one that is large by itself.

        Read into fresh memory, but for a tensor that is in use or kept, of which it is a part.
        """
        if self._keep or name in self._parts or name in self._shapes_only:
            return self[name][start:stop]
        file, extent = self._places[name]
        row = extent.dtype.itemsize * math.prod(extent.shape[1:])
        start, stop = min(start, extent.shape[0]), min(stop, extent.shape[0])
        return file.read(extent, start * row, stop * row).reshape(stop - start, *extent.shape[1:])

    def chunks(self, name: str, size: int = 32 << 20) -> Rows:
        """A tensor as row chunks of about ``size`` bytes where it is larger than that, else whole."""
        extent = self._places[name][1] if name in self._places else None
        if extent is None or len(extent.shape) < 2 or extent.nbytes <= size:
            return self[name]
        count = extent.shape[0]
        step = max(1, size * count // extent.nbytes)
        return (self.rows(name, start, start + step) for start in range(0, count, step))


def _exceeds_one(part: memoryview) -> bool:
    """Whether a byte of a boolean tensor is neither 0 nor 1, which torch's kernels do not expect."""
    return bool(part) and int(torch.frombuffer(part, dtype=torch.uint8).max()) > 1
