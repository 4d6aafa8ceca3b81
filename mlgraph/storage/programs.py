"""Programs as data: everything of a program but the bytes of its tensors.

A document is ``{"graphs": [...], "programs": [...]}``. The last program is the one that was saved; those
before it are the skeletons of its lineage, each named by position from programs that come later, so that a
graph that several share is written once.
"""

from __future__ import annotations

import dataclasses
import re
from keyword import iskeyword
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from mlgraph.graph.propagate import propagate
from mlgraph.program import Input, Lineage, Note, Program, Signature, Tensors
from mlgraph.program.tensors import InMemory, Shapes
from mlgraph.storage.formulas import decode_formula
from mlgraph.storage.graphs import decode_graph, encode_graph
from mlgraph.storage.limits import bounded, quiet
from mlgraph.storage.notes import decode_notes, encode_kinds
from mlgraph.storage.origins import (
    decode_history,
    decode_origin,
    decode_submodule,
    encode_origin,
    encode_rescales,
)
from mlgraph.storage.plain_values import (
    Malformed,
    array,
    boolean,
    decode,
    decode_dtype,
    encode,
    encode_dtype,
    encode_text,
    fields,
    integer,
    name,
    shape,
    shorten,
    text,
)
from mlgraph.storage.pytrees import decode_spec, encode_spec
from mlgraph.storage.selections import decode_selections, encode_ways
from mlgraph.storage.strictjson import dump

if TYPE_CHECKING:
    from mlgraph.program.size_guards import Formula

_FIELDS = [
    "name", "graph", "inputs", "in_spec", "out_spec", "ranges", "tensors", "aliases", "lineage",
    "origin", "notes",
]  # fmt: skip
# Fields of Tensors that name tensors, and that a file's origin holds.
_TENSOR_KINDS = ("frozen", "stateful")
_MAX_SIZE = 1 << 62


def encode_program(program: Program, stored: Shapes) -> dict[str, Any]:
    """The document of a program; ``stored`` lists the tensors whose bytes are in the file. Raises
    ``Malformed``.
    """
    line = [program]
    while (lineage := line[-1].lineage) is not None:
        line.append(lineage.parent)
    line.reverse()
    graphs: list[Any] = []
    known: dict[bytes, int] = {}
    rows = []
    for position, each in enumerate(line):
        graph = encode_graph(each.graph)
        number = known.setdefault(dump(graph), len(graphs))
        if number == len(graphs):
            graphs.append(graph)
        rows.append(_encode_one(each, number, stored if each is program else {}, position - 1))
    return {"graphs": graphs, "programs": rows}


def _encode_one(program: Program, graph: int, stored: Shapes, parent: int) -> dict[str, Any]:
    signature, tensors = program.signature, program.tensors
    notes: list[Note] = []
    row = {
        "name": encode_text(program.name),
        "graph": graph,
        "inputs": [_encode_input(leaf) for leaf in signature.inputs],
        "in_spec": encode_spec(signature.in_spec, notes),
        "out_spec": encode_spec(signature.out_spec, notes),
        "ranges": [[key, encode(low), encode(high)] for key, (low, high) in signature.ranges.items()],
        "tensors": _encode_tensors(tensors, stored),
        "aliases": [[alias, key, alias in tensors.persistent] for alias, key in tensors.aliases.items()],
        "lineage": None if program.lineage is None else _encode_lineage(program.lineage, parent),
        "origin": encode(_encode_origin(program)),
        "notes": [encode_text(str(note)) for note in dict.fromkeys([*program.notes, *notes])],
    }
    assert list(row) == _FIELDS
    # files from before guards were kept have none, and are written again as they were
    if signature.guards:
        row["guards"] = [encode_text(str(guard)) for guard in signature.guards]
    return row


def _encode_origin(program: Program) -> dict[str, Any]:
    """What the file's origin says: the program's, and what else format 2 keeps there.

    That are the parameters of its signature, the tensors that are frozen or written in evaluation, the
    submodule that it is of, its history, and the kinds of notes that their words do not tell.
    """
    tensors = program.tensors
    said = {
        "parameters": program.signature.parameters,
        **{key: tuple(n for n in tensors if n in getattr(tensors, key)) for key in _TENSOR_KINDS},
    }
    behind = {
        "module": program.submodule,
        "history": program.history,
        "notes": encode_kinds(program.notes),
    }
    return {
        **{key: value for key, value in said.items() if value},
        **encode_origin(program.origin),
        **{key: value for key, value in behind.items() if value},
        **encode_rescales(program.origin),
    }


def _encode_input(leaf: Input) -> list[Any]:
    dtype = None if leaf.dtype is None else encode_dtype(leaf.dtype)
    return [leaf.name, [encode(size) for size in leaf.shape], dtype, list(leaf.symbols), encode(leaf.value)]


