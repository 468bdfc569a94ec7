"""What a recipe's reward needs of its worker: options, and of the environment's secrets those asked for by name."""

from __future__ import annotations

import ast
from pathlib import Path

from alignkit.errors import ContentError
from alignkit.recipe.lookup.find import find
from alignkit.recipe.lookup.secrets import secret
from alignkit.recipe.schema import RewardSpec
from alignkit.rewards.pool.worker import Wanted
from alignkit.types.syntax import parsed


def wanted(spec: RewardSpec, beside: Path | None) -> Wanted:
    """The reward as its worker is told of it.

    It gets the variables that the recipe names in `secrets` or in an option whose name ends in `_env`, and, if it is
    from the shelf, the ones that its file names in `SECRETS`. A variable that is not set is left out.
    """
    named = [*spec.secrets, *(str(value) for option, value in spec.options.items() if option.endswith("_env"))]
    values = {name: secret(name) for name in [*named, *_shelf_secrets(spec.name, beside)]}
    known = {name: value for name, value in values.items() if value is not None}
    return Wanted(name=spec.name, options=dict(spec.options), secrets=known, apart=spec.isolate)


def _shelf_secrets(name: str, beside: Path | None) -> tuple[str, ...]:
    """`SECRETS` of a shelf's file, read without running it."""
    try:
        found = find("rewards", name, beside=beside)
    except ContentError:
        return ()  # the worker says it better
    if found.origin != "shelf":
        return ()
    for node in parsed(found.path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["SECRETS"]:
            return tuple(ast.literal_eval(node.value))
    return ()
