"""From an exported program to a plain graph: tensors by name, one flat list of calls, one device."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from mlgraph.capture.autocast import Region, casts, on_fakes
from mlgraph.capture.place import uses_an_object
from mlgraph.errors import CaptureError
from mlgraph.graph.effects import mutates
from mlgraph.graph.ops import traits_of
from mlgraph.graph.propagate import DEVICE
from mlgraph.graph.traits import Trait

if TYPE_CHECKING:
    from torch.export import ExportedProgram

aten = torch.ops.aten

_TORCH = os.path.dirname(torch.__file__) + os.sep
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in [^\n]*\n(?:    (?P<text>[^\n]*))?')
# torch.export calls no-gradient and autocast regions through these.
_NO_GRAD = "wrap_with_set_grad_enabled"
_AUTOCAST = "wrap_with_autocast"
_FUNCTORCH = ("torch._functorch", "torch._C._functorch")


def import_graph(
    exported: ExportedProgram, canonical: Mapping[str, str], constant_names: Callable[[str, str], str]
) -> tuple[fx.Graph, dict[str, torch.Tensor]]:
    """The graph of an exported program in the program's form, and the constants it lifted.

    Parameters and buffers become get_attr nodes named by ``canonical`` (any name of a tied tensor to its
    first); a lifted constant gets the name ``constant_names(module, name)``, where ``module`` is the
    module that first uses it. Regions without gradients are inlined and their results detached;
    autocast regions are inlined with their casts written out, and the nodes in them keep
    ``meta["autocast"]``, which says that autocast is off there. Assertions are dropped and
    every device is replaced by the program's one device. ``meta["symbolic"]`` is the value of a node with
    torch.export's symbolic sizes.
    """
    return _Importer(exported, canonical, constant_names).run()


def source_of(stack_trace: str | None) -> str | None:
    """``file:line: text`` of the innermost frame of a stack trace that is not torch's own."""
    frames = [m for m in _FRAME.finditer(stack_trace or "") if not m["file"].startswith(_TORCH)]
    if not frames:
        return None
    last = frames[-1]
    return f"{last['file']}:{last['line']}: {(last['text'] or '').strip()}"


