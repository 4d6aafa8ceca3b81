"""Tensors whose rows lie in several processes: where they lie, and rows that another process has.

A sharded tensor is a ``torch.distributed.tensor.DTensor`` placed as FSDP2 places parameters: ``Shard(0)`` on
one mesh dim in ``torch.chunk``'s parts, the last of them short or empty, and ``Replicate`` on others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from mlgraph.errors import MlgraphError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

BUFFER = 8 << 20
"""Bytes that a process sends at once."""


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether a tensor's rows lie in several processes."""
    return getattr(tensor, "placements", None) is not None


@dataclass(frozen=True)
class Layout:
    """How rows lie over processes: ``dim`` of ``mesh`` holds the parts, its other dims hold copies."""

    mesh: Any
    dim: int = 0

    @staticmethod
    def of(tensor: torch.Tensor) -> Layout:
        """The layout of a sharded tensor. Raises MlgraphError where that is another than FSDP2's."""
        from torch.distributed.tensor import Replicate, Shard

        mesh, placements = tensor.device_mesh, tensor.placements  # type: ignore[attr-defined]
        dims = [n for n, placement in enumerate(placements) if placement == Shard(0)]
        others = [placement for placement in placements if placement != Shard(0)]
        if len(dims) != 1 or any(placement != Replicate() for placement in others):
            raise MlgraphError(
                f"a tensor lies over processes as {placements}: shard it along its first dim, as FSDP2 does."
            )
        return Layout(mesh, dims[0])

    @property
    def group(self) -> Any:
        """The processes that hold the parts of one copy."""
        return self.mesh.get_group(self.dim)

    @property
    def size(self) -> int:
        return int(self.mesh.size(self.dim))

    @property
    def rank(self) -> int:
        return int(self.mesh.get_local_rank(self.dim))

    @property
    def copy(self) -> int:
        """Which of the copies this process has a part of."""
        coordinate = self.mesh.get_coordinate()
        number = 0
        for dim in range(self.mesh.ndim):
            if dim != self.dim:
                number = number * self.mesh.size(dim) + coordinate[dim]
        return number

    @property
    def copies(self) -> int:
        return int(self.mesh.size()) // self.size

    def extent(self, rows: int, rank: int | None = None) -> tuple[int, int]:
        """The first row of a process's part and the one after its last; by default of this process's."""
        step = -(-rows // self.size)
        first = (self.rank if rank is None else rank) * step
        return min(first, rows), min(first + step, rows)

    def wrap(self, local: torch.Tensor, shape: tuple[int, ...]) -> DTensor:
        """The sharded tensor of ``shape`` of which ``local`` is this process's part."""
        from torch.distributed.tensor import DTensor, Replicate, Shard
        from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta

        placements = tuple(Shard(0) if dim == self.dim else Replicate() for dim in range(self.mesh.ndim))
        size, stride = torch.Size(shape), torch.empty(shape, device="meta").stride()
        # from_local would take parts that FSDP2 keeps on the host to the mesh's device
        spec = DTensorSpec(self.mesh, placements, tensor_meta=TensorMeta(size, stride, local.dtype))
        return DTensor(local.contiguous(), spec, requires_grad=False)


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """This process's rows of a sharded tensor; a tensor that is whole as it is."""
    return tensor.detach().to_local() if is_sharded(tensor) else tensor.detach()  # type: ignore[attr-defined]


def on_parts(function: Callable[..., torch.Tensor], *tensors: torch.Tensor) -> torch.Tensor:
    """What a pointwise ``function`` makes of tensors, sharded where the first of them is."""
    if not is_sharded(tensors[0]):
        return function(*tensors)
    return Layout.of(tensors[0]).wrap(function(*map(local_part, tensors)), tuple(tensors[0].shape))


def all_finite(tensor: torch.Tensor) -> bool:
    """Whether every value is finite; of a sharded tensor all its processes must ask."""
    own = local_part(tensor)
    # one pass without a mask; a sum of finite numbers may overflow, so that is looked at again
    finite = torch.isfinite(own.sum())
    if not finite:
        finite = torch.isfinite(own).all()
    if not is_sharded(tensor):
        return bool(finite)
    flag = finite.to(torch.int32)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MIN, group=Layout.of(tensor).group)
    return bool(flag)


@torch.no_grad()
def rows_of(tensor: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The rows that ``index`` (int64, [rows]) names, in that order, wherever they lie.

    Every process of the tensor must ask, for whatever rows it wants, none among them. Beside the result it
    takes twice ``BUFFER`` and eight bytes a row.
    """
    layout, local = Layout.of(tensor), local_part(tensor).contiguous()
    start, stop = layout.extent(tensor.shape[0])
    step = max(-(-tensor.shape[0] // layout.size), 1)
    owner = index.div(step, rounding_mode="floor")
    order = torch.argsort(owner, stable=True)
    asking = torch.bincount(owner, minlength=layout.size).to(local.device)
    table = [torch.empty_like(asking) for _ in range(layout.size)]
    torch.distributed.all_gather(table, asking, group=layout.group)
    counts: list[list[int]] = torch.stack(table).tolist()
    if all(not count for i, row in enumerate(counts) for j, count in enumerate(row) if i != j):
        return local.index_select(0, (index - start).to(local.device))
    arriving, leaving = counts[layout.rank], [row[layout.rank] for row in counts]
    asked = torch.empty(sum(leaving), dtype=torch.int64, device=local.device)
    _exchange(asked, index[order].to(local.device), leaving, arriving, layout)
    return _sent(layout, local, stop - start, asked - start, order.to(local.device), arriving, leaving, step)


def _sent(
    layout: Layout,
    local: torch.Tensor,
    rows: int,
    asked: torch.Tensor,
    order: torch.Tensor,
    arriving: list[int],
    leaving: list[int],
    step: int,
) -> torch.Tensor:
    """Send the rows ``asked`` for and collect this process's own, a block of columns at a time."""
    out = local.new_empty((len(order), *local.shape[1:]))
    width = local.dtype.itemsize * torch.Size(local.shape[1:]).numel()
    # As bytes, for not every backend sends every dtype.
    have = local.reshape(rows, -1).view(torch.uint8) if rows else local.new_empty(0, width, dtype=torch.uint8)
    into = out.view(len(order), -1).view(torch.uint8) if len(order) else have.new_empty(0, width)
    # the same in every process, whatever it sends
    block = max(BUFFER // step, 1)
    for first in range(0, width, block):
        columns = slice(first, min(first + block, width))
        got = have.new_empty(len(order), columns.stop - first)
        _exchange(got, have[:, columns].index_select(0, asked), arriving, leaving, layout)
        into[order, columns] = got
    return out


def _exchange(
    into: torch.Tensor, given: torch.Tensor, arriving: list[int], leaving: list[int], layout: Layout
) -> None:
    torch.distributed.all_to_all_single(into, given, arriving, leaving, group=layout.group)
