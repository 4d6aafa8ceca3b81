"""Axis inference: which tensor dimensions are one axis, and why."""

from mlgraph.axes.rules import register_rule
from mlgraph.program.axis_table import Axis, AxisTable, Slot

__all__ = ["Axis", "AxisTable", "Slot", "register_rule"]
