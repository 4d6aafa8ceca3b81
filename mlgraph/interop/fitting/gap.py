"""What separates the shapes of a class from the wanted ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

NamedShapes = Mapping[str, tuple[int, ...]]

GapScore = tuple[int, int]


@dataclass(frozen=True)
class Gap:
    """What still separates the shapes of a build from the wanted ones.

    ``dims`` counts, per (size, wanted size), the dims that differ; ``counts`` gives, per numbered
    container (``model.layers``), its length and the wanted length where these differ; ``wrong`` lists the
    dims that differ, as (tensor, position, size, wanted size).
    """

    names: int
    dims: Counter[tuple[int, int]]
    counts: Mapping[str, tuple[int, int]]
    wrong: tuple[tuple[str, int, int, int], ...] = ()
    examples: tuple[str, ...] = ()

    @property
    def score(self) -> GapScore:
        return self.names, sum(self.dims.values())


def measure(have: NamedShapes, want: NamedShapes) -> Gap:
    """Compare two sets of named shapes."""
    names = have.keys() ^ want.keys()
    dims: Counter[tuple[int, int]] = Counter()
    misfits: list[tuple[str, int, int, int]] = []
    examples = [f"{name} is {'not ' if name in want else ''}in the class" for name in sorted(names)[:3]]
    for name, theirs in want.items():
        if name not in have:
            continue
        ours = have[name]
        if len(ours) != len(theirs):
            dims[(len(ours), len(theirs))] += 1
            examples.append(f"{name} is {list(ours)}, wanted {list(theirs)}")
            continue
        wrong = [(at, *pair) for at, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]]
        dims.update((size, wanted) for _, size, wanted in wrong)
        misfits += [(name, *misfit) for misfit in wrong]
        if wrong:
            examples.append(f"{name} is {list(ours)}, wanted {list(theirs)}")
    lengths, wanted = lengths_of(have), lengths_of(want)
    counts = {
        name: (lengths.get(name, 0), wanted.get(name, 0))
        for name in sorted(lengths.keys() | wanted.keys())
        if lengths.get(name, 0) != wanted.get(name, 0)
    }
    return Gap(len(names), dims, counts, tuple(misfits), tuple(examples[:3]))


def lengths_of(shapes: NamedShapes) -> dict[str, int]:
    """How many members each numbered container of the names has."""
    members: dict[str, set[int]] = {}
    for name in shapes:
        parts = name.split(".")
        for at, part in enumerate(parts):
            if part.isdigit():
                members.setdefault(".".join(parts[:at]), set()).add(int(part))
    return {name: len(indices) for name, indices in members.items()}
