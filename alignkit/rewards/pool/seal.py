"""Notices when a reward has changed the code that scores and reports other answers."""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType
from typing import Any


class Seal:
    """Remembers what the names in some modules and classes stand for.

    owners: of each the names that are watched; None for all of its functions, classes and constants. It sees a name
    that was bound anew, not a deeper change: it guards against accidents and plain tricks, not against a file that
    wants to deceive it.
    """

    def __init__(self, owners: Iterable[tuple[ModuleType | type, Iterable[str] | None]]):
        self._kept: list[tuple[ModuleType | type, tuple[str, ...], tuple[Any, ...]]] = []
        for owner, names in owners:
            items = vars(owner)
            chosen = tuple(names or (name for name, thing in items.items() if callable(thing) or name.isupper()))
            self._kept.append((owner, chosen, tuple(items[name] for name in chosen)))

    def broken(self) -> str | None:
        """The first name that stands for something else now, or None."""
        for owner, names, things in self._kept:
            now = vars(owner)
            for name, thing in zip(names, things, strict=True):
                if now.get(name) is not thing:
                    return f"{owner.__name__}.{name}"
        return None
