"""Programs as Hugging Face models: live, or a directory that ``from_pretrained`` loads."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mlgraph.errors import FileError, MlgraphError
from mlgraph.files import OnProgress, atomic_directory, file_errors, write_text
from mlgraph.interop.directory import is_large
from mlgraph.interop.fitting.advice import INSTEAD
from mlgraph.interop.fitting.fit import Fit, Fitter, NotExpressible
from mlgraph.interop.gguf import SUFFIX, carry_tokenizer
from mlgraph.interop.hollow import configuration, hollow, on_meta
from mlgraph.interop.model_card import CARD, write_card
from mlgraph.interop.same_outputs import check_outputs, main_dtype
from mlgraph.interop.sentence_transformers import carry_modules
from mlgraph.interop.vocabulary import settle_vocabulary
from mlgraph.interop.weights import DirectoryTensors, Rescale
from mlgraph.program import HuggingFaceOrigin, Program

if TYPE_CHECKING:
    from mlgraph.program.tensors import Rows, Shapes

__all__ = [
    "SKELETON",
    "NotExpressible",
    "Saved",
    "express",
    "save_huggingface",
    "to_huggingface",
]

SKELETON = "mlgraph.pt"
"""The file beside the weights that says where they came from: the program without its parameters."""

_CHECK_LIMIT = 2 << 30
_LAZY_CHECK_LIMIT = 256 << 20
_WEIGHTS = (
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".h5",
    ".msgpack",
    ".onnx",
    ".ckpt",
    ".gguf",
    ".index.json",
    ".ot",
)
# What tells of the old sizes or weights, or is written anew.
_LEFT = {"config.json", SKELETON, ".gitattributes", CARD, "training_args.bin", "modules.json"}
_SILENT = {"config.json", SKELETON, "modules.json", CARD}

_TOKENIZER = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "spiece.model",
    "sentencepiece*",
    "chat_template*",
)


@dataclass(frozen=True)
class Saved:
    """What ``save_huggingface`` wrote: the directory, the changed config fields, and sentences to be told."""

    directory: Path
    changes: tuple[str, ...]
    notes: tuple[str, ...] = ()


def express(program: Program, as_class: bool = False) -> Fit:
    """The config with which the program's own class computes what the program computes.

    ``program.origin`` must say which class and config it came from. With ``as_class`` the class may have
    other constants than the program, which the fit names.

    Raises:
        NotExpressible: no config does, or the program did not come from transformers.
    """
    origin = _origin(program)
    name = origin.model_class
    base = json.loads(json.dumps(dict(origin.config), default=str))
    base["dtype"] = str(main_dtype(program)).removeprefix("torch.")

    def shapes(settings: dict[str, Any]) -> dict[str, tuple[int, ...]]:
        model = on_meta(name, configuration(settings, name))
        return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}

    def model(settings: dict[str, Any]) -> nn.Module:
        return hollow(name, configuration(settings, name))

    return Fitter(program, base, shapes, model, name, as_class).fit()


def _origin(program: Program) -> HuggingFaceOrigin:
    if not isinstance(program.origin, HuggingFaceOrigin):
        raise NotExpressible(
            f"{program.name} did not come from a transformers model, so it has no config to express it; "
            f"{INSTEAD}."
        )
    return program.origin


def to_huggingface(program: Program) -> nn.Module:
    """A live transformers model of the program's class, with the program's values (copied).

    Raises:
        NotExpressible: no config of the class computes what the program computes.
    """
    return _live(program, express(program))


def _live(program: Program, fit: Fit) -> nn.Module:
    name = _origin(program).model_class
    model = hollow(name, configuration(fit.settings, name))
    tensors = program.tensors
    made: dict[str, nn.Parameter | torch.Tensor] = {}
    with torch.no_grad():
        for full, store, key in _held(model):
            if full not in tensors.persistent:
                continue
            canonical = tensors.aliases.get(full, full)
            if canonical not in made:
                value = fit.value(program, canonical).clone()
                made[canonical] = nn.Parameter(value) if isinstance(store[key], nn.Parameter) else value
            store[key] = made[canonical]
    return model


def _held(model: nn.Module) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Every name of every tensor of a module, with the dict that holds it and its key there."""
    for path, module in model.named_modules(remove_duplicate=False):
        for store in (module._parameters, module._buffers):
            for key in [key for key, tensor in store.items() if tensor is not None]:
                yield (f"{path}.{key}" if path else key), store, key