def _encode_tensors(tensors: Tensors, stored: Shapes) -> list[list[Any]]:
    rows = []
    for key in tensors:
        if key in stored:
            size, dtype = stored[key]
        else:
            size, dtype = tuple(tensors[key].shape), tensors[key].dtype
        kinds = [key in stored, key in tensors.parameters, key in tensors.persistent]
        digest = None if key in stored else tensors.digests.get(key)
        rows.append([key, encode_dtype(dtype), [encode(n) for n in size], *kinds, digest])
    return rows


def _encode_lineage(lineage: Lineage, parent: int) -> dict[str, Any]:
    return {
        "operation": encode_text(lineage.operation),
        "parent": parent,
        "groupings": [[key, [encode(n) for n in groups]] for key, groups in lineage.groupings.items()],
        "layers": [[key, [encode(n) for n in groups]] for key, groups in lineage.layers.items()],
        "options": encode({**lineage.options, **encode_ways(lineage)}),
    }


def decode_program(document: Any, stored: Shapes) -> Program:
    """The program of a document; its stored tensors are on the meta device for the caller to put in place.

    Every node's ``meta["val"]`` is propagated anew, so that nothing the file claims about sizes is believed.
    Raises ``Malformed``, or ``PropagationError`` where a node does not run at the sizes given.
    """
    graphs, rows = fields(document, "graphs", "programs")
    array(graphs)
    if not array(rows):
        raise Malformed("it holds no program")
    programs: list[Program] = []
    done: dict[Any, fx.Graph] = {}
    for row in rows:
        last = len(programs) == len(rows) - 1
        programs.append(_decode_one(row, graphs, stored if last else {}, programs, done))
    return programs[-1]


def _decode_one(
    row: Any, graphs: list[Any], stored: Shapes, earlier: list[Program], done: dict[Any, fx.Graph]
) -> Program:
    guarded = isinstance(row, dict) and "guards" in row
    label, number, inputs, in_spec, out_spec, ranges, table, aliases, lineage, origin, said, *guards = fields(
        row, *_FIELDS, *(["guards"] if guarded else [])
    )
    came_from = _dict(origin)
    notes = decode_notes([text(note) for note in array(said)], came_from.pop("notes", {}))
    leaves = tuple(_decode_input(leaf) for leaf in array(inputs))
    signature = Signature(
        leaves,
        decode_spec(in_spec, notes),
        decode_spec(out_spec, notes),
        _decode_ranges(ranges),
        _decode_parameters(came_from.pop("parameters", ())),
        _decode_guards(guards[0], leaves) if guards else (),
    )
    tensors = _decode_tensors(table, aliases, stored)
    frozen, stateful = (_decode_kind(came_from.pop(key, ()), tensors) for key in _TENSOR_KINDS)
    tensors = dataclasses.replace(tensors, frozen=frozen, stateful=stateful)
    number = integer(number, 0, len(graphs) - 1)
    # The same graph on the same sizes is the same object: a refined program and its grandparent, say.
    sizes = tuple((leaf.shape, leaf.dtype, repr(leaf.value)) for leaf in signature.inputs)
    key = (number, sizes, tuple((k, t.shape, t.dtype) for k, t in tensors.items()))
    if key not in done:
        graph = decode_graph(graphs[number])
        _check_fit(graph, signature, tensors)
        with quiet():
            propagate(graph, signature, tensors, bounded)
        done[key] = graph
    _check_fit(done[key], signature, tensors)
    program = Program(
        done[key],
        tensors,
        signature,
        name=text(label),
        notes=tuple(notes),
        origin=decode_origin(came_from),
        history=decode_history(came_from),
        submodule=decode_submodule(came_from),
    )
    return program.replace(lineage=_decode_lineage(lineage, earlier)) if lineage is not None else program


def _check_fit(graph: fx.Graph, signature: Signature, tensors: Tensors) -> None:
    """Check that a graph takes the inputs, reads the tensors and gives the leaves that its program lists."""
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    if not len(placeholders) == len(signature.inputs) == signature.in_spec.num_leaves:
        raise Malformed("its graph has not as many inputs as its signature")
    output = next(iter(reversed(graph.nodes)))
    if len(output.args[0]) != signature.out_spec.num_leaves:
        raise Malformed("its graph has not as many results as its signature")
    for node in graph.nodes:
        if node.op == "get_attr" and node.target not in tensors.source:
            raise Malformed(f"its graph reads a tensor {shorten(node.target)} that it does not have")


def _decode_input(row: Any) -> Input:
    key, size, dtype, symbols, value = array(row, 5)
    found = shape(size)
    names = tuple(None if symbol is None else name(symbol) for symbol in array(symbols))
    if len(names) not in (0, len(found)):
        raise Malformed(f"input {shorten(key)} has not one symbol per dim")
    return Input(name(key), found, None if dtype is None else decode_dtype(dtype), names, decode(value))


