"""Dataclasses of a run from tables, with mistakes told as the driver tells its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from mlgraph.passes.options import OptionError
from mlgraph.passes.options import build as build_table
from mlgraph.train.errors import TrainError

_T = TypeVar("_T")


def build(kind: type[_T], table: Mapping[str, Any], where: str = "") -> _T:
    """A dataclass from a table; raises ``TrainError`` where ``mlgraph.passes.options.build`` does its own."""
    try:
        return build_table(kind, table, where)
    except OptionError as error:
        raise TrainError(str(error)) from error