def save_huggingface(
    program: Program,
    directory: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    shard_size: int | str = "5GB",
    source_dir: str | os.PathLike[str] | None = None,
    tokenizer_dir: str | os.PathLike[str] | None = None,
    as_class: bool = False,
    progress: OnProgress | None = None,
) -> Saved:
    """Write config.json, safetensors and what goes with them, so that ``from_pretrained`` gives the program's
    model.

    Tensors are read, converted to ``dtype`` and written one at a time, in shards of at most ``shard_size``
    (bytes, or a text such as ``"5GB"``). Tokenizer, processor and generation files are copied from
    ``source_dir``, by default the directory that the program came from; tokenizer files, where it is given,
    from ``tokenizer_dir`` alone. ``mlgraph.pt`` beside the weights keeps the lineage. The
    directory appears complete or not at all. ``progress(done, total)`` counts bytes.

    With ``as_class``, constants that the class makes from its config (slopes of positions, sinusoids) may be
    other than the program's; notes say which and how far outputs move, and no ``mlgraph.pt`` is written.

    A model of up to 2 GB (256 MB where the program's tensors are lazy) is loaded again, and its outputs are
    compared with those of the emitted module.

    Raises:
        NotExpressible: no config of the class computes what the program computes; nothing is written.
        FileError: the directory cannot be written.
    """
    light = program.without_weights()
    fit = express(light, as_class)
    shapes = {name: (tuple(light.tensors[name].shape), light.tensors[name].dtype) for name in _stored(light)}
    shapes |= {name: (shape, shapes[name][1]) for name, shape in fit.unread.items()}
    if dtype is not None:
        shapes = {
            name: (shape, dtype if own.is_floating_point else own) for name, (shape, own) in shapes.items()
        }
    settings = {**fit.settings, "dtype": str(dtype or main_dtype(light)).removeprefix("torch.")}
    notes: list[str] = []
    with atomic_directory(directory) as folder:
        given = source_dir or _origin(program).path
        source = Path(given) if given and Path(given).is_dir() else None
        if source is not None:
            notes += carry_modules(source, folder, program)
            notes += _copy_companions(source, folder, with_tokenizer=not tokenizer_dir)
        elif given and Path(given).suffix == SUFFIX and Path(given).is_file() and not tokenizer_dir:
            notes += carry_tokenizer(Path(given), folder)
        write_card(program, folder / CARD, source, tuple(map(str, fit.changes)))
        if tokenizer_dir:
            copy_tokenizer(tokenizer_dir, folder)
        _write_config(program, settings, folder)
        notes += settle_vocabulary(folder)
        _write_weights(program, fit, shapes, folder, _bytes(shard_size), progress)
        if not fit.constants:
            _write_skeleton(light, fit, settings, folder)
        notes += fit.notes
        if _size(light) <= (_CHECK_LIMIT if program.tensors.in_memory else _LAZY_CHECK_LIMIT):
            moved = _check(program, folder, exact=dtype is None, bounded=not fit.constants)
            notes += [f"with these constants outputs move by up to {moved:.1e} of the largest"] * bool(
                fit.constants
            )
        else:
            notes.append("too large to be loaded again here: checked by its graph, not by its outputs")
    return Saved(Path(directory), tuple(map(str, fit.changes)), tuple(notes))


def read_skeleton(directory: str | os.PathLike[str], *, keep: bool | None = None) -> Program | None:
    """The program that was saved as this directory, if it was; its weights as the directory now holds them.

    With ``keep`` (the default where the weights are below 2 GB) tensors stay as once read, so that what is
    done to them in place is seen by every reader; without, each is read when it is asked for and not held.

    Raises:
        FileError: the weights are not those of the program (of other names or shapes).
    """
    from mlgraph.storage import load, open_safetensors

    root = Path(directory)
    if not (root / SKELETON).is_file():
        return None
    skeleton = load(root / SKELETON)
    weights = open_safetensors(root)
    own = dict(skeleton.tensors.items())
    for name, tensor in own.items():
        if tensor.is_meta and weights.shapes.get(name, ((), None))[0] != tuple(tensor.shape):
            raise FileError(
                f"{root} has other weights than its {SKELETON} tells of (at {name}); delete {SKELETON} to "
                "open the directory without its lineage."
            )
    origin = _origin(skeleton)
    undo = {name: Rescale(factor, shift).inverse for name, (factor, shift) in origin.rescales.items()}
    values: Mapping[str, torch.Tensor] = DirectoryTensors(own, weights, rescales=undo)
    if keep or (keep is None and not is_large(root)):
        values = dict(values)
    return skeleton.replace(
        tensors=skeleton.tensors.replace(values),
        origin=replace(origin, path=str(root.resolve()), rescales={}),
    )


