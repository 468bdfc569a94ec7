"""Over-optimisation: what a policy makes of a reward model that learnt from few and partly wrong comparisons.

python -m benchmarks.over_optimisation [--runs runs/over-optimisation] [--seeds 3]

One-digit sums, where the truth (`gold`, exact_match) is known and is only watched. A character model that answers with
the right sum 4 times in 10 is trained by GRPO on a reward model (`proxy`): one alone, or the worst of
four that learnt the same comparisons from other first weights, each centred on its mean. Writes a table into
docs/rewards.md and the curves into docs/over-optimisation.svg. What is finished is not trained again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from jinja2 import Template
from numpy.random import Generator, Philox

from alignkit.data.generators import generate
from alignkit.recipe.read import read_recipe
from alignkit.report import chart
from alignkit.run.train.train import run as train
from alignkit.types.seeds import child
from benchmarks.algorithms import ROOT, put

PAGE = ROOT / "docs" / "rewards.md"
PICTURE = ROOT / "docs" / "over-optimisation.svg"
BEGIN, END = "<!-- table of make over-optimisation -->", "<!-- end of the table of over-optimisation -->"
LARGEST = 28  # wrong answers are any of 0..28; right ones reach 18
RIGHT, COMPARISONS, FLIPPED, MEMBERS = 0.4, 7, 0.1, 4
ARMS = {"one model": None, "worst of 4": "worst"}
WINDOW = 10  # steps of a running mean

MODEL = '{scratch: {characters: "0123456789+=", layers: 2, hidden: 64, heads: 4, context: 12}, dtype: float32}'
GIVEN = f"""
model: {MODEL}
data: {{source: ROWS, chat: false, max_prompt_tokens: 6}}
checkpoints: {{every: 100}}
train: {{steps: STEPS, batch: 64, micro_batch_tokens: 8192}}
"""
START = GIVEN.replace("STEPS", "500") + (
    "algorithm: {type: sft}\noptimizer: {lr: 3e-3, schedule: cosine, warmup_steps: 20}\n"
)
REWARD = GIVEN.replace("STEPS", "120") + (
    "algorithm: {type: bradley_terry}\noptimizer: {lr: 2e-3, schedule: cosine, warmup_steps: 10, weight_decay: 1.0}\n"
)
POLICY = """
model: {path: START, dtype: float32}
data:
  source: generator:arithmetic
  options: {digits: 1, operations: "+", style: characters}
  chat: false
  max_prompt_tokens: 6
rewards:
  - {name: learned, options: {path: PATHS}}
  - {name: exact_match, weight: 0}
rollouts: {engine: hf, prompts: 16, group: 16, max_new_tokens: 3, canary_tolerance: 0.001, reward_workers: 1}
algorithm: {type: grpo}
optimizer: {lr: 4e-4, warmup_steps: 5}
train: {steps: 200, micro_batch_tokens: 8192}
checkpoints: {every: 50}
"""


def finish(recipe: str, run: Path, seed: int) -> Path:
    """The final folder of a run of this recipe, which is trained unless it is there, or gone on with."""
    final = run / "final"
    if final.is_dir():
        return final
    resume = any((run / "checkpoints").glob("step-*"))
    if not resume:
        shutil.rmtree(run, ignore_errors=True)
    run.parent.mkdir(parents=True, exist_ok=True)
    file = run.with_suffix(".yaml")
    file.write_text(recipe)
    with run.with_suffix(".log").open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        train(read_recipe(file, [f"run={run}", f"seed={seed}"]), resume=resume)
    return final


def sums() -> list[tuple[str, int]]:
    """(prompt, sum) of the problems to train on."""
    rows = generate("arithmetic", {"digits": 1, "style": "characters"}, split="train", seed=0)
    return [(row["prompt"], int(row["reference"])) for row in rows]


def answers(seed: int) -> list[dict[str, str]]:
    """What the start is taught: the sum to RIGHT of the questions, else any number."""
    rng = Generator(Philox(key=child(seed, "answers")))
    return [
        {"prompt": prompt, "completion": str(value if rng.random() < RIGHT else rng.integers(LARGEST + 1))}
        for prompt, value in sums()
        for _ in range(20)
    ]


def comparisons(seed: int) -> list[dict[str, str]]:
    """COMPARISONS of each problem's sum with another number, FLIPPED of them the wrong way round."""
    rng = Generator(Philox(key=child(seed, "comparisons")))
    rows = []
    for prompt, value in sums():
        for _ in range(COMPARISONS):
            wrong = int(rng.choice([number for number in range(LARGEST + 1) if number != value]))
            sides = [str(value), str(wrong)][:: -1 if rng.random() < FLIPPED else 1]
            rows.append({"prompt": prompt, "chosen": sides[0], "rejected": sides[1]})
    return rows


