"""What a node of a graph is and does."""
