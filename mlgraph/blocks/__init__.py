"""Chains of repeated blocks, found on the dataflow graph."""
