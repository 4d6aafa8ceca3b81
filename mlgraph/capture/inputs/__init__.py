"""Example inputs for a model that is captured."""
