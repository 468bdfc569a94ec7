"""`alignkit reward quantiles|steps`: the lab for rewards that say more than one number."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from alignkit.cli.output import JsonOption, OptionsOption, print_json, print_table
from alignkit.cli.reward import (
    ColumnOption,
    DeadlineOption,
    LimitOption,
    OutOption,
    RewardArgument,
    SeedOption,
    TableArgument,
    TemplateOption,
    ThresholdOption,
    WorkersOption,
    lab_settings,
    reward,
    reward_spec,
    write_result,
)

__all__ = ["reward"]


@reward.command()
def quantiles(
    table: TableArgument,
    name: RewardArgument,
    options: OptionsOption = None,
    point: Annotated[
        str | None, typer.Option(help="A reward of points to compare with; default its own value.")
    ] = None,
    point_options: Annotated[
        list[str] | None, typer.Option("--point-option", metavar="KEY=VALUE", help="An option of that reward.")
    ] = None,
    columns: ColumnOption = None,
    template: TemplateOption = None,
    limit: LimitOption = None,
    workers: WorkersOption = 2,
    deadline: DeadlineOption = 5.0,
    seed: SeedOption = 0,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check predicted distributions against numeric labels: coverage, crossing, CRPS against a point with noise."""
    from alignkit.run.lab.lab_quality import examine_quantiles

    settings = lab_settings(columns, template, limit, None, workers, deadline, seed)
    other = reward_spec(point, point_options, deadline) if point else None
    result = examine_quantiles(reward_spec(name, options, deadline), table, settings, point=other)
    write_result(result, out, None)
    if as_json:
        print_json(result)
        return
    rows = [(f"within the central {share}", _share(number)) for share, number in result["coverage"].items()]
    rows += [
        ("neighbours that cross", _share(result["crossing_rate"])),
        ("calibration error over levels", f"{result['calibration_error']:.3f}"),
        ("CRPS", _number(result["crps"])),
        ("CRPS of the point with noise", _number(result["crps_point"])),
        ("difference", _number(result["crps_difference"])),
    ]
    print_table(("what", "value (95 %)"), rows + _left_out(result))


@reward.command()
def steps(
    table: TableArgument,
    name: RewardArgument,
    options: OptionsOption = None,
    columns: ColumnOption = None,
    template: TemplateOption = None,
    limit: LimitOption = None,
    threshold: ThresholdOption = None,
    workers: WorkersOption = 2,
    deadline: DeadlineOption = 5.0,
    seed: SeedOption = 0,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a process reward against labelled steps: area under the ROC, and whether it finds the first error."""
    from alignkit.run.lab.lab_quality import examine_steps

    settings = lab_settings(columns, template, limit, threshold, workers, deadline, seed)
    result = examine_steps(reward_spec(name, options, deadline), table, settings)
    write_result(result, out, None)
    if as_json:
        print_json(result)
        return
    found = result["first_error"]
    rows = [
        ("steps", f"{result['steps']} in {result['scored']} solutions, {result['wrong_steps']} of them wrong"),
        ("AUC of steps", _number(result["auc"])),
        ("threshold", f"{result['threshold']['value']:.4g} ({result['threshold']['how']})"),
        ("first errors found", _share(found["erroneous"])),
        ("right solutions let pass", _share(found["correct"])),
        ("first-error F1", _share(found["f1"])),
        ("F1 of right / wrong steps", f"{result['step_f1']['right']:.3f} / {result['step_f1']['wrong']:.3f}"),
    ]
    print_table(("what", "value (95 %)"), rows + _left_out(result))


def _left_out(result: dict[str, Any]) -> list[tuple[str, str]]:
    return [(f"unscorable: {kind}", str(count)) for kind, count in result["unscorable"].items()]


def _share(number: dict[str, Any]) -> str:
    if number["value"] is None:
        return f"none: {number['cause']}"
    return f"{number['value']:.1%} ({number['low']:.1%} to {number['high']:.1%})"


def _number(number: dict[str, Any]) -> str:
    if number["value"] is None:
        return f"none: {number['cause']}"
    return f"{number['value']:.4g} ({number['low']:.4g} to {number['high']:.4g})"
