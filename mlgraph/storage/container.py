"""The container: safetensors (https://huggingface.co/docs/safetensors), written and read strictly.

A file is eight bytes with the length of a JSON header, the header, and the tensors' bytes without holes.
The header maps tensor names to dtype, shape and extent, and ``__metadata__`` to strings.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from mlgraph.program.tensors import Shapes, is_fake
from mlgraph.storage.plain_values import (
    Malformed,
    array,
    encode_dtype,
    fields,
    integer,
    member,
    name,
    shape,
    text,
)
from mlgraph.storage.strictjson import dump, parse

MAX_HEADER = 64 << 20
"""Bytes of a header, at most."""

_ALIGNMENT = 64
_SPARE_MEMORY = 64 << 20

# The format's own names, and after them, for dtypes it lacks, torch's name in capitals.
_TO_CODE = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.float32: "F32",
    torch.complex64: "C64",
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e8m0fnu: "F8_E8M0",
    torch.complex128: "COMPLEX128",
    torch.float8_e4m3fnuz: "FLOAT8_E4M3FNUZ",
    torch.float8_e5m2fnuz: "FLOAT8_E5M2FNUZ",
}
_FROM_CODE = {code: dtype for dtype, code in _TO_CODE.items()}


@dataclass(frozen=True)
class Extent:
    """Where a tensor's bytes lie: ``start`` to ``stop`` from the beginning of the file."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Header:
    """What the first bytes of a file say; ``raw`` are those bytes."""

    extents: tuple[Extent, ...]
    metadata: Mapping[str, str]
    raw: bytes

    @property
    def file_size(self) -> int:
        return max([len(self.raw), *(extent.stop for extent in self.extents)])


def nbytes(size: tuple[int, ...], dtype: torch.dtype) -> int:
    """Bytes of a dense tensor."""
    return math.prod(size) * dtype.itemsize


def make_header(shapes: Shapes, metadata: Mapping[str, str]) -> Header:
    """Lay out a file. Raises ``Malformed`` for a name or dtype that has no form.

    Tensors of wider dtypes come first, so that each lies at a multiple of its item size.
    """
    position = 0
    table: dict[str, Any] = {"__metadata__": dict(metadata)}
    placed: list[Extent] = []
    for key, (size, dtype) in sorted(shapes.items(), key=lambda item: -item[1][1].itemsize):
        if dtype not in _TO_CODE or key == "__metadata__":
            raise Malformed(f"a tensor named {key} of dtype {encode_dtype(dtype)} has no form in a file")
        stop = position + nbytes(size, dtype)
        table[name(key)] = {"dtype": _TO_CODE[dtype], "shape": list(size), "data_offsets": [position, stop]}
        placed.append(Extent(key, tuple(size), dtype, position, stop))
        position = stop
    body = dump(table)
    body += b" " * (-(8 + len(body)) % _ALIGNMENT)
    if len(body) > MAX_HEADER:
        raise Malformed(f"its header would exceed {MAX_HEADER} bytes")
    raw = struct.pack("<Q", len(body)) + body
    extents = tuple(Extent(e.name, e.shape, e.dtype, e.start + len(raw), e.stop + len(raw)) for e in placed)
    return Header(extents, dict(metadata), raw)


def read_raw_header(file: BinaryIO) -> bytes:
    """The length and header bytes of a file. Raises ``Malformed`` where it is too short or the length is
    not credible.
    """
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    start = file.read(8)
    if len(start) < 8:
        raise Malformed("it is too short to be a program or safetensors file")
    (length,) = struct.unpack("<Q", start)
    if length > size - 8 or length < 2:
        raise Malformed("it is truncated, or is no program or safetensors file")
    if length > MAX_HEADER:
        raise Malformed(f"its header exceeds {MAX_HEADER} bytes")
    body = file.read(length)
    if len(body) != length or not body.startswith(b"{"):
        raise Malformed("it is truncated, or is no program or safetensors file")
    return start + body


def parse_header(raw: bytes, file_size: int) -> Header:
    """Check and read a header. Raises ``Malformed``.

    Extents must fill the rest of the file without holes or overlaps and fit their shapes.
    """
    table = parse(raw[8:], memory_for(file_size))
    if not isinstance(table, dict):
        raise Malformed("its header is no object")
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise Malformed("its metadata is no object")
    for value in metadata.values():
        text(value)
    extents = sorted(
        (_extent(key, row, len(raw)) for key, row in table.items()), key=lambda e: (e.start, e.stop)
    )
    position = len(raw)
    for extent in extents:
        if extent.start != position:
            raise Malformed(f"the bytes of tensor {extent.name} overlap others or leave a hole")
        position = extent.stop
    if position != file_size:
        raise Malformed(
            "it is truncated" if position > file_size else "it has bytes that belong to no tensor"
        )
    return Header(tuple(extents), metadata, raw)


def memory_for(file_size: int) -> int:
    """Bytes of memory that the parsed header of a file of this size may take."""
    return _SPARE_MEMORY + file_size


def _extent(key: str, row: Any, base: int) -> Extent:
    code, size, offsets = fields(row, "dtype", "shape", "data_offsets")
    start, stop = (integer(offset, 0, 1 << 62) for offset in array(offsets, 2))
    extent = Extent(name(key), shape(size), member(_FROM_CODE, code, "dtype"), base + start, base + stop)
    if nbytes(extent.shape, extent.dtype) != extent.nbytes:
        raise Malformed(f"tensor {extent.name} has not as many bytes as its shape and dtype say")
    return extent


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a tensor in row-major order; a view of it where it is dense and on the CPU."""
    wrapper = bool(is_traceable_wrapper_subclass(tensor))
    if wrapper or is_fake(tensor) or tensor.layout is not torch.strided or tensor.is_quantized:
        raise Malformed(f"a {type(tensor).__name__} of layout {tensor.layout} has no bytes to write")
    dense = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return dense.reshape(-1).view(torch.uint8).numpy().data


def chunks(data: memoryview, size: int = 4 << 20) -> Iterable[memoryview]:
    """``data`` in pieces that stay in a processor's cache between two uses."""
    return (data[start : start + size] for start in range(0, len(data), size))
