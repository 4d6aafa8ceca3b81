"""The options of passes that work by groups of indices, of axes and of blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from mlgraph.passes.base import Pass
from mlgraph.passes.options import OptionError, option
from mlgraph.rewrite.choices import Tied

How = TypeVar("How")


@dataclass(frozen=True)
class Grouped(Pass, Generic[How]):
    """A pass that works by groups; ``How`` are the pairings that it knows."""

    depth: int | None = option(None, "blocks per group", least=1, metavar="N")
    width: int | None = option(None, "neurons per group", least=1, metavar="N")
    pairing: How = option("adjacent", "what is grouped with what", key="p")
    tied: Tied = option("exact", "how parameters used in both roles are treated", key="t")
    axes: dict[str, Any] = option(
        {},
        "factor of one axis or chain of blocks, NAME=0,0,1,… for a grouping, or NAME=2:select",
        flag="--axis",
        metavar="NAME=N",
        example="--axis mlp=2 or --axis mlp=0,0,1,1",
    )
    check: bool = option(True, "try the change on a miniature first, and keep what fails", key="c")
    force: bool = option(False, "change axes given by name even where that is only approximate", key="o")

    def __post_init__(self) -> None:
        super().__post_init__()
        for axis, request in self.axes.items():
            if not (_is_whole(request) or isinstance(request, str) or _is_grouping(request)):
                raise OptionError(
                    f"Option 'axes' of pass {self.name!r} must give {axis!r} a factor, a list of indices or "
                    f"a text such as '2:select', not {request!r}."
                )


def call(kind: type[Pass], **options: Any) -> Pass:
    """A pass with the options that are given: None is as good as none, where it is no value of its own.

    Raises:
        OptionError: the pass has no such option.
    """
    return kind.from_options({name: value for name, value in options.items() if value is not None})


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_grouping(value: Any) -> bool:
    """Whether a value lists groups by index, or the indices of every group."""
    if not isinstance(value, tuple) or not value:
        return False
    nested = all(isinstance(group, tuple) and all(map(_is_whole, group)) for group in value)
    return nested or all(map(_is_whole, value))