def _decode_ranges(data: Any) -> dict[str, tuple[int, int | None]]:
    ranges: dict[str, tuple[int, int | None]] = {}
    for row in array(data):
        key, low, high = array(row, 3)
        if name(key) in ranges:
            raise Malformed(f"the range of {shorten(key)} is given twice")
        top = None if high is None else integer(high, 0, _MAX_SIZE)
        ranges[key] = (integer(low, 0, _MAX_SIZE), top)
    return ranges


def _decode_guards(data: Any, inputs: tuple[Input, ...]) -> tuple[Formula, ...]:
    """Conditions on the dynamic sizes of inputs, which end up in generated code."""
    known = {symbol for leaf in inputs for symbol in leaf.symbols if symbol is not None}
    return tuple(decode_formula(item, known) for item in array(data))


def _decode_parameters(value: Any) -> tuple[str, ...]:
    """The names that forward takes, which end up in generated code as its arguments."""
    given: tuple[Any, ...] = value if isinstance(value, tuple) else (None,)
    names = tuple(n for n in given if isinstance(n, str) and n.isidentifier() and not iskeyword(n))
    if len(set(names)) < len(given):
        raise Malformed(f"its parameters {shorten(repr(value))} are not distinct names of arguments")
    return names


def _decode_kind(value: Any, tensors: Tensors) -> frozenset[str]:
    given: tuple[Any, ...] = value if isinstance(value, tuple) else (None,)
    if not all(isinstance(n, str) and n in tensors.source for n in given):
        raise Malformed(f"its origin names {shorten(repr(value))}, which are not all tensors of the program")
    return frozenset(given)


def _decode_tensors(data: Any, aliases: Any, stored: Shapes) -> Tensors:
    values: dict[str, torch.Tensor] = {}
    parameters: set[str] = set()
    persistent: set[str] = set()
    present: set[str] = set()
    digests: dict[str, str] = {}
    for row in array(data):
        key, dtype, size, here, parameter, lasting, digest = array(row, 7)
        if name(key) in values:
            raise Malformed(f"tensor {shorten(key)} is listed twice")
        values[key] = torch.empty(shape(size), dtype=decode_dtype(dtype), device="meta")
        for flag, members in ((here, present), (parameter, parameters), (lasting, persistent)):
            if boolean(flag):
                members.add(key)
        if digest is not None:
            digests[key] = _digest(digest)
    claimed = {key: (tuple(values[key].shape), values[key].dtype) for key in present}
    if claimed != dict(stored):
        raise Malformed("its program lists other tensors than the file holds")
    ties: dict[str, str] = {}
    for row in array(aliases):
        alias, key, lasting = array(row, 3)
        if name(alias) in values or alias in ties or name(key) not in values:
            raise Malformed(f"the tie of tensor {shorten(alias)} does not fit the others")
        ties[alias] = key
        if boolean(lasting):
            persistent.add(alias)
    return Tensors(InMemory(values), frozenset(parameters), frozenset(persistent), ties, digests)


def _digest(data: Any) -> str:
    if not re.fullmatch("[0-9a-f]{40}", text(data)):
        raise Malformed(f"{shorten(data)} is no digest of a tensor")
    return str(data)


def _decode_lineage(data: Any, earlier: list[Program]) -> Lineage:
    operation, parent, groupings, layers, options = fields(
        data, "operation", "parent", "groupings", "layers", "options"
    )
    given = _dict(options)
    direction = given.pop("direction", "down")
    if direction not in ("down", "up"):
        raise Malformed(f"its lineage leads neither down nor up but {shorten(repr(direction))}")
    of_axes, of_layers = _decode_groups(groupings), _decode_groups(layers)
    return Lineage(
        text(operation),
        earlier[integer(parent, 0, len(earlier) - 1)],
        of_axes,
        of_layers,
        selections=decode_selections(given.pop("selections", {}), of_axes),
        layer_selections=decode_selections(given.pop("layer_selections", {}), of_layers),
        options=given,
        direction=direction,
    )


def _decode_groups(data: Any) -> dict[str, tuple[int, ...]]:
    groups: dict[str, tuple[int, ...]] = {}
    for row in array(data):
        key, coarse = array(row, 2)
        if text(key) in groups:
            raise Malformed(f"the grouping of {shorten(key)} is given twice")
        groups[key] = tuple(integer(n, 0, _MAX_SIZE) for n in array(coarse))
    return groups


def _dict(data: Any) -> dict[Any, Any]:
    value = decode(data)
    if not isinstance(value, dict):
        raise Malformed("options or origin are no dict")
    return value
