"""The methods for agents on their games: trains the recipes over several seeds, writes tables and curves.

python -m benchmarks.agents [--seeds 3] [--only maze-ppo] [--runs runs/agents] [--set train.steps=4]

Methods are compared after the same number of episodes, and after the same processor time, of which each step of a run
counts for as much as it took of the run's own time. A run that is already finished is not trained again; what it
measured is kept in benchmarks/agents.json. A method is shown with the seeds that are there, each by a number of its
own; --seeds 0 trains nothing and shows them. Of runs from before there was that file all seeds hold their mean curve.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from statistics import fmean
from string import ascii_uppercase
from typing import Any

from jinja2 import Template

from alignkit.report import chart
from benchmarks.algorithms import ROOT, SECONDS, SMOKE, put, train

PAGE = ROOT / "docs" / "agents.md"
KEPT = ROOT / "benchmarks" / "agents.json"
AGENTS = ROOT / "recipes" / "agents"
GAMES = {
    "guess-number": "best play -2.70, mixed play -4.34",
    "maze": "best play -3.46, mixed play -6.69",
    "garden": "best play 1.67, random play 0.09",
    "twenty-questions": "best play -6.78, random play about -19",
}
METHODS = (
    *(
        "grpo",
        "grpo-epochs",
        "turn-grpo",
        "gigpo",
        "ppo",
        "ppo-epochs",
        "ppo-lambda-1",
        "turn-ppo",
        "filtered-bc",
        "filtered-bc-epochs",
    ),
    *("refuel", "archer", "archer-hl-gauss", "archer-iql", "ilql", "mc-returns"),
)
BEGIN, END = "<!-- tables of make agents-table -->", "<!-- end of the tables -->"
WINDOW = 512  # a point of a curve is the mean return of this many episodes before it
KEY, ABREAST, WIDE = 18, 4, 124  # of the legend: pixels of a row, methods in one, pixels of each

Curve = list[tuple[int, float]]
"""(episodes begun so far, mean return of the last WINDOW of them)."""


@dataclass(frozen=True)
class Run:
    """One seed of one recipe. final: mean return and share of success on held-out games after training. seconds: of a
    processor, at each point of the curve; none where they were not measured."""

    curve: Curve
    final: tuple[float, float]
    seconds: tuple[float, ...] = ()

    @property
    def episodes(self) -> int:
        return self.curve[-1][0] if self.curve else 0


def read(run: Path) -> Run:
    """What a finished run measured."""
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    newest = max((run / "evaluations").glob("*.json"), key=lambda path: int(path.stem.split("-")[-1]))
    last = json.loads(newest.read_text())
    spent = run.with_suffix(SECONDS)
    seconds = spent_at(steps, float(spent.read_text())) if spent.is_file() else ()
    return Run(curve(steps), (last["reward_mean"], last["accuracy"]), seconds)


def spent_at(steps: Sequence[Mapping[str, Any]], total: float) -> tuple[float, ...]:
    """Processor seconds up to the end of each step that played episodes, if the steps took `total` together."""
    took = list(accumulate(step["time/step_s"] for step in steps))
    played = [step.get("rollout/completions") and step["reward/mean"] is not None for step in steps]
    return tuple(total * until / took[-1] for until, point in zip(took, played, strict=True) if point)


def curve(steps: Sequence[Mapping[str, Any]]) -> Curve:
    """Mean returns of the episodes that were played in training; steps that played none have no point."""
    points, recent, total = [], [], 0
    for step in steps:
        size = step.get("rollout/completions") or 0
        if size and step["reward/mean"] is not None:
            total += size
            recent.append((size, step["reward/mean"]))
            while sum(size for size, _ in recent[1:]) >= WINDOW:
                recent.pop(0)
            weight = sum(size for size, _ in recent)
            points.append((total, sum(size * mean for size, mean in recent) / weight))
    return points


def after(run: Run, episodes: int) -> float | None:
    """The curve's last value within so many episodes; None where the run ended before."""
    within = [value for begun, value in run.curve if begun <= episodes]
    return within[-1] if within and run.episodes >= episodes else None


