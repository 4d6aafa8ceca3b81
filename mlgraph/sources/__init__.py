"""Where programs come from: files, directories and model names, and example inputs for live models."""

from __future__ import annotations

from mlgraph.sources.inputs import example_inputs
from mlgraph.sources.locate import open_source
from mlgraph.sources.origin import describe_origin

__all__ = ["describe_origin", "example_inputs", "open_source"]
