"""`alignkit check`: every mistake of a recipe at once, then what its data, template and rewards do."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignkit.cli.data import data
from alignkit.cli.device_memory import check_device
from alignkit.cli.output import JsonOption, OverridesArgument, print_json
from alignkit.errors import AlignkitError, RecipeError
from alignkit.recipe.explain import batch_equation
from alignkit.recipe.identity import recipe_hash
from alignkit.recipe.lookup.kind_of import kind_of
from alignkit.recipe.read import read_recipe, resolve_algorithm
from alignkit.recipe.rules import DATA_SUFFIXES
from alignkit.run.check.preflight_rows import named

if TYPE_CHECKING:
    from alignkit.data.look.spans import Sequenced
    from alignkit.recipe.schema import Recipe
    from alignkit.run.check.preflight import Lengths, Preflight
    from alignkit.run.check.preflight_rows import Learnt


def check(
    target: Annotated[str | None, typer.Argument(help="A recipe, or data: a file or hub:ORG/NAME.")] = None,
    overrides: OverridesArgument = None,
    quick: Annotated[bool, typer.Option("--quick", help="Only the recipe; load no tokenizer and no data.")] = False,
    no_code: Annotated[
        bool, typer.Option("--no-code", help="Only the recipe; import and run nothing that it names, and list that.")
    ] = False,
    device: Annotated[
        str | None,
        typer.Option(help="Only the recipe's memory, on such a device: 80GB, h100, h100x8 (for --launch, 8 of them)."),
    ] = None,
    launch: Annotated[
        str | None, typer.Option(help="With --device: the launch profile; default, the recipe's.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows to render and grade, spread over the data.")] = 200,
    html: Annotated[Path | None, typer.Option(help="Write a row of each stage as a page, learnt tokens green.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of recipes and stop.")] = False,
    settings: Annotated[bool, typer.Option("--settings", help="Print every setting as Markdown and stop.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show every mistake of a recipe; then batch sizes, prompt lengths, template checks and grades of gold answers."""
    if schema or settings:
        _print_settings(as_markdown=settings)
    elif target is None:
        raise AlignkitError("check what? Give a recipe or a data file (`alignkit ls recipes` lists shipped recipes)")
    elif _is_data(target):
        data(target, overrides, rows=rows, html=html, as_json=as_json)
    elif device is not None:
        check_device(target, overrides or [], device, launch, as_json=as_json)
    elif no_code:
        _check_without_code(target, overrides or [], as_json=as_json)
    else:
        _check_recipe(target, overrides or [], quick=quick, rows=rows, html=html, as_json=as_json)


def _is_data(target: str) -> bool:
    """Whether rows are meant, for which `alignkit data` is the verb; a plain .json file is a resolved recipe."""
    from alignkit.data.rows import is_saved

    if target.startswith(("hub:", "generator:")) or ".py:" in target or is_saved(Path(target)):
        return True
    return target.endswith(tuple(set(DATA_SUFFIXES) - {".json"}))


def _print_settings(*, as_markdown: bool) -> None:
    from alignkit.recipe.settings import recipe_json_schema, settings_markdown

    if as_markdown:
        typer.echo(settings_markdown(), nl=False)
    else:
        print_json(recipe_json_schema())


def _check_recipe(
    target: str, overrides: list[str], *, quick: bool, rows: int, html: Path | None, as_json: bool
) -> None:
    recipe, said = _read(target, overrides, quick=quick, as_json=as_json)
    result: dict[str, Any] = {"ok": True, "recipe": str(recipe.file), "hash": recipe_hash(recipe), "problems": []}
    result["arithmetic"] = {"dtype": recipe.model.dtype, "note": said}
    if said and not as_json:
        typer.echo(said)
    result["stages"] = [_stage_summary(recipe, i) for i in range(len(recipe.stages))]
    if not as_json:
        for stage in result["stages"]:
            typer.echo(f"stage {stage['name']}: {stage['algorithm']}\n  {stage['batch_text']}")
    examples: list[tuple[str, list[Sequenced]]] = []
    if not quick:
        from alignkit.run.check.preflight import preflight

        for stage, summary in zip(recipe.stages, result["stages"], strict=True):
            found = preflight(recipe, stage, rows=rows)
            summary["preflight"] = asdict(found)
            result["problems"] += found.problems
            examples.append((found.stage, found.example))
            if not as_json:
                _print_preflight(found)
    result["ok"] = not result["problems"]
    if html is not None:
        from alignkit.run.look.page import write_rows_page

        write_rows_page(html, target, examples)
    if as_json:
        print_json(result)
    else:
        typer.echo("\n".join(result["problems"]) if result["problems"] else f"{target} is fine")
    if result["problems"]:
        raise typer.Exit(1)


