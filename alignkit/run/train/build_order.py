"""From a stage's data to the order in which its rows are drawn: all at once, by the weights of parts, or in windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from alignkit.data.sources import first_window, load_tasks, part_data, split_holdout, task_windows
from alignkit.errors import DataError, NothingLeft
from alignkit.recipe.schema import Data, Recipe, Stage
from alignkit.rewards.pool.blend import check_rows
from alignkit.run.train.build import beside
from alignkit.train.source import Order
from alignkit.train.weighted import WeightedOrder, turns_of
from alignkit.train.window_index import WindowIndex
from alignkit.train.windowed import WindowedOrder
from alignkit.types.seeds import child
from alignkit.types.task import Task

Row = TypeVar("Row")
Made = Callable[[Sequence[Task]], Sequence[Row]]
"""What tasks become: token ids, without those that cannot be learnt from. Every row has its `task`."""


def training_tasks(stage: Stage, recipe: Recipe) -> list[Task]:
    """The rows that a stage trains on, before any length filter; of windows those of the first."""
    tasks = load_tasks(first_window(stage.data), seed=recipe.seed, beside=beside(recipe))
    check_rows(stage.rewards, tasks)
    return split_holdout(tasks, stage.data.holdout, recipe.seed)[0]


def build_order(stage: Stage, recipe: Recipe, made: Made[Row]) -> Order[Row]:
    """The order of what `made` makes of a stage's tasks. Raises DataError when a part of a weighted one has none."""
    data, seed = stage.data, child(recipe.seed, stage.name, "order")
    weights = {name: part.weight for name, part in data.mixture.items() if part.weight is not None}
    if data.window is not None:
        check_rows(stage.rewards, load_tasks(first_window(data), seed=recipe.seed, beside=beside(recipe)))
        if not weights:
            return _windowed(data, "", seed, recipe, made)
        parts = part_data(data).items()
        windows = {name: _windowed(part, name, child(seed, name), recipe, made) for name, part in parts}
        return _weighted(windows, weights, data, seed)
    rows: Sequence[Any] = made(training_tasks(stage, recipe))
    if not weights:
        return Order(examples=rows, seed=seed, shuffle=data.shuffle)
    of = {name: [row for row in rows if row.task.columns["source"] == name] for name in weights}
    orders = {name: Order(examples=own, seed=child(seed, name), shuffle=data.shuffle) for name, own in of.items()}
    return _weighted(orders, weights, data, seed)


def describe_order(order: Order[Any]) -> str | None:
    """A sentence on the shares of a weighted mixture; None for other orders."""
    if not isinstance(order, WeightedOrder):
        return None
    rows = "rows" if order.whole else "rows at a time"
    of = [f"{turns} of {name} ({len(order.parts[name].examples):,} {rows})" for name, turns in order.turns.items()]
    return f"mixture: of every {sum(order.turns.values()):,} rows drawn {', '.join(of)}"


def indexed(order: Order[Row], file: Path, name: str) -> Order[Row]:
    """The same order, which keeps in `file` where its windows begin; name: of the stage."""
    if isinstance(order, WindowedOrder):
        return replace(order, index=WindowIndex(file, name))
    if isinstance(order, WeightedOrder):
        parts = {part: indexed(own, file, f"{name}/{part}") for part, own in order.parts.items()}
        return replace(order, parts=parts)
    return order


def drawn_of_parts(data: Data, consumed: Sequence[str]) -> dict[str, int]:
    """Metrics `data/rows/<part>`: how many of a step's rows came from each part of a mixture, by their ids."""
    return {f"data/rows/{name}": sum(one.startswith(f"{name}:") for one in consumed) for name in data.mixture}


def _weighted(
    parts: Mapping[str, Order[Row]], weights: Mapping[str, float], data: Data, seed: int
) -> WeightedOrder[Row]:
    empty = next((name for name, order in parts.items() if not order.examples), None)
    if empty is not None:
        raise DataError(f"data.mixture.{empty}: no row of it is left to train on; remove the part or mend its rows")
    rows = [row for order in parts.values() for row in order.examples]
    turns = turns_of(weights)
    how = {"seed": seed, "shuffle": data.shuffle, "whole": data.window is None}
    return WeightedOrder(examples=rows, parts=parts, turns=turns, **how)


def _windowed(data: Data, part: str, seed: int, recipe: Recipe, made: Made[Row]) -> WindowedOrder[Row]:
    def left(tasks: Sequence[Task]) -> Sequence[Row]:
        try:
            return made(tasks)
        except NothingLeft:  # of this window; the others may have rows
            return []

    def read(position: Any) -> Iterator[tuple[Sequence[Row], Any]]:
        windows = task_windows(data, seed=recipe.seed, beside=beside(recipe), part=part, position=position)
        return ((left(tasks), behind) for tasks, behind in windows)

    first, _ = next(read(None), ([], None))
    return WindowedOrder(examples=first, seed=seed, shuffle=data.shuffle, read=read)
