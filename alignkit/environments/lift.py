"""From an environment's name in a recipe to a factory of fresh episodes, with its options bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from alignkit.environments.base import Environment
from alignkit.errors import ContentError
from alignkit.recipe.lookup.find import did_you_mean, find, load
from alignkit.recipe.lookup.outline import function_options


def find_environment(name: str, options: Mapping[str, Any], beside: Path | None = None) -> Callable[[], Environment]:
    """A function that makes one fresh Environment per call.

    name: on the shelf (`alignkit ls environments`), `./file.py:name` or `package.module:name`; a class or a function.
    One is made and thrown away here, so that wrong options are an error before the first episode.
    Raises ContentError when there is none, it does not take the options, or it makes something else.
    """
    found = find("environments", name, beside=beside)
    known = function_options(found.path, found.attribute or found.name)
    for option in options:
        if known is not None and option not in known:
            raise ContentError(f"environment '{name}' has no option '{option}'{did_you_mean(option, known)}")
    make: Any = partial(load(found), **options)  # ty: ignore[invalid-argument-type]  # a non-callable raises below
    try:
        one = make()
    except Exception as error:  # a user's environment may raise anything
        raise ContentError(f"environment '{name}' cannot be made with {dict(options)}: {error}") from error
    if not isinstance(one, Environment):
        raise ContentError(f"environment '{name}' makes a {type(one).__name__}, which lacks `start` or `step`")
    return make