def after_seconds(run: Run, seconds: float) -> float | None:
    """The curve's last value within so much processor time; None where the run ended before or was not measured."""
    within = [value for (_, value), spent in zip(run.curve, run.seconds, strict=False) if spent <= seconds]
    return within[-1] if within and run.seconds[-1] >= seconds else None


def averaged(runs: Sequence[Run]) -> Curve:
    """The mean over seeds of curves that have their points at the same episodes, as far as all of them go."""
    together = zip(*(run.curve for run in runs), strict=False)
    return [(points[0][0], fmean(value for _, value in points)) for points in together]


def band(runs: Sequence[Run]) -> list[tuple[int, float, float]]:
    """(episodes, least, greatest) of the seeds' curves, as far as all of them go."""
    together = zip(*(run.curve for run in runs), strict=False)
    return [(points[0][0], min(value for _, value in points), max(value for _, value in points)) for points in together]


def table(measured: Mapping[str, Sequence[Run]]) -> str:
    """One line per method: the return after the first, and after each of the methods' numbers of episodes."""
    budgets = sorted({min(run.episodes for run in runs) for runs in measured.values()} - {0})
    budget_names = [f"after {budget:,}" for budget in budgets]
    head = ["method", "episodes", *budget_names, "held-out games: return (each seed)", "success"]
    rows = [row(method, runs, budgets) for method, runs in measured.items()]
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *rows])


def time_table(measured: Mapping[str, Sequence[Run]]) -> str:
    """One line per method whose processor time was measured: the return after once, twice and four times what the
    quickest took, as far as any goes; blank where a method ended before, or had no episode yet."""
    timed = {method: runs for method, runs in measured.items() if all(run.seconds for run in runs)}
    longest = sorted(min(run.seconds[-1] for run in runs) for runs in timed.values())
    shares = {60 * max(1, int(times * seconds / 60)) for seconds in longest[:1] for times in (1, 2, 4)}
    budgets = sorted(budget for budget in shares if budget <= longest[-1])
    head = ["method", "minutes", *(f"after {budget // 60:.0f} min" for budget in budgets)]
    rows = [
        [method, f"{fmean(run.seconds[-1] for run in runs) / 60:.1f}", *(spread(runs, budget) for budget in budgets)]
        for method, runs in timed.items()
    ]
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows)])


def spread(runs: Sequence[Run], budget: float) -> str:
    """Mean of the seeds after so many processor seconds, and the least and the greatest of them."""
    values = [value for run in runs if (value := after_seconds(run, budget)) is not None]
    if len(values) < len(runs):
        return ""
    return f"{fmean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def row(method: str, runs: Sequence[Run], budgets: Sequence[int]) -> str:
    reached = [[after(run, budget) for run in runs] for budget in budgets]
    cells = ["" if None in values else f"{fmean(value or 0.0 for value in values):.2f}" for values in reached]
    returns = ", ".join(f"{run.final[0]:.2f}" for run in runs)
    final = f"**{fmean(run.final[0] for run in runs):.2f}** ({returns})"
    success = f"{fmean(run.final[1] for run in runs):.2f}"
    return f"| {' | '.join([method, f'{runs[0].episodes:,}', *cells, final, success])} |"


