"""Trains recipes of recipes/smoke/ and checks what recipes/smoke/promises.toml promises of them.

python .ci/smoke.py [--all | NAME ...] [--workers 2] [--json FILE] [--stamp]

Without names those that are marked quick. The models that recipes begin with are made first, where they are not there,
by the commands that their makers' headers give. One line a recipe: measured, promised, seconds; exit 1 when one missed.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from statistics import fmean

from alignkit.recipe.lookup.made_by import made_by
from alignkit.recipe.read import dump_recipe, read_recipe
from alignkit.run_folder.run_folder import step_of

ROOT = Path(__file__).resolve().parents[1]
SMOKE = ROOT / "recipes" / "smoke"
TABLE = SMOKE / "promises.toml"
LAST = 20  # steps over which a metric of training is averaged
PROMISE = re.compile(r"(\S+) at (least|most) (-?\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Promise:
    """measure: a name of alignkit/run_folder/names.py. bound: least or most."""

    measure: str
    bound: str
    number: float

    def keeps(self, got: float) -> bool:
        return got >= self.number if self.bound == "least" else got <= self.number


@dataclass(frozen=True)
class Row:
    """What is promised of one recipe. minutes: of one idle core. checked: when it was last kept."""

    recipe: str
    minutes: float
    promises: tuple[Promise, ...]
    quick: bool
    checked: date | None

    @property
    def file(self) -> Path:
        return SMOKE / f"{self.recipe}.yaml"


@dataclass(frozen=True)
class Outcome:
    """What a run came to. measured: per promise of the row; None where it ended with an error."""

    row: Row
    seconds: float
    measured: tuple[float, ...] | None

    @property
    def kept(self) -> bool:
        if self.measured is None:
            return False
        return all(promise.keeps(got) for promise, got in zip(self.row.promises, self.measured, strict=True))

    def __str__(self) -> str:
        if self.measured is None:
            return f"{self.row.recipe}: FAILED ({self.seconds:.0f} s)"
        told = ", ".join(
            f"{promise.measure} {got:.3f} (promised at {promise.bound} {promise.number})"
            for promise, got in zip(self.row.promises, self.measured, strict=True)
        )
        return f"{self.row.recipe}: {'ok' if self.kept else 'MISSED'}: {told}; {self.seconds:.0f} s"


def read_table(text: str) -> dict[str, Row]:
    """The rows of promises.toml by recipe. Raises ValueError for a row without promises that can be read."""
    return {name: _row(name, **settings) for name, settings in tomllib.loads(text).items()}


def _row(recipe: str, *, minutes: float, promises: str, checked: date | None = None, quick: bool = False) -> Row:
    found = [PROMISE.fullmatch(each) for each in promises.split(" and ")]
    if None in found:
        raise ValueError(
            f"{TABLE.name}: {recipe}: wants `METRIC at least|most NUMBER`, joined by `and`; got '{promises}'"
        )
    read = tuple(Promise(each[1], each[2], float(each[3])) for each in found if each)
    return Row(recipe, minutes, read, quick, checked)


def measure(run: Path, name: str) -> float:
    """A metric of a finished run: of the last evaluation for `eval/...`, else its mean over the last steps."""
    if name.startswith("eval/"):
        newest = max((run / "evaluations").glob("*.json"), key=step_of)
        return json.loads(newest.read_text())[name.removeprefix("eval/")]
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return fmean(step[name] for step in steps[-LAST:])


def begins_with(recipe: Path) -> list[str]:
    """The folders of the runs whose models a recipe names."""
    return re.findall(r'"(runs/[^"]+)/final"', dump_recipe(read_recipe(recipe)))


def make_what_it_begins_with(recipe: Path) -> None:
    """Trains the recipes whose models this one begins with, and before each what that one begins with."""
    for run in begins_with(recipe):
        if (ROOT / run / "final").is_dir():
            continue
        command = made_by(f"{run}/final")
        if command is None:
            raise SystemExit(f"{recipe.name}: begins with {run}/final, and no recipe's header says that it makes that")
        maker = ROOT / command.split()[2]
        make_what_it_begins_with(maker)
        if (ROOT / run).exists():
            raise SystemExit(
                f"{recipe.name}: begins with {run}, which has not ended: go on with --resume, or remove it"
            )
        if not train(maker, ROOT / run):
            raise SystemExit(f"{recipe.name}: `{command}`, with which it begins, has failed")


def train(recipe: Path, run: Path) -> bool:
    """Whether a recipe trains to its end; shows the end of its output where it does not."""
    command = [sys.executable, "-m", "alignkit", "train", str(recipe), f"run={run}"]
    run.parent.mkdir(parents=True, exist_ok=True)
    log = run.with_suffix(".log")
    with log.open("wb") as output:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        code = subprocess.run(command, cwd=ROOT, env=environment, stdout=output, stderr=output).returncode
    if code:
        print(f"{recipe.name}: exit code {code}\n{log.read_text()[-3000:]}", flush=True)
    return code == 0


def check(row: Row, folder: Path) -> Outcome:
    """Trains a row's recipe below `folder` and measures what it promises; says so."""
    run, begun = folder / row.recipe, time.monotonic()
    trained = train(row.file, run)
    seconds = time.monotonic() - begun
    measured = None
    try:
        measured = tuple(measure(run, promise.measure) for promise in row.promises) if trained else None
    except (KeyError, TypeError, ValueError) as error:  # a metric that some step does not have, or no evaluation
        print(f"{row.recipe}: what it promises cannot be measured: {type(error).__name__}: {error}", flush=True)
    outcome = Outcome(row, seconds, measured)
    print(outcome, flush=True)
    return outcome


