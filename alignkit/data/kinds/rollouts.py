"""Completions, or episodes in an environment, sampled anew at every step and scored by rewards."""

from __future__ import annotations

from alignkit.data.kinds.kind import Kind

KIND = Kind(name="rollouts", environment="may")
