"""`alignkit compare`: whether two evaluations differ, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignkit.cli.output import JsonOption, print_json, print_table
from alignkit.errors import DataError

if TYPE_CHECKING:
    from alignkit.evaluate.results.compare import SuiteComparison
    from alignkit.evaluate.results.drift import RewardHacking


def compare(
    before: Annotated[Path, typer.Argument(metavar="A", help="Eval folder, or lm-eval or inspect logs.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="The same of the model to compare with A.")],
    only: Annotated[list[str] | None, typer.Option(help="Compare this protocol only; may be repeated.")] = None,
    report: Annotated[Path | None, typer.Option(help="Also write the comparison as this HTML file.")] = None,
    card: Annotated[bool, typer.Option("--card", help="With --report: also write model_card.md beside it.")] = False,
    proxy: Annotated[str | None, typer.Option(help="PROTOCOL:METRIC that training optimised.")] = None,
    gold: Annotated[str | None, typer.Option(help="PROTOCOL:METRIC that it stands for.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap and the random tests.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Compare two evaluations of the same protocols: paired tests, Holm over the suite, verdicts in fixed words."""
    from alignkit.evaluate.results.compare import compare_folders
    from alignkit.evaluate.results.logs import read_results
    from alignkit.report.eval_data import comparison_data, without_texts
    from alignkit.report.eval_html import write_eval_report

    if (proxy is None) != (gold is None):
        raise DataError("--proxy and --gold belong together: name the metric that was optimised and the one it is for")
    if card and report is None:
        raise DataError("--card writes beside the report: give --report FILE.html as well")
    result = compare_folders(read_results(before), read_results(after), only=only or (), seed=seed)
    hacking = _hacking(result, proxy, gold) if proxy and gold else None
    data = comparison_data(result, seed=seed)
    written = write_eval_report(data, report, with_card=card) if report else []
    if as_json:
        told: dict[str, Any] = {"written": [str(path) for path in written]} if written else {}
        if hacking:
            told["reward_hacking"] = {"proxy": proxy, "gold": gold, "verdict": hacking.verdict}
        print_json(without_texts(data) | told)
        return
    _print(data)
    if hacking:
        sides = f"{proxy}: {hacking.proxy.verdict}; {gold}: {hacking.gold.verdict}"
        typer.echo(f"reward hacking check: {hacking.verdict} ({sides})")
    for path in written:
        typer.echo(path)


def _hacking(result: SuiteComparison, proxy: str, gold: str) -> RewardHacking:
    from alignkit.evaluate.results.drift import reward_hacking

    tested = {f"{change.protocol}:{change.metric}": change.comparison for change in result.changes if change.comparison}
    for name in (proxy, gold):
        if name not in tested:
            raise DataError(f"{name} is not among the tested metrics: {', '.join(tested)}")
    return reward_hacking(tested[proxy], tested[gold])


def _print(data: Mapping[str, Any]) -> None:
    from alignkit.report.clean_text import one_line
    from alignkit.report.eval_html import interval_text, value_text

    for letter, side in zip("AB", data["sides"], strict=True):
        typer.echo(one_line(f"{letter}: {side['model']} ({side['path']})"))
    rows = []
    for row in data["rows"]:
        change = row["change"]
        values = [f"{value_text(side, row)} ({interval_text(side, row) or 'no interval'})" for side in row["sides"]]
        told = ["", "", f"not tested: {row['cause']}"]
        if change:
            interval = f"{change['difference']:+.3f} ({change['low']:+.3f} to {change['high']:+.3f})"
            told = [interval, f"{change['adjusted']:.2g}", _verdict(row)]
        rows.append([one_line(cell) for cell in (row["protocol"], row["metric"], *values, *told)])
    print_table(("protocol", "metric", "A", "B", "change (95 %)", "p, Holm", "verdict"), rows)
    for pair in data["pairs"]:
        typer.echo(one_line(f"{'AB'[pair['side']]} {pair['protocol']}: {pair['sentence']}"))
    for one in data["drift"]:
        moved = [
            f"{row['name']} {row['before']:.3g} -> {row['after']:.3g} ({row['trend']})"
            for row in one["rows"]
            if row["trend"] in ("up", "down")
        ]
        if moved:
            typer.echo(one_line(f"answers of {one['protocol']}: {'; '.join(moved)}"))
    for line in data["notes"]:
        typer.echo(one_line(f"note: {line}"))


def _verdict(row: Mapping[str, Any]) -> str:
    change = row["change"]
    if row["verdict"] != "no detectable change":
        return row["verdict"]
    return f"{row['verdict']}; {change['tasks']} tasks show changes from about {change['detectable']:.3f} upwards"
