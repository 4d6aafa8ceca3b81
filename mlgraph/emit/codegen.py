"""Python source for the nodes of one body."""

from __future__ import annotations

import builtins
import keyword
import math
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from mlgraph.emit.outline import Body
from mlgraph.emit.spelling import BITWISE, METHODS, OPERATORS, SCALAR_FUNCTIONS, function_of, stem_of
from mlgraph.errors import MlgraphError
from mlgraph.graph import ops
from mlgraph.graph.effects import memory, mutates
from mlgraph.graph.interpret import follows_mode

if TYPE_CHECKING:
    from mlgraph.emit.casts import Casts
    from mlgraph.emit.places import Places

aten = torch.ops.aten

_INT64_MAX = 2**63 - 1
_RESERVED = {"self", "torch", "F", "math", "device", "other", *keyword.kwlist, *dir(builtins)}
# What autocast would change inside a region that turned it off.
_AUTOCAST_OPS = {
    "linear",
    "matmul",
    "mm",
    "bmm",
    "addmm",
    "baddbmm",
    "einsum",
    "conv1d",
    "conv2d",
    "conv3d",
    "scaled_dot_product_attention",
}


class BodyWriter:
    """Writes the ``forward`` of one body; :attr:`lines` are its statements and :attr:`names` its locals."""

    def __init__(self, body: Body, casts: Casts, places: Places, graph: fx.Graph) -> None:
        self.body = body
        self.casts = casts
        self.places = places
        self.lines: list[str] = []
        self.names: dict[fx.Node, str] = {}
        self.root = memory(graph)
        self._taken: set[str] = set(_RESERVED)
        self._device: str | None = None

    def reserve(self, name: str) -> str:
        """A local name not used yet, as close to ``name`` as can be."""
        name = "".join(c if c.isalnum() or c == "_" else "_" for c in name) or "value"
        base = f"_{name}" if name[0].isdigit() else name
        fresh, count = base, 0
        while fresh in self._taken:
            count += 1
            fresh = f"{base}_{count}"
        self._taken.add(fresh)
        return fresh

    def bind_inputs(self) -> list[str]:
        """Names for the body's inputs, in order."""
        # Named alike in every block, so that equal blocks have equal sources.
        main = next((node for node in self.body.inputs if self.body.path and _is_activation(node)), None)
        for node in self.body.inputs:
            if node is main:
                label = "x"
            elif node.op == "placeholder":
                label = node.name
            else:
                label = str(node.target).rpartition(".")[2] if node.op == "get_attr" else stem_of(node)
            self.names[node] = self.reserve(label)
        return [self.names[node] for node in self.body.inputs]

    def write(self) -> None:
        """Write all statements but the return."""
        last = self._last_uses()
        autocast = False
        for position, step in enumerate(self.body.steps):
            off = isinstance(step, fx.Node) and _without_autocast(step)
            indent = "    " if off else ""
            if off and not autocast:
                self.lines.append(f"with torch.autocast({self.device()}.type, enabled=False):")
            autocast = off
            text = self._call(step) if isinstance(step, Body) else self._node(step)
            self.lines.extend(indent + line for line in text)
            dead = [self.names[node] for node in last.get(position, ()) if node in self.names]
            if dead:
                self.lines.append(f"{indent}del {', '.join(dead)}")
        device = self._device
        if device is not None:
            self.lines.insert(0, f"device = {device}.device")

    def _last_uses(self) -> dict[int, list[fx.Node]]:
        """What can be let go after each step, so that no activation outlives its last use."""
        made = {}
        for position, step in enumerate(self.body.steps):
            for node in step.outputs if isinstance(step, Body) else (step,):
                # what a write returns is the buffer
                if not (mutates(node) and self.root[node].op == "get_attr"):
                    made[node] = position
            for source in map(self._named_by, self._reads(step)):
                if source in made:
                    made[source] = position
        kept = set(self.body.outputs)
        dead: dict[int, list[fx.Node]] = {}
        for node, position in made.items():
            if node not in kept and isinstance(_val(node), torch.Tensor | list | tuple):
                dead.setdefault(position, []).append(node)
        return dead

    def _named_by(self, node: fx.Node) -> fx.Node:
        """The node whose local a node's value has: a write that may rest returns what it writes to."""
        while mutates(node) and self.root[node].op == "get_attr" and not self._is_stateful(node):
            node = node.all_input_nodes[0]
        return node

    def _is_stateful(self, node: fx.Node) -> bool:
        return str(self.root[node].target) in self.places.tensors.stateful

    def _reads(self, step: fx.Node | Body) -> list[fx.Node]:
        if isinstance(step, Body):
            return list(step.inputs)
        origin = self.casts.restored.get(step)
        return [*step.all_input_nodes, *([origin] if origin is not None else [])]

    def _call(self, body: Body) -> list[str]:
        arguments = ", ".join(self.value(node) for node in body.inputs)
        results = [self._name(node) for node in body.outputs]
        target = ", ".join(results)
        return [f"{target} = {self.access(body.path)}({arguments})"]

    def _name(self, node: fx.Node) -> str:
        if node not in self.names:
            self.names[node] = self.reserve(stem_of(node))
        return self.names[node]

    def _node(self, node: fx.Node) -> list[str]:
        if mutates(node) and self.root[node].op == "get_attr":
            return self._write_to_buffer(node)
        text = self.expression(node)
        if not node.users:
            return [text]
        return [f"{self._name(node)} = {text}"]

    def _write_to_buffer(self, node: fx.Node) -> list[str]:
        buffer = self.root[node]
        if self._is_stateful(node):
            text = self.expression(node)
            return [f"{self._name(node)} = {text}" if node.users else text]
        # Statistics move while training only.
        holder = str(buffer.target).rpartition(".")[0]
        lines = [f"if {self.access(holder)}.training:", f"    {self.expression(node)}"]
        if node.users:
            self.names[node] = self.value(node.args[0])
        return lines

    def access(self, path: str) -> str:
        """An expression for a module or tensor by its qualified name."""
        prefix = self.body.path
        if prefix and path == prefix:
            return "self"
        relative = path[len(prefix) + 1 :] if prefix else path
        text = "self"
        at = prefix
        for part in relative.split(".") if relative else ():
            if part.isdigit() and self.places.is_list(at):
                text += f"[{part}]"
            elif part.isidentifier() and not keyword.iskeyword(part):
                text += f".{part}"
            else:
                text = f"getattr({text}, {part!r})"
            at = f"{at}.{part}" if at else part
        return text

    def value(self, argument: Any) -> str:
        """An argument as source text."""
        if isinstance(argument, fx.Node):
            if argument.op == "get_attr" and argument not in self.names:
                return self.access(str(argument.target))
            return self.names[argument]
        if isinstance(argument, list | tuple):
            items = ", ".join(self.value(item) for item in argument)
            return f"[{items}]" if isinstance(argument, list) else f"({items},)"
        if isinstance(argument, slice):
            return f"slice({argument.start!r}, {argument.stop!r}, {argument.step!r})"
        if isinstance(argument, torch.device):
            return self.device()
        if isinstance(argument, float) and not math.isfinite(argument):
            return f'float("{argument}")'
        if isinstance(argument, bool | int | float | complex | str | None):
            return repr(argument)
        if isinstance(argument, torch.dtype | torch.layout | torch.memory_format):
            return str(argument)
        raise MlgraphError(f"an argument of type {type(argument).__name__} cannot be written as source")

    def device(self) -> str:
        """The device that the module runs on when it is called."""
        if self._device is None:
            self._device = self._reference(lambda _: True)
        return "device"

    def _reference(self, test: Any) -> str:
        for node in self.body.inputs:
            value = _val(node)
            if isinstance(value, torch.Tensor) and test(value):
                return self.names[node]
        for step in self.body.steps:
            for node in step.all_input_nodes if isinstance(step, fx.Node) else ():
                if node.op == "get_attr" and node not in self.names and test(_val(node)):
                    return self.access(str(node.target))
        name = self.places.any_parameter()
        if name is None or self.body.path:
            raise MlgraphError("the model has neither a tensor input nor a parameter to take its device from")
        return self.access(name)

    def _model_dtype(self) -> str:
        dtype = self.casts.dtype
        for step in self.body.steps:
            for node in step.all_input_nodes if isinstance(step, fx.Node) else ():
                if node.op == "get_attr" and node not in self.names and _val(node).dtype is dtype:
                    return f"{self.access(str(node.target))}.dtype"
        name = None if self.body.path else self.places.any_parameter()
        if name is not None:
            return f"{self.access(name)}.dtype"
        return f"{self._reference(lambda value: value.dtype is dtype)}.dtype"

    def expression(self, node: fx.Node) -> str:
        """The call of one node."""
        target: Any = node.target
        if target is operator.getitem:
            return f"{self.value(node.args[0])}[{self.value(node.args[1])}]"
        if target in OPERATORS:
            return f"({self.value(node.args[0])} {OPERATORS[target]} {self.value(node.args[1])})"
        if target in BITWISE:
            return f"{self.value(node.args[0])} {BITWISE[target]} {self.value(node.args[1])}"
        if target is ops.drop_path:
            return f"{self.access(self.places.of(node))}({self.value(node.args[0])})"
        if target is aten.dropout.default:
            place = self.places.find(node)
            return f"{self.access(place)}({self.value(node.args[0])})" if place else self.value(node.args[0])
        if node in self.casts.restored:
            origin = self.casts.restored[node]
            dtype = f"{self.value(origin)}.dtype" if origin is not None else self._model_dtype()
            return f"{self.value(node.args[0])}.to({dtype})"
        return self._aten(node)

    def _aten(self, node: fx.Node) -> str:
        target: Any = node.target
        if not isinstance(target, torch._ops.OpOverload):
            module = getattr(target, "__module__", "")
            if module in ("math", "torch", "builtins", "_operator"):
                return self._format(f"{SCALAR_FUNCTIONS[target]}", node.args, node.kwargs)
            raise MlgraphError(f"node {node.name} calls {target}, which has no source form")
        args: list[Any] = list(node.args)
        kwargs: dict[str, Any] = dict(node.kwargs)
        if target is aten.scaled_dot_product_attention.default and self.places.find(node):
            args = [argument for position, argument in enumerate(args) if position != 4]
            kwargs.pop("dropout_p", None)
            return self._format(self.access(self.places.of(node)), args, kwargs)
        if target is aten.slice.Tensor:
            text = self._slice(node)
            if text is not None:
                return text
        raw: dict[str, str] = {}
        mode = follows_mode(node)
        if mode is not None:
            raw[mode] = f"{self.access(self.places.of(node))}.training"
        if node in self.casts.fills:
            raw["dtype"] = self._model_dtype()
        for name, text in raw.items():
            position = [argument.name for argument in target._schema.arguments].index(name)
            if position < len(args):
                args[position] = _Raw(text)
            else:
                kwargs[name] = _Raw(text)
        if target is aten.to.dtype and len(args) > 4:
            kwargs["memory_format"] = args.pop()
        if target in METHODS and not raw:
            return self._format(f"{self.value(args[0])}.{METHODS[target]}", args[1:], kwargs)
        return self._format(function_of(target), args, kwargs)

    def _format(self, function: str, args: Any, kwargs: Mapping[str, Any]) -> str:
        parts = [self._argument(argument) for argument in args]
        parts += [f"{name}={self._argument(value)}" for name, value in kwargs.items()]
        return f"{function}({', '.join(parts)})"

    def _argument(self, argument: Any) -> str:
        return argument.text if isinstance(argument, _Raw) else self.value(argument)

    def _slice(self, node: fx.Node) -> str | None:
        given: list[Any] = [*node.args, *(0, None, None, 1)[len(node.args) - 1 :]]
        source, dim, start, end, step = given
        value = _val(source)
        if node.kwargs or not isinstance(dim, int) or not isinstance(value, torch.Tensor):
            return None
        before = ":, " * (dim % value.dim())
        first = "" if start in (None, 0) else self.value(start)
        last = "" if end is None or end == _INT64_MAX else self.value(end)
        by = "" if step == 1 else f":{self.value(step)}"
        return f"{self.value(source)}[{before}{first}:{last}{by}]"


class _Raw:
    def __init__(self, text: str) -> None:
        self.text = text


def _without_autocast(node: fx.Node) -> bool:
    region = node.meta.get("autocast")
    if not region or region[2]:
        return False
    target: Any = node.target
    return isinstance(target, torch._ops.OpOverload) and target._schema.name[6:] in _AUTOCAST_OPS


def _is_activation(node: fx.Node) -> bool:
    value = _val(node)
    return node.op == "call_function" and isinstance(value, torch.Tensor) and value.is_floating_point()


def _val(node: Any) -> Any:
    return node.meta.get("val") if isinstance(node, fx.Node) else node
