"""One level made ready to train: emitted module, optimizer, device and processes."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mlgraph.program import Program
from mlgraph.rewrite.sharded import is_sharded
from mlgraph.train.data.batches import Binder, Loss, Metric, own_loss
from mlgraph.train.engine.averaging import AVERAGE
from mlgraph.train.engine.distillation import divergence
from mlgraph.train.engine.optimizer_state import placed, read_state, without, write_state
from mlgraph.train.engine.sharding import fill, shard_module, sharded_names, shell
from mlgraph.train.errors import TrainError
from mlgraph.train.optimizer import OptimizerFactory, OptimizerState, parameter_groups, set_rate
from mlgraph.train.schedule import Rate

if TYPE_CHECKING:
    from mlgraph.rewrite.sharded import Layout
    from mlgraph.train.settings import Settings

_SIMPLE = ("NO", "MULTI_CPU", "MULTI_GPU")


class Worker:
    """Trains one program.

    It works on the program's own tensors, which so become the trained ones; with a ``layout`` on rows of
    them dealt out to processes, and a program that holds its rows lets go of them. ``accelerator`` is an
    ``accelerate.Accelerator``; ``new`` names parameters that take the rate of new ones; ``state`` is
    optimizer state to start from. Of ``settings`` it takes how to compute.
    """

    def __init__(
        self,
        accelerator: Any,
        program: Program,
        settings: Settings,
        new: Collection[str] = (),
        state: Mapping[str, Mapping[str, torch.Tensor]] | None = None,
        loss: Loss | None = None,
        layout: Layout | None = None,
    ) -> None:
        from mlgraph.emit.module import emit

        self._accelerator, self._clip = accelerator, settings.clip
        self._loss = loss or own_loss
        self.binder = Binder(program, spare=loss is not None)
        self._program = program if layout is None else shell(program)
        module = emit(self._program)
        if not any(parameter.requires_grad for parameter in module.parameters()):
            raise TrainError("No parameter of the model requires a gradient: let at least one train.")
        self._trains = {name for name, p in module.named_parameters() if p.requires_grad}
        self._frozen: set[str] = set()
        module.train()
        if settings.recompute:
            recompute(module)
        self._sharded = layout is not None
        self.optimizer: OptimizerFactory = settings.optimizer
        if layout is not None:
            self._module = module
            self._shard(module, program, layout, settings)
            groups = parameter_groups(module.named_parameters(), new, settings.weight_decay)
            self._optimizer = accelerator.prepare(self.optimizer(groups))
        else:
            if accelerator.ddp_handler is not None:
                accelerator.ddp_handler.find_unused_parameters = leaves_parameters_out(program, loss)
            bare = self.optimizer(parameter_groups(module.named_parameters(), new, settings.weight_decay))
            self._module, self._optimizer = accelerator.prepare(module, bare)
        self._parameters = list(self._module.parameters())
        self._bare_optimizer: torch.optim.Optimizer = getattr(self._optimizer, "optimizer", self._optimizer)
        # Without loss scaling and other people's engines accelerate's wrappers only look whether they are
        # needed.
        simple = accelerator.scaler is None and accelerator.distributed_type.value in _SIMPLE
        self._stepper = self._bare_optimizer if simple else self._optimizer
        self._backward = torch.Tensor.backward if simple else accelerator.backward
        self._clip_norm = (
            nn.utils.clip_grad_norm_ if simple and not self._sharded else accelerator.clip_grad_norm_
        )
        self._average: dict[str, torch.Tensor] = {}
        self._teacher: tuple[nn.Module, float] | None = None
        if state:
            state, averages = without(state, AVERAGE)
            write_state(self._bare_optimizer, self._named_parameters(), state)
            own = dict(self._named_parameters())
            self._average = {name: placed(value, own[name]) for name, value in averages.items()}

    def _shard(self, module: nn.Module, program: Program, layout: Layout, settings: Settings) -> None:
        whole = frozenset(self._program.tensors.parameters).difference(sharded_names(program))
        if self._accelerator.state.dynamo_plugin.backend.value != "NO":
            compile_blocks(module)
        shard_module(module, layout, settings, whole)
        fill(module, program, layout, self._accelerator.device, settings.fsdp_offload)

    def freeze(self, names: Collection[str]) -> None:
        """Leave these parameters untrained, and train all others that took a gradient at first.

        Raises:
            TrainError: there are several processes, which would wait for their gradients.
        """
        if set(names) == self._frozen:
            return
        if self._accelerator.num_processes > 1:
            raise TrainError("A phase freezes parameters, which only runs of one process do: leave it out.")
        for name, parameter in self._named_parameters():
            parameter.requires_grad_(name in self._trains and name not in names)
        self._frozen = set(names)

    def teach(self, teacher: Program | None, share: float) -> None:
        """Let a teacher's predictions have that share in the loss from now on; none: the loss alone."""
        from mlgraph.emit.module import emit

        if teacher is None:
            self._teacher = None
            return
        device = self._accelerator.device
        values = {name: tensor.detach().to(device) for name, tensor in teacher.tensors.items()}
        module = emit(teacher.with_values(teacher.tensors.replace(values)))
        self._teacher = module.eval().requires_grad_(False), share

    @torch.no_grad()
    def average(self, number: int) -> None:
        """Take the weights as they are as number ``number``, from 1, into the running mean."""
        for name, parameter in self._named_parameters():
            if number == 1:
                self._average[name] = parameter.detach().clone()
            else:
                self._average[name].lerp_(parameter.detach(), 1.0 / number)

    @torch.no_grad()
    def take_average(self) -> None:
        """Set the weights to their running mean, and forget it."""
        for name, parameter in self._named_parameters():
            parameter.copy_(self._average[name])
        self._average = {}

    def step(self, batches: Sequence[Any], rate: Rate) -> torch.Tensor:
        """One optimizer step on the mean of the batches' losses, which is returned, detached."""
        set_rate(self._bare_optimizer, rate)
        total: torch.Tensor | None = None
        for number, batch in enumerate(batches, 1):
            with self._gathering(number == len(batches)):
                loss = self._taught(*self._forward(batch))
                if not loss.requires_grad:
                    raise TrainError("The loss has no gradient: compute it from the model's outputs.")
                if len(batches) > 1:
                    loss = loss / len(batches)
                self._backward(loss)
            total = loss.detach() if total is None else total + loss.detach()
        if self._clip is not None:
            self._clip_norm(self._parameters, self._clip)
        self._stepper.step()
        self._stepper.zero_grad()
        assert total is not None
        return total

    def _gathering(self, last: bool) -> contextlib.AbstractContextManager[None]:
        if last:
            return contextlib.nullcontext()
        if self._sharded:
            return self._without_sync()
        return self._accelerator.no_sync(self._module)  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def _without_sync(self) -> Iterator[None]:
        module: Any = self._module
        module.set_requires_gradient_sync(False)
        yield
        module.set_requires_gradient_sync(True)

    def _forward(self, batch: Any) -> tuple[torch.Tensor, Any, Any]:
        batch = to_device(batch, self._accelerator.device)
        args, kwargs = self.binder.call(batch)
        with self._accelerator.autocast():
            outputs = self._module(*args, **kwargs)
        return _scalar(self._loss(outputs, batch)), outputs, batch

    def _taught(self, loss: torch.Tensor, outputs: Any, batch: Any) -> torch.Tensor:
        if self._teacher is None:
            return loss
        teacher, share = self._teacher
        args, kwargs = self.binder.call(batch)
        with torch.no_grad(), self._accelerator.autocast():
            wanted = teacher(*args, **kwargs)
        return (1.0 - share) * loss + share * divergence(outputs, wanted)

    def evaluate(
        self, batches: Iterable[tuple[Any, float]], metric: Metric | None = None
    ) -> dict[str, float]:
        """Weighted mean of the loss, and of what ``metric(outputs, batch)`` returns, over all processes.

        ``batches`` are pairs of batch and weight; every process gives at least one.
        """
        sums: dict[str, torch.Tensor] = {}
        total = 0.0
        self._module.eval()
        with torch.no_grad():
            for batch, weight in batches:
                loss, outputs, batch = self._forward(batch)
                found = {"loss": loss, **(metric(outputs, batch) if metric else {})}
                for key, value in found.items():
                    sums[key] = sums.get(key, 0.0) + weight * value.detach().float()
                total += weight
        self._module.train()
        if self._accelerator.num_processes > 1:
            weight_sum = torch.tensor(total, device=self._accelerator.device)
            values = self._accelerator.reduce(torch.stack([weight_sum, *sums.values()]), "sum")
            return {key: float(value / values[0]) for key, value in zip(sums, values[1:], strict=True)}
        return {key: float(value) / total for key, value in sums.items()}

    def program(self) -> Program:
        """The program as trained so far, sharded where the module is."""
        tensors = self._program.tensors
        module = self._unwrapped()
        found = dict(module.named_parameters()) | dict(module.named_buffers())
        values = {name: found.get(name, tensor) for name, tensor in tensors.items()}
        return self._program.with_values(tensors.replace(values))

    def optimizer_state(self) -> OptimizerState:
        """Optimizer state by parameter name: on the CPU, or sharded as the parameters are."""
        state = read_state(self._bare_optimizer, self._named_parameters())
        for name, mean in self._average.items():
            kept = mean if is_sharded(mean) else mean.detach().cpu()
            state[name] = {**state.get(name, {}), AVERAGE: kept}
        return state

    def close(self) -> None:
        """Let go of module, gradients and optimizer."""
        self._optimizer.zero_grad()
        self._bare_optimizer.state.clear()
        del self._module, self._optimizer, self._bare_optimizer, self._stepper, self._parameters
        self._accelerator.free_memory()

    def _unwrapped(self) -> nn.Module:
        if self._sharded:
            # After a forward pass without a backward the root's parameters are still whole.
            sharded: Any = self._module
            sharded.reshard()
            return self._module
        return self._accelerator.unwrap_model(self._module, keep_torch_compile=False)  # type: ignore[no-any-return]

    def _named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return list(self._unwrapped().named_parameters())


