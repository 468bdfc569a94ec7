"""Kinds of files: what the same rows have to be in each, and how each can be wrong."""

import gzip
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alignkit.data.sources import load_tasks
from alignkit.errors import DataError
from alignkit.recipe.schema import Data
from tests.unit.test_layouts import write

LINE = b'{"prompt": "\xc3\xa9"}'
BOM = b"\xef\xbb\xbf"

words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8).map("w{}".format)
arguments = st.dictionaries(st.sampled_from(["city", "unit", "day"]), words, min_size=1, max_size=2)
functions = st.fixed_dictionaries({"name": words, "arguments": arguments})
called = functions.map(lambda function: {"type": "function", "function": function})
questions = st.fixed_dictionaries({"role": st.just("user"), "content": words}, optional={"name": words})
calls = st.fixed_dictionaries(
    {"role": st.just("assistant"), "tool_calls": st.lists(called, min_size=1, max_size=2)},
    optional={"reasoning_content": words},
)
results = st.fixed_dictionaries({"role": st.just("tool"), "content": words}, optional={"tool_call_id": words})
answers = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": words}, optional={"weight": st.sampled_from([0, 1]), "thinking": words}
)
tools = st.fixed_dictionaries(
    {
        "name": words,
        "parameters": st.dictionaries(st.sampled_from(["a", "b"]), st.just({"type": "string"}), min_size=1),
    },
    optional={"description": words},
)
rows = st.fixed_dictionaries(
    {"messages": st.tuples(questions, calls, results, answers).map(list)},
    optional={"tools": st.lists(tools, min_size=1, max_size=2), "note": words},
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(rows, min_size=1, max_size=3))
def test_the_same_conversations_are_the_same_tasks_from_every_kind_of_file(tmp_path, rows):
    told = {}
    for kind in ("jsonl", "json", "parquet", "csv"):
        loaded = load_tasks(Data(source=str(write(tmp_path, rows, kind))), seed=0)
        plain = [(task.messages, task.text, task.reference, task.conversation) for task in loaded]
        columns = [{**task.columns, "note": task.columns.get("note") or ""} for task in loaded]  # csv has no null
        told[kind] = (plain, columns)
    assert told["jsonl"] == told["json"] == told["parquet"] == told["csv"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d.jsonl", LINE),
        ("d.jsonl", BOM + LINE + b"\r\n"),
        ("d.jsonl", b"\r\n" + LINE + b"\r\n\r\n  \n"),
        ("d.jsonl.gz", gzip.compress(BOM + LINE, mtime=0)),
        ("d.json", BOM + b"[" + LINE + b"]"),
        ("d.json.gz", gzip.compress(b"[" + LINE + b"]", mtime=0)),
        ("d.json", b'{"version": 1, "data": [' + LINE + b"]}"),
        ("d.json", b'{"prompt": ["\xc3\xa9"]}'),
        ("d.json", b'{"prompt": {"0": "\xc3\xa9"}}'),
        ("d.json", LINE + b"\n" + LINE + b"\n"),
        ("d.csv", BOM + b"prompt\r\n\xc3\xa9\r\n"),
        ("d.csv", b"prompt,x\n\n\xc3\xa9,\n\n"),
        ("d.csv.gz", gzip.compress(b"prompt\n\xc3\xa9\n", mtime=0)),
        ("d.tsv", b"prompt\tx\n\xc3\xa9\t1,2\n"),
        ("d.tsv.gz", gzip.compress(BOM + b"prompt\n\xc3\xa9\n", mtime=0)),
    ],
)
def test_marks_line_ends_and_blank_lines_change_nothing(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    task = load_tasks(Data(source=name, chat=False), seed=0, beside=tmp_path)[0]
    assert task.text == "é"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("d.jsonl", LINE.decode().encode("utf-16"), "byte-order mark of UTF-16 (or 32); save it as UTF-8"),
        ("d.csv", "prompt\né".encode("utf-16"), "byte-order mark of UTF-16"),
        ("d.json", b'{"messages": [{"role": "user", "content": "a"}]}', "holds one dict; wanted a list of objects"),
        ("d.json", b'{"prompt": ["a"], "x": ["b", "c"]}', "holds one dict; wanted a list of objects"),
        ("d.jsonl", b'[\n{"prompt": "a"}\n]', "line 1: begins a list; wanted one object a line: name a list"),
        ("d.csv", b"prompt;answer\na;b\n", "line 1: the header is one column 'prompt;answer'; wanted commas in place"),
        ("d.csv", b"a,b,a\n1,2,3\n", "line 1: the header names 'a' twice"),
    ],
)
def test_a_file_of_another_kind_than_its_name_says_is_told_the_cure(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_tasks(Data(source=name), seed=0, beside=tmp_path)
    assert words in str(caught.value)


def test_a_cell_of_a_csv_file_may_hold_a_long_conversation(tmp_path):
    long = "x" * 200_000
    write(tmp_path, [{"prompt": [{"role": "user", "content": long}]}], "csv")
    [task] = load_tasks(Data(source="rows.csv"), seed=0, beside=tmp_path)
    assert task.messages == ({"role": "user", "content": long},)


def test_a_key_that_only_some_rows_have_is_null_in_the_others(tmp_path):
    rows = [{"prompt": "a", "solution": "1", "gold": {"value": 3}}, {"prompt": "b", "gold": None}, {"prompt": "c"}]
    for kind in ("jsonl", "parquet"):
        path = write(tmp_path, rows, kind)
        tasks = load_tasks(Data(source=str(path), columns={"reference": "gold.value", "extra": "solution"}), seed=0)
        assert [task.reference for task in tasks] == [3, None, None]
        assert [task.columns["solution"] for task in tasks] == ["1", None, None]
        assert [task.columns["extra"] for task in tasks] == ["1", None, None]


def test_folders_of_save_to_disk_are_read_with_their_splits(tmp_path):
    from datasets import Dataset, DatasetDict

    messages = [[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]]
    one = Dataset.from_dict({"messages": messages})
    one.save_to_disk(tmp_path / "one")
    DatasetDict({"train": Dataset.from_dict({"prompt": ["x"]}), "test": one}).save_to_disk(tmp_path / "two")
    [task] = load_tasks(Data(source="one"), seed=0, beside=tmp_path)
    assert task.messages == ({"role": "user", "content": "a"},)
    assert task.id == "one/0"
    [test] = load_tasks(Data(source="./two", split="test"), seed=0, beside=tmp_path)
    assert test.columns["completion"] == [{"role": "assistant", "content": "b"}]
    with pytest.raises(DataError, match=r"has no split 'dev'; set data.split to one of train, test"):
        load_tasks(Data(source="two", split="dev"), seed=0, beside=tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "rows.jsonl").write_text(json.dumps({"prompt": "a"}))
    with pytest.raises(DataError, match=r"not one of datasets.save_to_disk \(it holds rows.jsonl\); name a file"):
        load_tasks(Data(source="other"), seed=0, beside=tmp_path)
