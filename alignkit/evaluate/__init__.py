"""Measuring a policy on held-out tasks, and saying honestly whether it changed."""
