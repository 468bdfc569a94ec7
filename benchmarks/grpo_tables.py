"""What the measurement of the GRPO step says, in tables and sentences."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.agreement import Agreement, same_digits
from benchmarks.results import Machine, Result, Table
from benchmarks.shapes import Shape
from benchmarks.side import SideDied
from benchmarks.trials import OURS, TRL, Pair, Trial
from benchmarks.trl_settings import Settings

PHASES = {"generate": "generate_s", "update": "update_s", "sync": "sync_s"}
TARGETS = {"A1": 3.0, "A2": 6.0}  # of whole-step time; the project's own bars
BUSY = 0.25  # cores; when other programs took more, wall seconds say more of them than of the sides
GIB = 2**30
NOTHING = "-"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One measurement. agreement: None when no pair is complete. exact: cosine of the float32 gradients on A0. hf_s:
    seconds of the same generation with our hf engine."""

    shape: Shape
    settings: Settings
    machine: Machine
    agreement: Agreement | None
    exact: float
    pairs: Sequence[Pair]
    deaths: Sequence[SideDied]
    hf_s: float

    @property
    def complete(self) -> list[Pair]:
        return [pair for pair in self.pairs if pair.ours and pair.trl]

    @property
    def disturbed(self) -> bool:
        """Whether other programs took so much of the machine that wall seconds mean little."""
        return any(trial.turn.others > BUSY for side in (OURS, TRL) for trial in self.of(side))

    def of(self, side: str) -> list[Trial]:
        """Trials of a side, by pair."""
        both = [pair.ours if side == OURS else pair.trl for pair in self.pairs]
        return [trial for trial in both if trial]

    def ratios(self, value: Callable[[Trial], float]) -> list[float]:
        """TRL's value over ours, for every complete pair."""
        return [value(pair.trl) / value(pair.ours) for pair in self.pairs if pair.ours and pair.trl]


def result_of(measured: Measured) -> Result:
    shape = measured.shape
    trials = [trial for pair in measured.pairs for trial in (pair.ours, pair.trl) if trial]
    return Result(
        order=1,
        name=f"grpo_step-{shape.name}",
        title=f"One GRPO step, shape {shape.name}",
        machine=measured.machine,
        tables=[_sides(measured), _phases(measured), _every_trial(measured)],
        notes=_notes(measured),
        calibrations=[calibration for trial in trials for calibration in trial.calibrations],
        raw={
            "agreement": asdict(measured.agreement) if measured.agreement else None,
            "settings": asdict(measured.settings),
            "pairs": [asdict(pair) for pair in measured.pairs],
            "deaths": [str(death) for death in measured.deaths],
            "headline": _headline(measured),
        },
    )


def wall_s(trial: Trial) -> float:
    return trial.turn.wall_s


def cpu_s(trial: Trial) -> float:
    return trial.turn.cpu_s


def peak_gib(trial: Trial) -> float:
    return trial.turn.peak_bytes / GIB


def _sides(measured: Measured) -> Table:
    """Both sides and their ratio; the loss is that of the first complete pair, else of the side's first trial."""
    deaths = {death.name: death for death in measured.deaths}
    rows = []
    for side in (OURS, TRL):
        trials = measured.of(side)
        if trials:
            cells = [_median(map(wall_s, trials)), _median(map(cpu_s, trials)), _median(map(peak_gib, trials))]
            rows.append([side, *cells, f"{trials[0].warm['loss']:.6f}"])
        else:
            rows.append([side, "**died**", "**died**", f"{deaths[side].peak_bytes / GIB:.1f} when it died", NOTHING])
    ratios = [_range(measured.ratios(value)) for value in (wall_s, cpu_s, peak_gib)]
    rows.append([f"{TRL} / {OURS}", *ratios, _verdict(measured.agreement)])
    return Table(
        caption=f"One step, medians of {_counted(measured)}; ratios are of each pair: median (lowest - highest)",
        columns=[
            "",
            "wall seconds" + " (busy machine)" * measured.disturbed,
            "CPU seconds",
            "peak memory, GiB",
            "loss on the same token ids",
        ],
        rows=rows,
    )


def _verdict(agreement: Agreement | None) -> str:
    if agreement is None:
        return NOTHING
    return same_digits(agreement.our_loss, agreement.trl_loss) if agreement.holds else "**they do not agree**"


def _counted(measured: Measured) -> str:
    count = len(measured.complete)
    return f"{count} pair{'s' * (count != 1)}" if count else "the side that lived"


def _phases(measured: Measured) -> Table:
    rows = []
    for phase, key in PHASES.items():
        seconds = [[trial.turn.value[key] for trial in measured.of(side)] for side in (OURS, TRL)]
        compared = all(map(any, seconds))
        ratios = measured.ratios(lambda trial, key=key: trial.turn.value[key]) if compared else []
        rows.append([phase, *(_median(values) if any(values) else NOTHING for values in seconds), _range(ratios)])
    return Table(
        caption="Its phases, wall seconds" + " on a busy machine" * measured.disturbed,
        columns=["", OURS, TRL, f"{TRL} / {OURS}"],
        rows=rows,
    )


