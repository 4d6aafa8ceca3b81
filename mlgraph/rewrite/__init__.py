"""A program with other sizes: groupings, transfers of weights, resized graphs, restacked blocks."""
