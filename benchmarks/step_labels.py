"""Labels of steps where the truth is known: chains of sums, half of them with one wrong step.

python -m benchmarks.step_labels [--run runs/chains] [--seed 0]

Trains recipes/smoke/chains.yaml, labels the steps of solutions to problems that were held out, and writes into
docs/rewards.md how well the labels order the steps before the last, which is not rolled out from. A step is good where
no sum so far is wrong.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch

from alignkit.data.sources import load_tasks
from alignkit.evaluate.statistics.separation import auc, auc_interval, kendall, spearman
from alignkit.ops.step_labels import entropy_label
from alignkit.recipe.schema import Data, RewardSpec
from alignkit.rollout.step_rollouts import Labelling
from alignkit.run.lab.label_steps import label_steps
from benchmarks.algorithms import ROOT, put, train

PAGE = ROOT / "docs" / "rewards.md"
RECIPE = ROOT / "recipes" / "smoke" / "chains.yaml"
BEGIN, END = "<!-- table of make step-labels-table -->", "<!-- end of the table of step labels -->"
SOLUTIONS = 150
SIZES = (1, 4, 16)
KINDS = {"share (eta 0)": 0.0, "ER-PRM, eta 2": 2.0, "any success (eta inf)": math.inf}


def label(run: Path, rollouts: int, seed: int) -> tuple[list[float], list[bool], float]:
    """Of every step before a last: the share of roll-outs that succeed, whether it is good. And roll-outs a second."""
    data = Data(source="generator:chains", split="heldout", options={"mistakes": True, "count": SOLUTIONS}, chat=False)
    settings = Labelling(rollouts=rollouts, max_new_tokens=24, seed=seed)
    out = run / f"labels-{rollouts}-{seed}.jsonl"
    out.unlink(missing_ok=True)
    reward = RewardSpec(name="final_number")
    told = label_steps(data, str(run / "final"), reward, settings, out=out, engine="hf", workers=1)
    truth = {task.id: task.columns["labels"] for task in load_tasks(data, seed=seed)}
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    rates = [rate for row in rows for rate in row["rates"][:-1]]
    good = [label == 1 for row in rows for label in truth[row["id"]][:-1]]
    return rates, good, told["rollouts_sampled"] / told["seconds"]


def line(name: str, rollouts: int, rates: Sequence[float], good: Sequence[bool], eta: float) -> str:
    """One row of the table: how labels with this eta agree with the truth, and their mean on either side of it."""
    labels = entropy_label(torch.tensor(rates, dtype=torch.float64), eta).tolist()
    sides = [[one for one, fine in zip(labels, good, strict=True) if fine is wanted] for wanted in (True, False)]
    area, truth = auc(labels, good), [float(fine) for fine in good]
    assert area is not None, "all steps are of one kind"
    interval = auc_interval(area, *map(len, sides))
    cells = [
        str(rollouts),
        name,
        f"{area:.3f} ({interval.low:.3f} to {interval.high:.3f})",
        *(f"{value:.3f}" for value in (kendall(labels, truth), spearman(labels, truth)) if value is not None),
        *(f"{fmean(side):.3f}" for side in sides),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "chains")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    train(RECIPE, options.run)
    head = ["roll-outs", "label", "AUC (95 %)", "Kendall's tau", "Spearman", "mean, good steps", "mean, wrong steps"]
    table = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for rollouts in SIZES:
        rates, good, speed = label(options.run, rollouts, options.seed)
        table += [line(name, rollouts, rates, good, eta) for name, eta in KINDS.items()]
    last = json.loads(max((options.run / "evaluations").glob("*.json"), key=_number).read_text())
    table += [
        "",
        f"{SOLUTIONS} solutions, {len(good)} steps before a last one, {sum(good)} of them good. Greedily, the model "
        f"that rolls out solves {last['accuracy']:.1%} of the problems; {speed:,.0f} roll-outs a second, hf engine.",
    ]
    put(PAGE, BEGIN, END, "\n".join(table))
    print(*table, sep="\n")


def _number(file: Path) -> int:
    return int(file.stem.split("-")[-1])


if __name__ == "__main__":
    main()
