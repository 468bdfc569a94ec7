"""`alignkit best-of-n`: the best completions of a file, and what choosing them is worth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from alignkit.cli.output import JsonOption, OptionsOption, parse_options, print_json, print_table
from alignkit.cli.reward import ColumnOption, DeadlineOption, LimitOption, TemplateOption, WorkersOption, lab_settings
from alignkit.errors import AlignkitError
from alignkit.types.files import make_folder, write_atomically


def best_of_n(
    completions: Annotated[
        str, typer.Argument(help="A file with `prompt` and `completions`, or one `completion` a row.")
    ],
    name: Annotated[str, typer.Argument(metavar="REWARD", help="The reward that chooses.")],
    options: OptionsOption = None,
    gold: Annotated[str | None, typer.Option(help="A reward that says how good the choice really is.")] = None,
    gold_options: Annotated[
        list[str] | None, typer.Option("--gold-option", metavar="KEY=VALUE", help="An option of the gold reward.")
    ] = None,
    gold_column: Annotated[str | None, typer.Option(help="A column with that number instead.")] = None,
    sizes: Annotated[str | None, typer.Option("--n", help="Values of n, `1,4,16`; default: powers of two.")] = None,
    pick: Annotated[Path | None, typer.Option(help="Write each prompt's best completion to this .jsonl file.")] = None,
    columns: ColumnOption = None,
    template: TemplateOption = None,
    limit: LimitOption = None,
    workers: WorkersOption = 2,
    deadline: DeadlineOption = 5.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the intervals, and of the halves of the prompts.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for result.json and report.html.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Expected reward of the best of n, unbiased for n up to the samples per prompt; with gold, whether it lasts."""
    from alignkit.recipe.schema import RewardSpec
    from alignkit.report.lab_page import write_best_of_n_page
    from alignkit.run.evaluate.best_of_n import best_of_n, read_samples

    if gold and gold_column:
        raise AlignkitError("--gold and --gold-column both say what is gold; give one")
    settings = lab_settings(columns, template, limit, None, workers, deadline, seed)
    proxy = RewardSpec(name=name, options=parse_options(options), deadline_s=deadline)
    truth = RewardSpec(name=gold, options=parse_options(gold_options), deadline_s=deadline) if gold else None
    samples = read_samples(completions, settings, gold_column=gold_column)
    result, best = best_of_n(
        proxy, truth, samples, source=completions, settings=settings, sizes=_numbers(sizes) if sizes else None
    )
    if out is not None:
        make_folder(out)
        write_atomically(out / "result.json", json.dumps(result, indent=2, sort_keys=True, default=str) + "\n")
        write_best_of_n_page(out / "report.html", result)
    if pick is not None:
        write_atomically(pick, "".join(json.dumps(row, default=str) + "\n" for row in best))
    if as_json:
        print_json(result)
        return
    _print(result)


def _print(result: dict[str, Any]) -> None:
    rows = [
        (
            str(point["n"]),
            f"{point['kl']:.3f}",
            _told(point["proxy"], point["proxy_interval"]),
            _told(point["gold"], point["gold_interval"]),
        )
        for point in result["points"]
    ]
    print_table(("n", "KL, nats", "proxy (95 %)", "gold (95 %)"), rows)
    left_out = result["left_out"]
    if left_out["prompts"] or left_out["samples"]:
        faults = ", ".join(f"{count} {kind}" for kind, count in left_out["samples"].items()) or "none"
        typer.echo(f"left out: {left_out['prompts']} prompts; samples without a value: {faults}")
    if result["sentence"]:
        typer.echo(result["sentence"])


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise AlignkitError(f"--n {text!r}: wanted numbers with commas, like 1,4,16") from error


def _told(value: float | None, interval: dict[str, float] | None) -> str:
    if value is None or interval is None:
        return "none"
    return f"{value:.4g} ({interval['low']:.4g} to {interval['high']:.4g})"
