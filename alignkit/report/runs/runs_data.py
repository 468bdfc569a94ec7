"""What a comparison of runs says, as plain data: the page, the terminal and `report --json` show this."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations, takewhile
from pathlib import Path
from statistics import fmean
from typing import Any

from alignkit.errors import ContentError
from alignkit.evaluate.results.compare import first_difference
from alignkit.report.chart import COLOURS
from alignkit.report.run_data import (
    RunData,
    health_summary,
    metric_names,
    read_run,
    series,
    status,
    total_steps,
    versions,
)
from alignkit.report.runs.recipes import differences, same_recipe
from alignkit.report.runs.verdicts import Scored, Verdict, item_scores, verdicts

LETTERS = "ABCDEFGH"
GAME = ("name", "options", "program", "tools", "max_turns", "max_tokens", "max_tool_calls", "tool_characters")
"""Settings of an environment that say which game is played, and how long."""
TAIL = 10  # a metric's last value is its mean over the last tenth of the steps

Data = dict[str, Any]


def runs_data(folders: Sequence[Path], *, seed: int = 0) -> Data:
    """Several runs: those whose recipes differ in the seed alone are one recipe, called by a letter.

    Raises ContentError for fewer than two runs, the same folder twice, or more recipes than a page has colours.
    """
    if len(folders) < 2:
        raise ContentError(f"a comparison takes two runs or more; got {len(folders)}")
    repeated = [path for path in folders if sum(path.resolve() == other.resolve() for other in folders) > 1]
    if repeated:
        raise ContentError(f"{repeated[0]} is given twice; name each run once")
    runs = [read_run(path, completions=False) for path in folders]
    groups = same_recipe([run.recipe for run in runs])
    if len(groups) > COLOURS:
        raise ContentError(f"these {len(runs)} runs have {len(groups)} recipes; a page compares at most {COLOURS}")
    names = _names(folders)
    recipes = [runs[members[0]].recipe for members in groups]
    measure = _measure(runs)
    pairs, steps = _pairs(runs, groups, measure)
    found = verdicts(pairs, _causes(recipes), seed=seed)
    return {
        "kind": "runs",
        "runs": [_run(names[i], LETTERS[g], runs[i]) for g, members in enumerate(groups) for i in members],
        "recipes": [
            {"letter": LETTERS[g], "name": _group_name(own), "runs": own}
            for g, own in enumerate([[names[i] for i in members] for members in groups])
        ],
        "differences": [asdict(row) for row in differences(recipes) if row.key != "seed"],
        "metrics": _metrics(runs, groups),
        "health": _health(runs, names, groups),
        "evaluation": {
            "measure": measure,
            "best": _best(measure, found),
            "verdicts": [_verdict(verdict) | after for verdict, after in zip(found, steps, strict=True)],
        },
        "versions": _versions(runs, names, groups),
        "missing": [f"{names[i]}: {line}" for members in groups for i in members for line in runs[i].missing],
    }


def grouped_series(runs: Sequence[RunData], members: Sequence[int], name: str) -> list[list[tuple[float, float]]]:
    """A metric of each run of a recipe, empty where it has none; of held-out scores at the evaluations' own steps."""
    return [_series(runs[index], name) for index in members]


def _series(run: RunData, name: str) -> list[tuple[float, float]]:
    if name not in ("eval/accuracy", "eval/reward_mean"):
        return series(run.metrics, name)
    key = name.removeprefix("eval/")
    return [(float(record.get("step", 0)), record[key]) for record in run.evaluations if record.get(key) is not None]


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' names; whole paths where two have the same one."""
    short = [path.resolve().name for path in folders]
    return short if len(set(short)) == len(short) else [str(path) for path in folders]


