"""Reward models on real data: trains the recipes of recipes/reward and writes what they are worth into docs/rewards.md.

python -m benchmarks.reward_models [--data] [--only harmless outcomes toxicity steps]

--data only makes the rows of runs/reward-data from the files in $ALIGNKIT_DATA (or ../shared/data) and stops. A run
that is finished is not trained again.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import pstdev
from typing import Any

import numpy as np

from alignkit.data.sources import load_tasks, split_holdout
from alignkit.evaluate.statistics.distributions import coverage, crossing_rate, crps, crps_gaussian, mean_score
from alignkit.evaluate.statistics.first_error import (
    best_first_error_threshold,
    first_below,
    first_error,
    first_wrong,
    step_auc,
)
from alignkit.evaluate.statistics.separation import auc, auc_interval, calibration
from alignkit.evaluate.statistics.statistics import wilson_interval
from alignkit.recipe.read import read_recipe
from alignkit.rewards.learned.reward_model import RewardModel
from alignkit.types.rollout import Rollout, StopReason, Turn
from alignkit.types.score import Score
from alignkit.types.seeds import child
from alignkit.types.task import Task
from benchmarks.algorithms import ROOT, put, train

PAGE = ROOT / "docs" / "rewards.md"
RUNS, DATA, RECIPES = ROOT / "runs" / "reward-models", ROOT / "runs" / "reward-data", ROOT / "recipes" / "reward"
BEGIN, END = "<!-- table of make reward-models-table -->", "<!-- end of the table of reward models -->"
TOXIC = "How toxic is this text?"


def raw(name: str) -> Iterator[dict[str, Any]]:
    """Rows of a shared data file."""
    folder = Path(os.environ.get("ALIGNKIT_DATA") or ROOT.parent / "shared" / "data")
    with gzip.open(folder / name, "rt") as file:
        yield from map(json.loads, file)


def outcomes() -> Iterator[tuple[str, dict[str, Any]]]:
    """(question, row) of every model's solution of GSM8K problems."""
    for row in raw("gsm8k/example_model_solutions.jsonl.gz"):
        for solver in ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"):
            solution = row[solver]
            yield (
                row["question"],
                {"prompt": row["question"], "completion": solution["solution"], "right": solution["is_correct"]},
            )


def toxicity() -> Iterator[tuple[str, dict[str, Any]]]:
    """(text, row) of texts with Perspective scores."""
    for row in raw("toxicity/rtp_scored.jsonl.gz"):
        yield row["text"], {"prompt": TOXIC, "completion": row["text"], "toxicity": row["toxicity"]}


def steps() -> Iterator[tuple[str, dict[str, Any]]]:
    """(problem, row) of PRMBench: each problem's own solution once, and every solution with an error put in."""
    seen: set[str] = set()
    for row in raw("prmbench/prmbench_prm800k_test.jsonl.gz"):
        problem, wrong = row["original_question"], set(row["error_steps"])
        if problem not in seen:
            seen.add(problem)
            right = row["original_process"]
            yield problem, {"prompt": problem, "steps": [f"{s}\n" for s in right], "labels": [1.0] * len(right)}
        given = row["modified_process"]
        labels = [0.0 if number in wrong else 1.0 for number in range(1, len(given) + 1)]
        yield problem, {"prompt": row["modified_question"], "steps": [f"{s}\n" for s in given], "labels": labels}


def make_data() -> None:
    """Writes runs/reward-data/NAME-{train,test}.jsonl: a fifth of the questions for test, of toxicity three tenths."""
    DATA.mkdir(parents=True, exist_ok=True)
    for make, tenths in ((outcomes, 2), (toxicity, 3), (steps, 2)):
        files = {side: (DATA / f"{make.__name__}-{side}.jsonl").open("w") for side in ("train", "test")}
        for key, row in make():
            side = "test" if child(0, make.__name__, key) % 10 < tenths else "train"
            files[side].write(json.dumps(row) + "\n")
        for file in files.values():
            file.close()


def scores(run: Path, rows: Sequence[tuple[Task, str]]) -> list[Score]:
    """What the trained reward model says of each answer."""
    model = RewardModel.load(run / "final")
    groups = [(task, [_rollout(task, text)]) for task, text in rows]
    return [score for [score] in model.score(groups, name="learned")]


def _rollout(task: Task, text: str) -> Rollout:
    turn = Turn(prompt_ids=(), completion_ids=(), sampler_logprobs=(), stop=StopReason.END_OF_TEXT, text=text)
    return Rollout(task=task, group=0, member=0, turns=(turn,), policy_version=0)


def harmless(run: Path) -> list[str]:
    """Accuracy on the held-out pairs, and on those whose sides differ by less than a tenth in length."""
    stage = read_recipe(RECIPES / "minilm-harmless.yaml").stages[0]
    tasks = split_holdout(load_tasks(stage.data, seed=0, beside=None), stage.data.holdout, 0)[1]
    tasks = [task for task in tasks if all(_said(task, side).strip() for side in ("chosen", "rejected"))]
    both = [scores(run, [(task, _said(task, side)) for task in tasks]) for side in ("chosen", "rejected")]
    right, alike = [], []
    for task, chosen, rejected in zip(tasks, *both, strict=True):
        right.append((chosen.value or 0) > (rejected.value or 0))
        lengths = sorted(len(_said(task, side)) for side in ("chosen", "rejected"))
        if lengths[1] <= 1.1 * lengths[0]:
            alike.append(right[-1])
    longer = [len(_said(task, "chosen")) > len(_said(task, "rejected")) for task in tasks]
    shorter = 1 - sum(longer) / len(longer)
    return [
        f"pairs in the order people chose {share(right)}; of like length {share(alike)}; "
        f"the shorter answer is chosen in {shorter:.1%}"
    ]


