"""Saved programs: one file, a safetensors container whose metadata holds the graph as data.

The file is safe to load. Nothing in it is executed, imported or evaluated: operations are looked up in a
closed table, everything else is numbers, strings and structures of these. A digest covers the header, and
every tensor has a checksum of its own, looked at when the tensor is read. Other tools read the weights as
safetensors.

The header begins with ``{"__metadata__":{"mlgraph":"1","sha256":"…","crc32":"…","program":"…"},``: the
SHA-256 of the first bytes of the file up to the tensors, taken with its own place filled by zeros; the
CRC-32 of each tensor in file order, eight hexadecimal digits each; and the program (see ``programs``) as
JSON.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, BinaryIO

from mlgraph.errors import FileError, MlgraphError, first_line
from mlgraph.files import OnProgress, atomic_write, file_errors, require_space
from mlgraph.program import require_program
from mlgraph.storage.container import (
    Header,
    make_header,
    memory_for,
    parse_header,
    read_raw_header,
)
from mlgraph.storage.kinds import PROGRAM, foreign_kind
from mlgraph.storage.lazy import LazyTensors, TensorFile
from mlgraph.storage.plain_values import Malformed, shorten
from mlgraph.storage.programs import decode_program, encode_program
from mlgraph.storage.strictjson import dump, parse
from mlgraph.storage.write import write_tensor

if TYPE_CHECKING:
    from mlgraph.program import Program

VERSION = "2"
_START = PROGRAM + VERSION.encode() + b'","sha256":"'
_DIGEST = slice(8 + len(_START), 8 + len(_START) + 64)
_CHECKSUMS_AT = _DIGEST.stop + len(b'","crc32":"')


def save(program: Program, path: str | os.PathLike[str], *, progress: OnProgress | None = None) -> None:
    """Write a program to one file, atomically.

    Tensors are taken from ``program.tensors`` one at a time, in parts where their source makes them so,
    so that a program whose tensors are lazy may be larger than memory; tensors on the
    meta device are kept as shapes. ``progress(done, total)`` counts bytes. Raises ``FileError`` where the
    file cannot be written or a part of the program has no form in a file.
    """
    require_program(program)
    source = program.tensors.source
    shapes = {name: known for name, known in source.shapes.items() if name not in source.absent}
    try:
        text = dump(encode_program(program, shapes)).decode()
        metadata = {"mlgraph": VERSION, "sha256": "0" * 64, "crc32": "0" * 8 * len(shapes), "program": text}
        header = make_header(shapes, metadata)
        parse_header(header.raw, header.file_size)
        parse(text.encode(), memory_for(header.file_size))
    except Malformed as error:
        raise FileError(f"{os.fspath(path)} was not written: {error}.") from error
    require_space(path, header.file_size)
    with atomic_write(path) as file:
        checksums = _write_tensors(file, header, program, path, progress)
        raw = bytearray(header.raw)
        raw[_CHECKSUMS_AT : _CHECKSUMS_AT + 8 * len(checksums)] = b"".join(b"%08x" % crc for crc in checksums)
        raw[_DIGEST] = hashlib.sha256(raw).hexdigest().encode()
        file.seek(0)
        file.write(raw)


def _write_tensors(
    file: BinaryIO,
    header: Header,
    program: Program,
    path: str | os.PathLike[str],
    progress: OnProgress | None,
) -> list[int]:
    file.truncate(header.file_size)
    done, total = len(header.raw), header.file_size

    def count(size: int) -> None:
        nonlocal done
        done += size
        if progress is not None:
            progress(done, total)

    read = program.tensors.source.chunks
    try:
        return [
            write_tensor(file, extent, read(extent.name), count=count, checksum=True)
            for extent in header.extents
        ]
    except Malformed as error:
        raise FileError(f"{os.fspath(path)} was not written: {error}.") from error


def load(path: str | os.PathLike[str], *, keep: bool = True) -> Program:
    """Read a program that ``save`` wrote; its tensors stay in the file until they are used.

    Nothing in the file is run. With ``keep``, tensors once read stay in memory, and what is done to
    them in place is seen by every reader; without, a program may be larger than memory (see
    ``LazyTensors``). Raises ``FileError`` in one sentence for whatever is wrong with the file, and for
    files of other kinds (see :func:`mlgraph.storage.kinds.foreign_kind`).
    """
    name = os.fspath(path)
    with file_errors(name, "be read"), open(name, "rb") as file:
        kind = foreign_kind(file)
        if kind is not None:
            raise FileError(f"{name} is {kind} and no saved program; open it with mlgraph.load.")
        return _load(name, file, keep)


def _load(name: str, file: BinaryIO, keep: bool) -> Program:
    try:
        raw = read_raw_header(file)
        _check_header(raw)
        header = parse_header(raw, os.fstat(file.fileno()).st_size)
        checksums = _checksums(header)
        text = header.metadata.get("program", "").encode()
        document = parse(text, memory_for(header.file_size))
        stored = {extent.name: (extent.shape, extent.dtype) for extent in header.extents}
        program = decode_program(document, stored)
    except FileError:
        raise
    except Malformed as error:
        raise FileError(f"{name} cannot be loaded: {error}.") from error
    except MlgraphError as error:
        raise FileError(f"{name} cannot be loaded: its graph does not run, {error}.") from error
    except (RuntimeError, ValueError, TypeError, OverflowError, MemoryError, RecursionError) as error:
        # Sizes and structures that are well formed but that torch itself refuses.
        raise FileError(f"{name} cannot be loaded: {first_line(error)}.") from error
    shapes_only = {key: value for key, value in program.tensors.items() if key not in stored}
    lazy = LazyTensors(
        [TensorFile(name, file, header, checksums)], keep=keep, order=program.tensors, shapes_only=shapes_only
    )
    return program.replace(tensors=program.tensors.replace(lazy))


def _check_header(raw: bytes) -> None:
    if not raw.startswith(PROGRAM, 8):
        raise Malformed("it holds tensors but no program; open its directory as a Hugging Face source")
    if not raw.startswith(_START, 8):
        version = raw[8 + len(PROGRAM) :][:20].partition(b'"')[0].decode("ascii", "replace")
        raise Malformed(
            f"it has format version {shorten(version)}, and this version of mlgraph reads {VERSION}"
        )
    zeroed = bytearray(raw)
    zeroed[_DIGEST] = b"0" * 64
    if hashlib.sha256(zeroed).hexdigest().encode() != raw[_DIGEST]:
        raise Malformed("it is damaged, its header does not match its checksum; make the file again")


def _checksums(header: Header) -> dict[str, int]:
    text = header.metadata.get("crc32", "")
    try:
        numbers = [int(text[start : start + 8], 16) for start in range(0, len(text), 8)]
    except ValueError:
        raise Malformed("its checksums are malformed") from None
    if len(numbers) != len(header.extents) or len(text) != 8 * len(numbers):
        raise Malformed("it has not one checksum per tensor")
    return {extent.name: number for extent, number in zip(header.extents, numbers, strict=True)}
