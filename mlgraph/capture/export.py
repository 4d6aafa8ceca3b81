"""torch.export with what it takes to get a model through: modes, dynamic sizes, clear failures."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import linecache
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

import sympy
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from mlgraph.capture.place import outside, uses_an_object
from mlgraph.capture.size_guards import Questions
from mlgraph.capture.state import State
from mlgraph.capture.tracing import SizeTooComplex, Tracing
from mlgraph.errors import CaptureError, first_line
from mlgraph.graph.sizes import size_of
from mlgraph.program import Note
from mlgraph.program.tensors import is_fake

if TYPE_CHECKING:
    from mlgraph.capture.gradients import Gradients

# How torch.export says that a result is of a class that it does not know: now, and in torch 2.11.
_UNKNOWN_RESULT = ("not a known type", "unhashable type")


@dataclass(frozen=True)
class Call:
    """Example arguments; ``parameters`` are all that the original takes, in order, given or not.

    Of the arguments by name, the caller gave ``by_position`` by position.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    parameters: tuple[str, ...] = ()
    by_position: tuple[str, ...] = ()

    def map(self, change: Callable[[Any], Any]) -> Call:
        """The same call with every leaf changed."""
        args, kwargs = pytree.tree_map(change, (self.args, self.kwargs))
        return dataclasses.replace(self, args=args, kwargs=kwargs)

    def leaves(self) -> list[Any]:
        """The flat arguments."""
        return pytree.tree_leaves((self.args, self.kwargs))


class SizesError(CaptureError):
    """The sizes that are to be dynamic do not fit the model."""


@dataclass(frozen=True)
class Exported:
    """What torch.export made, of which call, and what is to be told about it.

    ``sizes_given`` says that the user told which sizes are dynamic, and may have given bounds; ``gradients``
    where the model makes gradients of its own.
    """

    program: ExportedProgram
    call: Call
    notes: tuple[Note, ...]
    questions: Questions
    sizes_given: bool
    gradients: Gradients

    @property
    def environment(self) -> Any:
        """torch.export's environment of symbolic sizes; ``None`` where all sizes are fixed."""
        return environment_of(self.program)


def environment_of(program: ExportedProgram) -> Any:
    """The environment in which an exported program's symbolic sizes live, or ``None``."""
    values = (node.meta.get("val") for node in program.graph.nodes)
    return next((v.fake_mode.shape_env for v in values if isinstance(v, FakeTensor)), None)


def export(
    model: nn.Module,
    call: Call,
    dynamic_shapes: Any,
    training: bool,
    rehearse: Callable[[], object],
    state: State,
) -> Exported:
    """Export a model in training (or evaluation) mode, with as many dynamic sizes as it allows.

    A module whose own code cannot be traced in training mode (a branch on a random draw, as of
    LayerDrop) is put in evaluation mode alone, its children stay in training; the notes name
    it. ``rehearse`` runs the model on the call in evaluation, to see how conditions turn out; every trace
    begins with ``state``. Raises ``CaptureError``.
    """
    tracing = _tracing(model, rehearse)
    state.restore()
    model.train(training)
    notes: list[Note] = []
    while True:
        try:
            made = _with_sizes(model, call, dynamic_shapes, tracing, state)
            fixed = _fixed_sizes(made.program, made.call, dynamic_shapes)
            return dataclasses.replace(made, notes=(*notes, *made.notes, *fixed))
        except Exception as error:
            unknown = any(words in str(error) for words in _UNKNOWN_RESULT)
            if unknown and _register_outputs(model, call, training):
                continue
            culprit = _training_culprit(model, error) if training else None
            if culprit is None and isinstance(error, CaptureError):
                raise
            if culprit is None and dynamic_shapes != "auto" and not _frames(error):
                raise SizesError(
                    f"dynamic_shapes do not fit the model or its arguments: {_reason(error)}; leave them "
                    "out, or give them as torch.export takes them"
                ) from error
            if culprit is None:
                raise CaptureError(_sentence(error, tracing.gradients)) from error
            name, module = culprit
            module.training = False
            label = name or "the model"
            said = "runs as in evaluation, its own training behaviour cannot be traced"
            notes.append(Note("mode", f"{label} ({type(module).__name__}) {said}: {_spot(error)}", label))


def _tracing(model: nn.Module, rehearse: Callable[[], object]) -> Tracing:
    return Tracing.of(rehearse) if has_values(model) else Tracing()


