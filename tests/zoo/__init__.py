"""Tiny models of many families, each buildable at full and at half size.

``python -m tests.zoo`` lists them.
"""

from tests.zoo import attention, composition, sequence, spine
from tests.zoo.registry import SCALES, Built, Entry, Scale, entries, get, perturb_

__all__ = [
    "SCALES",
    "Built",
    "Entry",
    "Scale",
    "attention",
    "composition",
    "entries",
    "get",
    "perturb_",
    "sequence",
    "spine",
]
