"""Episodes, sampled anew at every step, which are gone on with once more from one of their turns."""

from __future__ import annotations

from alignkit.data.kinds.kind import Kind

KIND = Kind(name="resets", environment="must", goes_back=True)