def _every_trial(measured: Measured) -> Table:
    rows = []
    for number, pair in enumerate(measured.pairs):
        sides = [(OURS, pair.ours), (TRL, pair.trl)]
        for side, trial in sides if number % 2 == 0 else reversed(sides):
            rows.append([str(number + 1), side, *(_trial_cells(trial) if trial else ["**died**"] + [NOTHING] * 6)])
    return Table(
        caption="Every trial, in the order they ran",
        columns=["pair", "side", "wall s", "CPU s", "peak GiB", "loss", "load average", "others' cores", "start-up s"],
        rows=rows,
    )


def _trial_cells(trial: Trial) -> list[str]:
    turn = trial.turn
    numbers = [f"{turn.wall_s:.1f}", f"{turn.cpu_s:.1f}", f"{peak_gib(trial):.1f}", f"{trial.warm['loss']:.6f}"]
    return [*numbers, f"{turn.load:.1f}", f"{turn.others:.2f}", f"{trial.start_s:.0f}"]


def _notes(measured: Measured) -> list[str]:
    shape, notes = measured.shape, []
    target = TARGETS.get(shape.name)
    if target and measured.complete:
        value, unit = (cpu_s, "CPU") if measured.disturbed else (wall_s, "wall")
        reached = statistics.median(measured.ratios(value)) >= target
        notes.append(f"Target: {target:g} times faster; {'reached' if reached else '**missed**'} in {unit} seconds.")
    if measured.disturbed:
        notes.append(
            "**Measured on a busy machine**: the wall seconds, and their ratios most of all, say more of the other "
            "programs than of the two sides; the CPU seconds are what can be compared."
        )
    notes += [f"**{death.summary}.**" for death in measured.deaths]
    notes.append(
        f"{shape.prompts} prompts x {shape.group} completions; prompt {shape.prompt} tokens, completions "
        f"{sum(shape.lengths) / shape.samples:.0f} on average, {max(shape.lengths)} at most, the same lengths on both "
        f"sides. Ours generates with vLLM; with our hf engine the same generation takes {measured.hf_s:.1f} s. TRL's "
        f"{measured.settings}."
    )
    if measured.agreement:
        notes.append(_describe_agreement(measured.agreement, measured.exact))
    return [*notes, _describe_neighbours(measured)]


def _describe_agreement(agreement: Agreement, exact: float) -> str:
    verdict = "both are rounding" if agreement.holds else "**they do not agree, the ratio means nothing**"
    return (
        f"On the same token ids: loss {agreement.our_loss:.6f} (ours) and {agreement.trl_loss:.6f} (TRL), mean entropy "
        f"{agreement.our_entropy:.4f} and {agreement.trl_entropy:.4f}, cosine of the two gradients "
        f"{agreement.cosine:.5f}. Their distances (1 - cosine) from the float32 gradient are {agreement.our_error:.1e} "
        f"(ours) and {agreement.trl_error:.1e} (TRL): {verdict}. In float32 the two gradients' cosine is {exact:.7f} "
        "(shape A0)."
    )


def _describe_neighbours(measured: Measured) -> str:
    trials = [*measured.of(OURS), *measured.of(TRL)]
    loads, others = [t.turn.load for t in trials], [t.turn.others for t in trials]
    return (
        f"{sum(pair.noisy for pair in measured.pairs)} of {len(measured.pairs)} pairs are noisy. Measured at load "
        f"{min(loads):.1f} - {max(loads):.1f}, the step itself included; other programs took {min(others):.2f} - "
        f"{max(others):.2f} cores meanwhile."
    )


def _headline(measured: Measured) -> dict[str, Any] | None:
    """The line of the project's README; None without a complete pair."""
    agreement = measured.agreement
    if agreement is None:
        return None
    loads = [trial.turn.load for trial in (*measured.of(OURS), *measured.of(TRL))]
    return {
        "work": f"{measured.shape.name}: {measured.shape.prompts} x {measured.shape.group}, of {measured.shape.prompt} "
        f"and {measured.shape.mean_completion} tokens",
        "ours_s": statistics.median(map(wall_s, measured.of(OURS))),
        "trl_s": statistics.median(map(wall_s, measured.of(TRL))),
        **{
            name: statistics.median(measured.ratios(value))
            for name, value in (("wall", wall_s), ("cpu", cpu_s), ("memory", peak_gib))
        },
        "loss": _verdict(agreement),
        "disturbed": measured.disturbed,
        "measured": f"{len(measured.complete)}, {min(loads):.1f} - {max(loads):.1f}",
    }


def _median(values: Any) -> str:
    return f"{statistics.median(values):.1f}"


def _range(ratios: Sequence[float]) -> str:
    """Median, lowest and highest; a ratio below 1 is a cell that we lose."""
    if not ratios:
        return NOTHING
    middle = statistics.median(ratios)
    shown = f"{middle:.2f} ({min(ratios):.2f} - {max(ratios):.2f})" if len(ratios) > 1 else f"{middle:.2f}"
    return f"{shown} **loses**" if middle < 1 else shown
