"""A program run with the blocks of its chains laid out anew: what surgery on its graph has to give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from mlgraph.graph.interpret import Interpretation, double
from mlgraph.rewrite.miniature import Misfit

if TYPE_CHECKING:
    from mlgraph.program import Program
    from mlgraph.program.block_table import Block, Chain

Held = list[torch.Tensor]
"""The tensors of one block, in the order of ``Block.tensors``."""

Values = Mapping[Any, Any]
"""Values by the name of a node outside blocks; of one in a block by the chain's name, the new block's index
and the node's place in ``Block.aligned``."""


def laid_out(program: Program, held: Mapping[str, Sequence[Held]], inputs: Sequence[Any]) -> Values:
    """What nodes give in evaluation, in float64, where a chain is so many blocks on these tensors.

    Every block runs the nodes of the chain's last one, on what the one before it gave. What reads the inner
    values of blocks has no value.

    Raises:
        Misfit: a block itself reads such.
    """
    return _Layout(program, held).run(inputs)


class _Layout:
    def __init__(self, program: Program, held: Mapping[str, Sequence[Held]]) -> None:
        self.program, self.held = program, held
        self.nodes: dict[str, fx.Node] = {node.name: node for node in program.graph.nodes}
        changing = [chain for chain in program.blocks if chain.name in held]
        self.ends = {self.nodes[chain.blocks[-1].exit]: chain for chain in changing}
        self.inside = {self.nodes[name] for chain in changing for b in chain for name in b.nodes}
        tensors = {name: tensor.clone() for name, tensor in program.tensors.items()}
        self.runner = Interpretation(program, tensors, widened=True)
        self.values: dict[Any, Any] = {}

    def run(self, inputs: Sequence[Any]) -> Values:
        given = iter([leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in inputs])
        env: dict[fx.Node, Any] = {}
        with torch.no_grad():
            for node in self.program.graph.nodes:
                if node.op == "placeholder":
                    env[node] = double(next(given))
                elif node in self.ends:
                    env[node] = self._chain(self.ends[node], env)
                elif node.op != "output" and node not in self.inside and self._runs(node, env):
                    env[node] = self._value(node, env)
        return {**{node.name: value for node, value in env.items()}, **self.values}

    @staticmethod
    def _runs(node: fx.Node, env: Mapping[fx.Node, Any]) -> bool:
        return all(source in env for source in node.all_input_nodes)

    def _value(self, node: fx.Node, env: Mapping[fx.Node, Any]) -> Any:
        if node.op == "get_attr":
            return double(self.runner.tensors[str(node.target)])
        return self.runner.step(node, env, torch.device("cpu"))

    def _chain(self, chain: Chain, env: Mapping[fx.Node, Any]) -> Any:
        value = env[self.nodes[chain.blocks[0].entry]]
        for number, tensors in enumerate(self.held[chain.name]):
            value = self._block(chain, chain.blocks[-1], number, tensors, {**env}, value)
        return value

    def _block(
        self, chain: Chain, form: Block, number: int, held: Held, env: dict[fx.Node, Any], value: Any
    ) -> Any:
        own = dict(zip(form.tensors, held, strict=True))
        env[self.nodes[form.entry]] = value
        place = {name: at for at, name in enumerate(form.aligned)}
        for name in form.nodes:
            node = self.nodes[name]
            if node.op == "get_attr" and str(node.target) in own:
                env[node] = double(own[str(node.target)])
            elif self._runs(node, env):
                env[node] = self._value(node, env)
            if name in place and node in env:
                self.values[chain.name, number, place[name]] = env[node]
        leaving = self.nodes[form.exit]
        if leaving not in env:
            raise Misfit(leaving, "what it reads has no value where blocks are laid out anew")
        return env[leaving]
