"""A device by its name or size, as `alignkit check --device` is given it: `80GB`, `24GiB`, `h100`, `h100x8`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from alignkit.errors import AlignkitError

GIB = 2**30
KNOWN = {
    "t4": 14.6, "rtx3090": 23.6, "rtx4090": 23.5, "l4": 22.0, "a10": 22.0, "l40s": 44.4, "a100-40gb": 39.4,
    "a100": 79.2, "h100": 79.2, "h200": 139.8, "b200": 178.4,
}  # fmt: skip
"""GiB that a program can use of each, about what torch.cuda.get_device_properties().total_memory says: less than the
name promises, for error correction and the driver."""
UNITS = {"gb": 10**9, "gib": GIB}


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """name: as it was given. size: bytes of one of them. count: how many; None: as many as the launch profile has."""

    name: str
    size: int
    count: int | None = None

    @classmethod
    def parse(cls, text: str) -> Device:
        """Raises AlignkitError for a name that is not known."""
        word = text.strip().lower().replace(" ", "")
        counted = None if word in KNOWN else re.fullmatch(r"(.+)x([1-9]\d*)", word)
        named, count = (counted[1], counted[2]) if counted else (word, None)
        size = re.fullmatch(r"(\d+(?:\.\d+)?)(gb|gib)", named)
        of_one = round(float(size[1]) * UNITS[size[2]]) if size else round(KNOWN.get(named, 0) * GIB)
        if not of_one:
            known = ", ".join(KNOWN)
            raise AlignkitError(f"--device {text!r}: wanted a size (80GB, 24GiB) or one of {known}; xN: N of them")
        return cls(name=named, size=of_one, count=int(count) if count else None)
