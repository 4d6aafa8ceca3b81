"""Directories of safetensors: read lazily, written tensor by tensor."""

from __future__ import annotations

import gc
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlgraph.errors import FileError
from mlgraph.program.tensors import Shapes
from mlgraph.storage import open_safetensors, write_safetensors
from tests.storage.forge import write_header

DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.uint16,
    torch.uint32,
    torch.uint64,
]
OWN_DTYPES = [torch.complex128, torch.float8_e4m3fnuz]


def example(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """A tensor of random bytes, NaNs and denormals included."""
    generator = torch.Generator().manual_seed(seed)
    count = torch.Size(shape).numel() * dtype.itemsize
    data = torch.randint(2 if dtype is torch.bool else 256, (count,), generator=generator, dtype=torch.uint8)
    return data.view(dtype).reshape(shape)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def equal(first: torch.Tensor, second: torch.Tensor) -> bool:
    return (first.shape, first.dtype) == (second.shape, second.dtype) and torch.equal(
        bits(first), bits(second)
    )


def shapes_of(tensors: dict[str, torch.Tensor]) -> Shapes:
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}


shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
names = st.text(st.sampled_from("abcdé._-/0"), min_size=1, max_size=12)
tensors = st.dictionaries(
    names, st.builds(example, shapes, st.sampled_from(DTYPES), st.integers(0, 9)), max_size=8
)


@given(values=tensors, shard_size=st.sampled_from([1, 50, 300, 10**9]), order=st.randoms())
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, torch.Tensor], shard_size: int, order: object
) -> None:
    directory = tmp_path_factory.mktemp("checkpoint")
    pairs = list(values.items())
    order.shuffle(pairs)  # type: ignore[attr-defined]
    paths = write_safetensors(directory, shapes_of(values), iter(pairs), shard_size=shard_size)
    assert {path.name for path in directory.iterdir()} == {path.name for path in paths}
    found = open_safetensors(directory)
    assert set(found) == set(values)
    assert dict(found.shapes) == shapes_of(values)
    assert all(equal(found[name], values[name]) for name in values)
    by_others: dict[str, torch.Tensor] = {}
    for path in paths:
        if path.suffix == ".safetensors":
            by_others |= safetensors.torch.load_file(path)
    assert all(equal(by_others[name], values[name]) for name in values)


@pytest.mark.parametrize("dtype", [*DTYPES, *OWN_DTYPES], ids=str)
def test_every_dtype_comes_back(tmp_path: Path, dtype: torch.dtype) -> None:
    value = example((3, 5), dtype)
    write_safetensors(tmp_path, {"w": ((3, 5), dtype)}, {"w": value})
    assert equal(open_safetensors(tmp_path)["w"], value)
    assert equal(open_safetensors(tmp_path).rows("w", 1, 3), value[1:3])


@given(values=tensors)
def test_what_others_write_is_read(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, torch.Tensor]
) -> None:
    path = tmp_path_factory.mktemp("other") / "weights.safetensors"
    safetensors.torch.save_file({name: value.clone() for name, value in values.items()}, path)
    found = open_safetensors(path)
    assert set(found) == set(values)
    assert all(equal(found[name], values[name]) for name in values)


def test_views_are_written_by_value(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    values = {
        "transposed": base.T,
        "strided": base[:, ::2],
        "expanded": torch.ones(1).expand(5),
        "conjugate": torch.tensor([1 + 2j]).conj(),
        "parameter": torch.nn.Parameter(base),
    }
    write_safetensors(tmp_path, shapes_of(values), values)
    found = open_safetensors(tmp_path)
    assert all(torch.equal(found[name], values[name]) for name in values)


def test_chunks_of_rows_make_a_tensor(tmp_path: Path) -> None:
    whole = torch.arange(35.0).reshape(7, 5)
    write_safetensors(tmp_path, {"w": ((7, 5), torch.float32)}, lambda name: iter(whole.split(3)))
    found = open_safetensors(tmp_path)
    assert torch.equal(found["w"], whole)
    assert torch.equal(found.rows("w", 2, 100), whole[2:])


@pytest.mark.parametrize("keep", [True, False])
def test_large_tensors_come_in_chunks(tmp_path: Path, keep: bool) -> None:
    values = {
        "large": torch.arange(700.0).reshape(70, 10),
        "small": torch.ones(3, 3),
        "flat": torch.ones(999),
    }
    write_safetensors(tmp_path, shapes_of(values), values)
    found = open_safetensors(tmp_path, keep=keep)
    for name in values:
        parts = found.chunks(name, size=400)
        assert isinstance(parts, torch.Tensor) == (name != "large")
        whole = parts if isinstance(parts, torch.Tensor) else torch.cat(list(parts))
        assert torch.equal(whole, values[name])


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    values = {"a": torch.zeros(1000), "b": torch.zeros(3_000_000)}
    paths = write_safetensors(
        tmp_path, shapes_of(values), values, progress=lambda *numbers: seen.append(numbers)
    )
    size = sum(path.stat().st_size for path in paths)
    assert seen[-1] == (size, size)
    assert len(seen) > 3
    assert seen == sorted(seen)


def _too_many() -> Iterator[torch.Tensor]:
    yield torch.zeros(2, 2)
    yield torch.zeros(2, 2)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([("w", torch.zeros(2, 2))], "is torch.float32 .2, 2. where torch.float32 .3, 2. is expected"),
        ([("w", torch.zeros(3, 2, dtype=torch.float64))], "torch.float64"),
        ([("w", iter([torch.zeros(2, 2)]))], "fewer rows"),
        ([("w", _too_many())], "more rows"),
        ([], "tensor w did not come"),
        ([("w", torch.zeros(3, 2))] * 2, "came twice"),
        ([("v", torch.zeros(3, 2))], "tensor v is not expected"),
        ([("w", torch.zeros(3, 2, device="meta"))], "no bytes"),
        ([("w", torch.eye(3, 2).to_sparse())], "no bytes"),
    ],
)
def test_tensors_that_are_not_as_announced(
    tmp_path: Path, given: list[tuple[str, torch.Tensor]], words: str
) -> None:
    write_safetensors(tmp_path, {"old": ((1,), torch.int8)}, {"old": torch.ones(1, dtype=torch.int8)})
    with pytest.raises(FileError, match=words):
        write_safetensors(tmp_path, {"w": ((3, 2), torch.float32)}, given)
    assert set(open_safetensors(tmp_path)) == {"old"}
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("before", "after"), [(10**9, 1), (1, 10**9), (1, 4)])
def test_a_checkpoint_replaces_another(tmp_path: Path, before: int, after: int) -> None:
    for value, size in ((0.0, before), (1.0, after)):
        values = {name: torch.full((2,), value) for name in "abc"}
        write_safetensors(tmp_path, shapes_of(values), values, shard_size=size)
    found = open_safetensors(tmp_path)
    assert all(found[name].eq(1).all() for name in "abc")
    names = {path.name for path in tmp_path.iterdir()}
    assert ("model.safetensors" in names) != ("model.safetensors.index.json" in names)


