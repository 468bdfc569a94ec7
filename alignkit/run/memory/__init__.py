"""Counts the bytes of a recipe without its weights: its own code runs on tensors that have a size and no content."""
