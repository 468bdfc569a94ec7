"""`alignkit ls`: what there is, by name."""

from __future__ import annotations

from typing import Annotated

import typer

from alignkit.cli.output import JsonOption, print_json, print_table
from alignkit.recipe.lookup.find import KINDS, list_content


def ls(
    kind: Annotated[str | None, typer.Argument(help=f"One of {', '.join(KINDS)}; default: all.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List recipes, rewards, algorithms, environments, evals and launch profiles, and where each was found."""
    kinds = [kind] if kind else list(KINDS)
    rows = [(found, name) for name in kinds for found in list_content(name)]
    if as_json:
        keys = ("name", "kind", "summary", "origin", "path")
        print_json([{key: str(getattr(found, key)) for key in keys} for found, _ in rows])
    elif rows:
        print_table(("name", "kind", "found", "what it is"), [(f.name, k, f.origin, f.summary) for f, k in rows])
    else:
        typer.echo(f"there are no {kind or 'files'} yet")
