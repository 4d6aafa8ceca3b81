"""Dims as a reader sees them: axis names in pieces, each piece with the place of its family."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mlgraph.program.dims import Dim, Join, Leaf, Term
from mlgraph.program.families import families
from mlgraph.view.diagram import Tensor, Token, Tokens
from mlgraph.view.op_kinds import value_of

if TYPE_CHECKING:
    from torch import fx

    from mlgraph.program import Program


class Words:
    """Writes the dims of one program's tensors and activations."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.table = program.axes
        self.families = tuple(families(program))
        self._family = {axis: place for place, family in enumerate(self.families) for axis in family.ids}
        self._symbols: dict[Dim, str] = {}
        for dim, symbol in self._named_sizes():
            self._symbols.setdefault(dim, symbol)
        self._shapes = program.skeleton().tensors
        self._shared: dict[str, tuple[str, ...]] = {}
        for alias, canonical in program.tensors.aliases.items():
            self._shared[canonical] = (*self._shared.get(canonical, ()), alias)

    def _named_sizes(self) -> Iterator[tuple[Dim, str]]:
        """The dims that are dynamic sizes of inputs: batch, sequence."""
        inputs = [node for node in self.program.graph.nodes if node.op == "placeholder"]
        for node, leaf in zip(inputs, self.program.signature.inputs, strict=True):
            dims = self.table.result_dims(node.name) or ()
            for dim, symbol in zip(dims, leaf.symbols, strict=False):
                if symbol and dim:
                    yield dim, symbol

    def tensor(self, name: str) -> Tensor:
        """A parameter or buffer by its canonical name."""
        value = self._shapes[name]
        shape = tuple(value.shape)
        known = self.table.tensor_dims.get(name)
        dims = (
            tuple(self.dim(dim) for dim in known)
            if known is not None
            else tuple((Token(str(size)),) for size in shape)
        )
        kind = str(value.dtype).removeprefix("torch.")
        parameter = name in self.program.tensors.parameters
        contracts = tuple(self._contracts(name, dim) for dim in range(len(shape)))
        return Tensor(name, dims, shape, kind, parameter, contracts, self._shared.get(name, ()))

    def _contracts(self, name: str, dim: int) -> bool:
        roles = self.table.roles.get((name, dim), ())
        return bool(roles) and all(role == "contracts" for role in roles)

    def result(self, node: fx.Node) -> tuple[tuple[Tokens, ...], tuple[int | str, ...]]:
        """Dims and sizes of a node's result, of several the first's."""
        value = value_of(node)
        # A size that depends on data has a symbol for its value.
        shape = tuple(s if isinstance(s, int) else str(s) for s in getattr(value, "shape", ()))
        known = self.table.node_dims.get(node.name)
        found = known.results[0] if known is not None and known.results else ()
        if len(found) != len(shape):
            return tuple((Token(str(size)),) for size in shape), shape
        return tuple(self.dim(dim) for dim in found), shape

    def dim(self, dim: Dim) -> Tokens:
        """A dim in pieces: ``heads``, ``·``, ``head_dim``; ``2×a`` for ``a | a``."""
        if not dim:
            return (Token("1"),)
        if dim in self._symbols:
            return (Token(self._symbols[dim]),)
        pieces: list[Token] = []
        for place, term in enumerate(dim):
            if place:
                pieces.append(Token("·"))
            pieces += self._term(term, alone=len(dim) == 1)
        return tuple(pieces)

    def _term(self, term: Term, alone: bool) -> list[Token]:
        if isinstance(term, Leaf):
            symbol = self._symbols.get(Dim((term,)))
            if symbol is not None:
                return [Token(symbol)]
            place = self._family.get(term.axis)
            return [Token(str(term.size) if place is None else self.families[place].name, place)]
        return self._join(term, alone)

    def _join(self, term: Join, alone: bool) -> list[Token]:
        parts = [self.dim(part) for part in term.parts]
        if all(not part for part in term.parts):
            return [Token(str(len(parts)))]
        if len(parts) > 1 and all(part == parts[0] for part in parts):
            return [Token(f"{len(parts)}×"), *parts[0]]
        pieces: list[Token] = [] if alone else [Token("(")]
        for place, part in enumerate(parts):
            pieces += [Token(" | "), *part] if place else part
        return pieces if alone else [*pieces, Token(")")]

    def carried(self, dims: tuple[Tokens, ...]) -> tuple[int, ...]:
        """The families that colour an edge with these dims: what is not frozen, else what is."""
        found = dict.fromkeys(token.family for dim in dims for token in dim if token.family is not None)
        free = [place for place in found if self.families[place].fate != "frozen"]
        return tuple(free) if free else tuple(found)[-1:]
