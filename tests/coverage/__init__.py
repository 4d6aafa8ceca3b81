"""The coverage harness: every model of the zoo through every promise, as a table.

``python -m tests.coverage`` runs the table and writes ``docs/coverage.md``.
"""
