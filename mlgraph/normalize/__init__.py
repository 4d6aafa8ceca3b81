"""What a captured graph is freed of before anything is said about it."""

from __future__ import annotations

from mlgraph.normalize.importer import import_graph

__all__ = ["import_graph"]
