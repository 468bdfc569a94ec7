"""Replicas of a fleet that are processes anywhere, over HTTP."""
