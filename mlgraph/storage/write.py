"""Writing tensors one at a time to their places in a container."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO

import torch

from mlgraph.storage.container import Extent, chunks, tensor_bytes
from mlgraph.storage.plain_values import Malformed

if TYPE_CHECKING:
    from mlgraph.program.tensors import Rows


def write_tensor(
    file: BinaryIO, extent: Extent, rows: Rows, *, count: Callable[[int], None], checksum: bool
) -> int:
    """Write a tensor at its place and return its CRC-32 (0 without ``checksum``).

    ``count`` is called with the number of bytes of every piece written. Raises ``Malformed`` where what
    comes is not what ``extent`` says.
    """
    file.seek(extent.start)
    position, found = extent.start, 0
    for part in [rows] if isinstance(rows, torch.Tensor) else rows:
        _check(part, extent, whole=isinstance(rows, torch.Tensor))
        data = tensor_bytes(part)
        if position + len(data) > extent.stop:
            raise Malformed(
                f"tensor {extent.name} came with more rows than its shape {list(extent.shape)} has"
            )
        for piece in chunks(data):
            if checksum:
                found = zlib.crc32(piece, found)
            file.write(piece)
            count(len(piece))
        position += len(data)
    if position != extent.stop:
        raise Malformed(f"tensor {extent.name} came with fewer rows than its shape {list(extent.shape)} has")
    return found


def _check(part: torch.Tensor, extent: Extent, *, whole: bool) -> None:
    shape = tuple(part.shape)
    fits = (
        shape == extent.shape if whole else shape[1:] == extent.shape[1:] and len(shape) == len(extent.shape)
    )
    if not fits or part.dtype != extent.dtype:
        raise Malformed(
            f"tensor {extent.name} is {part.dtype} {list(shape)} "
            f"where {extent.dtype} {list(extent.shape)} is expected"
        )
