"""Options of verbs made from the fields of the passes that they run, and written back as a command line."""

from __future__ import annotations

import inspect
import shlex
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import typer

from mlgraph.passes.base import Pass
from mlgraph.passes.options import OptionError, TableKey, choices, describe, entries

_F = TypeVar("_F", bound=Callable[..., Any])


def runs(kind: type[Pass]) -> Callable[[_F], _F]:
    """Replace the parameter ``operator`` of a verb's function by options, one for every field of the pass."""

    def decorate(function: _F) -> _F:
        signature = inspect.signature(function, eval_str=True)
        known = {_flag(entry).lstrip("-").replace("-", "_"): entry for entry in entries(kind)}
        parameters: list[inspect.Parameter] = []
        for parameter in signature.parameters.values():
            if parameter.name == "operator":
                parameters += [_parameter(name, entry) for name, entry in known.items()]
            else:
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

        def command(**given: Any) -> None:
            words = [(entry, given.pop(name)) for name, entry in known.items()]
            try:
                read = {entry.name: _read(entry, word) for entry, word in words}
                options = {name: value for name, value in read.items() if value is not None}
                operator = kind.from_options(options)
            except OptionError as error:
                raise typer.BadParameter(str(error)) from error
            function(operator=operator, **given)

        command.__doc__ = function.__doc__
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command  # type: ignore[return-value]

    return decorate


def option_of(kind: type[Pass], name: str) -> Any:
    """The command-line option of one field of a pass."""
    return _option(next(entry for entry in entries(kind) if entry.name == name))


def command_line(operator: Pass) -> list[str]:
    """The options, word by word, that give this pass on the command line of the verb that runs it."""
    known = {entry.name: entry for entry in entries(type(operator))}
    words = []
    for name, value in operator.options().items():
        entry = known[name]
        if isinstance(value, bool):
            words.append(_flag(entry) if value else f"--no-{_flag(entry)[2:]}")
            continue
        for text in _texts(value):
            words += [_flag(entry), shlex.quote(text)]
    return words


def _texts(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [f"{name}={_text(item)}" for name, item in value.items()]
    if isinstance(value, tuple) and value and isinstance(value[0], str):
        return list(value)
    return [_text(value)]


def _text(value: Any) -> str:
    return ",".join(map(_text, value)) if isinstance(value, tuple) else str(value)


def _flag(entry: TableKey) -> str:
    return str(entry.metadata.get("flag", "--" + entry.name.replace("_", "-")))


def _repeats(entry: TableKey) -> bool:
    words = describe(entry.hint)
    return "a table" in words or "a list" in words


def _plain(entry: TableKey) -> type[Any]:
    """The type that the command line reads: what is not a number or a switch is a word."""
    words = describe(entry.hint)
    found: dict[str, type[Any]] = {"a whole number": int, "a number": float, "true or false": bool}
    return found.get(words, str)


def _option(entry: TableKey) -> Any:
    about = entry.metadata
    listed = "|".join(map(str, choices(entry.hint)))
    text = str(about.get("help", ""))
    text = text[:1].upper() + text[1:]
    repeated = _repeats(entry)
    silent = entry.value in (None, (), {})
    if repeated:
        text += "; repeatable" + ("" if silent else f"; {_text(entry.value)} by default")
    least, most = (None, None) if repeated else (about.get("least"), about.get("most"))
    flag = _flag(entry)
    return typer.Option(
        f"{flag}/--no-{flag[2:]}" if _plain(entry) is bool else flag,
        metavar=listed or about.get("metavar"),
        help=f"{text}.",
        show_default=not silent,
        min=least,
        max=most,
    )


def _parameter(name: str, entry: TableKey) -> inspect.Parameter:
    plain: Any = list[str] if _repeats(entry) else _plain(entry)
    default = None if entry.value is None or _repeats(entry) else entry.value
    annotation: Any = Annotated[plain | None if default is None else plain, _option(entry)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _read(entry: TableKey, given: Any) -> Any:
    """What an option's words say: None where there are none."""
    if not _repeats(entry) or given is None:
        return given
    if "a table" not in describe(entry.hint):
        return _list(entry, given)
    return _table(entry, given) if given else None


def _list(entry: TableKey, given: Sequence[str]) -> Any:
    """The words that were given, one by one; or, of a list of numbers, those with commas between."""
    if typing.get_args(entry.hint)[0] is str:
        return tuple(given) or None
    read = [_number(part.strip()) for text in given for part in text.split(",")]
    if None in read:
        raise OptionError(_not_read(entry, " ".join(given)))
    return tuple(read) or None


def _table(entry: TableKey, given: Sequence[str]) -> Any:
    table: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.rpartition("=")
        worded = ":" in value or value.strip()[:1].isalpha()
        parts = [value.strip()] if worded else value.strip("[] ").split(",")
        read = parts if worded else [_number(part.strip()) for part in parts]
        if None in read or bool(equals) != bool(name):
            raise OptionError(_not_read(entry, text))
        if not equals:
            if len(given) > 1 or len(read) > 1 or describe(entry.hint) == "a table":
                raise OptionError(_not_read(entry, text))
            return read[0]
        if name in table:
            raise OptionError(f"{_flag(entry)} {name!r} is given twice; give it one value.")
        table[name] = tuple(read) if len(read) > 1 else read[0]
    return table


def _not_read(entry: TableKey, text: str) -> str:
    metavar = entry.metadata.get("metavar", "NAME=VALUE")
    example = entry.metadata.get("example")
    return f"{_flag(entry)} {text} is not {metavar}{f'; write for example {example}' if example else ''}."


def _number(text: str) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None