def _group_name(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    common = re.sub(r"[-_./ \d]*(seed|s)?[-_./ ]*$", "", "".join(letters[0] for letters in same))
    return f"{common or names[0]} ({len(names)} runs)"


def _run(name: str, letter: str, run: RunData) -> Data:
    """The row of a run in the table on top."""
    rewards, total = series(run.metrics, "reward/mean"), total_steps(run.recipe)
    evaluated = [record for record in run.evaluations if record.get("accuracy") is not None]
    return {
        "name": name,
        "letter": letter,
        "path": str(run.path),
        "seed": run.recipe.get("seed"),
        "status": status(run.events, done=len(run.metrics), total=total),
        "steps": len(run.metrics),
        "total": total,
        "reward": _tail(rewards),
        "accuracy_before": evaluated[0]["accuracy"] if evaluated and evaluated[0].get("step") == 0 else None,
        "accuracy": evaluated[-1]["accuracy"] if evaluated and evaluated[-1].get("step") else None,
        "tokens": sum(value for _, value in series(run.metrics, "rollout/tokens")) or None,
        "seconds": sum(value for _, value in series(run.metrics, "time/step_s")) or None,
    }


def _tail(points: Sequence[tuple[float, float]]) -> float | None:
    """Mean of the last tenth of a series, at least one value."""
    return fmean(value for _, value in points[-max(1, len(points) // TAIL) :]) if points else None


def _metrics(runs: Sequence[RunData], groups: Sequence[Sequence[int]]) -> list[Data]:
    """For each metric that two recipes have, the mean of its last tenth over the runs of each."""
    names = dict.fromkeys(name for run in runs for name in metric_names(run.metrics) if name != "time/clock_s")
    rows = []
    for name in names:
        ends = [[_tail(points) for points in grouped_series(runs, members, name)] for members in groups]
        values = [fmean(known) if (known := [end for end in each if end is not None]) else None for each in ends]
        if sum(value is not None for value in values) > 1:
            rows.append({"name": name, "values": values})
    return rows


def _health(runs: Sequence[RunData], names: Sequence[str], groups: Sequence[Sequence[int]]) -> Data:
    """Every rule that fired in a run: worst level, number of steps, first and last of them; None where it did not."""
    order = [index for members in groups for index in members]
    found = [{row["name"]: row for row in health_summary(runs[index].events)} for index in order]
    rules = dict.fromkeys(rule for one in found for rule in one)
    kept = ("level", "count", "first", "last", "sentence")
    rows = [
        {"rule": rule, "runs": [{key: one[rule][key] for key in kept} if rule in one else None for one in found]}
        for rule in rules
    ]
    return {"names": [names[index] for index in order], "rules": rows}


def _evaluated(runs: Sequence[RunData]) -> list[Mapping[str, Any] | None]:
    """The evaluation by which each of these runs is compared with the others, None where it has none after step 0.

    Of runs that have all finished the last one; where one has not, the last that each of them has after as many steps.
    """
    finished = all(status(r.events, done=len(r.metrics), total=total_steps(r.recipe)) == "finished" for r in runs)
    shared = set.intersection(*({record.get("step", 0) for record in run.evaluations} for run in runs))
    found: list[Mapping[str, Any] | None] = []
    for run in runs:
        known = run.evaluations if finished else [one for one in run.evaluations if one.get("step", 0) in shared]
        later = [record for record in known if record.get("step", 0) > 0]
        found.append(later[-1] if later else None)
    return found


def _pairs(
    runs: Sequence[RunData], groups: Sequence[Sequence[int]], measure: str
) -> tuple[list[tuple[Scored, Scored]], list[Data]]:
    """Every two recipes: (their scores, after how many steps each of their runs was evaluated)."""
    scored, steps = [], []
    for first, second in combinations(range(len(groups)), 2):
        members = [*groups[first], *groups[second]]
        records = dict(zip(members, _evaluated([runs[index] for index in members]), strict=True))
        known = all("asked" in row for record in records.values() for row in _results(record))
        scores = {i: item_scores(_results(record), measure, by_question=known) for i, record in records.items()}
        sides = [
            Scored(name=LETTERS[number], seeds=[(runs[i].recipe.get("seed"), scores[i]) for i in groups[number]])
            for number in (first, second)
        ]
        scored.append((sides[0], sides[1]))
        after = [[record.get("step") if (record := records[i]) else None for i in groups[n]] for n in (first, second)]
        steps.append({"after_steps": after})
    return scored, steps


def _measure(runs: Sequence[RunData]) -> str:
    """The column of the evaluations that is compared: `correct` where any answer has it."""
    answered = (row for run in runs for record in run.evaluations for row in record["results"])
    return "correct" if any(row.get("correct") is not None for row in answered) else "reward"


def _results(record: Mapping[str, Any] | None) -> Sequence[Mapping[str, Any]]:
    return record["results"] if record else []


def _causes(recipes: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    """Why two recipes' evaluations are not comparable: the first setting of them that differs."""
    causes = {}
    asked = [_protocol(recipe) for recipe in recipes]
    for second in range(len(recipes)):
        for first in range(second):
            found = first_difference(asked[first], asked[second]) if asked[first] and asked[second] else None
            if found:
                key, here, there = found
                causes[LETTERS[first], LETTERS[second]] = (
                    f"their evaluations differ in {key} ({here} and {there}); measure both by one protocol: "
                    "alignkit eval, then alignkit compare"
                )
    return causes


def _protocol(recipe: Mapping[str, Any]) -> Data:
    """What a held-out score depends on besides the model: questions or the game, sampling, the reward that decides."""
    stages = recipe.get("stages") or [{}]
    stage, told = stages[-1], recipe.get("evaluation") or {}
    rollouts, rewards, game = (stage.get(key) or {} for key in ("rollouts", "rewards", "environment"))
    grader = next((one for one in rewards if not one.get("gate")), next(iter(rewards), {}))
    return {
        "evaluation.data": told.get("data") or stage.get("data"),
        "evaluation.samples": told.get("samples"),
        "evaluation.temperature": told.get("temperature"),
        "evaluation.max_new_tokens": told.get("max_new_tokens") or rollouts.get("max_new_tokens"),
        "environment": {key: game.get(key) or None for key in GAME},
        "rewards": {key: grader.get(key) for key in ("name", "options")},
    }


def _best(measure: str, found: Sequence[Verdict]) -> Data | None:
    """The recipe with the highest mean among those compared, and how it stands to each other."""
    means: dict[str, float] = {}
    for verdict in found:
        if verdict.comparison:
            means |= {verdict.first: verdict.comparison.before, verdict.second: verdict.comparison.after}
    if not means:
        return None
    best = max(means, key=lambda name: means[name])
    beaten, open_, unknown = [], [], []
    for verdict in found:
        if best not in (verdict.first, verdict.second):
            continue
        other = verdict.second if verdict.first == best else verdict.first
        if verdict.comparison is None:
            unknown.append(other)
        else:
            (open_ if verdict.comparison.verdict == "no detectable change" else beaten).append(other)
    told = {"better than": beaten, "not told apart from": open_, "not compared with": unknown}
    parts = "; ".join(f"{words} {', '.join(letters)}" for words, letters in told.items() if letters)
    score = "held-out accuracy" if measure == "correct" else "mean held-out reward"
    return {
        "letter": best,
        "sentence": f"{best} has the highest {score}, {means[best]:.3f}: {parts}",
        **{words.replace(" ", "_"): letters for words, letters in told.items()},
    }


def _verdict(verdict: Verdict) -> Data:
    return {
        "first": verdict.first,
        "second": verdict.second,
        "verdict": verdict.comparison.verdict if verdict.comparison else "not compared",
        "sentence": verdict.sentence,
        "comparison": asdict(verdict.comparison) if verdict.comparison else None,
        "repeats": asdict(verdict.repeats) if verdict.repeats else None,
        "left_out": verdict.left_out,
    }


def _versions(runs: Sequence[RunData], names: Sequence[str], groups: Sequence[Sequence[int]]) -> list[Data]:
    """Packages whose version differs between runs."""
    order = [index for members in groups for index in members]
    found = [versions(runs[index].events) for index in order]
    packages = dict.fromkeys(package for one in found for package in one)
    rows = [{"package": name, "values": [one.get(name, "not recorded") for one in found]} for name in packages]
    return [row for row in rows if len(set(row["values"])) > 1]
