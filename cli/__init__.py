"""The command line: one file per verb, rendering apart from doing."""