def _stored(program: Program) -> list[str]:
    return [name for name in program.tensors if name in program.tensors.persistent]


def _size(program: Program) -> int:
    return sum(program.tensors[name].nbytes for name in _stored(program))


def _bytes(size: int | str) -> int:
    if isinstance(size, int):
        return size
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "B": 1}
    text = size.strip().upper()
    for unit, factor in units.items():
        if text.endswith(unit):
            try:
                count = int(float(text.removesuffix(unit)) * factor)
            except ValueError:
                break
            if count > 0:
                return count
    raise MlgraphError(
        f"shard size {size!r} is not understood: write a number of bytes or, for example, 5GB."
    )


def _write_config(program: Program, settings: Mapping[str, Any], folder: Path) -> None:
    name = _origin(program).model_class
    config = configuration(settings, name)
    config.architectures = [name]
    write_text(folder / "config.json", config.to_json_string(use_diff=False))


def _write_weights(
    program: Program, fit: Fit, shapes: Shapes, folder: Path, shard_size: int, progress: OnProgress | None
) -> None:
    from mlgraph.storage import write_safetensors

    def read(name: str) -> Rows:
        made, dtype = fit.rows(program, name), shapes[name][1]
        if isinstance(made, torch.Tensor):
            return made.to(device="cpu", dtype=dtype).contiguous()
        return (part.to(device="cpu", dtype=dtype).contiguous() for part in made)

    write_safetensors(folder, shapes, read, shard_size=shard_size, progress=progress)


def _write_skeleton(light: Program, fit: Fit, settings: Mapping[str, Any], folder: Path) -> None:
    from mlgraph.storage import save

    rescales = {name: (rescale.factor, rescale.shift) for name, rescale in fit.rescales.items()}
    origin = replace(_origin(light), config=dict(settings), rescales=rescales)
    sized = {n: torch.empty(s, dtype=light.tensors[n].dtype, device="meta") for n, s in fit.unread.items()}
    tensors = light.tensors.replace({**light.tensors, **sized}) if sized else light.tensors
    save(light.replace(origin=origin, tensors=tensors), folder / SKELETON)


def _copy_companions(source: Path, folder: Path, with_tokenizer: bool) -> list[str]:
    """Copy what belongs to the model and is neither weights nor config: tokenizer, processor, generation
    files. Returns a note that names what was left out.
    """
    left = []
    for file in sorted(source.iterdir()):
        belongs = file.name not in _LEFT and not file.name.endswith(_WEIGHTS)
        if belongs and file.is_file() and (with_tokenizer or not _is_of_tokenizer(file)):
            _copy(file, folder)
        elif file.name not in _SILENT and not (folder / file.name).exists() and not file.name.startswith("."):
            left.append(f"{file.name}/" if file.is_dir() else file.name)
    kept_weights = [name for name in left if not name.endswith(_WEIGHTS)]
    return [f"left out of the directory: {', '.join(kept_weights)}"] if kept_weights else []


def copy_tokenizer(source: str | os.PathLike[str], folder: Path) -> None:
    """Copy the tokenizer's files from one directory to another."""
    for file in sorted(Path(source).iterdir()):
        if _is_of_tokenizer(file):
            _copy(file, folder)


def _is_of_tokenizer(file: Path) -> bool:
    return any(file.match(pattern) for pattern in _TOKENIZER)


def _copy(file: Path, folder: Path) -> None:
    if file.is_file():
        with file_errors(file, "be copied"):
            shutil.copyfile(file, folder / file.name)


def _check(program: Program, folder: Path, exact: bool, bounded: bool = True) -> float:
    """How far the outputs of what was written are from the program's; raises above a bound if ``bounded``."""
    model, report = _load(_origin(program).model_class, folder)
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
    wrong = [key for kind in kinds for key in report[kind]]
    if wrong:
        raise NotExpressible(
            f"from_pretrained does not load {sorted(map(str, wrong))[0]} as it was written; {INSTEAD}."
        )
    bound = 1e-5 if exact and main_dtype(program) in (torch.float32, torch.float64) else 5e-2
    return check_outputs(program, model, bound if bounded else math.inf)


def _load(name: str, folder: Path) -> tuple[nn.Module, Mapping[str, Any]]:
    from mlgraph.interop.hollow import architecture
    from mlgraph.interop.load import quiet_transformers

    cls: Any = architecture(name)
    with quiet_transformers():
        model, report = cls.from_pretrained(folder, output_loading_info=True, local_files_only=True)
    return model.eval(), report