def _with_sizes(
    model: nn.Module, call: Call, dynamic_shapes: Any, tracing: Tracing, state: State
) -> Exported:
    # torch 2.11 looks up no indices in a table that lies on another device
    device = "meta" if on_meta(model) else None

    def attempt(shapes: Any, on: Call = call) -> Exported:
        questions = Questions()
        state.restore(modes=False)
        # torch.export marks the tensors it was given, and a failure leaves the marks
        given = on.map(
            lambda leaf: leaf.detach().to(device=device) if isinstance(leaf, torch.Tensor) else leaf
        )
        # what torch prints of a graph that fails says nothing to a user
        with (
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
            tracing.active(limit=dynamic_shapes == "auto"),
            questions.recorded(),
            warnings.catch_warnings(),
        ):
            # a hook that works a weight out anew puts it on its module, which is left as it was
            warnings.filterwarnings("ignore", "The tensor attribute")
            warnings.filterwarnings("ignore", "The .grad attribute")
            args, kwargs = given.args, given.kwargs
            program = torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)
        return Exported(program, on, tracing.notes, questions, dynamic_shapes != "auto", tracing.gradients)

    if dynamic_shapes != "auto":
        return attempt(dynamic_shapes)
    wide = _widened(call)
    for on in (wide, call) if wide is not None else (call,):
        made = None
        try:
            made = attempt(_shapes(model, on, _all_dims), on)
        except SizeTooComplex:
            with contextlib.suppress(Exception):
                made = attempt(_shapes(model, on, _all_but_spatial), on)
        except Exception:
            continue
        if made is not None and (on is call or not _tells_one_apart(made)):
            return made
    # If this fails, the sizes are not to blame.
    best = attempt(None)
    choice: dict[int, Any] = {}
    for index, leaf in enumerate(call.leaves()):
        if not isinstance(leaf, torch.Tensor):
            continue
        for dims in (_all_dims, _first_dim):
            trial = {**choice, index: dims}
            try:
                best = attempt(_chosen(model, call, trial))
            except Exception:
                continue
            choice = trial
            break
    return best


def _all_dims(tensor: torch.Tensor) -> Any:
    return tuple(Dim.AUTO for _ in tensor.shape)


def _all_but_spatial(tensor: torch.Tensor) -> Any:
    """Of an image, whose sizes go through the most arithmetic, the batch alone."""
    return _first_dim(tensor) if tensor.dim() > 3 else _all_dims(tensor)


def _first_dim(tensor: torch.Tensor) -> Any:
    return tuple(Dim.AUTO if dim == 0 else Dim.STATIC for dim in range(tensor.dim()))


def _shapes(model: nn.Module, call: Call, dims: Callable[[torch.Tensor], Any]) -> Any:
    return _chosen(model, call, dict.fromkeys(range(len(call.leaves())), dims))


def _chosen(model: nn.Module, call: Call, dims: dict[int, Any]) -> Any:
    leaves, spec = pytree.tree_flatten((call.args, call.kwargs))
    shapes = [
        dims[index](leaf) if isinstance(leaf, torch.Tensor) and index in dims else None
        for index, leaf in enumerate(leaves)
    ]
    args, kwargs = pytree.tree_unflatten(shapes, spec)
    return dict(inspect.signature(model.forward).bind(*args, **kwargs).arguments)


def _widened(call: Call) -> Call | None:
    """A call with a batch of 2 instead of 1, for torch.export fixes sizes that are 1."""
    tensors = [leaf for leaf in call.leaves() if isinstance(leaf, torch.Tensor)]
    if not tensors or any(leaf.dim() == 0 or leaf.shape[0] != 1 for leaf in tensors):
        return None
    return call.map(lambda leaf: torch.cat([leaf, leaf]) if isinstance(leaf, torch.Tensor) else leaf)


def _tells_one_apart(made: Exported) -> bool:
    """Whether the model's code answers a question about sizes otherwise where the batch is 1."""
    placeholders = (node.meta.get("val") for node in made.program.graph.nodes if node.op == "placeholder")
    inputs = (value for value in placeholders if isinstance(value, torch.Tensor) and value.dim())
    batch = {size: 1 for size in (size_of(value.shape[0]) for value in inputs) if not isinstance(size, int)}
    return any(
        made.environment.replace(question).xreplace(batch) == sympy.sympify(not answer)
        for question, answer in made.questions.answers.items()
    )


def _fixed_sizes(program: ExportedProgram, call: Call, dynamic_shapes: Any) -> list[Note]:
    if dynamic_shapes != "auto":
        return []
    notes = []
    names = program.graph_signature.user_inputs
    fakes = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    for name, leaf in zip(names, call.leaves(), strict=True):
        fake = fakes.get(name)
        if not isinstance(leaf, torch.Tensor) or fake is None:
            continue
        fixed = [(dim, s) for dim, s in enumerate(map(size_of, fake.shape)) if isinstance(s, int)]
        if fixed:
            sizes = ", ".join(f"dim {dim} at {size}" for dim, size in fixed)
            notes.append(Note("fixed", f"input {name} is fixed in {sizes}", name))
    return notes