def test_memory_is_given_back_and_changes_stay_private(tmp_path: Path) -> None:
    write_safetensors(tmp_path, {"w": ((4,), torch.float32)}, {"w": torch.zeros(4)})
    found = open_safetensors(tmp_path)
    first = found["w"]
    first += 1
    assert found.rows("w", 0, 2).eq(1).all()
    assert found["w"].eq(1).all(), "two tensors in use at once are one"
    del first
    gc.collect()
    assert found["w"].eq(0).all()
    kept = open_safetensors(tmp_path, keep=True)
    kept["w"].add_(1)
    gc.collect()
    assert kept["w"].eq(1).all()
    assert kept.rows("w", 1, 3).eq(1).all()
    assert open_safetensors(tmp_path)["w"].eq(0).all()


def test_more_tensors_than_open_files(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    values = {f"t{i}": torch.full((2,), float(i)) for i in range(1000)}
    write_safetensors(tmp_path, shapes_of(values), values)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        for keep in (True, False):
            all_at_once = dict(open_safetensors(tmp_path, keep=keep))
            assert all(torch.equal(all_at_once[name], values[name]) for name in values)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_file_replaced_while_open_is_still_read(tmp_path: Path) -> None:
    write_safetensors(tmp_path, {"w": ((4,), torch.float32)}, {"w": torch.zeros(4)})
    found = open_safetensors(tmp_path)
    write_safetensors(tmp_path, {"w": ((4,), torch.float32)}, {"w": found["w"] + 1})
    assert found["w"].eq(0).all()
    assert open_safetensors(tmp_path)["w"].eq(1).all()


def test_files_shortened_while_open_are_noticed(tmp_path: Path) -> None:
    (path,) = write_safetensors(tmp_path, {"w": ((4,), torch.float32)}, {"w": torch.zeros(4)})
    found = open_safetensors(path)
    os.truncate(path, 10)
    with pytest.raises(FileError, match="has become shorter"):
        found.rows("w", 0, 4)


STREAM = """
import resource, sys
import torch
from mlgraph.storage import open_safetensors, write_safetensors
from tests.storage.forge import write_header
shapes = {f"t{i}": ((1000, 1000), torch.float32) for i in range(40)}
noise = torch.randn(1000, 1000)
write_safetensors(sys.argv[1], shapes, lambda name: noise)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
source = open_safetensors(sys.argv[1])
write_safetensors(sys.argv[2], shapes, ((name, source[name] * 2) for name in source), shard_size=5 * 10**7)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_streaming_holds_few_tensors_at_once(tmp_path: Path) -> None:
    """40 tensors of 4 MB are doubled in less than 40 MB."""
    for name in ("fine", "double"):
        (tmp_path / name).mkdir()
    command = [sys.executable, "-c", STREAM, str(tmp_path / "fine"), str(tmp_path / "double")]
    peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert peak < 40e6
    assert open_safetensors(tmp_path / "double").nbytes == 160_000_000


# Indexes that lie.


def _index(directory: Path, weight_map: Any) -> Path:
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return directory


@pytest.mark.parametrize(
    ("weight_map", "words"),
    [
        ({"w": "../outside.safetensors"}, "outside"),
        ({"w": "/etc/passwd"}, "outside"),
        ({"w": ""}, "outside"),
        ({"w": 3}, "outside"),
        ([], "no weight_map"),
        ({"w": "absent.safetensors"}, "no such file"),
    ],
)
def test_hostile_indexes_are_refused(tmp_path: Path, weight_map: Any, words: str) -> None:
    with pytest.raises(FileError, match=re.escape(words)):
        open_safetensors(_index(tmp_path, weight_map))


def test_an_index_that_misplaces_a_tensor(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})
    write_header(header, bytes(4), tmp_path / "a.safetensors")
    assert set(open_safetensors(_index(tmp_path, {"w": "a.safetensors"}))) == {"w"}
    with pytest.raises(FileError, match="does not hold it"):
        open_safetensors(_index(tmp_path, {"w": "a.safetensors", "v": "a.safetensors"}))


def test_pickled_weights_are_named(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(FileError, match="pickled"):
        open_safetensors(tmp_path)
