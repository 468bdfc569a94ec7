"""Tasks from every kind of source, and an error with place and cure for every way a source can be wrong."""

import csv
import gzip
import json

import pytest

from alignkit.data.sources import load_tasks, split_holdout
from alignkit.errors import DataError
from alignkit.recipe.schema import Data

ROWS = [{"question": f"{n} + 1?", "answer": str(n + 1), "level": n} for n in range(5)]
COLUMNS = {"prompt": "question", "reference": "answer"}


def write(folder, name, rows=ROWS):
    path = folder / name
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    elif name.endswith(".jsonl"):
        path.write_text(text)
    elif name.endswith(".json"):
        path.write_text(json.dumps(rows, indent=1))
    elif name.endswith(".csv"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def load(folder, name, **settings):
    return load_tasks(Data(source=name, **settings), seed=0, beside=folder)


def problem(folder, name, **settings):
    with pytest.raises(DataError) as caught:
        load(folder, name, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["d.jsonl", "d.jsonl.gz", "d.json", "d.parquet", "d.csv"])
def test_every_kind_of_file_gives_the_same_tasks(tmp_path, name):
    write(tmp_path, name)
    tasks = load(tmp_path, name, columns=COLUMNS, system="Be brief.")
    assert [task.id for task in tasks] == [f"{name}/{n}" for n in range(5)]
    assert tasks[3].messages == ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "3 + 1?"})
    assert tasks[3].text is None
    assert tasks[3].reference == "4"
    assert str(tasks[3].columns["level"]) == "3"
    assert tasks[3].columns["answer"] == "4"
    assert [task.id for task in load(tmp_path, name, columns=COLUMNS, limit=2)] == [f"{name}/0", f"{name}/1"]


def test_a_template_makes_the_prompt_from_columns(tmp_path):
    write(tmp_path, "d.jsonl")
    [task, *_] = load(tmp_path, "d.jsonl", template="Level {level}: {question} {{box}}", chat=False)
    assert task.text == "Level 0: 0 + 1? {box}"
    assert task.messages is None


def test_a_template_may_take_a_part_of_a_column(tmp_path):
    """As for dpa, whose directions are mappings."""
    write(tmp_path, "d.jsonl", [{"question": "Why?", "direction": {"short": 7}}])
    [task] = load(tmp_path, "d.jsonl", template="short {direction[short]}: {question}", chat=False)
    assert task.text == "short 7: Why?"


def test_files_are_looked_for_beside_the_recipe_then_here_then_in_alignkit_data(tmp_path, monkeypatch):
    for number, folder in enumerate(("recipe", "here", "data")):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, "d.jsonl", [{"prompt": str(number)}])
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("ALIGNKIT_DATA", f"{tmp_path / 'nothing'}:{tmp_path / 'data'}")
    for expected, folder in enumerate(("recipe", "here", "data")):
        [task] = load(tmp_path / "recipe", "d.jsonl", chat=False)
        assert task.text == str(expected)
        (tmp_path / folder / "d.jsonl").unlink()
    assert "set ALIGNKIT_DATA" in problem(tmp_path / "recipe", "d.jsonl")


def test_trl_columns_are_understood(tmp_path):
    user = {"role": "user", "content": "q"}
    good, bad = ({"role": "assistant", "content": text} for text in "ab")
    rows = [
        {"messages": [user, good]},
        {"messages": [user]},
        {"prompt": [user], "completion": [good], "label": True},
        {"prompt": "q", "chosen": "a", "rejected": "b", "tools": []},
        {"chosen": [user, good], "rejected": [user, bad]},
        {"chosen": "q: yes", "rejected": "q: no"},
    ]
    write(tmp_path, "d.jsonl", rows)
    tasks = load(tmp_path, "d.jsonl")
    assert [task.messages[-1]["content"] for task in tasks] == ["q", "q", "q", "q", "q", "q:"]
    assert tasks[0].columns == {"completion": [good], "label": None}  # a column of another row
    assert tasks[1].columns == {"label": None}
    assert tasks[2].columns == {"completion": [good], "label": True}
    assert tasks[4].columns == {"chosen": [good], "rejected": [bad], "label": None}
    assert tasks[5].columns == {"chosen": " yes", "rejected": " no", "label": None}


