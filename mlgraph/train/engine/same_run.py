"""Whether a run that was begun and one that is asked for are the same, by their descriptions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlgraph.train.errors import RunDirectoryError


def refuse_other(known: Path, config: dict[str, Any], defaults: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise RunDirectoryError where the run that a file describes is another one than ``config`` says.

    Of the table ``run`` those keys are compared that ``config`` has. ``defaults`` stand for options that the
    version which wrote the file did not have.
    """
    try:
        before = json.loads(known.read_text())
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{known} cannot be read ({error}): name another run directory.") from error
    if "run" in before and "run" in config:
        said = {name: value for name, value in before["run"].items() if name in config["run"]}
        before = {**before, "run": said}
    for name, old, new in differences(_what(filled(before, defaults)), _what(filled(config, defaults))):
        if name == "run.accumulate" and batches_of(before["run"]) == batches_of(config["run"]):
            continue
        raise RunDirectoryError(
            f"{known.parent} holds a run with {name} = {old}, and now {name} = {new}: "
            "restore it to go on, or name another run directory."
        )


def batches_of(run: Mapping[str, Any]) -> int:
    """Batches per optimizer step, of all processes."""
    return int(run.get("accumulate") or 1) * int(run.get("processes") or 1)


# On how many processes a run computes, where each keeps its tensors, and how often it is looked at, may
# change from start to start.
_HOW = (
    "eval_every",
    "processes",
    "fsdp",
    "fsdp_replicas",
    "fsdp_offload",
    "recompute",
    "background",
    "timeout",
)


def _what(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what says how it is carried out."""
    run = {name: value for name, value in config.get("run", {}).items() if name not in _HOW}
    return {**config, "run": run} if "run" in config else dict(config)


def filled(config: Mapping[str, Any], defaults: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A configuration with the defaults of what the version that wrote it did not know, table by table."""
    known = {
        name: {**own, **config[name]}
        for name, own in defaults.items()
        if isinstance(config.get(name), Mapping)
    }
    return {**config, **known}


_ABSENT: Any = object()


def differences(before: Any, after: Any, name: str = "") -> Iterator[tuple[str, str, str]]:
    """Dotted name, old and new value of every entry in which two JSON values differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            yield from differences(
                before.get(key, _ABSENT), after.get(key, _ABSENT), f"{name}.{key}".lstrip(".")
            )
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from differences(old, new, f"{name}[{index}]")
    elif _is_nothing(before) and _is_nothing(after):
        return
    elif before != after or isinstance(before, bool) is not isinstance(after, bool):
        yield name, _shown(before), _shown(after)


def _is_nothing(value: Any) -> bool:
    """Whether an option was not there, or there and empty: which of both may differ between versions."""
    return value is _ABSENT or value is None or value in ([], {})


def _shown(value: Any) -> str:
    text = "nothing" if value is _ABSENT else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
