"""Blocks taken out of a chain and put back."""
