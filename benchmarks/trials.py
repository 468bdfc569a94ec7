"""The trials of the GRPO step: each in a process that starts, warms up, runs one timed step and ends before the next.

Two models with their optimizers, gradients and an engine do not fit 24 GB, so never two sides are there at once. What
is not the step (start, loading, warm-up) is not timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from benchmarks.agreement import Agreement, compare, cosine
from benchmarks.calibrate import NOISY, Calibration, calibrate, drift
from benchmarks.shapes import Shape
from benchmarks.side import Side, SideDied, Turn
from benchmarks.trl_settings import Settings

OURS, TRL = "alignkit", "TRL"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One timed step. start_s: of its process until the timed step began, warm-up included. warm: loss and entropy of
    the warm-up, which trains on completions that both sides share. calibrations: before and after the step."""

    turn: Turn
    warm: dict[str, float]
    start_s: float
    calibrations: tuple[Calibration, Calibration]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Neighbouring trials. None: that side died, and the pair says nothing of ratios."""

    ours: Trial | None
    trl: Trial | None

    @property
    def ratio(self) -> float | None:
        """TRL's wall seconds over ours."""
        return self.trl.turn.wall_s / self.ours.turn.wall_s if self.ours and self.trl else None

    @property
    def cpu_ratio(self) -> float | None:
        return self.trl.turn.cpu_s / self.ours.turn.cpu_s if self.ours and self.trl else None

    @property
    def noisy(self) -> bool:
        trials = [trial for trial in (self.ours, self.trl) if trial]
        return drift([calibration for trial in trials for calibration in trial.calibrations]) > NOISY


class Trials:
    """Runs trials of both sides on one shape, one after the other. folder: for what they exchange, and their logs.

    ours, trl: start one side; by default the real ones. deaths: what happened to sides that died.
    """

    def __init__(
        self,
        shape: Shape,
        settings: Settings,
        folder: Path,
        *,
        ours: Callable[..., Side] | None = None,
        trl: Callable[..., Side] | None = None,
    ):
        self._start = {OURS: ours or start_ours, TRL: trl or start_trl}
        self._arguments, self._folder = (shape, settings, folder), folder
        self._completions: list[list[int]] = []
        self.hf_s = 0.0
        """Seconds in which our hf engine generates the same."""
        self.deaths: list[SideDied] = []

    def prepare(self, *, hf: bool) -> None:
        """Our engine samples the shared completions, and our gradient on them in float32 becomes the exact one.

        In a process of its own, whose memory no timed step sees. hf: also times our hf engine.
        Raises SideDied.
        """
        with closing(self._start[OURS](*self._arguments)) as side:
            self._completions = side("sample").value
            side(("exact", self._completions, self._folder / "exact"))
            if hf:
                self.hf_s = side("hf").value

    def pairs(self, count: int) -> Iterator[Pair]:
        """Pairs of trials, the first side changing; ends early when a side died, which would die again."""
        for number in range(count):
            order = (OURS, TRL) if number % 2 == 0 else (TRL, OURS)
            trials = {name: self._trial(name) for name in order}
            yield Pair(ours=trials[OURS], trl=trials[TRL])
            if self.deaths:
                return

    def exact_cosine(self) -> float:
        """Cosine of the exact gradient and that of TRL's warm-up, which runs here. Raises SideDied."""
        with closing(self._start[TRL](*self._arguments)) as side:
            side(("gradient", self._completions, self._folder / TRL))
        return cosine(*(load_file(self._folder / name) for name in ("exact", TRL)))

    def agreement(self, ours: dict[str, float], trl: dict[str, float]) -> Agreement:
        """Of the latest warm-ups of both sides, whose losses and entropies are given."""
        return compare(ours, trl, *(load_file(self._folder / name) for name in ("exact", OURS, TRL)))

    def _trial(self, name: str) -> Trial | None:
        begun = time.perf_counter()
        try:
            with closing(self._start[name](*self._arguments)) as side:
                warm = side(("gradient", self._completions, self._folder / name)).value
                start_s = time.perf_counter() - begun
                before = calibrate()
                turn = side("step")
                calibrations = (before, calibrate())
        except SideDied as death:
            self.deaths.append(death)
            return None
        return Trial(turn=turn, warm=warm, start_s=start_s, calibrations=calibrations)


def start_ours(shape: Shape, settings: Settings, folder: Path) -> Side:
    dtype = "bfloat16" if settings.autocast else "float32"
    return Side(_serve_ours, shape, dtype, folder / "vllm.log", name=OURS, log_file=folder / "alignkit.log")


def start_trl(shape: Shape, settings: Settings, folder: Path) -> Side:
    return Side(_serve_trl, shape, settings, name=TRL, log_file=folder / "trl.log")


def _serve_ours(connection: Connection, *arguments: Any) -> None:
    from benchmarks.ours import serve

    serve(connection, *arguments)


def _serve_trl(connection: Connection, *arguments: Any) -> None:
    from benchmarks.trl_grpo import serve

    serve(connection, *arguments)
