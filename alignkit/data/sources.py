"""Tasks from files, hub datasets, generators and the user's own functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from alignkit.data.generators import generate
from alignkit.data.own_rows import make_own_rows
from alignkit.data.paths import reach
from alignkit.data.rows import Row, iterate_rows
from alignkit.data.tasks import make_task
from alignkit.errors import DataError, on_one_line
from alignkit.recipe.lookup.data_file import data_file, data_folders
from alignkit.recipe.lookup.rows_function import find_rows_function
from alignkit.recipe.lookup.secrets import FOR_THE_HUB, lent
from alignkit.recipe.schema import Data, Rows
from alignkit.types.seeds import child
from alignkit.types.task import Task

Position = Mapping[str, Any]
"""Of the reading of a source, as JSON: how many `rows` were read and, of a stream, its state."""


@dataclass(frozen=True, slots=True)
class _Opened:
    """name: what the ids of tasks begin with. place: what a position needs besides the number of rows."""

    name: str
    rows: Iterator[Row]
    place: Callable[[], Position] = dict


def load_tasks(data: Data, *, seed: int, beside: Path | None = None, part: str = "") -> list[Task]:
    """All tasks of a recipe's `data` section, in the source's order; at most `data.limit`.

    seed: draws problems from generators too large to list, and is given to functions of the user's own; nothing else
    here is random. beside: the recipe's folder;
    relative files are looked for there, in the working folder, and in the folders of $ALIGNKIT_DATA.
    Task ids are stable: they name the source as the recipe does (a hub dataset with its commit) and the row. Those of a
    mixture begin with the part's name, which stands in the column `source`, too. part: the name, of one.
    Raises DataError that names the file, the row, the column, what was found, what was wanted and the cure.
    """
    if data.system is not None and not data.chat:
        raise DataError("data.system is given but data.chat is false; put it into data.template instead")
    if data.mixture:
        parts = part_data(data).items()
        return [task for name, part in parts for task in load_tasks(part, seed=seed, beside=beside, part=name)]
    source, rows = iterate_source(data, seed=seed, beside=beside)
    return _tasks(list(islice(rows, data.limit)), data, source, part=part)


def task_windows(
    data: Data, *, seed: int, beside: Path | None = None, part: str = "", position: Position | None = None
) -> Iterator[tuple[list[Task], Position]]:
    """The same tasks, `data.window` rows at a time, read as they are asked for, each window with the position behind
    it; data has no mixture. position: where to begin, None: at the first row.

    Rows before it are not read where the source has places (a stream of the hub, parquet, saved datasets); lines of
    text are passed over unread, and a function of the user's own is asked again.
    What rows say of one another (a column that only others have, an id that stands twice) is seen within a window.
    """
    opened = _opened(data, position or {}, seed=seed, beside=beside)
    first = position["rows"] if position else 0
    rows = islice(opened.rows, None if data.limit is None else max(data.limit - first, 0))
    while window := list(islice(rows, data.window)):
        tasks = _tasks(window, data, opened.name, part=part, first=first)
        first += len(window)
        yield tasks, {"rows": first, **opened.place()}


def first_window(data: Data) -> Data:
    """The same data with no more rows than its first window has, where it has one."""
    if data.window is None:
        return data
    if data.mixture:
        parts = data.mixture.items()
        cut = {name: part.model_copy(update={"limit": _least(part, data.window)}) for name, part in parts}
        return data.model_copy(update={"mixture": cut})
    return data.model_copy(update={"limit": _least(data, data.window)})


def part_data(data: Data) -> dict[str, Data]:
    """The parts of a mixture by name, each with all that the section says besides."""
    return {
        name: data.model_copy(update={**{field: getattr(rows, field) for field in Rows.model_fields}, "mixture": {}})
        for name, rows in data.mixture.items()
    }


def _least(rows: Rows, window: int) -> int:
    return min(rows.limit or window, window)


def _tasks(rows: list[Row], data: Data, source: str, *, part: str, first: int = 0) -> list[Task]:
    """first: number of the first row in its source. part: of a mixture, which its ids begin with."""
    rows = levelled(rows)
    elsewhere = cache(lambda path: any(_reaches(row, path) for row in rows))
    tasks = [make_task(row, data, source=source, number=n, elsewhere=elsewhere) for n, row in enumerate(rows, first)]
    if "id" in data.columns:
        _check_unique(tasks, rows)
    if not part:
        return tasks
    return [replace(task, id=f"{part}:{task.id}", columns={**task.columns, "source": part}) for task in tasks]


def split_holdout(tasks: Sequence[Task], holdout: int, seed: int) -> tuple[list[Task], list[Task]]:
    """(to train on, held out): `holdout` tasks chosen by the seed; both keep the given order.

    Raises DataError when nothing would be left to train on.
    """
    from numpy.random import Generator, Philox

    if holdout >= len(tasks):
        raise DataError(f"data.holdout is {holdout} of {len(tasks)} rows; nothing is left to train on: lower it")
    order = Generator(Philox(key=child(seed, "holdout"))).permutation(len(tasks))
    chosen = {int(index) for index in order[:holdout]}
    train = [task for index, task in enumerate(tasks) if index not in chosen]
    return train, [task for index, task in enumerate(tasks) if index in chosen]


def iterate_source(data: Data, *, seed: int, beside: Path | None) -> tuple[str, Iterator[Row]]:
    """(what the ids of tasks begin with, the rows of a source that is no mixture, read as they are asked for).

    `data.limit` is left to the caller. Raises as `load_tasks`, some of it only as rows are asked for.
    """
    opened = _opened(data, {}, seed=seed, beside=beside)
    return opened.name, opened.rows


def _opened(data: Data, position: Position, *, seed: int, beside: Path | None) -> _Opened:
    kind, _, name = data.source.partition(":")
    skip = position.get("rows", 0)
    if kind == "hub":
        return _from_hub(name, data, position)
    if kind == "generator":
        return _Opened(f"{data.source}:{data.split}", islice(_generated(name, data, seed), skip, None))
    function = find_rows_function(data.source, beside=beside)
    if function is not None:
        rows = make_own_rows(function, data, seed=seed)
        return _Opened(f"{data.source}:{data.split}", islice(rows, skip, None))
    return _Opened(data.source, _from_file(data, beside, skip))


def levelled(rows: list[Row]) -> list[Row]:
    """The rows with the same columns each: what a row of JSON leaves out is null, as it is in a table."""
    names = dict.fromkeys(name for row in rows for name in row.columns)
    if all(len(row.columns) == len(names) for row in rows):
        return rows
    return [Row(row.where, {**row.columns, **{name: row.columns.get(name) for name in names}}) for row in rows]


def _reaches(row: Row, path: str) -> bool:
    try:
        return reach(row.columns, path) is not None
    except KeyError:
        return False


def _generated(name: str, data: Data, seed: int) -> Iterator[Row]:
    rows = generate(name, data.options, split=data.split, seed=seed)
    return (Row(f"{data.source} row {number}", columns) for number, columns in enumerate(rows, start=1))


def _from_file(data: Data, beside: Path | None, skip: int) -> Iterator[Row]:
    if data.options or data.revision:
        raise DataError(f"{data.source}: data.options and data.revision are for generators and hub datasets; remove")
    path = data_file(data.source, beside)
    if path is None:
        looked = ", ".join(str(folder.resolve()) for folder in data_folders(beside))
        raise DataError(f"{data.source}: no such file in {looked}; fetch it, or set ALIGNKIT_DATA to its folder")
    return iterate_rows(path, split=data.split, skip=skip)


def _from_hub(name: str, data: Data, position: Position) -> _Opened:
    """The dataset's rows, and its name with the commit that was really loaded. A window's are streamed."""
    unknown = sorted(set(data.options) - {"name"})
    if unknown:
        raise DataError(f"{data.source}: unknown data.options.{unknown[0]}; a hub dataset takes only `name`")
    place: Callable[[], Position] = dict
    if data.window is not None:
        commit = _commit(name, data)
        source = f"{data.source}@{commit}:{data.split}"
        dataset = _loaded(name, data.model_copy(update={"revision": commit}), streaming=True)
        rows, place = _streamed(dataset, data, position), partial(_stream_place, dataset)
    else:
        dataset = _loaded(name, data)
        if data.limit is not None:
            dataset = dataset.select(range(min(data.limit, len(dataset))))
        checksums = " ".join(getattr(dataset.info, "download_checksums", None) or {})
        commit = re.search(r"@([0-9a-f]{40})/", checksums)
        source = f"{data.source}@{commit[1] if commit else data.revision or 'main'}:{data.split}"
        rows = iter(dataset.to_list())
    numbered = enumerate(rows, start=position.get("rows", 0) + 1)
    return _Opened(source, (Row(f"{source} row {number}", row) for number, row in numbered), place)


def _streamed(dataset: Any, data: Data, position: Position) -> Iterator[dict[str, Any]]:
    """The rows as they arrive: nothing is downloaded that is not asked for, but for the file that it stands in."""
    left = position.get("rows", 0)
    if position.get("datasets") == version("datasets"):  # another one may keep its place otherwise
        dataset.load_state_dict(position["stream"])
        left = 0
    rows = iter(dataset)
    while (row := _next_row(rows, data)) is not None:
        if left:
            left -= 1
        else:
            yield row


def _stream_place(dataset: Any) -> Position:
    return {"stream": deepcopy(dataset.state_dict()), "datasets": version("datasets")}


@lent(FOR_THE_HUB)
def _next_row(rows: Iterator[dict[str, Any]], data: Data) -> dict[str, Any] | None:
    try:
        return next(rows, None)
    except (OSError, ValueError) as error:
        what = f"{type(error).__name__}: {on_one_line(error)}"
        raise DataError(f"{data.source}: the stream broke off ({what}); go on with --resume") from error


@lent(FOR_THE_HUB)
def _loaded(name: str, data: Data, **how: bool) -> Any:
    from datasets import load_dataset

    try:
        given: Any = {"split": data.split, "revision": data.revision, **how}
        return load_dataset(name, data.options.get("name"), **given)
    except (OSError, ValueError) as error:
        line = on_one_line(error)
        raise DataError(
            f"{data.source}: cannot load split '{data.split}': {type(error).__name__}: {line}; check its name and "
            "data.split, or download it while online"
        ) from error


@lent(FOR_THE_HUB)
def _commit(name: str, data: Data) -> str:
    """The commit that the revision is now, so that a resumed run reads the same one or says that it is another."""
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(name, revision=data.revision).sha or data.revision or "main"
    except (OSError, ValueError) as error:
        line = on_one_line(error)
        raise DataError(f"{data.source}: cannot be found: {type(error).__name__}: {line}") from error


def _check_unique(tasks: Sequence[Task], rows: Sequence[Row]) -> None:
    seen: dict[str, str] = {}
    for task, row in zip(tasks, rows, strict=False):
        if task.id in seen:
            raise DataError(f"{row.where}: the id of {task.id} is also that of {seen[task.id]}; ids must differ")
        seen[task.id] = row.where
