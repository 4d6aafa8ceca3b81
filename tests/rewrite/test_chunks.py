"""Tensors coarsened a few rows at a time equal those coarsened whole."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from hypothesis import given
from hypothesis import strategies as st

from mlgraph.program.dims import Dim, Leaf
from mlgraph.program.tensors import TensorSource
from mlgraph.rewrite.chunks import down_chunks
from mlgraph.rewrite.grouping import Grouping
from mlgraph.rewrite.transfer import TensorTransfer


class Shelf(TensorSource):
    """One tensor that can be read by rows."""

    reads_rows = True

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensor

    def __iter__(self) -> Iterator[str]:
        return iter(["w"])

    def __len__(self) -> int:
        return 1

    @property
    def shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        return {"w": (tuple(self.tensor.shape), self.tensor.dtype)}

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self.tensor[start:stop].clone()


@given(
    heads=st.integers(1, 3),
    per_head=st.integers(1, 3),
    columns=st.integers(1, 3),
    factor=st.integers(1, 3),
    wide=st.integers(1, 3),
    roles=st.tuples(*[st.sampled_from(["emits", "contracts"])] * 2),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    limit=st.integers(1, 400),
)
def test_chunks_join_to_the_whole(
    heads: int,
    per_head: int,
    columns: int,
    factor: int,
    wide: int,
    roles: tuple[str, str],
    dtype: torch.dtype,
    limit: int,
) -> None:
    first = Dim((Leaf("heads", heads * factor), Leaf("head_dim", per_head)))
    second = Dim((Leaf("hidden", columns * wide),))
    groupings = {
        "heads": Grouping.adjacent(heads * factor, factor),
        "hidden": Grouping.adjacent(columns * wide, wide),
    }
    transfer = TensorTransfer((first, second), ((roles[0], roles[0]), (roles[1],)), groupings)
    tensor = torch.randn(heads * factor * per_head, columns * wide).to(dtype)
    chunks = down_chunks(Shelf(tensor), "w", transfer, limit)
    if len(tensor) < 2:
        assert chunks is None
        return
    assert chunks is not None
    made = list(chunks)
    assert torch.equal(torch.cat(made), transfer.down(tensor))
    rows = limit // (columns * wide * dtype.itemsize)
    assert max(map(len, made)) <= max(rows // factor, per_head)


def test_a_first_dim_grouped_from_afar_is_made_whole() -> None:
    transfer = TensorTransfer((Dim((Leaf("mlp", 8),)),), (("emits",),), {"mlp": Grouping.halves(8, 2)})
    assert down_chunks(Shelf(torch.randn(8, 2)), "w", transfer) is None
