"""The layer axis: groups of blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mlgraph.errors import AxisError
from mlgraph.program import Program
from mlgraph.rewrite.similarity import similar_blocks
from mlgraph.rewrite.transfer import Grouping, Pairing


def group_layers(
    program: Program, depth: int, pairing: Pairing, requests: Mapping[str, object], freeze: Iterable[str]
) -> dict[str, Grouping]:
    """The grouping of blocks of every chain that is to change, by chain name.

    Raises:
        AxisError: there is no chain, or a chain's number of blocks does not divide.
    """
    chains = list(program.blocks)
    if depth != 1 and not chains:
        raise AxisError(
            "depth cannot change: the graph has no chain of repeated blocks; leave depth at 1, "
            "width still works."
        )
    frozen = set(freeze)
    out = {}
    for chain in chains:
        request = requests.get(chain.name, depth)
        if chain.name in frozen or request == 1:
            continue
        count = len(chain)
        if not isinstance(request, int):
            out[chain.name] = Grouping.of(request, count, chain.name)  # type: ignore[arg-type]
            continue
        if request < 1 or count % request:
            raise AxisError(
                f"the layer axis {chain.name} has {count} blocks"
                f"{f' of {chain.period} layers each' if chain.period > 1 else ''}, which {request} does "
                "not divide: "
                f"choose a divisor, give an explicit grouping, or freeze {chain.name}."
            )
        if pairing == "similarity":
            out[chain.name] = similar_blocks(program, [block.tensors for block in chain.blocks], request)
        else:
            out[chain.name] = Grouping.placed(pairing, count, request)
    return out
