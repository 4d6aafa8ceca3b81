"""The coverage harness: every model of the zoo through every promise, as a table.

``python -m tests.zoo_table`` runs the table and writes ``docs/coverage.md``.
"""
