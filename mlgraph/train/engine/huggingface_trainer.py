"""Phase programs with ``transformers.Trainer`` as the engine, for those who live there.

A trainer is made for every training phase; between phases programs and optimizer state change level as they
do in ``mlgraph.train.run``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from mlgraph.program import Program
from mlgraph.train.data.batches import Binder
from mlgraph.train.engine.levels import Level, SetAside, change_level
from mlgraph.train.engine.optimizer_state import read_state, write_state
from mlgraph.train.engine.rehearsal import rehearse
from mlgraph.train.optimizer import OptimizerState
from mlgraph.train.phases import Phase, Train, levels_of

MakeTrainer = Callable[[nn.Module, Train], Any]


def run_with_trainer(
    program: Program, phases: Sequence[Phase], make_trainer: MakeTrainer, optimizer_state: str = "carry"
) -> tuple[Program, list[dict[str, Any]]]:
    """Train ``program`` by a phase program; the trained program, and the trainers' logs with phase and level.

    ``make_trainer(module, phase)`` returns a ``transformers.Trainer`` for the module; it is told to take
    ``phase.steps`` steps. ``optimizer_state`` is ``reset``, ``carry`` or ``asymmetric``. The module returns
    its loss as the captured model did, and takes its arguments by name. Checkpoints are the trainer's own
    and hold one phase.
    """
    rehearse(program, phases)
    level = Level(program)
    state: OptimizerState = {}
    levels, logs = levels_of(phases), list[dict[str, Any]]()
    for number, phase in enumerate(phases):
        if isinstance(phase, Train):
            trainer = make_trainer(_Callable(level.program), phase)
            state = _train(trainer, phase, state)
            logs += [
                {**record, "phase": number, "level": levels[number]} for record in trainer.state.log_history
            ]
        elif number == 0 or isinstance(phases[number - 1], Train):
            end = next((n for n in range(number, len(phases)) if isinstance(phases[n], Train)), len(phases))
            _to_cpu(level.program)
            change = change_level(level, phases[number:end], number, optimizer_state, _holding(state))
            level, state = change.level, change.state(state)
    return level.program, logs


def _holding(state: OptimizerState) -> SetAside:
    """Programs stay in memory; ``state`` belongs to the first that is set aside."""
    held = [state]

    def set_aside(_name: str, _program: Program, keeps: bool) -> Callable[[], OptimizerState]:
        own = held.pop() if held and keeps else {}
        return lambda: own

    return set_aside


def _train(trainer: Any, phase: Train, state: OptimizerState) -> OptimizerState:
    """Train one phase from ``state``; the state after it."""
    trainer.args.max_steps = phase.steps
    if phase.lr is not None:
        trainer.args.learning_rate = phase.lr
    trainer.create_optimizer()
    bare = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    write_state(bare, _named(trainer), state)
    trainer.train()
    bare = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    return read_state(bare, _named(trainer))


def _named(trainer: Any) -> list[tuple[str, nn.Parameter]]:
    model = trainer.accelerator.unwrap_model(trainer.model)
    return list(model.module.named_parameters())


def _to_cpu(program: Program) -> None:
    for tensor in program.tensors.values():
        tensor.data = tensor.data.cpu()


class _Callable(nn.Module):
    """An emitted module as Trainer likes it: by name, what the program does not take left out."""

    # The loss is the captured one: a mean over the batch, not over what Trainer counts.
    accepts_loss_kwargs = False

    def __init__(self, program: Program) -> None:
        from mlgraph.emit.module import emit

        super().__init__()
        self.module = emit(program)
        self._binder = Binder(program, spare=True)

    def forward(self, **inputs: Any) -> Any:
        args, kwargs = self._binder.call(inputs)
        return self.module(*args, **kwargs)
