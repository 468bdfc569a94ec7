"""Processes and shards: the group of ranks, and the two trainers that own weights and optimizer state."""