def write_rows(file: Path, rows: Sequence[dict[str, str]]) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def curves(run: Path) -> tuple[list[float], list[float]]:
    """Mean (gold, proxy) of each step's samples."""
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    gold, proxy = ([step[f"reward/part/{name}"] for step in steps] for name in ("exact_match", "learned"))
    return gold, proxy


def running(values: Sequence[float]) -> list[float]:
    """Mean of the last WINDOW values, of fewer at the start."""
    return [fmean(values[max(0, end - WINDOW) : end]) for end in range(1, len(values) + 1)]


def seed_runs(runs: Path, start: Path, seed: int) -> dict[str, Path]:
    """Trains the reward models and the policies of one seed; the run folder of each arm."""
    rows = write_rows(runs / f"comparisons-{seed}.jsonl", comparisons(seed))
    recipe = REWARD.replace("ROWS", rows)
    models = [
        str(finish(recipe, runs / f"reward-{seed}-{member}", child(seed, "member", member) % 2**31))
        for member in range(MEMBERS)
    ]
    found = {}
    for arm, reducer in ARMS.items():
        paths = f"{models}}}, ensemble: {{reducer: {reducer}}}" if reducer else f"{models[0]}}}"
        found[arm] = runs / f"policy-{seed}-{reducer or 'one'}"
        finish(POLICY.replace("START", str(start)).replace("PATHS}", paths), found[arm], seed)
    return found


def row(arm: str, golds: Sequence[Sequence[float]], proxies: Sequence[Sequence[float]]) -> str:
    """Gold at the start, at its best and at the end; what gold and proxy do after gold's best."""
    gold, proxy = list(map(running, golds)), list(map(running, proxies))
    best = [max(range(len(line)), key=line.__getitem__) for line in gold]

    def each(values: Sequence[float]) -> str:
        return f"**{fmean(values):.2f}** ({', '.join(f'{value:.2f}' for value in values)})"

    cells = [
        arm,
        f"{fmean(line[WINDOW - 1] for line in gold):.2f}",
        each(list(map(max, gold))),
        ", ".join(map(str, best)),
        each([line[-1] for line in gold]),
        f"{fmean(line[-1] - line[at] for line, at in zip(gold, best, strict=True)):+.2f}",
        f"{fmean(line[-1] - line[at] for line, at in zip(proxy, best, strict=True)):+.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def picture(found: dict[str, list[tuple[list[float], list[float]]]]) -> str:
    """Gold above, proxy (as it rises from its first steps) below, means of the seeds."""
    sheet = Template((ROOT / "alignkit" / "report" / "style.css.j2").read_text()).render().splitlines()
    style = "\n".join(line for line in sheet if line.startswith((":root", "  --", "@media (prefers", "svg")))
    parts = [
        f'<circle class="dot s{index}" cx="{chart.LEFT + 130 * index}" cy="10" r="4"/>'
        f'<text class="tick" x="{chart.LEFT + 130 * index + 8}" y="14">{arm}</text>'
        for index, arm in enumerate(found)
    ]
    for index, title in enumerate(("gold: share of right samples", "proxy: its rise since the first steps")):
        lines, top = {}, 24 + (chart.HEIGHT + 20) * index
        for arm, seeds in found.items():
            smooth = [running(curve[index]) for curve in seeds]
            level = fmean(line[WINDOW - 1] for line in smooth) if index else 0.0
            lines[arm] = [(step, fmean(line[step] for line in smooth) - level) for step in range(len(smooth[0]))]
        drawn = str(chart.line_chart(lines, title=title))
        place = f'<svg y="{top + 14}" width="{chart.WIDTH}" height="{chart.HEIGHT}" '
        parts.append(f'<text class="tick" x="{chart.LEFT}" y="{top + 12}">{title}</text>')
        parts.append(drawn.replace("<svg ", place, 1))
    height = 24 + 2 * (chart.HEIGHT + 20)
    font = 'xmlns="http://www.w3.org/2000/svg" font-family="system-ui, sans-serif"'
    opening = f'<svg {font} viewBox="0 0 {chart.WIDTH} {height}">'
    return "\n".join([opening, f"<style>\n{style}\n</style>", *parts, "</svg>\n"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "over-optimisation")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    runs = options.runs.resolve()
    start = finish(START.replace("ROWS", write_rows(runs / "answers.jsonl", answers(0))), runs / "start", 0)
    found: dict[str, list[Any]] = {arm: [] for arm in ARMS}
    for seed in range(options.seeds):
        for arm, run in seed_runs(runs, start, seed).items():
            found[arm].append(curves(run))
    columns = [
        "reward",
        "gold, first steps",
        "gold, best (each seed)",
        "at step",
        "gold, last steps",
        "gold since",
        "proxy since",
    ]
    head = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    rows = [row(arm, *zip(*seeds, strict=True)) for arm, seeds in found.items()]
    put(PAGE, BEGIN, END, "\n".join([*head, *rows]))
    PICTURE.write_text(picture(found))
    print(*rows, sep="\n")


if __name__ == "__main__":
    main()
