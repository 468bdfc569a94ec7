"""Calls of a policy token by token: what was asked and said, linked by exact tokens, and files of it."""
