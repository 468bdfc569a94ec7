"""Turns of past episodes, each beside a fresh utterance after the same state."""

from __future__ import annotations

from alignkit.data.kinds.kind import Kind

KIND = Kind(name="replay", environment="must", replays=True)
