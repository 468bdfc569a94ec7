"""Named randomness: every random choice of a run is derived from its seed and a name, so nothing hidden has a state."""

import hashlib


def child(seed: int, *names: object) -> int:
    """A 63-bit seed for the random choice called `names` (strings and integers), independent of all other names."""
    text = "/".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
