"""The modules of a program as a tree in which chains are folded into their first block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mlgraph.program.numbering import number_under
from mlgraph.view.diagram import Branch, Tensor

if TYPE_CHECKING:
    from mlgraph.program import Program
    from mlgraph.view.words import Words

_DEEPEST = 40


def module_tree(program: Program, words: Words) -> Branch:
    """The modules that hold tensors, in the order of the state dict; the root is the program.

    A module that only holds another is written together with it, ``encoder.layer.0``.
    """
    folded: dict[str, int] = {}
    later: list[tuple[str, range]] = []
    for chain in program.blocks:
        if chain.prefix is not None:
            first = chain.numbers[: chain.period]
            folded |= {f"{chain.prefix}{number}": len(chain) for number in first}
            later.append((chain.prefix, chain.numbers[chain.period :]))
    root = Branch("", "")
    for name in program.tensors:
        if not any(number_under(name, prefix) in numbers for prefix, numbers in later):
            parts = name.split(".", _DEEPEST)
            root = _with(root, parts[:-1], words.tensor(name), folded)
    return replace(_joined(root), name=program.name)


def _with(branch: Branch, parts: Sequence[str], tensor: Tensor, folded: Mapping[str, int]) -> Branch:
    """The branch with a tensor added under the modules ``parts``."""
    if not parts:
        return replace(branch, tensors=(*branch.tensors, tensor))
    path = f"{branch.path}.{parts[0]}" if branch.path else parts[0]
    known = next((inner for inner in branch.inner if inner.path == path), None)
    grown = _with(known or Branch(parts[0], path, repeat=folded.get(path, 1)), parts[1:], tensor, folded)
    inner = tuple(grown if one is known else one for one in branch.inner)
    return replace(branch, inner=inner if known else (*inner, grown))


def _joined(branch: Branch) -> Branch:
    inner = tuple(_joined(one) for one in branch.inner)
    if branch.path and not branch.tensors and len(inner) == 1 and branch.repeat == 1:
        return replace(inner[0], name=f"{branch.name}.{inner[0].name}")
    return replace(branch, inner=inner)
