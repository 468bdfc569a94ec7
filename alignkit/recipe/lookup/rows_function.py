"""The user's own function behind a `data.source`."""

from __future__ import annotations

import re
from pathlib import Path

from alignkit.errors import ContentError
from alignkit.recipe.lookup.find import Found, did_you_mean
from alignkit.recipe.lookup.outline import module_file, outline

MODULE = re.compile(r"[A-Za-z_]\w*(\.\w+)*")
NOT_MODULES = ("generator", "hub")


def find_rows_function(source: str, *, beside: Path | None) -> Found | None:
    """Where `./file.py:name` or `package.module:name` leads; None for a source that is no function.

    beside: the recipe's folder, from which files are taken. Raises ContentError when there is no such file, module or
    name. Nothing is imported.
    """
    place, colon, name = source.rpartition(":")
    if source.endswith(".py"):
        raise ContentError(f"{source}: wanted the function in it that makes the rows; write `{source}:NAME`")
    if not colon or place in NOT_MODULES or not (place.endswith(".py") or MODULE.fullmatch(place)):
        return None
    is_file = place.endswith(".py")
    path = ((beside or Path()) / Path(place).expanduser()).resolve() if is_file else module_file(place)
    if path is None or not path.is_file():
        wanted = f"file {path}" if is_file else f"module '{place}' in this environment"
        raise ContentError(f"{source}: there is no {wanted}")
    summary, defined = outline(path)
    if defined is None:
        raise ContentError(f"{path}: {summary}")
    if name not in defined and path.name != "__init__.py":  # which may define names lazily
        raise ContentError(f"{path} does not define '{name}'{did_you_mean(name, defined)}")
    return Found(
        kind="data",
        name=name,
        path=path,
        origin="file" if is_file else f"module {place}",
        summary=summary,
        module=None if is_file else place,
        attribute=name,
    )
