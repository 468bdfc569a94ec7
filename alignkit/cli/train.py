"""`alignkit train`: runs a recipe, here or under a launcher."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from alignkit.cli.output import JsonOption, OverridesArgument, RecipeArgument
from alignkit.errors import AlignkitError
from alignkit.recipe.lookup.find import Found, find
from alignkit.recipe.read import read_recipe
from alignkit.run.launch.accelerate import accelerate_command, quiet
from alignkit.run.launch.gpus import visible_gpus
from alignkit.run.launch.job import is_job, job_text, submit
from alignkit.run.launch.launched import is_launched, run_launched
from alignkit.run.train.stop import Stop
from alignkit.train.inputs import parse_kinds

if TYPE_CHECKING:
    from alignkit.recipe.schema import Recipe


def train(
    context: typer.Context,
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    launch: Annotated[str | None, typer.Option(help="Launch profile, from `alignkit ls launch`.")] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Processes in all, instead of the profile's.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's newest checkpoint.")] = False,
    accept_changes: Annotated[
        str | None,
        typer.Option(metavar="KIND,...", help="With --resume: go on though these changed, such as data,rewards."),
    ] = None,
    run: Annotated[str | None, typer.Option(help="Folder of the run; default runs/<recipe name>.")] = None,
    print_only: Annotated[bool, typer.Option("--print", help="Print the exact command and start nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train what a recipe says. KEY=VALUE replaces a setting of the recipe, such as train.steps=20."""
    settings = list(overrides or ())
    if run is not None:
        settings.append(f"run={run}")
    resolved = read_recipe(recipe, settings)
    accept = parse_kinds(accept_changes)
    if accept and not resume:
        raise AlignkitError("--accept-changes: only a resumed run can meet changes; add --resume, or leave it out")
    name = launch or resolved.launch
    arguments = ["train", recipe, *settings]
    arguments += [flag for flag, given in (("--resume", resume), ("--json", as_json)) if given]
    arguments += ["--accept-changes", ",".join(accept)] if accept else []
    if is_launched(os.environ):
        name = None
    elif name is None and print_only:
        typer.echo(shlex.join([sys.executable, "-m", "alignkit", *arguments]))
        return
    if name is None:
        _train_here(resolved, resume=resume, as_json=as_json, accept=accept)
    else:
        beside = resolved.file.parent if resolved.file else None
        profile = find("launch", name, beside=beside)
        debug = bool(context.obj)
        _train_launched(profile, resolved, [*arguments, *(["--debug"] if debug else [])], processes, print_only)


def _train_here(recipe: Recipe, *, resume: bool, as_json: bool, accept: Sequence[str]) -> None:
    # read when torch is imported: threads that wait by spinning make a shared CPU machine 10 times slower
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from alignkit.engines.vllm.process import TRAINERS_ALLOCATOR

    if "PYTORCH_ALLOC_CONF" not in os.environ:  # micro-batches differ in size: fixed segments would fall to pieces
        os.environ.setdefault(*TRAINERS_ALLOCATOR)
    with Stop() as stop:  # before torch is imported: a start may take longer than whoever stops it will wait
        from alignkit.run.train.train import run as run_training

        result = run_training(recipe, resume=resume, as_json=as_json, accept=accept, stop=stop)
    if as_json and result is not None:
        with contextlib.suppress(OSError):  # as with the display: an output that takes no more is no failure
            typer.echo(json.dumps({"event": "result", **result}, default=str))


def _train_launched(
    profile: Found, recipe: Recipe, arguments: list[str], processes: int | None, print_only: bool
) -> None:
    beside = recipe.file.parent if recipe.file else None
    if is_job(profile):
        if processes is not None:
            raise AlignkitError(
                f"--processes does not reach a job: copy `multi-node` and `{profile.name}`, change them"
            )
        job_name = recipe.file.stem if recipe.file else "alignkit"
        text = job_text(profile, arguments, job_name=job_name, beside=beside, environ=os.environ)
        typer.echo(text if print_only else submit(profile, text))
        return
    gpus = visible_gpus(os.environ)
    seen = None if print_only and not gpus else gpus  # a command can be read on a machine without GPUs
    command = accelerate_command(profile, arguments, processes=processes, gpus=seen, environ=os.environ)
    if print_only:
        typer.echo(shlex.join(command))
        return
    raise typer.Exit(run_launched(command if "--debug" in arguments else quiet(command)))
