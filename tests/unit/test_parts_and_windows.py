"""Parts by weight and rows in windows: whose turn it is, what is held, and that a resumed run draws the same."""

from __future__ import annotations

import json

import pyarrow.parquet
import pytest
from datasets import Dataset

from alignkit.data.rows import iterate_rows
from alignkit.data.sources import load_tasks, task_windows
from alignkit.errors import DataError, RecipeError
from alignkit.recipe.read import read_recipe
from alignkit.recipe.schema import Data
from alignkit.run.look.look import look
from alignkit.run.train import build_order
from alignkit.run.train.train import run
from alignkit.train.source import Order
from alignkit.train.weighted import WeightedOrder, turns_of
from alignkit.train.window_index import WINDOWS, WindowIndex
from alignkit.train.windowed import WindowedOrder

RECIPE = """
seed: 5
model: {scratch: {characters: "0123456789+=", layers: 1, hidden: 16, heads: 2, context: 16}, dtype: float32}
data: {source: ./mine.py:rows, chat: false, window: 4, shuffle: false}
algorithm: {type: sft}
optimizer: {lr: 1e-3}
train: {steps: 6, batch: 3}
checkpoints: {every: 2}
health: {dead_steps: 100}
"""
MINE = '''"""Sums that grow: a curriculum by position, without an end."""
from itertools import count


def rows(least=0):
    for number in count(least):
        yield {"prompt": f"{number}+1=", "completion": str(number + 1)}
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "r.yaml").write_text(RECIPE)
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.setenv("ALIGNKIT_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def weighted(seed: int = 0, **weights: float) -> WeightedOrder[str]:
    parts = {name: Order(examples=[f"{name}{n}" for n in range(5)], seed=seed, shuffle=True) for name in weights}
    rows = [row for part in parts.values() for row in part.examples]
    return WeightedOrder(examples=rows, seed=seed, shuffle=True, parts=parts, turns=turns_of(weights))


def windowed(sizes: tuple[int, ...], *, shuffle: bool = True, index: WindowIndex | None = None):
    """An order of rows numbered from 0 in windows of these sizes, and the windows that were read of it."""
    read: list[int] = []

    def windows(position):
        for number in range(position or 0, len(sizes)):
            read.append(number)
            first = sum(sizes[:number])
            yield list(range(first, first + sizes[number])), number + 1

    return WindowedOrder(examples=[], seed=3, shuffle=shuffle, read=windows, index=index), read


def test_weights_become_the_smallest_whole_numbers():
    assert turns_of({"a": 3, "b": 1}) == {"a": 3, "b": 1}
    assert turns_of({"a": 0.75, "b": 0.25}) == {"a": 3, "b": 1}
    assert turns_of({"a": 0.7, "b": 0.2, "c": 0.1}) == {"a": 7, "b": 2, "c": 1}
    assert turns_of({"a": 1 / 3, "b": 2 / 3}) == {"a": 1, "b": 2}
    assert turns_of({"a": 2, "b": 4, "c": 6}) == {"a": 1, "b": 2, "c": 3}


def test_weights_that_no_short_round_holds_are_rounded_to_one_of_ten_thousand():
    assert turns_of({"a": 1, "b": 0.0004}) == {"a": 2500, "b": 1}, "a small weight is no equal one"
    assert turns_of({"a": 0.31371, "b": 0.27193, "c": 0.41437}) == {"a": 3137, "b": 2719, "c": 4144}
    assert turns_of({"a": 1, "b": 1e-9}) == {"a": 10_000, "b": 1}


def test_every_round_has_the_turns_of_each_part_and_parts_pass_by_themselves():
    order = weighted(a=3, b=1)
    drawn = order.take(0, 40)
    assert all([row[0] for row in drawn[at : at + 4]].count("a") == 3 for at in range(0, 40, 4))
    of_a, of_b = ([row for row in drawn if row.startswith(name)] for name in "ab")
    assert [sorted(of_a[at : at + 5]) for at in range(0, 30, 5)] == [[f"a{n}" for n in range(5)]] * 6, "six passes"
    assert [sorted(of_b[at : at + 5]) for at in (0, 5)] == [[f"b{n}" for n in range(5)]] * 2
    assert len({"".join(row[0] for row in drawn[at : at + 4]) for at in range(0, 40, 4)}) > 1, "not always in one order"
    assert order.epoch(20) == 2.0, "as many rows as there are, ten, are an epoch"


def test_a_cursor_is_the_whole_state_of_a_weighted_order():
    whole = weighted(a=2, b=5).take(0, 30)
    for cut in (1, 6, 7, 13):
        assert weighted(a=2, b=5).take(0, cut) + weighted(a=2, b=5).take(cut, 30 - cut) == whole
    assert weighted(a=2, b=5).taken(13) == {name: [row[0] for row in whole[:13]].count(name) for name in "ab"}
    assert weighted(1, a=2, b=5).take(0, 30) != whole


def test_windows_are_read_as_they_are_needed_and_shuffled_within():
    order, read = windowed((4, 4, 4))
    assert sorted(order.take(0, 4)) == [0, 1, 2, 3]
    assert read == [0], "nothing beyond what is drawn"
    assert sorted(order.take(4, 8)) == list(range(4, 12))
    assert read == [0, 1, 2]
    assert sorted(order.take(12, 4)) == [0, 1, 2, 3], "a second pass"
    assert order.take(12, 4) != windowed((4, 4, 4))[0].take(0, 4), "in another order"
    assert order.epoch(16) == 1.0


def test_a_cursor_is_the_whole_state_of_a_windowed_order_whatever_rows_are_left_out():
    sizes = (4, 0, 3, 4)  # a window of which nothing is left, and one that lost a row
    whole = windowed(sizes)[0].take(0, 30)
    for cut in (1, 4, 11, 17):
        assert windowed(sizes)[0].take(0, cut) + windowed(sizes)[0].take(cut, 30 - cut) == whole
    order = windowed(sizes)[0]
    assert (order.take(20, 2), order.take(0, 22)) == (whole[20:22], whole[:22]), "it goes back, too"
    assert windowed(sizes, shuffle=False)[0].take(0, 13) == [*range(11), 0, 1]
    with pytest.raises(DataError, match="no tasks to draw from"):
        windowed((0, 0))[0].take(0, 1)


def test_an_order_that_goes_on_begins_at_its_window_and_draws_what_it_would_have_drawn(tmp_path):
    sizes, file = (4, 0, 3, 4), tmp_path / "windows.jsonl"
    whole = windowed(sizes)[0].take(0, 40)
    windowed(sizes, index=WindowIndex(file, "a"))[0].take(0, 26)
    windowed((2, 2), index=WindowIndex(file, "b"))[0].take(0, 3)
    with file.open("a") as torn:
        torn.write('{"order": "a", "num')
    for cursor, read in ((26, [0, 1, 2, 3]), (17, [2, 3, 0]), (3, [0, 1, 2, 3])):
        order, seen = windowed(sizes, index=WindowIndex(file, "a"))
        assert order.take(cursor, 7) == whole[cursor : cursor + 7]
        assert seen == read, "nothing before the window of the cursor"
        assert order.epoch(cursor) == (cursor + 7 - 1) // 11
    unshuffled, seen = windowed(sizes, shuffle=False)
    assert unshuffled.take(26, 1) == [4]
    assert len(seen) == 2 * 4 + 3, "without an index all is read"


@pytest.mark.parametrize("kind", ["jsonl", "csv", "json", "parquet", "saved", "generator", "function"])
def test_windows_from_a_position_are_those_that_follow_it_whatever_the_source(folder, kind):
    rows = [{"prompt": f"{n}?"} for n in range(9)]
    source = {"saved": "saved", "generator": "generator:arithmetic", "function": "./mine.py:rows"}
    data = Data(source=source.get(kind, f"rows.{kind}"), limit=8, chat=False, window=3)
    if kind in ("jsonl", "json"):
        (folder / data.source).write_text("\n\n".join(map(json.dumps, rows)))  # a blank line is no row
    elif kind == "csv":
        (folder / data.source).write_text("prompt\n" + "\n".join(row["prompt"] for row in rows))
    elif kind in ("parquet", "saved"):
        table = Dataset.from_list(rows)
        pyarrow.parquet.write_table(table.data.table, folder / "rows.parquet", row_group_size=2)
        table.save_to_disk(folder / "saved")
    windows = list(task_windows(data, seed=0, beside=folder))
    assert [(len(tasks), behind["rows"]) for tasks, behind in windows] == [(3, 3), (3, 6), (2, 8)]
    for number, (_, behind) in enumerate(windows):
        assert list(task_windows(data, seed=0, beside=folder, position=behind)) == windows[number + 1 :]


def test_of_a_parquet_file_the_groups_before_a_position_are_not_read(folder, monkeypatch):
    table = pyarrow.table({"prompt": [str(n) for n in range(9)]})
    pyarrow.parquet.write_table(table, folder / "rows.parquet", row_group_size=2)
    read, iter_batches = [], pyarrow.parquet.ParquetFile.iter_batches
    monkeypatch.setattr(
        pyarrow.parquet.ParquetFile,
        "iter_batches",
        lambda self, row_groups: read.extend(row_groups) or iter_batches(self, row_groups=row_groups),
    )
    found = [row.columns["prompt"] for row in iterate_rows(folder / "rows.parquet", skip=5)]
    assert (found, read) == (["5", "6", "7", "8"], [2, 3, 4])


def test_tasks_of_windows_are_those_of_all_rows(folder):
    rows = [{"id": f"r{n}", "prompt": f"{n}?", "tag": n if n % 3 else None} for n in range(7)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"source": "rows.jsonl", "limit": 6, "chat": False}
    windows = [tasks for tasks, _ in task_windows(Data(**settings, window=4), seed=0, beside=folder)]
    assert [len(window) for window in windows] == [4, 2]
    assert [task for window in windows for task in window] == load_tasks(Data(**settings), seed=0, beside=folder)


def ledger(path):
    return [json.loads(line)["task_ids"] for line in (path / "ledger.jsonl").read_text().splitlines()]


def losses(path):
    return [json.loads(line)["loss/policy"] for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_a_curriculum_without_an_end_is_drawn_by_position_and_resumes_with_the_same_rows_and_bits(folder, monkeypatch):
    recipe = read_recipe(folder / "r.yaml", [f"run={folder / 'run'}"])
    run(recipe, resume=False, as_json=True)
    path = folder / "run"
    names = [f"./mine.py:rows:train/{n}" for n in range(18)]
    assert [name for step in ledger(path) for name in step] == names
    before = ledger(path), losses(path)
    newest = max((path / "checkpoints").iterdir())
    newest.rename(folder / newest.name)
    begun = []

    def recorded(data, *, position, **how):
        for tasks, behind in task_windows(data, position=position, **how):
            begun.append(behind["rows"] - len(tasks))
            yield tasks, behind

    monkeypatch.setattr(build_order, "task_windows", recorded)
    run(recipe, resume=True, as_json=True)
    assert (ledger(path), losses(path)) == before
    assert begun == [0, 12, 16], "but for the first window, to compare it, nothing that was drawn before row 12"
    assert [json.loads(line)["first"] for line in (path / WINDOWS).read_text().splitlines()] == [0, 4, 8, 12, 16]


def test_a_weighted_mixture_of_windows_counts_the_rows_of_its_parts(folder):
    mixture = "data={mixture: {small: {source: './mine.py:rows', weight: 2}, large: {source: './mine.py:rows',"
    mixture += " options: {least: 500}, weight: 1}}, window: 4, chat: false}"
    recipe = read_recipe(folder / "r.yaml", [f"run={folder / 'run'}", mixture, "train.steps=2"])
    run(recipe, resume=False, as_json=True)
    steps = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(step["data/rows/small"], step["data/rows/large"]) for step in steps] == [(2, 1), (2, 1)]
    assert [step["data/epoch"] for step in steps] == [0, 0], "no part has ended, and nobody knows when"
    told = (folder / "run" / "events.jsonl").read_text()
    assert "mixture: of every 3 rows drawn 2 of small (4 rows at a time), 1 of large (4 rows at a time)" in told
    assert all(name.partition(":")[0] in ("small", "large") for step in ledger(folder / "run") for name in step)


def test_a_hub_dataset_in_windows_is_streamed_at_one_commit(monkeypatch):
    import datasets
    import huggingface_hub

    given, asked = [], {}

    def rows(files):
        for file in files:
            for number in range(4 * file, 4 * file + 4):
                given.append(number)
                yield {"prompt": str(number)}

    def fake(name, config, **how):
        asked.update(how, name=name)
        return datasets.IterableDataset.from_generator(rows, gen_kwargs={"files": [*range(100)]})

    monkeypatch.setattr(datasets, "load_dataset", fake)
    info = type("Info", (), {"sha": "c" * 40})
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, name, revision: info)
    data = Data(source="hub:o/n", window=3, chat=False)
    windows = task_windows(data, seed=0)
    assert [task.text for task in next(windows)[0]] == ["0", "1", "2"]
    assert max(given) < 3, "nothing is read ahead"
    tasks, behind = next(windows)
    assert [task.id for task in tasks] == [f"hub:o/n@{'c' * 40}:train/{n}" for n in (3, 4, 5)]
    following = next(windows)
    given.clear()
    assert next(task_windows(data, seed=0, position=json.loads(json.dumps(behind)))) == following
    assert given == [4, 5, 6, 7, 8], "files before the one in which it goes on are not opened"
    given.clear()
    other = {**behind, "datasets": "1.0"}
    assert next(task_windows(data, seed=0, position=other)) == following
    assert given == [*range(9)], "another version may keep its place otherwise"
    assert (asked["streaming"], asked["revision"], asked["name"]) == (True, "c" * 40, "o/n")
    given.clear()
    found = look(Data(source="hub:o/n", chat=False), rows=5)
    assert (found.read, found.whole, found.tasks, len(given)) == (5, False, 5, 6), (
        "one more, to know that there are more"
    )


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (["data.holdout=2"], "data.holdout: is drawn from all rows, and `window` never has them all"),
        (["train.steps=null"], "train.steps: is missing; of rows that are read in windows"),
        (
            ["data={mixture: {a: {source: './mine.py:rows'}}, window: 2}"],
            "data.window: reads the parts of a mixture in turns; give each a `weight`",
        ),
        (
            ["data={mixture: {a: {source: './mine.py:rows', weight: 1}, b: {source: './mine.py:rows'}}}"],
            "data.mixture.b.weight: is missing, and a has one",
        ),
        (["data={mixture: {a/b: {source: './mine.py:rows', limit: 3}}}"], "data.mixture.a/b: has a / or : in its name"),
    ],
)
def test_what_cannot_be_is_said_where_it_stands(folder, settings, problem):
    with pytest.raises(RecipeError) as error:
        read_recipe(folder / "r.yaml", settings)
    assert problem in str(error.value)


def test_a_window_of_which_every_row_is_too_long_is_left_out_and_does_not_end_the_run(folder):
    lengths = (1, 1, 14, 14, 1, 1)  # of which the middle window does not fit into 16 tokens
    rows = [{"prompt": f"{n}+", "completion": "1" * length} for n, length in enumerate(lengths)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = "data={source: rows.jsonl, chat: false, window: 2, shuffle: false, long_completions: filter}"
    recipe = read_recipe(folder / "r.yaml", [f"run={folder / 'run'}", data, "train={steps: 2, batch: 3}"])
    run(recipe, resume=False, as_json=True)
    assert [name.rpartition("/")[2] for step in ledger(folder / "run") for name in step] == list("014501")
