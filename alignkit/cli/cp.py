"""`alignkit cp`: a shipped file as the user's own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from alignkit.cli.output import JsonOption, print_json
from alignkit.errors import ContentError
from alignkit.recipe.lookup.editor_line import with_editor_line
from alignkit.recipe.lookup.find import KINDS, Found, did_you_mean, find, list_content


def cp(
    name: Annotated[str, typer.Argument(help="A name from `alignkit ls`; KIND/NAME where two kinds share it.")],
    destination: Annotated[Path, typer.Argument(help="A folder or a new file.")] = Path(),
    as_json: JsonOption = False,
) -> None:
    """Copy a recipe, reward, algorithm, eval or launch profile to make it your own. Nothing is overwritten."""
    found = find_any(name)
    target = destination / found.path.name if destination.is_dir() else destination
    if target.exists():
        raise ContentError(f"{target} exists already and is left alone; name another file")
    if not target.parent.is_dir():
        raise ContentError(f"there is no folder {target.parent} to copy '{name}' to; make it first")
    try:
        if found.kind == "recipes":
            text = found.path.read_text(encoding="utf-8")
            target.write_text(with_editor_line(text, target), encoding="utf-8")
        else:
            shutil.copyfile(found.path, target)
    except OSError as error:
        raise ContentError(f"{target} cannot be written: {error.strerror}") from error
    if as_json:
        print_json({"name": found.name, "kind": found.kind, "from": str(found.path), "to": str(target)})
    else:
        typer.echo(f"copied {found.path} to {target}")


def find_any(name: str) -> Found:
    """The only thing called `name` of any kind. Raises ContentError when there is none or more than one."""
    kind, _, rest = name.partition("/")
    if kind in KINDS and rest:
        return find(kind, rest)
    matches = []
    for kind in KINDS:
        try:
            matches.append(find(kind, name))
        except ContentError:
            continue  # asked of every kind; having none of them is the error
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = ", ".join(f"{found.kind}/{name}" for found in matches)
        raise ContentError(f"'{name}' is the name of several things: {names}; write one of these")
    known = [found.name for kind in KINDS for found in list_content(kind)]
    raise ContentError(f"nothing is called '{name}'{did_you_mean(name, known)}; see `alignkit ls`")