def drawing(measured: Mapping[str, Sequence[Run]], title: str) -> str:
    """The curves as an SVG file of its own, each with a band from the least to the greatest of its seeds; a legend."""
    runs = {method: runs for method, runs in measured.items() if any(run.curve for run in runs)}
    traces = [
        chart.Trace(letter=letter, colour=i % chart.COLOURS, points=averaged(seeds), band=band(seeds))
        for i, (letter, seeds) in enumerate(zip(ascii_uppercase, runs.values(), strict=False))
    ]
    style = Template((ROOT / "alignkit" / "report" / "style.css.j2").read_text()).render().splitlines()
    rules = [line for line in style if line.startswith((":root", "  --", "@media (prefers", "svg"))]
    names = [
        f'<text class="letter s{trace.colour}" x="{x}" y="{y}">{trace.letter}</text>'
        f'<text class="tick" x="{x + 14}" y="{y}">{method}</text>'
        for i, (method, trace) in enumerate(zip(runs, traces, strict=True))
        for x, y in [(chart.LEFT + WIDE * (i % ABREAST), chart.HEIGHT + KEY * (i // ABREAST) + 12)]
    ]
    height = chart.HEIGHT + KEY * -(-len(traces) // ABREAST)
    svg = str(chart.overlaid_chart(traces, title=title)).replace("<title>step ", "<title>episode ")
    svg = svg.replace(f'0 0 {chart.WIDTH} {chart.HEIGHT}"', f'0 0 {chart.WIDTH} {height}"', 1)
    opening = '<svg xmlns="http://www.w3.org/2000/svg" font-family="system-ui, sans-serif" '
    svg = svg.replace("<svg ", opening, 1).replace(">", ">\n<style>\n" + "\n".join(rules) + "\n</style>\n", 1)
    return svg.removesuffix("</svg>") + "\n".join(names) + "\n</svg>\n"


def write(measured: Mapping[str, Mapping[str, Sequence[Run]]]) -> None:
    """Tables into docs/agents.md, a drawing per environment beside it."""
    parts = []
    for game, methods in measured.items():
        image = PAGE.with_name(f"agents-{game}.svg")
        image.write_text(drawing(methods, f"{game}: mean return against episodes played"))
        parts.append(f"**{game}** ({GAMES[game]})\n\n{table(methods)}\n\n![{game}: return]({image.name})")
        if any(run.seconds for runs in methods.values() for run in runs):
            parts.append(f"The same after equal processor time, in minutes of one core:\n\n{time_table(methods)}")
    put(PAGE, BEGIN, END, "\n\n".join(parts))


def recipe(name: str) -> Path:
    """Of quick games among the smoke recipes, of others among those for agents."""
    return next((file for folder in (SMOKE, AGENTS) if (file := folder / f"{name}.yaml").is_file()), SMOKE / name)


def run_one(runs: Path, name: str, seed: int, *overrides: str) -> None:
    train(recipe(name), runs / f"{name}-{seed}", f"seed={seed}", *overrides)


def finished(runs: Path) -> dict[str, dict[str, dict[str, Run]]]:
    """By game, method and seed the runs that came to their end, in order; what has none is left out."""
    measured: dict[str, dict[str, dict[str, Run]]] = {}
    for game in GAMES:
        for method in METHODS:
            folders = sorted(folder.parent for folder in runs.glob(f"{game}-{method}-[0-9]*/final"))
            if folders:
                measured.setdefault(game, {})[method] = {folder.name.split("-")[-1]: read(folder) for folder in folders}
    return measured


def kept(runs: Path, file: Path) -> dict[str, dict[str, list[Run]]]:
    """What `file` holds and, in its place where it is of the same seed, what is finished, which the file then holds."""
    known = json.loads(file.read_text()) if file.is_file() else {}
    for game, methods in finished(runs).items():
        for method, seeds in methods.items():
            known.setdefault(game, {}).setdefault(method, {}).update({seed: vars(run) for seed, run in seeds.items()})
    file.write_text(json.dumps(known) + "\n")
    return {
        game: {
            name: [_run(one) for _, one in sorted(known[game][name].items())] for name in METHODS if name in known[game]
        }
        for game in GAMES
        if game in known
    }


def _run(one: Mapping[str, Any]) -> Run:
    return Run([(n, value) for n, value in one["curve"]], tuple(one["final"]), tuple(one["seconds"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "agents")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1)))
    parser.add_argument("--set", nargs="*", default=[], help="overrides for every recipe, to try this out")
    options = parser.parse_args()
    names = [name for game in GAMES for method in METHODS if recipe(name := f"{game}-{method}").is_file()]
    wanted = [(name, seed) for name in options.only or names for seed in range(options.seeds)]
    with ThreadPoolExecutor(options.workers) as pool:
        list(pool.map(lambda one: run_one(options.runs, *one, *options.set), wanted))
    write(kept(options.runs, KEPT))
    print(PAGE.read_text().split(BEGIN)[1].split(END)[0])


if __name__ == "__main__":
    main()
