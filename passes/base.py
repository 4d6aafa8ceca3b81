"""What a pass is, and pipelines of passes as strings.

A pipeline reads ``coalesce{depth=2,width=2};decoalesce{depth_mode=copy}``: passes in the order in which they
run, each with its options in braces. An option's value is a number, ``true``, ``false``, ``none``, a word, a
``"quoted string"``, a list ``[0,0,1]`` or a table ``{hidden=2,mlp=[0,0,1]}``. Options at their defaults
are left out, and ``parse_pipeline(str(pipeline)) == pipeline``.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from mlgraph.errors import MlgraphError
from mlgraph.passes.notation import Reader, render
from mlgraph.passes.options import OptionError, conform
from mlgraph.passes.registry import load_pass, suggestion
from mlgraph.program import Program


@dataclass(frozen=True)
class Pass(ABC):
    """An operator on programs: a frozen dataclass whose fields are its options.

    A subclass is itself decorated ``@dataclass(frozen=True)``, gives every field a default and implements
    ``__call__``. Its ``name`` in pipelines is its class name in snake case unless it says otherwise.
    Lists given as options become tuples, so that equal options make equal passes. An option of
    the wrong type raises MlgraphError.
    """

    name: ClassVar[str] = "pass"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()

    def __post_init__(self) -> None:
        for field, annotation in self.option_types().items():
            try:
                value = conform(getattr(self, field), annotation)
            except OptionError as wrong:
                raise MlgraphError(f"Option {field!r} of pass {self.name!r} must be {wrong}.") from None
            object.__setattr__(self, field, value)

    @classmethod
    def option_types(cls) -> dict[str, Any]:
        """The annotation of every option by its name."""
        hints = typing.get_type_hints(cls)
        return {field.name: hints[field.name] for field in dataclasses.fields(cls)}

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> Pass:
        """This pass with the options given by name; raises MlgraphError at one that it lacks."""
        known = [field.name for field in dataclasses.fields(cls)]
        for option in options:
            if option not in known:
                raise MlgraphError(f"Pass {cls.name!r} has no option {option!r}{suggestion(option, known)}.")
        return cls(**options)

    def options(self) -> dict[str, Any]:
        """The options that differ from their defaults, in the order of the fields."""
        chosen = {}
        for field in dataclasses.fields(self):
            default = field.default_factory() if callable(field.default_factory) else field.default
            if getattr(self, field.name) != default:
                chosen[field.name] = getattr(self, field.name)
        return chosen

    @abstractmethod
    def __call__(self, program: Program) -> Program:
        """The program that this pass makes of ``program``, which stays as it is."""

    def __str__(self) -> str:
        options = self.options()
        return self.name + (render(options) if options else "")


@dataclass(frozen=True)
class Pipeline:
    """Passes that run one after another."""

    passes: tuple[Pass, ...] = ()

    def __call__(self, program: Program) -> Program:
        """The program that the last pass makes."""
        for operator in self.passes:
            program = operator(program)
        return program

    def __iter__(self) -> Iterator[Pass]:
        return iter(self.passes)

    def __str__(self) -> str:
        return ";".join(str(operator) for operator in self.passes)


def parse_pipeline(text: str) -> Pipeline:
    """The pipeline written in ``text``.

    Raises MlgraphError at a pass or an option that does not exist, with the nearest that does, and at
    text that breaks the notation, with the column.
    """
    reader = Reader(text)
    passes = []
    while not reader.at_end():
        name = reader.word("a pass")
        options = reader.table() if reader.at("{") else {}
        passes.append(load_pass(name).from_options(options))
        if not reader.at_end():
            reader.expect(";")
    if not passes:
        raise MlgraphError("The pipeline is empty; write a pass, for example 'coalesce{width=2}'.")
    return Pipeline(tuple(passes))


def parse_pass(text: str) -> Pass:
    """The one pass written in ``text``; raises MlgraphError where it is not exactly one."""
    passes = parse_pipeline(text).passes
    if len(passes) != 1:
        raise MlgraphError(f"{text!r} holds {len(passes)} passes where one is wanted.")
    return passes[0]