def _frames(error: BaseException) -> list[tuple[FrameType, int]]:
    """Frames outside torch and this package, outermost first, with their lines."""
    found = []
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if outside(name):
            found.append((trace.tb_frame, trace.tb_lineno))
        trace = trace.tb_next
    return found


def _spot(error: BaseException) -> str:
    frames = _frames(error)
    if not frames:
        return type(error).__name__
    frame, line = frames[-1]
    file = frame.f_code.co_filename
    return f"{file}:{line}: {linecache.getline(file, line).strip()}"


def _sentence(error: BaseException, gradients: Gradients) -> str:
    said, spot = first_line(error), _spot(error)
    advice = "change that line, or capture a submodule that does without it"
    if "data-dependent" in said or "GuardOnDataDependent" in type(error).__name__:
        said = "the line branches on values that are known only when the model runs"
        advice = "write it without the branch (torch.where), or capture a submodule that does without it"
    elif "not a known type" in said and (kind := re.search(r"<class '([^']+)'>", said)):
        return (
            f"forward returns or takes a {kind[1].rpartition('.')[2]}, in which tensors cannot be found; use "
            "a tuple, a dict or a dataclass, or register it with torch.utils._pytree.register_pytree_node"
        )
    elif "DataDependentOutput" in type(error).__name__:
        said = f"{said} gives a value that is known only when the model runs, and the line goes by it"
    elif kind := re.search(r"argument of type: <class 'torch\._C\.(\w+)'>", said):
        # torch 2.11 refuses itself what later ones leave for the importer to refuse
        return uses_an_object(spot, kind[1])
    elif "higher order operator" in said:
        said = "the line uses an operator whose branches (or loop) a flat graph cannot hold"
        advice = "write it without (torch.where), or capture a submodule that does without it"
    elif "constant's list" in said and gradients.taken:
        file, line = gradients.taken[-1]
        spot = f"{file}:{line}: {linecache.getline(file, line).strip()}"
        said = "the line takes a gradient in forward"
    elif "constant's list" in said:
        spot, advice = "the model", "pass it as an argument, or capture a submodule that does without"
        said = "forward reads a tensor that no traced op made, as one kept from an earlier call"
    return f"{spot} cannot be captured: {said}; {advice}"


def _reason(error: BaseException) -> str:
    """What torch.export says of sizes that were given; its list of what is violated where there is one."""
    listed = [line.strip(" -") for line in str(error).splitlines() if line.strip().startswith("- ")]
    return (listed[0] if listed else first_line(error)).rstrip(".")


def _training_culprit(model: nn.Module, error: BaseException) -> tuple[str, nn.Module] | None:
    """The innermost module still in training mode in whose own code the error arose."""
    names = {id(module): name for name, module in model.named_modules()}
    for frame, _ in reversed(_frames(error)):
        first = frame.f_code.co_varnames[:1]
        module = frame.f_locals.get(first[0]) if first else None
        if isinstance(module, nn.Module) and id(module) in names and module.training:
            return names[id(module)], module
    return None


def failing_module(model: nn.Module, error: BaseException) -> str | None:
    """The path of the innermost module in whose own code an error arose."""
    names: dict[int, str] = {id(module): name for name, module in model.named_modules()}
    for frame, _ in reversed(_frames(error)):
        first = frame.f_code.co_varnames[:1]
        module = frame.f_locals.get(first[0]) if first else None
        if isinstance(module, nn.Module) and id(module) in names:
            return names[id(module)]
    return None


def captures(module: nn.Module, call: Call) -> bool:
    """Whether a module can be exported in evaluation at the sizes of a call."""
    mode = module.training
    try:
        with torch.no_grad():
            module.eval()
            tracing = _tracing(module, lambda: module(*call.args, **call.kwargs))
            _with_sizes(module, call, None, tracing, State(module))
    except Exception:  # whatever stands in the way
        return False
    finally:
        module.train(mode)
    return True


def _register_outputs(model: nn.Module, call: Call, training: bool) -> bool:
    """Let dataclasses in the model's results be pytrees; whether there was one that was not."""
    if not has_values(model):
        return False
    with torch.no_grad():
        model.eval()
        result = model(*call.args, **call.kwargs)
        model.train(training)
    found = False
    pending = [result]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, list | tuple):
            pending.extend(value)
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            if type(value) not in pytree.SUPPORTED_NODES:
                torch.export.register_dataclass(type(value))
                found = True
            pending.extend(getattr(value, field.name) for field in dataclasses.fields(value))
    return found


def on_meta(model: nn.Module) -> bool:
    """Whether all parameters of a model lie on the meta device."""
    devices = {parameter.device.type for parameter in model.parameters()}
    return devices == {"meta"}


def has_values(model: nn.Module) -> bool:
    """Whether every tensor of a model has bytes."""
    return not any(is_fake(t) for t in [*model.parameters(), *model.buffers()])
