"""What data shows of a program, and what is chosen and mended by it."""