def _module_of(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path = str(next(reversed(stack.values()))[0])
    return re.sub(r"@\d+", "", path)


class _Importer:
    def __init__(
        self,
        exported: ExportedProgram,
        canonical: Mapping[str, str],
        constant_names: Callable[[str, str], str],
    ) -> None:
        self.exported = exported
        self.canonical = canonical
        self.constant_names = constant_names
        self.graph = fx.Graph()
        self.constants: dict[str, torch.Tensor] = {}
        self.attributes: dict[str, fx.Node] = {}
        self.meta: dict[str, Any] = {}
        values = [node.meta.get("val") for node in exported.graph.nodes]
        self.region: Region | None = None
        self.fake_mode = next((v.fake_mode for v in values if isinstance(v, FakeTensor)), None)

    def run(self) -> tuple[fx.Graph, dict[str, torch.Tensor]]:
        signature = self.exported.graph_signature
        env: dict[fx.Node, Any] = {}
        for node, spec in zip(_placeholders(self.exported.graph), signature.input_specs, strict=True):
            if spec.kind is InputKind.USER_INPUT:
                env[node] = self.graph.placeholder(node.name)
                env[node].meta = {"module": "", "source": None, "symbolic": node.meta.get("val")}
            elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
                env[node] = self._attribute(self.canonical[str(spec.target)], node.meta.get("val"))
            elif spec.kind is InputKind.CONSTANT_TENSOR:
                env[node] = self._constant(node, str(spec.target))
            else:
                user = next(iter(node.users), node)
                where = source_of(user.meta.get("stack_trace")) or "forward"
                kind = type(self.exported.constants.get(str(spec.target))).__name__
                raise CaptureError(uses_an_object(where, kind))
        results = self._body(self.exported.graph_module, env)
        outputs = []
        for spec, value in zip(signature.output_specs, results, strict=True):
            if spec.kind in (OutputKind.USER_OUTPUT, OutputKind.LOSS_OUTPUT):
                outputs.append(value)
            elif spec.kind is OutputKind.BUFFER_MUTATION:
                target = self._attribute(self.canonical[str(spec.target)], None)
                self.graph.call_function(aten.copy_.default, (target, value)).meta = {
                    "module": str(spec.target).rpartition(".")[0],
                    "source": None,
                }
            else:
                raise CaptureError(f"the model changes its input {spec.target}; clone it in forward first")
        self.graph.output(tuple(outputs)).meta = {"module": "", "source": None}
        _settle_assignments(self.graph)
        # Attributes were made on first sight; unused ones (dead aliases) go.
        for node in list(self.graph.nodes):
            if node.op == "get_attr" and not node.users:
                self.graph.erase_node(node)
        return self.graph, self.constants

    def _attribute(self, name: str, symbolic: Any) -> fx.Node:
        if name not in self.attributes:
            node = self.graph.create_node("get_attr", name, name=name.replace(".", "_"))
            node.meta = {"module": name.rpartition(".")[0], "source": None, "symbolic": symbolic}
            self.attributes[name] = node
        return self.attributes[name]

    def _constant(self, node: fx.Node, target: str) -> fx.Node | None:
        if not node.users:
            return None
        module = _module_of(next(iter(node.users)))
        name = self.constant_names(module, target.rpartition(".")[2])
        self.constants[name] = self.exported.constants[target]
        return self._attribute(name, node.meta.get("val"))

    def _body(self, owner: torch.nn.Module, env: dict[fx.Node, Any]) -> tuple[Any, ...]:
        """Copy one graph's nodes; the values of its results."""
        graph = owner.graph
        assert isinstance(graph, fx.Graph)
        for node in graph.nodes:
            if node.op == "call_function":
                env[node] = self._call(node, env)
            elif node.op == "get_attr":
                env[node] = _resolve(owner, str(node.target))
            elif node.op == "call_module":
                # the guards module torch.export adds; it returns nothing
                env[node] = None
            elif node.op == "output":
                result = fx.map_arg(node.args[0], lambda n: env[n])
                return tuple(result) if isinstance(result, tuple | list) else (result,)
        return ()

    def _call(self, node: fx.Node, env: dict[fx.Node, Any]) -> Any:
        target: Any = node.target
        name = getattr(target, "__name__", str(target))
        if traits_of(target) & Trait.CHECKS:
            return None
        mapped: tuple[Any, Any] = fx.map_arg((node.args, node.kwargs), lambda n: env[n])
        args, kwargs = mapped
        if isinstance(target, torch._ops.HigherOrderOperator):
            return self._region(node, str(target), args)
        if name == "getitem" and isinstance(args[0], tuple | list):
            return args[0][args[1]]
        if getattr(target, "__module__", "").startswith(_FUNCTORCH):
            source = source_of(node.meta.get("stack_trace")) or "the model"
            raise CaptureError(
                f"{source} uses torch.func (vmap, grad or the like), which a graph cannot hold; write it "
                "with plain tensor ops on the whole batch"
            )
        if _no_nodes(args) and not isinstance(target, torch._ops.OpOverload):
            return target(*args, **kwargs)
        target, args, kwargs = one_device(target, args, kwargs)
        if target is None:
            return args[0]
        if self.region is not None:
            args, kwargs = self._cast(node, target, args, kwargs)
        new = self.graph.create_node("call_function", target, args, kwargs, name=node.name)
        new.meta = {
            "module": _module_of(node),
            "source": source_of(node.meta.get("stack_trace")),
            "symbolic": self._symbolic(node, target, args, kwargs),
            **self.meta,
        }
        return new

    def _cast(self, node: fx.Node, target: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The arguments with the casts that autocast makes in the present region."""
        assert self.region is not None
        assert self.fake_mode is not None
        fakes = fx.map_arg((args, kwargs), lambda n: n.meta["symbolic"])
        dtypes, result = casts(target, *fakes, self.fake_mode, self.region)
        tensors: list[fx.Node] = []
        fx.map_arg((args, kwargs), lambda n: tensors.append(n) if _is_tensor(n) else None)
        wanted = dict(zip(tensors, dtypes, strict=False))

        def cast(argument: fx.Node) -> fx.Node:
            dtype = wanted.get(argument)
            if dtype is None:
                return argument
            new = self.graph.call_function(aten.to.dtype, (argument, dtype))
            new.meta = {"module": _module_of(node), "source": source_of(node.meta.get("stack_trace"))}
            with on_fakes(self.fake_mode):
                new.meta |= {"symbolic": argument.meta["symbolic"].to(dtype), **self.meta}
            # autocast casts a weight once, and anything else for every op anew, gradients too
            new.meta["apart"] = argument.op != "get_attr"
            return new

        mapped: tuple[Any, Any] = fx.map_arg((args, kwargs), cast)
        fakes = fx.map_arg(mapped, lambda n: n.meta["symbolic"])
        with on_fakes(self.fake_mode):
            plain = target(*fakes[0], **fakes[1])
        given, made = (
            [t.dtype for t in pytree.tree_leaves(r) if isinstance(t, torch.Tensor)] for r in (result, plain)
        )
        if given != made:
            source = source_of(node.meta.get("stack_trace")) or "the model"
            raise CaptureError(
                f"{source} runs {target} under autocast, whose casts a graph cannot hold; turn autocast off "
                "there"
            )
        return mapped

    def _symbolic(self, node: fx.Node, target: Any, args: Any, kwargs: Any) -> Any:
        if "val" in node.meta or self.fake_mode is None:
            return node.meta.get("val")
        # torch.export leaves the values inside regions out
        args, kwargs = fx.map_arg((args, kwargs), lambda n: n.meta["symbolic"])
        with on_fakes(self.fake_mode):
            return target(*args, **kwargs)

    def _region(self, node: fx.Node, name: str, args: tuple[Any, ...]) -> Any:
        if name == _NO_GRAD:
            enabled, body, operands = args[0], args[1], args[2:]
            if enabled:
                return self._inline(body, operands, {})
            # what is written to here takes no gradient here, and is afterwards what it was before
            given = {self._detached(node, o): o for o in operands} if _writes(body) else {}
            results = self._inline(body, tuple(given) or operands, {})
            return tuple(given.get(_written(v)) or self._detached(node, v) for v in results)
        if name == _AUTOCAST:
            device_type, dtype, enabled, _cache, body = args[:5]
            region = (str(device_type), dtype or torch.get_autocast_dtype(str(device_type)), bool(enabled))
            outer, self.region = self.region, region if enabled else None
            try:
                # with its casts written out, a region is one without autocast
                return self._inline(body, args[5:], {"autocast": (*region[:2], False)})
            finally:
                self.region = outer
        source = source_of(node.meta.get("stack_trace")) or "the model"
        raise CaptureError(
            f"{source} uses {name}, whose branches a flat graph cannot hold; write it with plain tensor ops"
        )

    def _inline(
        self, body: torch.nn.Module, operands: tuple[Any, ...], meta: dict[str, Any]
    ) -> tuple[Any, ...]:
        graph = body.graph
        assert isinstance(graph, fx.Graph)
        env: dict[fx.Node, Any] = dict(zip(_placeholders(graph), operands, strict=True))
        outer = self.meta
        self.meta = {**outer, **meta}
        try:
            return self._body(body, env)
        finally:
            self.meta = outer

    def _detached(self, node: fx.Node, value: Any) -> Any:
        if not isinstance(value, fx.Node):
            return value
        new = self.graph.call_function(aten.detach.default, (value,))
        new.meta = {**value.meta, "module": _module_of(node)}
        return new


def one_device(target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """A call on the program's one device; the target is ``None`` where only a move was asked for."""
    given: Any
    kwargs = {k: v for k, v in kwargs.items() if k not in ("pin_memory", "layout", "non_blocking")}
    names = [argument.name for argument in target._schema.arguments] if hasattr(target, "_schema") else []
    if Trait.CASTS in traits_of(target) and "other" in names:
        return aten.to.dtype, (args[0], args[1].meta["symbolic"].dtype), {}
    if getattr(target, "overloadpacket", None) is aten.to:
        given = dict(zip(names, args, strict=False)) | kwargs
        dtype = given.get("dtype")
        if dtype is None:
            return None, args, kwargs
        return aten.to.dtype, (args[0], dtype), {}
    if kwargs.get("device") is not None:
        kwargs["device"] = DEVICE
    args = tuple(DEVICE if isinstance(a, torch.device) else a for a in args)
    return target, args, kwargs


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("symbolic"), torch.Tensor)


def _written(value: Any) -> Any:
    """What a chain of writes is to, behind the last one's result."""
    while isinstance(value, fx.Node) and mutates(value):
        value = value.args[0]
    return value


def _writes(body: torch.nn.Module) -> bool:
    graph = body.graph
    assert isinstance(graph, fx.Graph)
    return any(mutates(node) for node in graph.nodes)


def _settle_assignments(graph: fx.Graph) -> None:
    """Leave what a buffer was to those that read it before the assignment, which torch.export puts last."""
    for node in reversed([node for node in graph.nodes if node.op == "call_function"]):
        buffer, value = node.args[:2] if node.target is aten.copy_.default else (None, None)
        if not isinstance(buffer, fx.Node) or buffer.op != "get_attr" or not isinstance(value, fx.Node):
            return
        value = _written(value)
        if value is buffer:
            # ``self.count += 1`` has written already
            node.replace_all_uses_with(buffer)
            graph.erase_node(node)
            continue
        readers = [user for user in buffer.users if user is not node]
        if readers and not any(map(mutates, readers)):
            # the gradient may need the old value
            with graph.inserting_after(buffer):
                before = graph.call_function(aten.clone.default, (buffer,))
            before.meta = {**node.meta, "symbolic": buffer.meta.get("symbolic")}
            for user in readers:
                user.replace_input_with(buffer, before)


def _placeholders(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "placeholder"]


def _resolve(owner: torch.nn.Module, target: str) -> Any:
    value: Any = owner
    for part in target.split("."):
        value = getattr(value, part)
    return value


def _no_nodes(args: Any) -> bool:
    found: list[fx.Node] = []
    fx.map_arg(args, found.append)
    return not found
