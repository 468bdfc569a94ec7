"""Utterances after one state of each episode, all sampled anew at every step and scored by rewards."""

from __future__ import annotations

from alignkit.data.kinds.kind import Kind

KIND = Kind(name="candidates", environment="must", candidates=True)