def chosen(rows: dict[str, Row], names: list[str], everything: bool) -> list[Row]:
    """The rows to check, the longest first, so that workers end together."""
    if unknown := sorted(set(names) - rows.keys()):
        raise SystemExit(f"{TABLE.name} has no row {', '.join(unknown)}; it has {', '.join(rows)}")
    wanted = [row for row in rows.values() if everything or row.recipe in names or (row.quick and not names)]
    return sorted(wanted, key=lambda row: -row.minutes)


def stamp(text: str, kept: Iterable[str], day: date) -> str:
    """The table with `day` as that on which the rows `kept` were last checked."""
    names = "|".join(map(re.escape, kept))
    row = rf"^((?:{names}) += {{.*?\")(?:, checked = [\d-]+)?(, quick = true)?}}$"
    return re.sub(row, rf"\1, checked = {day}\2}}", text, flags=re.MULTILINE) if names else text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--all", action="store_true", help="every row; hours of one core")
    parser.add_argument("--workers", type=int, default=2, help="recipes that run at a time")
    parser.add_argument("--json", type=Path, help="where the outcomes are written, one object a recipe")
    parser.add_argument("--stamp", action="store_true", help="write today into the rows whose promises were kept")
    options = parser.parse_args()
    rows = chosen(read_table(TABLE.read_text()), options.names, options.all)
    for row in rows:
        make_what_it_begins_with(row.file)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.workers) as pool:
        outcomes = list(pool.map(lambda row: check(row, Path(folder)), rows))
    if options.json:
        options.json.write_text(
            json.dumps([asdict(each) | {"kept": each.kept} for each in outcomes], indent=2, default=str) + "\n"
        )
    if options.stamp:
        kept = [outcome.row.recipe for outcome in outcomes if outcome.kept]
        TABLE.write_text(stamp(TABLE.read_text(), kept, date.today()))
    unchecked = [row.recipe for row in read_table(TABLE.read_text()).values() if row.checked is None]
    print(f"never checked: {', '.join(unchecked) or 'none'}")
    missed = [outcome.row.recipe for outcome in outcomes if not outcome.kept]
    sys.exit(f"missed: {', '.join(missed)}" if missed else 0)


if __name__ == "__main__":
    main()
