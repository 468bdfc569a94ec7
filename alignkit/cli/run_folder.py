"""`alignkit run keygen|sign|verify`: who vouches for the files of a run, and whether they are still the same."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alignkit.cli.output import JsonOption, print_json

run_folder = typer.Typer(help="Signs a run's weights and records, and verifies them.", no_args_is_help=True)

FolderArgument = Annotated[Path, typer.Argument(help="A run folder, or the folder of a model.")]


@run_folder.command()
def keygen(
    file: Annotated[Path, typer.Argument(help="Where the private key goes; the public one goes to FILE.pub.")],
    as_json: JsonOption = False,
) -> None:
    """Make a pair of keys. Nothing is overwritten."""
    from alignkit.run_folder.signature import make_key

    public = make_key(file)
    if as_json:
        print_json({"private": str(file), "public": str(public)})
    else:
        typer.echo(f"{file} signs and stays with you; {public} verifies and is for others")


@run_folder.command()
def sign(
    folder: FolderArgument,
    key: Annotated[Path, typer.Option(help="The private key, from `alignkit run keygen`.")],
    as_json: JsonOption = False,
) -> None:
    """Sign every file of a folder: checkpoints, the final model and the records."""
    from alignkit.run_folder.signature import FILE
    from alignkit.run_folder.signature import sign as sign_folder

    count = sign_folder(folder, key)
    if as_json:
        print_json({"files": count, "signature": str(folder / FILE)})
    else:
        typer.echo(f"{folder / FILE}: {count:,} files signed")


@run_folder.command()
def verify(
    folder: FolderArgument,
    key: Annotated[Path, typer.Option(help="The signer's public key.")],
    as_json: JsonOption = False,
) -> None:
    """Name every file that was changed, is missing or was added since the folder was signed."""
    from alignkit.run_folder.signature import verify as verify_folder

    found = verify_folder(folder, key)
    if as_json:
        print_json({"ok": not found, "found": [{"kind": kind, "file": name} for kind, name in found]})
    else:
        typer.echo("\n".join(f"{kind}: {name}" for kind, name in found) if found else f"{folder} is as it was signed")
    if found:
        raise typer.Exit(1)
