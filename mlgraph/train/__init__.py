"""Training runs as phase programs over several levels of one model."""
