"""Programs and modules whose parameters lie in several processes, from the first byte read on.

No process holds more of a model than its own rows and, while it is used, one part: a block under FSDP2, or a
tensor that is sent from the first process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mlgraph.graph.constants import constants
from mlgraph.passes.coalesce import Coalesce
from mlgraph.passes.decoalesce import Decoalesce
from mlgraph.program.tensors import InMemory, Shapes, TensorSource, is_fake
from mlgraph.rewrite.sharded import Layout, is_sharded, local_part
from mlgraph.rewrite.weight_norm import lengths
from mlgraph.train.errors import TrainError

if TYPE_CHECKING:
    from mlgraph.passes.base import Pass
    from mlgraph.program import Program
    from mlgraph.train.settings import Settings


def make_layout(accelerator: Any, replicas: int) -> Layout:
    """Rows over all processes, or over those of each of ``replicas`` copies of the model (HSDP)."""
    from torch.distributed.device_mesh import init_device_mesh

    processes, kind = accelerator.num_processes, accelerator.device.type
    if processes % replicas:
        raise TrainError(
            f"fsdp_replicas = {replicas} does not divide the {processes} processes: choose a divisor."
        )
    if replicas == 1:
        return Layout(init_device_mesh(kind, (processes,), mesh_dim_names=("shard",)))
    shape = (replicas, processes // replicas)
    return Layout(init_device_mesh(kind, shape, mesh_dim_names=("replicate", "shard")), 1)


def trained(program: Program) -> list[str]:
    """The parameters that are not constants."""
    fixed = constants(program)
    return [name for name in program.tensors if name in program.tensors.parameters and name not in fixed]


def sharded_names(program: Program) -> list[str]:
    """The tensors whose rows are dealt out: all parameters but constants, which every process has whole.

    Raises:
        TrainError: a parameter has no rows.
    """
    shapes, names = program.tensors.source.shapes, trained(program)
    for name in names:
        if not shapes[name][0]:
            raise TrainError(
                f"The parameter {name} is a single number, which FSDP2 cannot shard: train without fsdp."
            )
    return names


@torch.no_grad()
def own_rows(source: TensorSource, name: str, layout: Layout, device: torch.device) -> torch.Tensor:
    """This process's rows of a tensor, on ``device``; every process must ask.

    Of what processes hold whole, the first one's is sent; of what lies in files, each reads its part.
    """
    if source.in_memory:
        tensor = source[name]
        if is_sharded(tensor):
            return local_part(tensor).to(device)
        tensor = sent_whole(tensor, device)
        return tensor[slice(*layout.extent(tensor.shape[0]))].clone()
    rows = source.shapes[name][0][0]
    part = source.rows(name, *layout.extent(rows)).detach()
    # a slice of a mapped file would keep all of it
    return part.to(device, copy=True)


@torch.no_grad()
def sent_whole(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The first process's tensor in every process."""
    # As bytes, for not every backend sends every dtype.
    here = tensor.detach().to(device, copy=True).contiguous()
    if here.numel():
        torch.distributed.broadcast(here.flatten().view(torch.uint8), src=0)
    return here


def sharded(
    program: Program, layout: Layout, device: torch.device, parameters: Iterable[str] | None = None
) -> Program:
    """The program with its parameters sharded, and everything else whole, that of the first process.

    ``parameters`` names those that are sharded, where the program's values do not tell.
    """
    names = set(sharded_names(program) if parameters is None else parameters)
    source, values = program.tensors.source, dict[str, torch.Tensor]()
    for name, (shape, _) in source.shapes.items():
        if name in names:
            values[name] = layout.wrap(own_rows(source, name, layout, device), shape)
        else:
            values[name] = source[name] if not source.in_memory else sent_whole(source[name], device)
    return program.with_values(program.tensors.replace(values))


def is_sharded_program(program: Program) -> bool:
    """Whether some of a program's tensors are sharded."""
    return _first_sharded(program) is not None


def _first_sharded(program: Program) -> torch.Tensor | None:
    source = program.tensors.source
    held = source.values() if source.in_memory else ()
    return next((tensor for tensor in held if is_sharded(tensor)), None)


def moved(program: Program, device: torch.device | str) -> Program:
    """The program with its tensors, sharded or not, on another device."""

    def move(tensor: torch.Tensor) -> torch.Tensor:
        if is_fake(tensor):
            return tensor
        if not is_sharded(tensor):
            return tensor.detach().to(device)
        return Layout.of(tensor).wrap(local_part(tensor).to(device), tuple(tensor.shape))

    values = {name: move(tensor) for name, tensor in program.tensors.items()}
    return program.with_values(program.tensors.replace(values))


