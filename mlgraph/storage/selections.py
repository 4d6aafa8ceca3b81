"""How a lineage went where that is not down by means, as further options of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mlgraph.program import Lineage, Selection
from mlgraph.storage.plain_values import Malformed, shorten


def encode_ways(lineage: Lineage) -> dict[str, Any]:
    """Options to write beside those of a lineage; none where it went down by means."""
    chosen = {"selections": lineage.selections, "layer_selections": lineage.layer_selections}
    ways: dict[str, Any] = {
        name: {key: (one.shares, one.pads) for key, one in found.items()}
        for name, found in chosen.items()
        if found
    }
    return ways | ({"direction": "up"} if lineage.direction == "up" else {})


def decode_selections(data: Any, groups: Mapping[str, tuple[int, ...]]) -> dict[str, Selection]:
    """What was written of ``groups``, coarse indices by name; raises Malformed where it does not fit them."""
    found = {}
    for key, given in data.items() if isinstance(data, dict) else [(data, data)]:
        if key not in groups or not isinstance(given, tuple) or len(given) != 2:
            raise Malformed(f"{shorten(repr(key))} is no axis whose groups select")
        shares, pads = given
        if shares is not None and not _are_shares(shares, groups[key]):
            raise Malformed(f"the shares of {shorten(repr(key))} do not sum to 1 in its groups")
        chooses = shares is not None and set(shares) <= {0.0, 1.0}
        if not isinstance(pads, bool) or (pads and not chooses):
            raise Malformed(f"the groups of {shorten(repr(key))} are padded but select nothing")
        found[str(key)] = Selection(shares, pads)
    return found


def _are_shares(shares: Any, groups: tuple[int, ...]) -> bool:
    if not isinstance(shares, tuple) or len(shares) != len(groups):
        return False
    if not all(isinstance(share, float) and 0.0 <= share <= 1.0 for share in shares):
        return False
    totals: dict[int, float] = {}
    for share, group in zip(shares, groups, strict=True):
        totals[group] = totals.get(group, 0.0) + share
    return all(math.isclose(total, 1.0, rel_tol=1e-6) for total in totals.values())
