"""The order of prompts as a pure function of the seed: a cursor (one integer) is the whole state of the stream."""

from __future__ import annotations

from alignkit.errors import DataError
from alignkit.types.seeds import child


def draw(num_tasks: int, *, seed: int, start: int, count: int, shuffle: bool) -> list[tuple[int, int]]:
    """Positions `start` to `start + count` of an endless stream of tasks, as (epoch, index of the task).

    Each epoch is one permutation of all tasks, drawn from (seed, epoch) alone, or the given order without `shuffle`.
    So every task comes exactly once an epoch, however the stream is cut into calls. Raises DataError for no tasks.
    """
    if num_tasks < 1:
        raise DataError("data: there are no tasks to draw from; wanted at least one row")
    result: list[tuple[int, int]] = []
    position = start
    while position < start + count:
        epoch, offset = divmod(position, num_tasks)
        taken = min(num_tasks - offset, start + count - position)
        order = _permutation(num_tasks, seed, epoch) if shuffle else range(num_tasks)
        result += [(epoch, int(index)) for index in order[offset : offset + taken]]
        position += taken
    return result


def _permutation(num_tasks: int, seed: int, epoch: int):
    from numpy.random import Generator, Philox

    return Generator(Philox(key=child(seed, "order", epoch))).permutation(num_tasks)