class Gathered(TensorSource):
    """Sharded tensors of another source, each put together when it is asked for; all processes must ask."""

    def __init__(self, source: TensorSource) -> None:
        self._source = source

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor = self._source[name].detach()
        return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined, no-any-return]

    def __iter__(self) -> Iterator[str]:
        return iter(self._source)

    def __len__(self) -> int:
        return len(self._source)

    @property
    def shapes(self) -> Shapes:
        return self._source.shapes


def applied(operator: Pass, program: Program) -> Program:
    """What a pass makes of a program, sharded where that is.

    Coarsening and refining move rows. What other passes do with weights is their own: they are given one
    whole tensor at a time, and those that hold all that they make hold it whole.
    """
    held = _first_sharded(program)
    if held is None or _moves_rows(operator, program):
        return operator(program)
    # of lazy weights analyses would know less
    analyses = program.axes, program.blocks
    gathered = program.with_values(program.tensors.replace(Gathered(program.tensors.source)))
    del analyses
    return sharded(operator(gathered), Layout.of(held), held.device)


def _moves_rows(operator: Pass, program: Program) -> bool:
    plain = isinstance(operator, Coalesce | Decoalesce) and operator.pairing != "similarity"
    return plain and not lengths(program)


def shell(program: Program) -> Program:
    """The program with its parameters on the meta device, but for constants, and all else as it is."""
    meta, names = program.tensors.meta(), set(trained(program))
    values = {name: meta[name] if name in names else program.tensors[name] for name in meta}
    return program.with_values(program.tensors.replace(values))


def shard_module(module: nn.Module, layout: Layout, settings: Settings, whole: frozenset[str]) -> None:
    """Put FSDP2 on a module, in place: each block is a unit, and what is left is one.

    ``whole`` names the parameters that stay as they are. This is torch's own ``fully_shard``, which
    accelerate reaches on accelerators alone.
    """
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

    from mlgraph.emit.module import EmittedBlock

    kept = {parameter for name, parameter in module.named_parameters() if name in whole}
    options: dict[str, Any] = {"mesh": layout.mesh, "ignored_params": kept}
    if settings.fsdp_offload:
        options["offload_policy"] = CPUOffloadPolicy(pin_memory=layout.mesh.device_type == "cuda")
    else:
        options["offload_policy"] = OffloadPolicy()
    if settings.fsdp_policy:
        options["mp_policy"] = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
    for part in list(module.modules()):
        if isinstance(part, EmittedBlock):
            fully_shard(part, **options)
    fully_shard(module, **options)


@torch.no_grad()
def fill(module: nn.Module, program: Program, layout: Layout, device: torch.device, host: bool) -> None:
    """Give a sharded module on the meta device its values, tensor by tensor.

    What ``program`` holds sharded it lets go of. With ``host`` parameters lie on the CPU, and buffers on
    ``device``.
    """
    source, place = program.tensors.source, torch.device("cpu") if host else device
    ties = _ties(module)
    # detached, for emptying a module empties its parameters in place
    whole = {name: (tensor.detach(), tensor.requires_grad) for name, tensor in _everything(module)}
    sharded_ones = {name for name, tensor in _everything(module) if is_sharded(tensor)}
    module.to_empty(device=place)
    _tie(module, ties)
    for name, parameter in module.named_parameters():
        if name in sharded_ones:
            parameter.to_local().copy_(own_rows(source, name, layout, place))  # type: ignore[attr-defined]
            if isinstance(source, InMemory) and is_sharded(source[name]):
                source.let_go(name)
    for name in whole.keys() - sharded_ones:
        tensor, trained = whole[name]
        into, leaf = _holder(module, name)
        sent = sent_whole(tensor, device)
        is_parameter = isinstance(into[leaf], nn.Parameter)
        into[leaf] = nn.Parameter(sent, requires_grad=trained) if is_parameter else sent
    _tie(module, ties)
    hollow = [name for name, tensor in _everything(module) if tensor.is_meta]
    assert not hollow, f"{hollow} were given no values"


def _everything(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def _holder(module: nn.Module, name: str) -> tuple[dict[str, Any], str]:
    """Where a module keeps a parameter or buffer."""
    owner, _, leaf = name.rpartition(".")
    held = module.get_submodule(owner) if owner else module
    return held._parameters if leaf in held._parameters else held._buffers, leaf


def _ties(module: nn.Module) -> dict[str, str]:
    """Every further name of a parameter or buffer, with its first."""
    first: dict[int, str] = {}
    every = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    return {name: first[id(tensor)] for name, tensor in every if first.setdefault(id(tensor), name) != name}


def _tie(module: nn.Module, ties: Mapping[str, str]) -> None:
    for name, first in ties.items():
        (into, leaf), (known, at) = _holder(module, name), _holder(module, first)
        into[leaf] = known[at]
