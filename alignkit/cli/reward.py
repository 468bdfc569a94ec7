"""`alignkit reward test|bench|compare`: the reward lab."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignkit.cli.output import JsonOption, OptionsOption, parse_options, print_json, print_table
from alignkit.errors import AlignkitError
from alignkit.types.files import make_folder, write_atomically

if TYPE_CHECKING:
    from alignkit.recipe.schema import RewardSpec
    from alignkit.run.lab.lab import Lab

reward = typer.Typer(
    help="Test rewards on labelled answers: errors, exploits, speed, agreement.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

TableArgument = Annotated[str, typer.Argument(help="A .jsonl, .parquet or .csv file: prompt, completion, label, ...")]
RewardArgument = Annotated[
    str, typer.Argument(metavar="REWARD", help="A name from `alignkit ls rewards`, ./file.py:name.")
]
ColumnOption = Annotated[
    list[str] | None, typer.Option("--column", metavar="OURS=THEIRS", help="Renames a column; may be given again.")
]
TemplateOption = Annotated[str | None, typer.Option(help="Makes the prompt from columns: '{question}'.")]
LimitOption = Annotated[int | None, typer.Option(min=1, help="Only the first N rows.")]
WorkersOption = Annotated[int, typer.Option(min=1, help="Processes that run the reward.")]
DeadlineOption = Annotated[float, typer.Option(min=0.001, help="Seconds for one answer.")]
ThresholdOption = Annotated[float | None, typer.Option(help="Scores from here on accept; default: see the manual.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Chooses the probed tasks and the half that sets a threshold.")]
OutOption = Annotated[Path | None, typer.Option(help="Folder for result.json and report.html.")]


@reward.command("test")
def examine(
    table: TableArgument,
    name: RewardArgument,
    options: OptionsOption = None,
    columns: ColumnOption = None,
    template: TemplateOption = None,
    limit: LimitOption = None,
    threshold: ThresholdOption = None,
    probes: Annotated[bool, typer.Option(help="Try known exploits, too.")] = True,
    workers: WorkersOption = 2,
    deadline: DeadlineOption = 5.0,
    seed: SeedOption = 0,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Grade labelled answers: false accepts and rejects, ROC, calibration, and answers that try to cheat."""
    from alignkit.report.lab_page import rate, write_test_page
    from alignkit.run.lab.lab import examine_reward, read_table

    settings = lab_settings(columns, template, limit, threshold, workers, deadline, seed)
    result = examine_reward(reward_spec(name, options, deadline), read_table(table, settings), settings, probes=probes)
    write_result(result, out, write_test_page)
    if as_json:
        print_json(result)
        return
    print_table(("what", "value"), _summary(result, rate))
    if result["probes"]:
        rows = [
            (p["probe"], rate(p["paid"]), rate(p["above_wrong"]), "PAYS" if p["pays"] else "") for p in result["probes"]
        ]
        print_table(("exploit", "accepted", "above an honest wrong answer", ""), rows)


