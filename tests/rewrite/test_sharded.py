"""Transfers of tensors that lie in several processes give what they give of whole ones, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mlgraph.errors import MlgraphError
from mlgraph.program.dims import Dim, Join, Leaf
from mlgraph.rewrite.grouping import Grouping
from mlgraph.rewrite.sharded import Layout, all_finite, rows_of
from mlgraph.rewrite.transfer import TensorTransfer
from tests.processes import Processes

UNEVEN = Grouping((0, 1, 0, 2, 2, 2, 1, 3, 0, 4, 3))
ADJACENT, HALVES = Grouping.adjacent(12, 2), Grouping.halves(12, 2)
THIRDS = Grouping.adjacent(12, 3)
SELECTED = ADJACENT.going("select", "pad")


def transfers() -> dict[str, TensorTransfer]:
    """Transfers whose rows are an axis, a product, a concatenation; of every way down and back."""

    def of(rows: tuple[Any, ...], roles: tuple[Any, ...], groupings: dict[str, Grouping]) -> TensorTransfer:
        dims = (Dim(rows), Dim((Leaf("columns", 6),)))
        return TensorTransfer(
            dims, (roles, ("contracts",)), {"columns": Grouping.adjacent(6, 2), **groupings}
        )

    plain = {"adjacent": ADJACENT, "halves": HALVES, "thirds": THIRDS, "selected": SELECTED}
    made = {name: of((Leaf("a", 12),), ("emits",), {"a": grouping}) for name, grouping in plain.items()}
    made["uneven"] = of((Leaf("a", 11),), ("emits",), {"a": UNEVEN})
    made["summed"] = of((Leaf("a", 12),), ("contracts",), {"a": HALVES})
    made["untouched"] = of((Leaf("b", 7),), ("emits",), {})
    made["product"] = of((Leaf("a", 12), Leaf("b", 3)), ("emits", "emits"), {"a": ADJACENT})
    made["inner"] = of((Leaf("b", 2), Leaf("a", 12)), ("emits", "emits"), {"a": HALVES})
    joined = Join((Dim((Leaf("a", 12), Leaf("b", 2))), Dim((Leaf("c", 3),))))
    made["joined"] = of((joined,), ("emits", "emits", "emits"), {"a": ADJACENT})
    made["few rows"] = of((Leaf("a", 3),), ("emits",), {"a": Grouping((0, 0, 1))})
    return made


KINDS = ("weight", "gradient", "gradient_squared")


def _layouts() -> list[Layout]:
    from torch.distributed.device_mesh import init_device_mesh

    torch.distributed.init_process_group("gloo")
    square = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    return [Layout(init_device_mesh("cpu", (4,))), Layout(square, 1)]


def _shard(whole: torch.Tensor, layout: Layout) -> torch.Tensor:
    start, stop = layout.extent(whole.shape[0])
    return layout.wrap(whole[start:stop].clone(), tuple(whole.shape))


def everything() -> dict[str, list[str]]:
    """What differs, by layout; nothing should."""
    wrong: dict[str, list[str]] = {}
    for number, layout in enumerate(_layouts()):
        wrong[f"layout {number}"] = [
            f"{name} {way} {kind}"
            for name, transfer in transfers().items()
            for kind in KINDS
            for way in ("down", "up")
            if not _moves_alike(transfer, way, kind, layout)
        ]
        wrong["rows"] = _rows_differ(layout)
        wrong["finite"] = _finite_differs(layout)
    with pytest.raises(MlgraphError, match="along its first dim"):
        Layout.of(_replicated())
    return wrong


def _moves_alike(transfer: TensorTransfer, way: str, kind: Any, layout: Layout) -> bool:
    shape = transfer.fine_shape() if way == "down" else transfer.coarse_shape()
    for dtype in (torch.float32, torch.bfloat16):
        whole = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        expected = getattr(transfer, way)(whole, kind)
        found = getattr(transfer, way)(_shard(whole, layout), kind)
        if Layout.of(found) != layout:
            return False
        if not torch.equal(found.full_tensor(), expected):
            return False
    return True


def _rows_differ(layout: Layout) -> list[str]:
    from mlgraph.rewrite import sharded

    whole = torch.arange(7 * 5 * 3, dtype=torch.float64).view(7, 5, 3)
    rank = torch.distributed.get_rank()
    index = [torch.tensor([6, 0, 3, 3, 1]), torch.tensor([], dtype=torch.int64), torch.arange(7)][rank % 3]
    wrong = []
    for buffer in (sharded.BUFFER, 48):
        sharded.BUFFER = buffer
        found = rows_of(_shard(whole, layout), index)
        wrong += [] if torch.equal(found, whole[index]) else [f"buffer {buffer} rank {rank}"]
    sharded.BUFFER = 8 << 20
    return wrong


def _finite_differs(layout: Layout) -> list[str]:
    whole = torch.ones(7, 2)
    fine = all_finite(_shard(whole, layout))
    whole[5] = torch.inf
    return [] if fine and not all_finite(_shard(whole, layout)) else ["finite"]


def _replicated() -> torch.Tensor:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Replicate

    return DTensor.from_local(torch.ones(2), init_device_mesh("cpu", (4,)), [Replicate()], run_check=False)


def test_sharded_tensors_move_as_whole_ones_do() -> None:
    for found in Processes(4, everything).results():
        assert not any(found.values()), found
