"""Which configuration builds a model of the sizes and values that a program has."""
