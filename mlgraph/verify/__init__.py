"""Checks that a program's inferred axes and lineage are true."""
