"""Every algorithm on the same task: trains the smoke recipes over several seeds and writes their table for the docs.

python -m benchmarks.algorithms [--seeds 3] [--only ppo rebel] [--runs runs/algorithms]

A run that is already finished is not trained again. All start from the model that recipes/smoke/start.yaml makes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import Any

from alignkit.evaluate.results.before_after import compare_results
from alignkit.recipe.read import read_recipe

ROOT = Path(__file__).resolve().parents[1]
SMOKE = ROOT / "recipes" / "smoke"
PAGE = ROOT / "docs" / "algorithms.md"
FIRST = ("start", "rlmec-rewriter")  # what other recipes begin with
BEGIN, END = "<!-- table of make algorithms-table -->", "<!-- end of the table -->"
SECONDS = ".seconds"  # of the file beside a run's folder: processor time of its process, and of those that it resumed
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def from_the_start() -> list[str]:
    """Names of the smoke recipes that begin with the common start."""
    return sorted(
        path.stem for path in SMOKE.glob("*.yaml") if read_recipe(path).model.path == "runs/smoke-start/final"
    )


def train(recipe: Path, run: Path, *overrides: str) -> None:
    """Trains one recipe in a process of its own, unless the run is there and finished."""
    if (run / "final").is_dir():
        return
    command = [sys.executable, "-m", "alignkit", "train", str(recipe), f"run={run}", "--json", *overrides]
    resume = ["--resume"] if (run / "checkpoints").is_dir() else []
    run.parent.mkdir(parents=True, exist_ok=True)
    with run.with_suffix(".log").open("w") as log:
        process = subprocess.Popen([*command, *resume], stdout=log, stderr=log, env=os.environ | ONE_THREAD, cwd=ROOT)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = code = os.waitstatus_to_exitcode(status)
    spent = run.with_suffix(SECONDS)
    before = float(spent.read_text()) if resume and spent.is_file() else 0.0
    spent.write_text(f"{before + used.ru_utime + used.ru_stime:.1f}\n")
    if code:
        raise SystemExit(f"{recipe.name}: exit code {code}; see {run.with_suffix('.log')}")


def measure(run: Path) -> dict[str, Any]:
    """Accuracy before and after on the same tasks, seconds of the steps, and tokens seen or sampled."""
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    files = sorted((run / "evaluations").glob("*.json"), key=lambda path: int(path.stem.split("-")[-1]))
    results = [json.loads(file.read_text())["results"] for file in (files[0], files[-1])]
    comparison, _ = compare_results(*results, seed=0)
    tokens = sum(step.get("rollout/tokens") or step.get("loss/tokens") or 0 for step in steps)
    return {
        "before": comparison.before,
        "after": comparison.after,
        "p_value": comparison.p_value,
        "seconds": sum(step["time/step_s"] for step in steps),
        "tokens": tokens,
    }


def row(name: str, seeds: list[dict[str, Any]]) -> str:
    """One line of the table: accuracies per seed, their mean, and what it cost."""
    algorithm = read_recipe(SMOKE / f"{name}.yaml").stages[-1].algorithm["type"]
    after = ", ".join(f"{seed['after']:.3f}" for seed in seeds)
    better = sum(seed["p_value"] < 0.05 and seed["after"] > seed["before"] for seed in seeds)
    cells = [
        f"`{name}`",
        algorithm,
        f"{seeds[0]['before']:.3f}",
        f"**{fmean(seed['after'] for seed in seeds):.3f}** ({after})",
        f"{better} of {len(seeds)}",
        f"{fmean(seed['tokens'] for seed in seeds) / 1000:,.0f} k",
        f"{fmean(seed['seconds'] for seed in seeds):.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def write(rows: list[str]) -> None:
    """Puts the table into docs/algorithms.md."""
    head = ["recipe", "algorithm", "before", "after: mean (each seed)", "significantly better", "tokens", "seconds"]
    table = "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *rows])
    put(PAGE, BEGIN, END, table)


def put(page: Path, begin: str, end: str, text: str) -> None:
    """Writes `text` between two markers of a page."""
    before, rest = page.read_text().split(begin)
    page.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "algorithms")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1)))
    options = parser.parse_args()
    for name in FIRST:
        train(SMOKE / f"{name}.yaml", ROOT / "runs" / f"smoke-{name}")
    names = from_the_start()
    wanted = [(name, seed) for name in options.only or names for seed in range(options.seeds)]
    with ThreadPoolExecutor(options.workers) as pool:
        runs = {pair: options.runs / f"{pair[0]}-{pair[1]}" for pair in wanted}
        list(pool.map(lambda pair: train(SMOKE / f"{pair[0]}.yaml", runs[pair], f"seed={pair[1]}"), wanted))
    complete = [
        name for name in names if all((options.runs / f"{name}-{s}" / "final").is_dir() for s in range(options.seeds))
    ]
    rows = [row(name, [measure(options.runs / f"{name}-{s}") for s in range(options.seeds)]) for name in complete]
    write(rows)
    print(*rows, sep="\n")


if __name__ == "__main__":
    main()
