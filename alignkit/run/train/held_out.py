"""Says at a stage's start which of its prompts benchmarks ask, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from alignkit.evaluate.held_out.known_questions import every_protocol
from alignkit.recipe.schema import Stage
from alignkit.run.check.trained_questions import trained_questions
from alignkit.run.train.journal import Journal
from alignkit.types.task import Task


def tell_trained_questions(stage: Stage, tasks: Sequence[Task], journal: Journal, *, beside: Path | None) -> None:
    """A `trained_questions` event for each benchmark that asks what the stage trains on, and the sentence of it.

    tasks: what the stage trains on, behind all filters. beside: the recipe's folder, for protocols of one's own.
    """
    for overlap in trained_questions(stage.data, tasks, every_protocol(beside=beside)):
        told = {name: value for name, value in asdict(overlap).items() if name != "benchmark"}
        benchmark = overlap.benchmark
        journal.note(
            "trained_questions",
            stage=stage.name,
            benchmark=benchmark.file,
            protocols=benchmark.protocols,
            questions=len(benchmark.questions),
            **told,
        )
        journal.report(str(overlap))
