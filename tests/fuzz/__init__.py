"""Conversations nobody would think of, against what must hold for every one of them."""