def recompute(module: nn.Module) -> None:
    """Let every block recompute its activations in the backward pass; a single block keeps them."""
    from mlgraph.emit.checkpointing import checkpoint_blocks
    from mlgraph.emit.module import EmittedBlock

    if any(isinstance(part, EmittedBlock) for part in module.modules()):
        checkpoint_blocks(module)


def compile_blocks(module: nn.Module) -> None:
    """Compile every block on its first call, or the module where it has none."""
    from mlgraph.emit.module import EmittedBlock

    blocks: list[nn.Module] = [part for part in module.modules() if isinstance(part, EmittedBlock)]
    for part in blocks or [module]:
        part.compile()


def leaves_parameters_out(program: Program, loss: Loss | None) -> bool:
    """Whether a parameter may get no gradient: it feeds no loss, or the user's need not read all outputs."""
    from mlgraph.graph.flops import feeding_loss

    read = {str(node.target) for node in feeding_loss(program.graph) if node.op == "get_attr"}
    output = next(iter(reversed(program.graph.nodes)))
    return not program.tensors.parameters <= read or (loss is not None and len(output.all_input_nodes) > 1)


def _scalar(loss: Any) -> torch.Tensor:
    if not isinstance(loss, torch.Tensor):
        raise TrainError(f"The loss is a {type(loss).__name__}: return a scalar tensor.")
    if loss.numel() != 1:
        raise TrainError(f"The loss is a tensor of shape {list(loss.shape)}: return a scalar, as its mean.")
    return loss.reshape(())


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors on ``device``; the batch itself where they all lie there."""
    if isinstance(batch, torch.Tensor):
        return batch if batch.device == device else batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(value, device) for value in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(to_device(value, device) for value in batch)
    return batch
