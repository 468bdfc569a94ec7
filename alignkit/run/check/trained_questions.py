"""Whether what is trained on is asked by benchmarks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from alignkit.evaluate.benchmark.protocol import Named
from alignkit.evaluate.held_out.known_questions import known_questions
from alignkit.evaluate.held_out.overlap import Overlap, overlaps
from alignkit.recipe.schema import Data
from alignkit.types.task import Task, message_text

MADE = "generator:"  # such rows are made anew and found in no benchmark's file
MOST = 200_000
"""Tasks that are compared, spread over all: of longer data a share is enough to find what was copied."""


def trained_questions(data: Data, tasks: Sequence[Task], protocols: Iterable[Named]) -> list[Overlap]:
    """What each file of these benchmarks shares with the prompts of the tasks; none where it shares nothing.

    Compared are whole questions and runs of 13 words, letters small and without punctuation; of conversations all that
    the user says. Files that are not on this machine are not compared.
    """
    rows = [data, *data.mixture.values()]
    if all(each.source.startswith(MADE) for each in rows if each.source):
        return []
    compared = tasks[:: -(-len(tasks) // MOST)] if tasks else []
    return overlaps((text for task in compared for text in _asked(task)), known_questions(protocols))


def _asked(task: Task) -> list[str]:
    if task.messages is None:
        return [task.text or ""]
    return [message_text(message) for message in task.messages if message["role"] == "user"]
