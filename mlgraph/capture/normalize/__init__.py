"""What a captured graph is freed of before anything is said about it."""
