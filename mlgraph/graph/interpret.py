"""Running a program node by node, and what training and evaluation change in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from mlgraph.errors import MlgraphError
from mlgraph.graph.effects import memory, mutates
from mlgraph.graph.ops import has, op_name
from mlgraph.graph.traits import Trait

if TYPE_CHECKING:
    from mlgraph.program import Program

aten = torch.ops.aten

_WITH_STATISTICS = (aten.batch_norm.default, aten.instance_norm.default)

DOUBLE: Mapping[torch.dtype, torch.dtype] = {
    torch.float32: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float16: torch.float64,
    torch.complex64: torch.complex128,
}
"""What float64 throughout makes of other dtypes."""


def follows_mode(node: fx.Node) -> str | None:
    """The argument by which an op is told that the model trains, where it is set; else ``None``.

    Norms without running statistics normalise by the batch in both modes and do not count, nor do dropout,
    attention and ``drop_path``, which modules of their own stand for.
    """
    target: Any = node.target
    if not isinstance(target, torch._ops.OpOverload) or target is aten.dropout.default:
        return None
    for position, argument in enumerate(target._schema.arguments):
        if argument.name in ("train", "training", "use_input_stats"):
            given = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
            if given is not True:
                return None
            return argument.name if statistics(node) is not None or not has_statistics(node) else None
    return None


def has_statistics(node: fx.Node) -> bool:
    """Whether a node's op takes running statistics, which it writes in training."""
    return node.target in _WITH_STATISTICS


def statistics(node: fx.Node) -> fx.Node | None:
    """The running mean that a norm is given, if any."""
    given = node.args[3] if has_statistics(node) else None
    return given if isinstance(given, fx.Node) else None


def set_argument(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any], name: str, value: Any) -> Any:
    """The arguments of an ATen call with the one called ``name`` replaced."""
    target: Any = node.target
    position = [argument.name for argument in target._schema.arguments].index(name)
    if position < len(args):
        return (*args[:position], value, *args[position + 1 :]), kwargs
    return args, {**kwargs, name: value}


def run(
    program: Program,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    training: bool = False,
    tensors: Mapping[str, torch.Tensor] | None = None,
) -> Any:
    """What the program returns for ``args`` and ``kwargs`` in their captured structure.

    In evaluation dropout, attention dropout and stochastic depth are left out, batch norm uses its
    running statistics and of the buffers only the stateful ones are written. ``tensors`` stand in for the
    program's own.

    Raises:
        MlgraphError: the inputs have not as many leaves as the captured ones.
    """
    leaves = pytree.tree_leaves((args, dict(kwargs or {})))
    if len(leaves) != len(program.signature.inputs):
        raise MlgraphError(
            f"{program.name} takes {len(program.signature.inputs)} inputs, not {len(leaves)}; "
            f"pass them as captured: {program.signature.in_spec}"
        )
    return pytree.tree_unflatten(
        Interpretation(program, tensors, training).run(leaves), program.signature.out_spec
    )


def double(value: Any) -> Any:
    """A floating-point tensor in float64, a complex one in complex128; anything else as it is."""
    return value.to(DOUBLE.get(value.dtype, value.dtype)) if isinstance(value, torch.Tensor) else value


class Interpretation:
    """One program to be run on flat inputs, with its own or other tensors.

    ``widened`` runs all floating-point work in float64, whatever dtypes the graph names. ``kept``, where
    given, retains the value of every node.
    """

    def __init__(
        self,
        program: Program,
        tensors: Mapping[str, torch.Tensor] | None = None,
        training: bool = False,
        widened: bool = False,
        kept: dict[fx.Node, Any] | None = None,
    ) -> None:
        self.program = program
        self.tensors = program.tensors if tensors is None else tensors
        self.training = training
        self.widened = widened
        self.kept = kept

    def run(self, leaves: Iterable[Any]) -> list[Any]:
        """The flat results on flat input leaves, in placeholder order."""
        leaves = list(leaves)
        placed = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        device = placed[0].device if placed else next(iter(self.tensors.values())).device
        uses = {node: len(node.users) for node in self.program.graph.nodes}
        env: dict[fx.Node, Any] = {}
        inputs = iter(leaves)
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                env[node] = self._widen(next(inputs))
            elif node.op == "get_attr":
                env[node] = self._widen(self.tensors[str(node.target)])
            elif node.op == "call_function":
                env[node] = self.step(node, env, device)
            else:
                return list(fx.map_arg(node.args[0], env.__getitem__))
            if self.kept is not None:
                self.kept[node] = env[node]
            for source in node.all_input_nodes:
                uses[source] -= 1
                if not uses[source]:
                    del env[source]
        raise MlgraphError(f"{self.program.name} has no output")

    def step(self, node: fx.Node, env: Mapping[fx.Node, Any], device: torch.device) -> Any:
        """The value of a call, given those of all that it reads."""
        if not self.training and mutates(node) and self._rests(self._memory[node]):
            return env[node.args[0]]  # type: ignore[index]
        return self._call(node, env, device)

    @cached_property
    def _memory(self) -> Mapping[fx.Node, fx.Node]:
        return memory(self.program.graph)

    def _rests(self, written: fx.Node) -> bool:
        """Whether what is written to stays as it is in evaluation."""
        return written.op == "get_attr" and str(written.target) not in self.program.tensors.stateful

    def _widen(self, value: Any) -> Any:
        return double(value) if self.widened else value

    def _call(self, node: fx.Node, env: Mapping[fx.Node, Any], device: torch.device) -> Any:
        args, kwargs = fx.map_arg((node.args, node.kwargs), env.__getitem__)
        args, kwargs = pytree.tree_map(lambda a: self._constant(a, device), (tuple(args), dict(kwargs)))
        if not self.training:
            if has(node, Trait.DROPS):
                return args[0]
            mode = follows_mode(node)
            if mode is not None:
                args, kwargs = set_argument(node, args, kwargs, mode, False)
            if node.target is aten.scaled_dot_product_attention.default:
                args, kwargs = set_argument(node, args, kwargs, "dropout_p", 0.0)
            if self.widened and "grouped_mm" in op_name(node):
                return _grouped_product(*args)
        assert callable(node.target)
        # what is made from no tensor has torch's default dtype
        return pytree.tree_map(self._widen, node.target(*args, **kwargs))

    def _constant(self, argument: Any, device: torch.device) -> Any:
        if isinstance(argument, torch.device):
            return device
        if self.widened and isinstance(argument, torch.dtype):
            return DOUBLE.get(argument, argument)
        return argument


def _grouped_product(x: torch.Tensor, weights: torch.Tensor, ends: torch.Tensor, *_: Any) -> torch.Tensor:
    """Rows up to ``ends[e]`` times ``weights[e]``; torch's own has no float64."""
    parts: list[torch.Tensor] = []
    start = 0
    for end, weight in zip(ends.tolist(), weights, strict=True):
        parts.append(x[start:end] @ weight)
        start = end
    return torch.cat([*parts, x.new_zeros(len(x) - start, weights.shape[-1])])


def evaluate(
    program: Program,
    tensors: Mapping[str, torch.Tensor],
    inputs: Iterable[Any],
    kept: dict[fx.Node, Any] | None = None,
) -> list[Any]:
    """The flat results in float64 and evaluation mode, without gradients; random ops draw alike each time."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Interpretation(program, tensors, widened=True, kept=kept).run(inputs)
