"""Attention masks that are proved causal, or true everywhere."""
