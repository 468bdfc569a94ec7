"""`alignkit data`: what a file, a dataset of the hub or a mixture holds, and who can train on it."""

from __future__ import annotations

import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignkit.cli.output import JsonOption, OverridesArgument, print_json
from alignkit.errors import ContentError
from alignkit.recipe.lookup.find import find
from alignkit.recipe.read import read_recipe
from alignkit.recipe.rules import DATA_SUFFIXES

if TYPE_CHECKING:
    from alignkit.recipe.schema import Data, Recipe
    from alignkit.run.look.look import Lengths, Look
    from alignkit.run.look.mixed import Mixed
    from alignkit.run.look.trainers import Trainer

WIDTH = 24  # of the longest bar
BLOCKS = " ▁▂▃▄▅▆▇█"


def data(
    source: Annotated[
        str,
        typer.Argument(help="A file, a saved folder, hub:ORG/NAME, ./file.py:NAME, a recipe, or a first KEY=VALUE."),
    ],
    overrides: OverridesArgument = None,
    model: Annotated[
        str | None, typer.Option(help="Whose tokenizer and chat template to use: a folder or ORG/NAME.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows to look at closely, a random sample of all.")] = 20_000,
    html: Annotated[Path | None, typer.Option(help="Write the same as a page, the rows' tokens in colour.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what rows hold: columns, lengths, repetitions, labels, who can train on them, some as a model sees them."""
    settings = [one if one.startswith("data.") else f"data.{one}" for one in overrides or []]
    recipe, settings = _recipe(source, settings)
    how: dict[str, Any] = {"rows": rows, "model": model, "beside": recipe.file.parent if recipe.file else None}
    if model is not None:
        from alignkit.run.check.preflight import load_tokenizer

        read = recipe.model.model_copy(update={"path": model, "revision": None, "scratch": None})
        how["tokenizer"] = load_tokenizer(read, how["beside"])
    asked = list({stage.data.model_dump_json(): stage.data for stage in recipe.stages}.values())
    found = []
    for number, wanted in enumerate(asked, start=1):  # stages with the same data share one look
        page = html if html is None or len(asked) == 1 else html.with_stem(f"{html.stem}-{number}")
        show = _mixture if wanted.mixture else _source
        found.append(asdict(show(wanted, source, settings, how, page, quiet=as_json)))
    if as_json:
        print_json(found[0] if len(found) == 1 else found)


def _recipe(source: str, settings: list[str]) -> tuple[Recipe, list[str]]:
    """What is looked at, as a recipe, and all settings of `data` that were given."""
    if "=" in source.split(":")[0]:
        settings, source = [source if source.startswith("data.") else f"data.{source}", *settings], ""
    elif _is_recipe(source):
        return read_recipe(source, settings), settings
    named = [f"data.source={source}"] if source else []
    return read_recipe("sft", ["model.path=MODEL", *named, *settings]), settings


def _is_recipe(source: str) -> bool:
    if source.endswith((".yaml", ".yml")):
        return True
    if ":" in source or source.endswith(DATA_SUFFIXES) or Path(source).exists():
        return False
    try:
        find("recipes", source)
    except ContentError:
        return False
    return True


def _source(
    wanted: Data, source: str, settings: list[str], how: dict[str, Any], html: Path | None, *, quiet: bool
) -> Look:
    from alignkit.run.look.look import look

    found, typed = look(wanted, **how), not _is_recipe(source)
    if typed:
        found = replace(found, source=source)  # not as the shelf's recipe would write it
    if html is not None:
        from alignkit.run.look.page import write_data_page

        write_data_page(found, html)
    if not quiet:
        _print(found)
        if typed:
            _print_next(found, settings)
        _print_rows(found)
        _print_written(html)
    return found


def _mixture(
    wanted: Data, source: str, settings: list[str], how: dict[str, Any], html: Path | None, *, quiet: bool
) -> Mixed:
    from alignkit.run.look.mixed import look_at_mixture
    from alignkit.run.look.sentences import between_sentences, mixed_cells

    mixed = look_at_mixture(wanted, **how)
    if html is not None:
        from alignkit.run.look.page import write_mixture_page

        write_mixture_page(mixed, html)
    if quiet:
        return mixed
    for name, part in mixed.parts.items():
        _print(part.look, named=f"{name}, ")
        _print_rows(part.look)
    typer.echo("mixture")
    for name, part in mixed.parts.items():
        count, share, passes = mixed_cells(part)
        typer.echo(f"  {name}: {count} rows, {share} of the rows drawn, {passes} passes an epoch")
    for sentence in between_sentences(mixed) or ["no row of a part is among those of another"]:
        typer.echo(f"  {sentence}")
    typer.echo(f"  can train on all of them: {', '.join(mixed.able()) or 'no method'}")
    _print_written(html)
    return mixed


def _print_written(html: Path | None) -> None:
    if html is not None:
        typer.echo(f"wrote {html}")


def _print(found: Look, *, named: str = "") -> None:
    from alignkit.run.look.sentences import balance_sentences

    more = "" if found.whole else " (there are more; these were read)"
    sample = "" if found.looked_at == found.read else f"; a random {found.looked_at:,} of them are looked at closely"
    typer.echo(f"{named}{found.source}: {found.read:,} rows{more}{sample}")
    for column in found.columns:
        types = ", ".join(f"{name} {count:,}" for name, count in column.types.items()) or "always empty"
        typer.echo(f"  column {column.name}: {', '.join(column.taken_for) or 'ignored'} ({types})")
    for count, sentence in found.left_out.values():
        typer.echo(f"  {count:,} rows left out: {sentence}")
    if found.forms:
        typer.echo(f"  rows: {', '.join(f'{count:,} {name}' for name, count in found.forms.items())}")
    for one in found.lengths:
        typer.echo(f"  {_lengths_text(one)}")
    typer.echo(f"  repeated: {found.repeated:,} of {found.read:,} rows say what an earlier one says")
    if found.near:
        rows = sum(map(len, found.near)) - len(found.near)
        typer.echo(f"  nearly repeated: {rows:,} of {found.tasks:,} rows, such as {', '.join(found.near[0][:3])}")
    for sentence in balance_sentences(found.balance):
        typer.echo(f"  {sentence}")
    for sentence in found.asked or [f"no question of {found.compared} benchmarks' files here is among the prompts"]:
        typer.echo(f"  benchmarks: {sentence}")
    _print_trainers(found)


def next_command(found: Look, trainer: Trainer, settings: list[str]) -> str:
    """What trains on these rows."""
    model = shlex.quote(found.model or "MODEL")
    words = ["alignkit", "train", trainer.method, f"model.path={model}", f"data.source={shlex.quote(found.source)}"]
    return " ".join([*words, *map(shlex.quote, settings)])


def _lengths_text(one: Lengths) -> str:
    half, most, nearly, longest = one.percentiles.values()
    top = max(count for _, count in one.histogram) or 1
    bars = "".join(BLOCKS[-(-count * (len(BLOCKS) - 1) // top)] for _, count in one.histogram)
    over = f"; {one.over:,} longer than the context of {one.limit:,}" if one.limit is not None else ""
    return (
        f"{one.what}, {one.unit}: half at most {half:,}, 90 % {most:,}, 99 % {nearly:,}, the longest {longest:,} "
        f"▕{bars}▏ 0 to {one.histogram[-1][0]:,}{over}"
    )


def _print_trainers(found: Look) -> None:
    able = [one for one in found.trainers if one.problem is None]
    typer.echo(f"  can train on them: {', '.join(one.method for one in able) or 'no method'}")
    for problem in {one.problem: None for one in found.trainers if one.problem is not None}:
        who = ", ".join(one.method for one in found.trainers if one.problem == problem)
        typer.echo(f"    not {who}: {problem}")


def _print_next(found: Look, settings: list[str]) -> None:
    able = next((one for one in found.trainers if one.problem is None), None)
    if able is not None:
        typer.echo(f"  next: {next_command(found, able, settings)}")


def _print_rows(found: Look) -> None:
    from alignkit.cli.painted import LEGEND, print_sequences

    if not found.shown:
        return
    template = f"{found.model}'s chat template" if found.model else "a plain chat template; --model MODEL has its own"
    typer.echo(f"  rows as {found.trainers[0].method} reads them, with {template} ({LEGEND}):")
    for row in found.shown:
        print_sequences(row, indent="    ")