def test_the_splits_of_a_generator_never_share_an_id(tmp_path):
    train = load(tmp_path, "generator:arithmetic")
    heldout = load(tmp_path, "generator:arithmetic", split="heldout")
    assert (len(train), len(heldout)) == (70, 30)
    assert not {task.id for task in train} & {task.id for task in heldout}
    assert train[0].columns["completion"] == train[0].reference


def test_a_hub_dataset_is_named_by_the_commit_that_was_loaded(monkeypatch):
    import datasets

    commit = "0123456789abcdef0123456789abcdef01234567"
    asked = {}

    def fake(name, config, *, split, revision):
        asked.update(name=name, config=config, split=split, revision=revision)
        dataset = datasets.Dataset.from_list(ROWS)
        dataset.info.download_checksums = {f"hf://datasets/openai/gsm8k@{commit}/main/train.parquet": {}}
        return dataset

    monkeypatch.setattr(datasets, "load_dataset", fake)
    tasks = load(None, "hub:openai/gsm8k", columns=COLUMNS, options={"name": "main"}, revision="v1", limit=2)
    assert asked == {"name": "openai/gsm8k", "config": "main", "split": "train", "revision": "v1"}
    assert [task.id for task in tasks] == [f"hub:openai/gsm8k@{commit}:train/{n}" for n in range(2)]
    assert tasks[0].reference == "1"


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    import datasets

    def fake(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'x/y'\non the Hub")

    monkeypatch.setattr(datasets, "load_dataset", fake)
    assert "cannot load split 'train': ConnectionError: Couldn't reach 'x/y' on the Hub" in problem(None, "hub:x/y")
    assert "takes only `name`" in problem(None, "hub:x/y", options={"split": "a"})


def test_a_damaged_gzip_file_is_named_as_such(tmp_path):
    whole = write(tmp_path, "d.jsonl.gz", [{"prompt": str(n) * 50} for n in range(400)]).read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:200] + b"\0\1\2\3" * 20 + whole[280:], b"no gzip at all"):
        (tmp_path / "d.jsonl.gz").write_bytes(damaged)
        assert "the gzip file is damaged or cut off" in problem(tmp_path, "d.jsonl.gz")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.jsonl", b'{"prompt": "a"}\n{"prompt": "b"\n', "d.jsonl line 2: not JSON at column 15"),
        ("d.jsonl", b'{"prompt": "a"}\n\n["b"]\n', "d.jsonl line 3: is a JSON list; wanted an object"),
        ("d.jsonl", b"", "has no rows"),
        ("d.jsonl", b"\n\n", "has no rows"),
        ("d.jsonl", b'{"prompt": "\xff"}', "not UTF-8 text at byte 12"),
        ("d.jsonl", b"[" * 100_000, "not JSON that can be read"),
        ("d.json", b'{"prompt": "a"}', "holds one dict; wanted a list"),
        ("d.json", b'[{"prompt": "a"},\n 3]', "d.json row 2: is a JSON int"),
        ("d.json", b'[{"prompt": "a"},\n x]', "not JSON at line 2 column 2"),
        ("d.csv", b"prompt,answer\na,b\nc\n", "d.csv line 3: has 1 fields; the header names 2"),
        ("d.csv", b'prompt\n"a"b\n', "d.csv line 2: not CSV"),
        ("d.csv", b"prompt\n", "has no rows"),
        ("d.parquet", b"PAR1 not really", "not a readable parquet file"),
        ("d.txt", b"x", "unknown kind of file; wanted one of .jsonl"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_named_with_the_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert message in problem(tmp_path, name)


@pytest.mark.parametrize(
    ("row", "settings", "message"),
    [
        ({"question": "a"}, {}, "line 1: no column 'prompt'; it has question; name one with data.columns"),
        ({"question": "a"}, {"columns": {"prompt": "quesion"}}, "no column 'quesion' (did you mean 'question'?)"),
        ({"question": "a"}, {"template": "{quest}"}, "no column 'quest' (did you mean 'question'?)"),
        ({"question": None}, {"template": "{question}"}, "column 'question' is empty"),
        ({"d": {"a": 1}}, {"template": "{d[b]}"}, "line 1: 'd' has no 'b'; it has a; it has d; mend data.template"),
        ({"d": 1}, {"template": "{d[b]}"}, "'d' is int '1' and has no 'b'"),
        ({"d": "a"}, {"template": "{d:.2f}"}, "its columns do not fill data.template (ValueError: "),
        ({"prompt": ""}, {}, "the prompt is empty"),
        ({"prompt": 5}, {}, "prompt is int '5'; wanted text or a list of messages"),
        ({"prompt": []}, {}, "prompt is an empty list"),
        ({"prompt": ["a"]}, {}, "prompt[0] is str 'a'; wanted"),
        ({"prompt": [{"role": "user"}]}, {}, "the prompt is empty"),
        ({"messages": [{"content": "a"}]}, {}, "messages[0] is dict"),
        ({"prompt": [{"role": "user", "content": "a"}]}, {"chat": False}, "set data.chat to true"),
        ({"prompt": "a", "completion": 5}, {}, "completion is int '5'"),
        ({"prompt": "a", "chosen": 5}, {}, "chosen is int '5'"),
        ({"chosen": "a", "rejected": "b"}, {}, "begin differently"),
        ({"chosen": "a", "rejected": [{"role": "assistant", "content": "b"}]}, {}, "must both be text"),
        ({"prompt": [{"role": "system", "content": "a"}]}, {"system": "b"}, "has its own system message"),
        ({"prompt": "a"}, {"system": "b", "chat": False}, "data.system is given but data.chat is false"),
        ({"prompt": "a"}, {"options": {"x": 1}}, "are for generators and hub datasets"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_with_column_and_cure(tmp_path, row, settings, message):
    write(tmp_path, "d.jsonl", [row])
    assert message in problem(tmp_path, "d.jsonl", **settings)


def test_ids_of_the_data_are_used_when_named_and_must_differ(tmp_path):
    write(tmp_path, "d.jsonl", [{"prompt": "a", "key": "x"}, {"prompt": "b", "key": "y"}])
    assert [task.id for task in load(tmp_path, "d.jsonl", columns={"id": "key"})] == ["d.jsonl/x", "d.jsonl/y"]
    write(tmp_path, "d.jsonl", [{"prompt": "a", "key": "x"}, {"prompt": "b", "key": "x"}])
    message = problem(tmp_path, "d.jsonl", columns={"id": "key"})
    assert "line 2" in message
    assert "line 1" in message
    assert "ids must differ" in message


def test_a_holdout_is_chosen_by_the_seed_and_loses_nothing(tmp_path):
    tasks = load(tmp_path, "generator:parity")
    train, heldout = split_holdout(tasks, 20, seed=0)
    assert (len(train), len(heldout)) == (50, 20)
    assert sorted(task.id for task in train + heldout) == sorted(task.id for task in tasks)
    assert [task for task in tasks if task in heldout] == heldout
    assert split_holdout(tasks, 20, seed=0)[1] == heldout
    assert split_holdout(tasks, 20, seed=1)[1] != heldout
    assert split_holdout(tasks, 0, seed=0) == (tasks, [])
    with pytest.raises(DataError, match="nothing is left to train on"):
        split_holdout(tasks, 70, seed=0)
