"""What a pass is: a frozen dataclass whose fields are its options."""

from __future__ import annotations

import dataclasses
import re
import typing
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from mlgraph.errors import MlgraphError, suggestion
from mlgraph.passes.notation import render
from mlgraph.passes.options import OptionError, conform
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
