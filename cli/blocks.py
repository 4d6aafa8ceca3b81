"""``mlgraph blocks``: the chains of repeated blocks."""

from __future__ import annotations

from mlgraph.cli.opening import Opening, opens
from mlgraph.cli.options import Json, Source


@opens
def command(source: Source, opening: Opening, json: Json = False) -> None:
    """List the chains of repeated blocks, and what looks repeated but is not."""
    from mlgraph.inspect.text.blocks import block_data, block_view
    from mlgraph.inspect.text.console import show, show_json

    blocks = opening.portrait(source).blocks
    show_json(block_data(blocks)) if json else show(*block_view(blocks))