def _read(target: str, overrides: list[str], *, quick: bool, as_json: bool) -> tuple[Recipe, str | None]:
    """The recipe as it would run on this machine, and what is to be said of that; with `quick`, as it is written."""
    try:
        recipe = read_recipe(target, overrides)
        if quick:
            return recipe, None
        from alignkit.models.arithmetic import settled
        from alignkit.run.check.named_models import check_models

        check_models(recipe)
        return settled(recipe)
    except RecipeError as error:
        if as_json:
            print_json({"ok": False, "problems": error.problems})
        raise


def _check_without_code(target: str, overrides: list[str], *, as_json: bool) -> None:
    from alignkit.recipe.unread import read_without_code

    reading = read_without_code(target, overrides)
    if as_json:
        unread = [{"name": one.name, "key": one.key, "path": str(one.path)} for one in reading.unread]
        print_json({"ok": not reading.problems, "problems": reading.problems, "not_imported": unread})
    else:
        for one in reading.unread:
            typer.echo(str(one))
    if reading.problems:
        raise RecipeError(reading.problems)
    if not as_json:
        typer.echo(f"{target} has no mistake that can be seen without its code")


def _stage_summary(recipe: Recipe, i: int) -> dict[str, Any]:
    stage = recipe.stages[i]
    algorithm, _ = resolve_algorithm(stage, recipe)
    batch = batch_equation(stage, kind_of(algorithm.source))
    return {"name": stage.name, "algorithm": stage.algorithm["type"], "batch": asdict(batch), "batch_text": str(batch)}


def _print_preflight(found: Preflight) -> None:
    typer.echo(f"  {found.tasks:,} tasks")
    typer.echo(f"  prompts: {_lengths_text(found.prompts)}")
    if found.answers is not None:
        typer.echo(f"  gold answers: {_lengths_text(found.answers)}")
    if found.compared is not None and found.compared.lengths is not None:
        typer.echo(f"  {found.compared.lengths}; {found.compared.truncated} rows truncated")
        for reason, count in found.compared.left_out.items():
            typer.echo(f"    {count} left out with {reason}")
        _print_example(found.compared.example)
    if found.learnt is not None:
        _print_learnt(found.learnt)
    stops = ", ".join(f"{stop.text} ({stop.id}: {', '.join(stop.named_by)})" for stop in found.stops)
    typer.echo(f"  stop tokens: {stops or 'none'}")
    for sentence in found.mismatches:
        typer.echo(f"  {sentence}")
    for what, groups in (("repeat another row", found.repeats.duplicates), ("ask the same", found.repeats.same_prompt)):
        if groups:
            rows = sum(map(len, groups))
            typer.echo(f"  {rows} rows {what}, the first: {named(groups[0])}")
    for sentence in found.asked_by_benchmarks:
        typer.echo(f"  {sentence}")
    if found.gold is not None:
        means = ", ".join(f"{name} {_number(mean)}" for name, mean in found.gold.means.items())
        without = f", {found.gold.without_reference} rows without one" if found.gold.without_reference else ""
        below = f"; {found.gold.below_best} below the best" if found.gold.below_best else ""
        typer.echo(f"  rewards of {found.gold.rows} gold answers: {means}{below}{without}")
        for row in found.gold.shown:
            typer.echo(f"    {row}")


def _print_learnt(learnt: Learnt) -> None:
    typer.echo(
        f"  learnt: {learnt.tokens:,} of {learnt.all_tokens:,} tokens, {learnt.turns:,} assistant turns in "
        f"{learnt.rows:,} rows"
    )
    if learnt.without:
        typer.echo(f"    {len(learnt.without)} rows without a learnt token: {named(learnt.without)}")
    if learnt.too_long:
        typer.echo(f"    {len(learnt.too_long)} rows longer than the model's context: {named(learnt.too_long)}")
    _print_example(learnt.example)


def _print_example(example: list[Sequenced]) -> None:
    if example:
        from alignkit.cli.painted import LEGEND, print_sequences

        typer.echo(f"    one row ({LEGEND}):")
        print_sequences(example, indent="      ")


def _lengths_text(lengths: Lengths) -> str:
    bins = ", ".join(f"<={upper}: {count}" for upper, count in lengths.histogram if count)
    return f"longest {lengths.longest} tokens; {lengths.over_limit} of {lengths.count} over {lengths.limit}; {bins}"


def _number(mean: float | None) -> str:
    return "none" if mean is None else f"{mean:.3f}"
