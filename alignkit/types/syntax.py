"""Python text as a syntax tree."""

from __future__ import annotations

import ast

TRIES = 5


def parsed(code: str) -> ast.Module:
    """The tree of a text. Raises what `ast.parse` raises for one that is no Python."""
    for _ in range(TRIES - 1):
        try:
            return ast.parse(code)
        except SystemError:  # Python before 3.11.8 may miscount its depth when memory is collected meanwhile
            continue
    return ast.parse(code)
