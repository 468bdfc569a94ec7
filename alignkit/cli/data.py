"""`alignkit data`: what a file or a dataset of the hub holds, and who can train on it."""

from __future__ import annotations

import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alignkit.cli.output import JsonOption, OverridesArgument, print_json
from alignkit.recipe.read import read_recipe

if TYPE_CHECKING:
    from alignkit.run.look.look import Lengths, Look
    from alignkit.run.look.trainers import Trainer

WIDTH = 24  # of the longest bar
BLOCKS = " ▁▂▃▄▅▆▇█"


def data(
    source: Annotated[str, typer.Argument(help="A file, a saved folder, hub:ORG/NAME, or ./file.py:NAME.")],
    overrides: OverridesArgument = None,
    model: Annotated[
        str | None, typer.Option(help="Whose tokenizer and chat template to use: a folder or ORG/NAME.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows to look at closely, a random sample of all.")] = 20_000,
    html: Annotated[Path | None, typer.Option(help="Write the same as a page, the rows' tokens in colour.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what rows hold: columns, lengths, repetitions, labels, who can train on them, some as a model sees them."""
    from alignkit.run.look.look import look

    settings = [one if one.startswith("data.") else f"data.{one}" for one in overrides or []]
    recipe = read_recipe("sft", [f"model.path={model or 'MODEL'}", f"data.source={source}", *settings])
    wanted, beside = recipe.stages[0].data, recipe.file.parent if recipe.file else None
    tokenizer = None
    if model is not None:
        from alignkit.run.check.preflight import load_tokenizer

        tokenizer = load_tokenizer(recipe.model, beside)
    found = look(wanted, rows=rows, tokenizer=tokenizer, model=model, beside=beside)
    found = replace(found, source=source)  # as it was typed, not as the shelf's recipe would write it
    if html is not None:
        from alignkit.run.look.page import write_data_page

        write_data_page(found, html)
    if as_json:
        print_json(asdict(found))
        return
    _print(found, settings)
    if html is not None:
        typer.echo(f"wrote {html}")


def _print(found: Look, settings: list[str]) -> None:
    from alignkit.run.look.sentences import balance_sentences

    more = "" if found.whole else " (there are more; these were read)"
    sample = "" if found.looked_at == found.read else f"; a random {found.looked_at:,} of them are looked at closely"
    typer.echo(f"{found.source}: {found.read:,} rows{more}{sample}")
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
    _print_trainers(found, settings)
    _print_rows(found)


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


def _print_trainers(found: Look, settings: list[str]) -> None:
    able = [one for one in found.trainers if one.problem is None]
    typer.echo(f"  can train on them: {', '.join(one.method for one in able) or 'no method'}")
    for problem in {one.problem: None for one in found.trainers if one.problem is not None}:
        who = ", ".join(one.method for one in found.trainers if one.problem == problem)
        typer.echo(f"    not {who}: {problem}")
    if able:
        typer.echo(f"  next: {next_command(found, able[0], settings)}")


def _print_rows(found: Look) -> None:
    from alignkit.cli.painted import LEGEND, print_sequences

    if not found.shown:
        return
    template = f"{found.model}'s chat template" if found.model else "a plain chat template; --model MODEL has its own"
    typer.echo(f"  rows as {found.trainers[0].method} reads them, with {template} ({LEGEND}):")
    for row in found.shown:
        print_sequences(row, indent="    ")
