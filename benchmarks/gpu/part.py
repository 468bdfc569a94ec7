"""One part of the battery, in a process of its own so that a card's error ends no other, and what became of it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from alignkit.run.check.row import Row
from benchmarks.gpu.sizes import Sizes

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Part:
    """needs: modules without which it is skipped. work: (sizes, device) -> rows. card_only: why it is skipped on a CPU;
    empty where it runs there. limit_s: after which it is killed.
    """

    name: str
    about: str
    work: Callable[[Sizes, str], list[Row]]
    needs: Sequence[str] = ()
    card_only: str = ""
    limit_s: float = 120.0

    def why_not(self, device: str) -> str:
        """The reason to skip it on this device, empty when it can run."""
        if device == "cpu" and self.card_only:
            return self.card_only
        absent = [name for name in self.needs if find_spec(name) is None]
        return f"needs {', '.join(absent)}, not installed here" if absent else ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """status: `wrong` when a row is; `died` when its process did. reason: of a part without rows."""

    name: str
    status: Literal["ok", "wrong", "skipped", "died"]
    reason: str = ""
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)


def run_part(part: Part, sizes: str, device: str, *, time_left: float) -> Outcome:
    """Runs the part in a process of its own, within its limit and the time that is left."""
    reason = part.why_not(device) or ("" if time_left > 0 else "the battery's time is over")
    if reason:
        return Outcome(name=part.name, status="skipped", reason=reason)
    begun, limit = time.monotonic(), min(part.limit_s, time_left)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.json")
        command = [sys.executable, "-m", "benchmarks.gpu", "--part", part.name, "--rows", str(file)]
        try:
            done = subprocess.run(
                [*command, "--device", device, "--sizes", sizes],
                cwd=ROOT, timeout=limit, capture_output=True, text=True, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return Outcome(name=part.name, status="died", reason=f"killed after {limit:.0f} s", seconds=limit)
        seconds = time.monotonic() - begun
        if done.returncode or not file.is_file():
            last = [line.strip() for line in done.stderr.splitlines() if line.strip()][-1:]
            reason = f"exit code {done.returncode}: {' '.join(last)}"
            return Outcome(name=part.name, status="died", reason=reason, seconds=seconds)
        rows = [Row(**row) for row in json.loads(file.read_text())]
    wrong = any(row.level == "wrong" for row in rows)
    return Outcome(name=part.name, status="wrong" if wrong else "ok", seconds=seconds, rows=rows)


def table(outcomes: Sequence[Outcome], where: Sequence[Row], date: str) -> str:
    """The battery's page: what it ran on, and one line for each row, or for the reason why there is none."""
    lines = [f"Measured {date}: " + "; ".join(row.value for row in where) + ".", ""]
    lines += ["| part | | what | result |", "| --- | --- | --- | --- |"]
    for outcome in outcomes:
        if not outcome.rows:
            lines.append(f"| {outcome.name} | {outcome.status} | | {outcome.reason.replace('|', '/')} |")
        cells = [(outcome.name, row.level, row.name, row.value.replace("|", "/")) for row in outcome.rows]
        lines += [f"| {' | '.join(cell)} |" for cell in cells]
    return "\n".join([*lines, ""])


def document(outcomes: Sequence[Outcome], where: Sequence[Row], date: str) -> str:
    """The same as JSON, with the numbers."""
    value = {"date": date, "where": [asdict(row) for row in where], "parts": [asdict(one) for one in outcomes]}
    return json.dumps(value, indent=1) + "\n"