@reward.command()
def compare(
    table: TableArgument,
    names: Annotated[list[str], typer.Argument(metavar="REWARD REWARD...", help="Two or more rewards.")],
    options: OptionsOption = None,
    columns: ColumnOption = None,
    template: TemplateOption = None,
    limit: LimitOption = None,
    workers: WorkersOption = 2,
    deadline: DeadlineOption = 5.0,
    seed: SeedOption = 0,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Grade the same answers with several rewards. Options are numbered by reward: `-o 2.letters=ABC`."""
    from alignkit.report.lab_page import p_text, rate, write_comparison_page
    from alignkit.run.lab.lab import compare_rewards, read_table

    if len(names) < 2:
        raise AlignkitError("compare what? Name at least two rewards")
    settings = lab_settings(columns, template, limit, None, workers, deadline, seed)
    specs = [reward_spec(name, _of_number(options, number), deadline) for number, name in enumerate(names, start=1)]
    result = compare_rewards(specs, read_table(table, settings), settings)
    write_result(result, out, write_comparison_page)
    if as_json:
        print_json(result)
        return
    rows = [
        (name, rate(one["false_accept"]), rate(one["false_reject"]), _area(one))
        for name, one in zip(result["names"], result["reports"], strict=True)
    ]
    print_table(("reward", "false accept", "false reject", "AUC"), rows)
    rows = [
        (" / ".join(pair["rewards"]), rate(pair["same_verdict"]), _kappa(pair), p_text(pair["p_value"]))
        for pair in result["agreement"]
    ]
    print_table(("rewards", "same verdict", "kappa", "p (equally good)"), rows)


@reward.command()
def bench(
    table: TableArgument,
    name: RewardArgument,
    options: OptionsOption = None,
    columns: ColumnOption = None,
    template: TemplateOption = None,
    limit: LimitOption = None,
    workers: WorkersOption = 2,
    deadline: DeadlineOption = 5.0,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure answers per second, the time of one answer, and time-outs. Labels must be there but do not matter."""
    from alignkit.run.lab.lab import bench_reward, read_table

    settings = lab_settings(columns, template, limit, None, workers, deadline, 0)
    result = bench_reward(reward_spec(name, options, deadline), read_table(table, settings), settings)
    write_result(result, out, None)
    if as_json:
        print_json(result)
        return
    rows = [
        (
            str(one["workers"]),
            f"{one['answers_per_s']:,.0f}",
            f"{one['p50_ms']:.2f} / {one['p95_ms']:.2f} / {one['max_ms']:.2f} ms" if "p50_ms" in one else "",
            str(one["timeouts"]),
            f"{one['start_s']:.2f} s",
        )
        for one in result["speed"]
    ]
    print_table(("workers", "answers/s", "one alone: median / 95 % / longest", "time-outs", "start"), rows)


def lab_settings(
    columns: list[str] | None,
    template: str | None,
    limit: int | None,
    threshold: float | None,
    workers: int,
    deadline: float,
    seed: int,
) -> Lab:
    from alignkit.run.lab.lab import Lab

    return Lab(
        workers=workers,
        deadline_s=deadline,
        threshold=threshold,
        seed=seed,
        limit=limit,
        columns={name: str(value) for name, value in parse_options(columns).items()},
        template=template,
    )


def reward_spec(name: str, options: list[str] | None, deadline: float) -> RewardSpec:
    from alignkit.recipe.schema import RewardSpec

    return RewardSpec(name=name, options=parse_options(options), deadline_s=deadline)


def _of_number(options: list[str] | None, number: int) -> list[str]:
    for option in options or []:
        if not option.partition(".")[0].isdigit():
            raise AlignkitError(f"--option {option!r}: wanted NUMBER.KEY=VALUE, the number of its reward from 1")
    return [option.partition(".")[2] for option in options or [] if option.partition(".")[0] == str(number)]


def write_result(result: dict[str, Any], out: Path | None, write_page: Any) -> None:
    if out is None:
        return
    make_folder(out)
    write_atomically(out / "result.json", json.dumps(result, indent=2, sort_keys=True, default=str) + "\n")
    if write_page is not None:
        write_page(out / "report.html", result)


def _summary(result: dict[str, Any], rate: Any) -> list[tuple[str, str]]:
    faults = ", ".join(f"{count} {kind}" for kind, count in result["unscorable"].items())
    rows = [
        ("answers", f"{result['right']} right, {result['wrong']} wrong"),
        ("unscorable", faults or "none"),
        ("threshold", f"{result['threshold']['value']:.4g} ({result['threshold']['how']})"),
        ("false accept", rate(result["false_accept"])),
        ("false reject", rate(result["false_reject"])),
        ("AUC", _area(result)),
        ("answers/s", f"{result['time']['answers_per_s']:,.0f}"),
    ]
    if result["calibration"]:
        rows.append(("calibration error", f"{result['calibration']['error']:.3f}"))
    return rows


def _area(result: dict[str, Any]) -> str:
    area = result["auc"]
    return "none" if area is None else f"{area['value']:.3f} ({area['low']:.3f} to {area['high']:.3f})"


def _kappa(pair: dict[str, Any]) -> str:
    return "none" if pair["kappa"] is None else f"{pair['kappa']:.3f}"
