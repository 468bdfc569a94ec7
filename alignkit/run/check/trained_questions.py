"""Whether a stage trains on questions that benchmarks ask."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from alignkit.evaluate.benchmark.protocol import Named
from alignkit.evaluate.held_out.known_questions import known_questions
from alignkit.evaluate.held_out.overlap import overlaps
from alignkit.recipe.schema import Stage
from alignkit.types.task import Task, message_text

MADE = "generator:"  # such rows are made anew and found in no benchmark's file


def trained_questions(stage: Stage, tasks: Sequence[Task], protocols: Iterable[Named]) -> list[str]:
    """A sentence for each file of these benchmarks that shares questions with the prompts of the tasks.

    Compared are whole questions and runs of 13 words, letters small and without punctuation; of conversations all that
    the user says. Files that are not on this machine are not compared.
    """
    rows = [stage.data, *stage.data.mixture.values()]
    if all(each.source.startswith(MADE) for each in rows if each.source):
        return []
    prompts = (text for task in tasks for text in _asked(task))
    return [str(overlap) for overlap in overlaps(prompts, known_questions(protocols))]


def _asked(task: Task) -> list[str]:
    if task.messages is None:
        return [task.text or ""]
    return [message_text(message) for message in task.messages if message["role"] == "user"]
