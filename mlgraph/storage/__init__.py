"""Saved programs and checkpoints: files that are safe to load and read lazily.

``save`` and ``load`` keep a program in one file. ``open_safetensors`` reads the safetensors files of a
directory lazily, and ``write_safetensors`` writes such a directory tensor by tensor::

    source = open_safetensors("llama")                 # a Mapping; nothing is read yet
    write_safetensors(
        "small",                                       # model.safetensors, or shards and an index
        shapes={"lm_head.weight": ((32000, 2048), torch.bfloat16)},
        tensors=lambda name: coarse(source[name]),     # or pairs (name, tensor), in any order
        shard_size=5_000_000_000,
        progress=lambda done, total: ...,              # in bytes
    )

A tensor too large to hold at once may be given to ``write_safetensors`` as an iterable of its row chunks,
made from ``source.rows(name, start, stop)``.
"""

from __future__ import annotations

from mlgraph.storage.file import load, save
from mlgraph.storage.lazy import LazyTensors
from mlgraph.storage.op_table import allow_ops
from mlgraph.storage.safetensors import open_safetensors, write_safetensors

__all__ = ["LazyTensors", "allow_ops", "load", "open_safetensors", "save", "write_safetensors"]
