"""What a recipe's reward needs of its worker: options, and of the environment's secrets those asked for by name."""

from __future__ import annotations

import ast
from contextlib import suppress
from pathlib import Path
from typing import Any

from alignkit.errors import ContentError
from alignkit.recipe.lookup.find import find
from alignkit.recipe.lookup.secrets import secret
from alignkit.recipe.schema import RewardSpec
from alignkit.rewards.pool.worker import Wanted
from alignkit.types.syntax import parsed

NAMES = ("SECRETS", "ONE_PROCESS")


def wanted(spec: RewardSpec, beside: Path | None) -> Wanted:
    """The reward as its worker is told of it.

    It gets the variables that the recipe names in `secrets` or in an option whose name ends in `_env`, and, if it is
    from the shelf, the ones that its file names in `SECRETS`. A variable that is not set is left out. A file that says
    `ONE_PROCESS = True` holds a model: one process scores with it, however many workers there are.
    """
    said, on_shelf = _said(spec.name, beside)
    named = [*spec.secrets, *(str(value) for option, value in spec.options.items() if option.endswith("_env"))]
    named += said.get("SECRETS", ()) if on_shelf else ()
    values = {name: secret(name) for name in named}
    known = {name: value for name, value in values.items() if value is not None}
    one_process = said.get("ONE_PROCESS") is True
    return Wanted(
        name=spec.name, options=dict(spec.options), secrets=known, apart=spec.isolate, one_process=one_process
    )


def _said(name: str, beside: Path | None) -> tuple[dict[str, Any], bool]:
    """(the constants of NAMES that a reward's file sets, read without running it; whether it is from the shelf)."""
    try:
        found = find("rewards", name, beside=beside)
        body = parsed(found.path.read_text(encoding="utf-8")).body
    except (ContentError, OSError, ValueError, SyntaxError):
        return {}, False  # the worker says it better
    said = {}
    for node in body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in NAMES:
            with suppress(ValueError):  # it is computed, and only importing the file would tell
                said[ast.unparse(node.targets[0])] = ast.literal_eval(node.value)
    return said, found.origin == "shelf"
