"""Where modules without parameters stand in an emitted model: dropout, drop path, attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import fx, nn

from mlgraph.emit.outline import Body
from mlgraph.emit.runtime import Attention, DropPath, Holder
from mlgraph.graph import ops
from mlgraph.graph.interpret import follows_mode, statistics

if TYPE_CHECKING:
    from mlgraph.program import Program

aten = torch.ops.aten

_DROPOUT_P = 4


def attention_dropout(node: fx.Node) -> float:
    """The dropout rate of a scaled dot-product attention node."""
    given = node.args[_DROPOUT_P] if len(node.args) > _DROPOUT_P else node.kwargs.get("dropout_p", 0.0)
    return float(given)  # type: ignore[arg-type]


class Places:
    """Paths of the modules that follow the training mode, and the tree of all modules."""

    def __init__(self, program: Program, root: Body) -> None:
        self.tensors = program.tensors
        names = [*program.tensors, *program.tensors.aliases]
        # in the order of the tensors, so that parameters keep their order
        self.parents: dict[str, None] = {}
        for name in names:
            self._claim(name.rpartition(".")[0])
        self.modules: dict[str, nn.Module] = {}
        self._place: dict[fx.Node, str] = {}
        self._bodies = {body.path for body in bodies(root)}
        for body in bodies(root):
            self._claim(body.path)
        for body in bodies(root):
            for step in body.steps:
                if isinstance(step, fx.Node):
                    self._settle(step, body.path)
        self._lists = self._find_lists()

    def of(self, node: fx.Node) -> str:
        """The path of the module that a node calls or whose mode it follows."""
        return self._place[node]

    def find(self, node: fx.Node) -> str | None:
        """Like :meth:`of`, and ``None`` for a node that calls no module."""
        return self._place.get(node)

    def is_list(self, path: str) -> bool:
        """Whether the module at a path is a list of modules numbered from 0."""
        return path in self._lists

    def any_parameter(self) -> str | None:
        """The name of a floating-point parameter."""
        floats = (name for name in self.tensors if name in self.tensors.parameters)
        return next((name for name in floats if self.tensors[name].is_floating_point()), None)

    def _claim(self, path: str) -> None:
        parent = path.rpartition(".")[0]
        if path and path not in self.parents:
            self._claim(parent)
            self.parents[path] = None

    def _settle(self, node: fx.Node, body: str) -> None:
        module: nn.Module
        if node.target is ops.drop_path:
            p, dims = node.args[1], node.args[2]
            module, label = DropPath(float(p), tuple(dims)), "drop_path"  # type: ignore[arg-type]
        elif node.target is aten.dropout.default:
            if node.args[1] == 0.0 or node.args[2] is False:
                return
            module, label = nn.Dropout(float(node.args[1])), "dropout"  # type: ignore[arg-type]
        elif node.target is aten.scaled_dot_product_attention.default:
            if attention_dropout(node) == 0.0:
                return
            module, label = Attention(attention_dropout(node)), "attention"
        elif follows_mode(node) is not None:
            self._place[node] = self._holder(node, body)
            return
        else:
            return
        path = self._free(self._inside(node, body), label)
        self.modules[path] = module
        self._place[node] = path
        self._claim(path)

    def _inside(self, node: fx.Node, body: str) -> str:
        """The module that ran a node, or the body's where that lies elsewhere."""
        path = str(node.meta.get("module", ""))
        return path if not body or path == body or path.startswith(f"{body}.") else body

    def _free(self, path: str, label: str) -> str:
        # The original's own dropout module keeps its name.
        if path and path not in self.parents and not self._is_tensor(path):
            return path
        base = f"{path}.{label}" if path else label
        fresh, count = base, 0
        while fresh in self.parents or self._is_tensor(fresh):
            count += 1
            fresh = f"{base}_{count}"
        return fresh

    def _is_tensor(self, path: str) -> bool:
        return path in self.tensors

    def _holder(self, node: fx.Node, body: str) -> str:
        """The module whose mode an op follows: that of its statistics, else the one that ran it."""
        mean = statistics(node)
        if mean is not None and mean.op == "get_attr":
            owner = str(mean.target).rpartition(".")[0]
            if not body or owner.startswith(f"{body}."):
                return owner
        path = self._inside(node, body)
        self._claim(path)
        return path

    def _find_lists(self) -> set[str]:
        children: dict[str, set[str]] = {}
        for path in self.parents:
            parent, _, name = path.rpartition(".")
            children.setdefault(parent, set()).add(name)
        # a list of modules holds no tensors; those of a list of parameters are attributes
        holders = {name.rpartition(".")[0] for name in [*self.tensors, *self.tensors.aliases]}
        return {
            path
            for path, names in children.items()
            if path
            and names == {str(index) for index in range(len(names))}
            and path not in self.modules
            and path not in self._bodies
            and path not in holders
        }


def bodies(root: Body) -> list[Body]:
    """The root body and all bodies in it."""
    return [root, *(step for step in root.steps if isinstance(step, Body))]


def module_tree(places: Places, outlined: Mapping[str, nn.Module]) -> None:
    """Create every module of the tree under the root that ``outlined`` holds at the empty path."""
    root = outlined[""]
    for path in sorted(places.parents, key=lambda p: p.count(".")):
        parent_path, _, name = path.rpartition(".")
        parent = root.get_submodule(parent_path) if parent_path else root
        module = outlined.get(path) or places.modules.get(path)
        if module is None:
            module = nn.ModuleList() if places.is_list(path) else Holder()
        parent._modules[name] = module
    for path in places.parents:
        if places.is_list(path):
            holder = root.get_submodule(path)
            names = sorted(holder._modules, key=int)
            ordered = {name: holder._modules[name] for name in names}
            holder._modules.clear()
            holder._modules.update(ordered)
