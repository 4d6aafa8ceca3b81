"""Tiny models of many families, each buildable at full and at half size.

``python -m tests.zoo`` lists them.
"""

from tests.zoo import (
    attention,
    composition,
    decoders,
    encoders,
    modalities,
    sequence,
    spine,
    timm_models,
)
from tests.zoo.registry import SCALES, Built, Entry, Scale, entries, get, perturb_

__all__ = [
    "SCALES",
    "Built",
    "Entry",
    "Scale",
    "attention",
    "composition",
    "decoders",
    "encoders",
    "entries",
    "get",
    "modalities",
    "perturb_",
    "sequence",
    "spine",
    "timm_models",
]
