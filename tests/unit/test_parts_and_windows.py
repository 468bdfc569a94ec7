"""Parts by weight and rows in windows: whose turn it is, what is held, and that a resumed run draws the same."""

from __future__ import annotations

import json
from itertools import count

import pytest

from alignkit.data.sources import load_tasks, task_windows
from alignkit.errors import DataError, RecipeError
from alignkit.recipe.read import read_recipe
from alignkit.recipe.schema import Data
from alignkit.run.look.look import look
from alignkit.run.train.train import run
from alignkit.train.source import Order
from alignkit.train.weighted import WeightedOrder, turns_of
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


def windowed(sizes: tuple[int, ...], *, shuffle: bool = True) -> tuple[WindowedOrder[int], list[int]]:
    """An order of the numbers from 0 on, in windows of these sizes; and which windows were read, as they are."""
    read: list[int] = []

    def windows():
        first = 0
        for number, size in enumerate(sizes):
            read.append(number)
            yield list(range(first, first + size))
            first += size

    return WindowedOrder(examples=[], seed=3, shuffle=shuffle, read=windows), read


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


def test_tasks_of_windows_are_those_of_all_rows(folder):
    rows = [{"id": f"r{n}", "prompt": f"{n}?", "tag": n if n % 3 else None} for n in range(7)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"source": "rows.jsonl", "limit": 6, "chat": False}
    windows = list(task_windows(Data(**settings, window=4), seed=0, beside=folder))
    assert [len(window) for window in windows] == [4, 2]
    assert [task for window in windows for task in window] == load_tasks(Data(**settings), seed=0, beside=folder)


def ledger(path):
    return [json.loads(line)["task_ids"] for line in (path / "ledger.jsonl").read_text().splitlines()]


def losses(path):
    return [json.loads(line)["loss/policy"] for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_a_curriculum_without_an_end_is_drawn_by_position_and_resumes_with_the_same_rows_and_bits(folder):
    recipe = read_recipe(folder / "r.yaml", [f"run={folder / 'run'}"])
    run(recipe, resume=False, as_json=True)
    path = folder / "run"
    names = [f"./mine.py:rows:train/{n}" for n in range(18)]
    assert [name for step in ledger(path) for name in step] == names
    before = ledger(path), losses(path)
    newest = max((path / "checkpoints").iterdir())
    newest.rename(folder / newest.name)
    run(recipe, resume=True, as_json=True)
    assert (ledger(path), losses(path)) == before


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

    def rows():
        for number in count():
            given.append(number)
            yield {"prompt": str(number)}

    def fake(name, config, **how):
        asked.update(how, name=name)
        return datasets.IterableDataset.from_generator(rows)

    monkeypatch.setattr(datasets, "load_dataset", fake)
    info = type("Info", (), {"sha": "c" * 40})
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, name, revision: info)
    windows = task_windows(Data(source="hub:o/n", window=3, chat=False), seed=0)
    assert [task.text for task in next(windows)] == ["0", "1", "2"]
    assert max(given) < 3, "nothing is read ahead"
    assert [task.id for task in next(windows)] == [f"hub:o/n@{'c' * 40}:train/{n}" for n in (3, 4, 5)]
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
