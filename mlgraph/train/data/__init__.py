"""Batches of text and images, in an order that can be resumed."""
