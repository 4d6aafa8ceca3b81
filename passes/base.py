"""What a pass is: a frozen dataclass whose fields are its options."""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from mlgraph.errors import suggestion
from mlgraph.passes.notation import render
from mlgraph.passes.options import OptionError, WrongValue, check_bounds, conform, default_of, hints

if TYPE_CHECKING:
    from mlgraph.program import Program


@dataclass(frozen=True)
class Pass(ABC):
    """An operator on programs: a frozen dataclass whose fields are its options.

    A subclass is itself decorated ``@dataclass(frozen=True)``, gives every field a default, by
    ``mlgraph.passes.options.option`` with its help, and implements ``__call__``; it imports what it computes
    with there, so that its options can be listed without. Its ``name`` in pipelines is its class name in
    snake case unless it says otherwise. ``moves`` says how many levels down a program goes by it: 1 where it
    coarsens, -1 where it grows. Lists given as options become tuples, so that equal options make
    equal passes. An option of the wrong type or out of its bounds raises OptionError.
    """

    name: ClassVar[str] = "pass"
    moves: ClassVar[int] = 0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()

    def __post_init__(self) -> None:
        types = hints(type(self))
        for field in dataclasses.fields(self):
            try:
                value = conform(getattr(self, field.name), types[field.name])
                check_bounds(value, field.metadata)
            except WrongValue as wrong:
                raise OptionError(f"Option {field.name!r} of pass {self.name!r} must be {wrong}.") from None
            object.__setattr__(self, field.name, value)

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> Self:
        """This pass with the options given by name; raises OptionError at one that it lacks."""
        known = [field.name for field in dataclasses.fields(cls)]
        for option in options:
            if option not in known:
                hint = suggestion(option, sorted(known))
                raise OptionError(f"Pass {cls.name!r} has no option {option!r}; {hint}")
        return cls(**options)

    def options(self) -> dict[str, Any]:
        """The options that differ from their defaults, in the order of the fields."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        defaults = {field.name: default_of(field) for field in dataclasses.fields(self)}
        return {name: value for name, value in given.items() if value != defaults[name]}

    @abstractmethod
    def __call__(self, program: Program) -> Program:
        """The program that this pass makes of ``program``, which stays as it is."""

    def on_shapes(self, program: Program) -> Program:
        """The same on shapes alone: no weight is read, and those of the result are on the meta device."""
        return self(program.skeleton())

    def __str__(self) -> str:
        options = self.options()
        return self.name + (render(options) if options else "")
