"""`alignkit data` for several sources: each by itself, its share of the rows drawn, what two have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from alignkit.data.look.near_duplicates import near_duplicates
from alignkit.data.sources import part_data
from alignkit.recipe.schema import Data
from alignkit.run.look.look import Look, all_said, looked
from alignkit.types.task import Task

EXAMPLES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """share: of the rows that are drawn. passes: over this part in an epoch, which has as many rows as all have.

    None where that depends on how many rows a source has, and not all were read.
    """

    look: Look
    share: float | None
    passes: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Between:
    """Of two parts. same: rows of `other` that say what some row of `one` says, but for capitals and white space.
    nearly: those that say nearly that. examples: ids of such rows of `other`. Rows that were looked at are compared."""

    one: str
    other: str
    same: int
    nearly: int
    examples: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixed:
    """between: pairs of parts that have something in common."""

    parts: dict[str, Part]
    between: list[Between]

    def able(self) -> list[str]:
        """Methods that can train on every part."""
        known = [[one.method for one in part.look.trainers if one.problem is None] for part in self.parts.values()]
        return [method for method in known[0] if all(method in others for others in known)]


def look_at_mixture(
    data: Data, *, rows: int, tokenizer: Any = None, model: str | None = None, beside: Path | None = None
) -> Mixed:
    """What `look` finds in each part of a mixture, `rows` of each looked at closely, and what they are to one another.

    Raises DataError when a source cannot be read at all.
    """
    found = {
        name: looked(part, rows=rows, tokenizer=tokenizer, model=model, beside=beside)
        for name, part in part_data(data).items()
    }
    looks = {name: one for name, (one, _) in found.items()}
    weights = {name: part.weight for name, part in data.mixture.items()}
    return Mixed(parts=_parts(looks, weights), between=_between({name: tasks for name, (_, tasks) in found.items()}))


def _parts(looks: Mapping[str, Look], weights: Mapping[str, float | None]) -> dict[str, Part]:
    total = sum(one.read for one in looks.values())
    known = total > 0 and all(one.whole for one in looks.values())
    parts = {}
    for name, one in looks.items():
        weight = weights[name]
        share = one.read / total if known else None
        if weight is not None:
            share = weight / sum(filter(None, weights.values()))
        passes = share * total / one.read if share is not None and known and one.read else None
        parts[name] = Part(look=one, share=share, passes=passes)
    return parts


def _between(tasks: Mapping[str, Sequence[Task]]) -> list[Between]:
    rows = [(name, task.id, all_said(task)) for name, part in tasks.items() for task in part]
    said: dict[str, dict[str, str]] = {name: {} for name in tasks}  # id -> what its row says
    groups: dict[str, dict[str, int]] = {name: {} for name in tasks}  # id -> its group of rows that nearly say the same
    for name, identity, text in rows:
        said[name][identity] = " ".join(text.lower().split())
    for number, places in enumerate(near_duplicates([text for _, _, text in rows])):
        for name, identity, _ in map(rows.__getitem__, places):
            groups[name][identity] = number
    found = []
    for one, other in combinations(tasks, 2):
        known, alike = set(said[one].values()), set(groups[one].values())
        same = [identity for identity, text in said[other].items() if text in known]
        nearly = [identity for identity, number in groups[other].items() if number in alike]
        nearly = [identity for identity in nearly if said[other][identity] not in known]
        if same or nearly:
            examples = [*same, *nearly][:EXAMPLES]
            found.append(Between(one=one, other=other, same=len(same), nearly=len(nearly), examples=examples))
    return found
