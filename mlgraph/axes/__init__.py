"""Axis inference: which tensor dimensions are one axis, and why."""
