"""Who runs the rewards of a stage: worker processes, and one more for those that hold a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alignkit.recipe.schema import RewardSpec
from alignkit.rewards.pool.needs import wanted
from alignkit.rewards.pool.supervisor import Supervisor


def supervisors_of(specs: Sequence[RewardSpec], workers: int, beside: Path | None) -> list[tuple[Supervisor, int]]:
    """For each reward who runs it, and its number there. They have begun to load. beside: the recipe's folder."""
    asked, found = [wanted(spec, beside) for spec in specs], {}
    for one_process, count in ((False, workers), (True, 1)):
        numbers = [number for number, one in enumerate(asked) if one.one_process == one_process]
        if numbers:
            memory_bytes = max(specs[number].memory_mib for number in numbers) << 20
            theirs = [asked[number] for number in numbers]
            supervisor = Supervisor(theirs, workers=count, beside=beside, memory_bytes=memory_bytes)
            found |= {number: (supervisor, place) for place, number in enumerate(numbers)}
    return [found[number] for number in range(len(specs))]
