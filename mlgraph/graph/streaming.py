"""Running a program on many batches at once, a stretch of the graph after another.

Weights of a stretch are read once for all batches and given back after it, so that a model larger than
memory runs; between stretches every batch keeps only what is still to be read.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from mlgraph.graph.interpret import Interpretation

if TYPE_CHECKING:
    from mlgraph.program import Program

See = Callable[[fx.Node, int, Any], None]
"""Is shown the value of a node on a batch, by its number."""

Settle = Callable[[fx.Node, Sequence[Any]], Sequence[Any]]
"""Is shown the values of a node on all batches, and gives those with which to go on."""


def stream(
    program: Program,
    batches: Sequence[Sequence[Any]],
    cuts: Collection[str],
    see: See | None = None,
    settle: Settle | None = None,
    tensors: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Run a program in evaluation, without gradients, on batches of flat input leaves.

    A stretch ends behind every node that ``cuts`` names; there ``settle`` is asked. ``tensors`` stand in for
    the program's own.
    """
    _Stream(program, batches, see, settle, tensors).run(frozenset(cuts))


class _Stream:
    def __init__(
        self,
        program: Program,
        batches: Sequence[Sequence[Any]],
        see: See | None,
        settle: Settle | None,
        tensors: Mapping[str, torch.Tensor] | None,
    ) -> None:
        self.program = program
        self.see, self.settle = see, settle
        self.runner = Interpretation(program, tensors)
        inputs = [node for node in program.graph.nodes if node.op == "placeholder"]
        self.envs = [dict(zip(inputs, leaves, strict=True)) for leaves in batches]
        self.device = device_of(batches)
        nodes = list(program.graph.nodes)
        place = {node: at for at, node in enumerate(nodes)}
        read = {node: [place[user] for user in node.users if user.op != "output"] for node in nodes}
        self.last = {node: max(places, default=-1) for node, places in read.items()}
        self.place = place

    def run(self, cuts: Collection[str]) -> None:
        stretch: list[fx.Node] = []
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self._show_inputs()
            for node in self.program.graph.nodes:
                if node.op == "call_function":
                    stretch.append(node)
                if node.name in cuts:
                    self._run(stretch, node)
                    stretch = []
            self._run(stretch, None)

    def _show_inputs(self) -> None:
        for number, env in enumerate(self.envs):
            for node, value in env.items():
                if self.see is not None:
                    self.see(node, number, value)

    def _run(self, stretch: Sequence[fx.Node], end: fx.Node | None) -> None:
        read = (source for node in stretch for source in node.all_input_nodes if source.op == "get_attr")
        held = {node: self.runner.tensors[str(node.target)] for node in dict.fromkeys(read)}
        for number, env in enumerate(self.envs):
            for node in stretch:
                env[node] = self.runner.step(node, ChainMap(env, held), self.device)
                if self.see is not None:
                    self.see(node, number, env[node])
                self._forget(node, env, end)
        if end is None or end.op != "call_function":
            return
        if self.settle is not None:
            settled = self.settle(end, [env[end] for env in self.envs])
            for env, value in zip(self.envs, settled, strict=True):
                env[end] = value
        for env in self.envs:
            self._forget(end, env, None)

    def _forget(self, node: fx.Node, env: dict[fx.Node, Any], kept: fx.Node | None) -> None:
        for source in {*node.all_input_nodes, node}:
            if source is not kept and self.last[source] <= self.place[node]:
                env.pop(source, None)


def device_of(batches: Sequence[Sequence[Any]]) -> torch.device:
    """Where the tensors of batches lie."""
    placed = (leaf.device for leaves in batches for leaf in leaves if isinstance(leaf, torch.Tensor))
    return next(placed, torch.device("cpu"))
