"""Sending metrics elsewhere: one small protocol over TensorBoard, Trackio and Weights & Biases, each loaded when used.

metrics.jsonl in the run folder is always written and is the truth; a tracker is a copy.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol

from alignkit.errors import ContentError
from alignkit.recipe.lookup.secrets import FOR_THE_HUB, lent
from alignkit.report.clean_text import cut_middle, one_line
from alignkit.run_folder import json_lines
from alignkit.types.files import make_folder, write_atomically

SECRETS = rf"(WANDB|TRACKIO)_.*|{FOR_THE_HUB}"
TABLE = ("step", "task", "reward", "parts", "advantage", "stop", "prompt", "completion")
TABLE_ROWS, TABLE_LETTERS = 16, 2000
"""Completions in a table; characters of a text in it, of which the middle is left out."""


class Tracker(Protocol):
    def log(self, step: int, metrics: Mapping[str, float | int | None]) -> None:
        """Sends the metrics of a step; missing values (None) are left out."""
        ...

    def table(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Sends some completions: rows with the columns of TABLE, of which parts are numbers by name."""
        ...

    def close(self) -> None:
        """Flushes and ends. May be called twice."""
        ...


def open_tracker(
    kind: Literal["none", "trackio", "wandb", "tensorboard"],
    run_dir: Path,
    config: Mapping[str, Any],
    *,
    first_step: int = 0,
) -> Tracker:
    """The tracker of a run, which is named after its folder and an id kept in it (file tracker_id).

    config: the resolved recipe. first_step: where a resumed run goes on; values from there on replace old ones where
    the tracker can. Raises ContentError when the library is not installed, with the command that installs it.
    """
    if kind == "tensorboard":
        return TensorboardTracker(run_dir, first_step)
    if kind == "trackio":
        # its own monitors start threads and log the machine, not the run
        quiet = {"embed": False, "auto_log_cpu": False, "auto_log_gpu": False}
        return RunTracker(_load("trackio", kind), run_dir, config, quiet)
    if kind == "wandb":
        return RunTracker(_load("wandb", kind), run_dir, config, {"id": _run_id(run_dir), "dir": str(run_dir)})
    return NoTracker()


class NoTracker:
    def log(self, step: int, metrics: Mapping[str, float | int | None]) -> None:
        return

    def table(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        return

    def close(self) -> None:
        return


class TensorboardTracker:
    """Event files in `<run>/tensorboard`."""

    def __init__(self, run_dir: Path, first_step: int):
        _load("tensorboard", "tensorboard")
        writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        self.writer = writer(str(run_dir / "tensorboard"), purge_step=first_step or None)

    def log(self, step: int, metrics: Mapping[str, float | int | None]) -> None:
        for name, value in _known(metrics).items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def table(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        lines = ["| " + " | ".join(TABLE) + " |", "|" + " --- |" * len(TABLE)]
        lines += ["| " + " | ".join(_cell(value) for value in values) + " |" for values in map(_values, rows)]
        self.writer.add_text("completions", "\n".join(lines), step)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class RunTracker:
    """Trackio and Weights & Biases, which share one interface: init -> run, run.log, finish, Table."""

    def __init__(self, library: ModuleType, run_dir: Path, config: Mapping[str, Any], options: Mapping[str, Any]):
        self.library = library
        self.closed = False
        name = f"{run_dir.resolve().name}-{_run_id(run_dir)}"
        # these libraries print greetings to stdout, where programs read JSON lines
        with contextlib.redirect_stdout(sys.stderr), lent(SECRETS):
            self.run = library.init(project="alignkit", name=name, config=dict(config), resume="allow", **options)

    def log(self, step: int, metrics: Mapping[str, float | int | None]) -> None:
        self.run.log(_known(metrics), step=step)

    def table(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        table = self.library.Table(columns=list(TABLE), data=[_values(row) for row in rows])
        self.run.log({"completions": table}, step=step)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            with contextlib.redirect_stdout(sys.stderr):
                self.library.finish()


def _run_id(run_dir: Path) -> str:
    """The folder's own id, made at first use, so that a resumed run goes on in the same place."""
    file = run_dir / "tracker_id"
    if not file.exists():
        make_folder(run_dir)
        write_atomically(file, secrets.token_hex(4))
    return file.read_text()


def _known(metrics: Mapping[str, float | int | None]) -> dict[str, float]:
    """The finite values: backends draw None and NaN as 0 or fail on them."""
    return {name: float(value) for name, value in metrics.items() if value is not None and math.isfinite(value)}


def _values(row: Mapping[str, Any]) -> list[float | str | None]:
    """A row of the table. Of one kind in each column, which W&B asks for: numbers are floats, a number that is not
    finite is None, parts are JSON."""
    given = {**row, "parts": json_lines.dumps(row.get("parts") or {})}
    return [_value(given.get(name)) for name in TABLE]


def _value(value: Any) -> float | str | None:
    if isinstance(value, int | float):
        return float(value) if math.isfinite(value) else None
    return value if value is None else cut_middle(str(value), TABLE_LETTERS)


def _cell(value: float | str | None) -> str:
    """Text for one cell of a Markdown table; backticks and pipes would end it."""
    if isinstance(value, int | float):
        return f"{value:.6g}"
    return one_line(value or "").replace("|", "\\|").replace("`", "'").replace("<", "&lt;")


def _load(module: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ContentError(
            f"tracker: {extra} needs the package {module}, which is not installed; "
            f"run `pip install {extra}` or set tracker: none"
        ) from error