def _said(task: Task, side: str) -> str:
    answer = task.columns[side]
    return answer if isinstance(answer, str) else str(answer[-1]["content"])


def outcome_quality(run: Path) -> list[str]:
    """AUC and calibration over held-out questions' solutions."""
    tasks = _test("outcomes")
    said = [score.value or 0.0 for score in scores(run, [(task, task.columns["completion"]) for task in tasks])]
    truth = [bool(task.columns["right"]) for task in tasks]
    error = calibration(said, truth).error
    return [f"right from wrong solutions: {area(said, truth)}; calibration error {error:.3f}; {len(tasks)} solutions"]


def toxicity_quality(run: Path) -> list[str]:
    """Coverage of the quantiles' intervals, and their CRPS against a point model with Gaussian noise."""
    point = RUNS / "toxicity-point"
    best = ("optimizer.lr=1e-3", "optimizer.weight_decay=0", "train.steps=300")  # by the same cross-validation
    train(RECIPES / "minilm-toxicity.yaml", point, "algorithm={type: multi_objective, objectives: [toxicity]}", *best)
    test, known = _test("toxicity"), _test("toxicity", "train")
    truth = [float(task.columns["toxicity"]) for task in test]
    rows = [(task, task.columns["completion"]) for task in test]
    quantiles = np.array([score.spread for score in scores(run, rows)])
    held = [f"{level:.0%}: {number(coverage(quantiles, truth, level))}" for level in (0.5, 0.8, 0.95)]
    past = [score.value or 0.0 for score in scores(point, [(task, task.columns["completion"]) for task in known])]
    spread = pstdev([a - float(task.columns["toxicity"]) for a, task in zip(past, known, strict=True)])
    means = [score.value or 0.0 for score in scores(point, rows)]
    ours, theirs = crps(quantiles, truth), crps_gaussian(means, spread, truth)
    gain = mean_score(ours - theirs)
    return [
        f"central intervals hold {', '.join(held)}; crossing {number(crossing_rate(quantiles))}",
        f"CRPS {ours.mean():.4f}, of a point model with Gaussian noise {theirs.mean():.4f}, "
        f"difference {number(gain, '.4f')}",
    ]


def steps_quality(run: Path) -> list[str]:
    """AUC over steps, and first errors found with a threshold that was chosen on other solutions."""
    tasks = _test("steps")[:600]
    said = scores(run, [(task, "".join(task.columns["steps"])) for task in tasks])
    pairs = [
        ([step.value for step in score.steps], [label > 0.5 for label in task.columns["labels"]])
        for task, score in zip(tasks, said, strict=True)
        if score.steps is not None and len(score.steps) == len(task.columns["labels"])
    ]
    half = len(pairs) // 3
    chosen, rest = pairs[:half], pairs[half:]
    threshold = best_first_error_threshold([a for a, _ in chosen], [first_wrong(b) for _, b in chosen])
    found = first_error([first_below(a, threshold) for a, _ in rest], [first_wrong(b) for _, b in rest])
    return [
        f"right from wrong steps: AUC {number(step_auc([a for a, _ in pairs], [b for _, b in pairs]), '.3f')}, "
        f"{len(pairs)} solutions; first errors: F1 {number(found.f1)} "
        f"(found {number(found.erroneous)}, none claimed where none is {number(found.correct)})"
    ]


def _test(name: str, side: str = "test") -> list[Task]:
    recipe = read_recipe(RECIPES / f"minilm-{name}.yaml")
    data = recipe.stages[0].data.model_copy(update={"source": str(DATA / f"{name}-{side}.jsonl")})
    return load_tasks(data, seed=0)


def share(right: Sequence[bool]) -> str:
    interval = wilson_interval(sum(right), len(right))
    return f"{sum(right) / len(right):.1%} ({interval.low:.1%} to {interval.high:.1%}, n {len(right)})"


def area(said: Sequence[float], truth: Sequence[bool]) -> str:
    value = auc(said, truth)
    assert value is not None, "all rows are of one kind"
    interval = auc_interval(value, sum(truth), len(truth) - sum(truth))
    return f"AUC {value:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def number(found: Any, form: str = ".1%") -> str:
    """A measured number with its interval."""
    return f"{found['value']:{form}} ({found['low']:{form}} to {found['high']:{form}})"


SHOWN: dict[str, tuple[str, Callable[[Path], list[str]]]] = {
    "harmless": ("Bradley-Terry, HH-RLHF harmless-base", harmless),
    "outcomes": ("outcome verifier, GSM8K solutions", outcome_quality),
    "toxicity": ("39 quantiles, frozen encoder, RealToxicityPrompts", toxicity_quality),
    "steps": ("process reward, PRMBench", steps_quality),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", action="store_true")
    parser.add_argument("--only", nargs="*", default=list(SHOWN))
    options = parser.parse_args()
    make_data()
    if options.data:
        return
    lines = ["| recipe | what | held-out rows say |", "|---|---|---|"]
    for name in options.only:
        what, measure = SHOWN[name]
        train(RECIPES / f"minilm-{name}.yaml", RUNS / name)
        found = measure(RUNS / name)
        (RUNS / f"{name}.json").write_text(json.dumps(found))
    for name, (what, _) in SHOWN.items():
        file = RUNS / f"{name}.json"
        found = json.loads(file.read_text()) if file.exists() else ["not run"]
        lines.append(f"| `reward/minilm-{name}` | {what} | {'<br>'.join(found)} |")
    put(PAGE, BEGIN, END, "\n".join(lines))


if __name__ == "__main__":
    main()
