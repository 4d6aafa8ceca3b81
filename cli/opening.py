"""The options by which verbs open models, shared by all that do, and what earlier runs left of the same."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mlgraph.cli.options import Cache, Inputs, Model, ModuleName, Trust, WithLoss

if TYPE_CHECKING:
    from mlgraph.cache.store import CacheEntry
    from mlgraph.inspect.portrait import Portrait
    from mlgraph.interop.identity import OpenRequest
    from mlgraph.program import Program

_F = TypeVar("_F", bound=Callable[..., Any])
_PORTRAIT = "portrait.json"


@dataclass(frozen=True)
class Opening:
    """How a verb is to open its models, as the options say."""

    module: str | None = None
    inputs: tuple[str, ...] = ()
    model: str | None = None
    loss: bool = True
    trust: bool = False
    cache: bool = True
    model_class: str | None = None

    def request(self, source: str) -> OpenRequest:
        """What is asked of a source."""
        from mlgraph.interop.identity import OpenRequest

        asked = (self.loss, self.inputs, self.module, self.model, self.trust, self.model_class)
        return OpenRequest(source, *asked)

    def program(self, source: str, *, weights: bool = True) -> Program:
        """The program of a SOURCE string or of its submodule; a terminal shows a sign of life meanwhile.

        Without ``weights`` its state dict may be shapes only.
        """
        from mlgraph.cli.results import status, warn
        from mlgraph.interop.identity import require_source

        require_source(source)
        with status(f"reading {source}"):
            from mlgraph.interop.remembered import open_remembered

            return open_remembered(self.request(source), self._place(source), warn, weights=weights)

    def pair(self, first: str, second: str, *, weights: bool = True) -> tuple[Program, Program]:
        """The programs of two SOURCE strings.

        Inputs and the submodule are for those that are captured, ``model`` for those that are weights alone;
        where none is, the first says so.
        """
        from mlgraph.interop.open import holds_weights_alone, is_program

        both = (first, second)
        captured = [source for source in both if not is_program(source)] or [first]
        bare = [source for source in both if holds_weights_alone(source)] or [first]

        def opened(source: str) -> Program:
            own = self if source in captured else replace(self, inputs=(), module=None)
            own = own if source in bare else replace(own, model=None)
            return own.program(source, weights=weights)

        return opened(first), opened(second)

    def portrait(self, source: str) -> Portrait:
        """What the looking verbs tell of a source: kept from an earlier run, where it was, and read without
        torch.
        """
        from mlgraph.inspect.portrait import Portrait, portrait

        found: Portrait = self.kept(
            source, _PORTRAIT, Portrait, lambda: portrait(self.program(source, weights=False))
        )
        return found

    def kept(self, source: str, name: str, kind: type[Any], make: Callable[[], Any]) -> Any:
        """The record ``name``, a dataclass of the given ``kind``, of a source; made and kept where it is not
        there.
        """
        from mlgraph.cache.store import Damaged, recall
        from mlgraph.cli.results import warn
        from mlgraph.errors import FileError
        from mlgraph.inspect.portrait import from_record
        from mlgraph.interop.identity import is_saved

        place = self._place(source)
        if place is None:
            return make()
        try:
            if recall(place, warn) is not None:
                found = from_record(kind, place.read(name))
                if found is not None:
                    return found
        except Damaged as error:
            warn(f"What was kept of an earlier run is damaged and is made again: {error}")
        made = make()
        try:
            if is_saved(source):
                place.finish({"source": source, "sources": {}})
            if place.header is not None:
                place.write(name, asdict(made))
        except FileError as error:
            warn(f"The answer was not kept: {error}")
        return made

    def _place(self, source: str) -> CacheEntry | None:
        """Where the cache keeps what is known of a source; None where it is not to be asked."""
        import mlgraph.passes
        from mlgraph.cache.store import entry
        from mlgraph.interop.identity import source_key

        key = source_key(self.request(source), Path(*mlgraph.passes.__path__)) if self.cache else None
        return None if key is None else entry(key)


def open_program(source: str, *, trust: bool = False, model_class: str | None = None) -> Program:
    """The program of a SOURCE string that a configuration names."""
    return Opening(trust=trust, model_class=model_class).program(source)


def opens(function: _F) -> _F:
    """Replace the parameter ``opening`` of a verb's function by the options that it is made of."""
    signature = inspect.signature(function, eval_str=True)
    options = list(inspect.signature(_options, eval_str=True).parameters.values())
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        replaced = options if parameter.name == "opening" else [parameter]
        parameters += [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in replaced]
    names = [option.name for option in options]

    def command(**given: Any) -> None:
        chosen = {name: given.pop(name) for name in names}
        chosen["inputs"] = tuple(chosen["inputs"] or ())
        function(opening=Opening(**chosen), **given)

    command.__doc__ = function.__doc__
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command  # type: ignore[return-value]


def _options(
    module: ModuleName = None,
    inputs: Inputs = None,
    model: Model = None,
    loss: WithLoss = True,
    trust: Trust = False,
    cache: Cache = True,
) -> None:
    """The parameters of a verb that make an ``Opening``."""
