"""Paths into columns and the braces of templates."""

import pytest

from alignkit.data.paths import reach
from alignkit.errors import DataError
from alignkit.recipe.schema import Data
from alignkit.recipe.template import template_parts
from tests.unit.test_layouts import load, refused

ROW = {
    "reward_model": {"ground_truth": "4", "nested.name": {"x": 1}, "none": None},
    "answers": ["first", {"text": "second"}],
    "json": '{"gold": [7, {"x": null}]}',
    "a.b": "dotted",
    "a": {"b": "reached", "c": 5},
    "text": "plain",
    "number": 3,
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("text", "plain"),
        ("reward_model.ground_truth", "4"),
        ("reward_model[ground_truth]", "4"),
        ("reward_model['ground_truth']", "4"),
        ("{reward_model[ground_truth]}", "4"),
        ("{reward_model.ground_truth}", "4"),
        ("reward_model.nested.name.x", 1),
        ("reward_model[nested.name][x]", 1),
        ("reward_model.none", None),
        ("reward_model.none.deeper", None),
        ("answers.0", "first"),
        ("answers[0]", "first"),
        ("answers[-1].text", "second"),
        ("json.gold[0]", 7),
        ("json.gold.1.x", None),
        ("a.b", "dotted"),
        ("a[b]", "reached"),
        ("a.c", 5),
    ],
)
def test_a_path_reaches_into_mappings_lists_and_json(path, value):
    assert reach(ROW, path) == value


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nothing", "no column 'nothing'"),
        ("reward_model.gold", "'reward_model' has no 'gold'; it has ground_truth, nested.name, none"),
        ("answers.2", "'answers' has 2 elements, none at 2"),
        ("answers.text", "'answers' is a list; wanted a number from 0 in place of 'text'"),
        ("text.x", "'text' is text, and no JSON that could be reached into: 'plain'"),
        ("number.x", "'number' is int '3' and has no 'x'"),
        ("a..b", "is no path"),
        ("a[", "is no path"),
        ("", "is no path"),
    ],
)
def test_a_path_to_nothing_says_where_it_ends(path, words):
    with pytest.raises(KeyError) as caught:
        reach(ROW, path)
    assert words in caught.value.args[0]


def test_a_path_that_no_row_has_is_an_error_with_the_row_and_what_is_there(tmp_path):
    rows = [{"prompt": "a", "reward_model": {"ground_truth": "4"}}, {"prompt": "b", "reward_model": {}}]
    message = refused(tmp_path, *rows, columns={"reference": "reward_model.groundtruth"})
    assert "line 1: 'reward_model' has no 'groundtruth'; it has ground_truth" in message
    assert "mend data.columns.reference" in message
    tasks = load(tmp_path, *rows, columns={"reference": "reward_model.ground_truth"})
    assert [task.reference for task in tasks] == ["4", None]


def test_ids_may_stand_in_a_mapping_and_must_be_text_or_numbers(tmp_path):
    rows = [{"prompt": "a", "extra_info": {"index": n}} for n in (7, 9)]
    tasks = load(tmp_path, *rows, columns={"id": "extra_info.index"})
    assert [task.id.rpartition("/")[2] for task in tasks] == ["7", "9"]
    assert "mend data.columns.id" in refused(tmp_path, *rows, columns={"id": "extra_info"})


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("{q} Use \\boxed{}.", "2+2? Use \\boxed{}."),
        ("{q} Use \\boxed{{}}.", "2+2? Use \\boxed{}."),
        ('{q} As {{"answer": 0}}.', '2+2? As {"answer": 0}.'),
        ("{q} of {info.level} and {info[level]}", "2+2? of 3 and 3"),
        ("{q} is {score:.2f}", "2+2? is 0.50"),
        ("{0}", "zero"),
        ("{list[0]}{list.1}", "ab"),
    ],
)
def test_a_template_means_its_columns_and_leaves_empty_braces(tmp_path, template, prompt):
    row = {"q": "2+2?", "info": {"level": 3}, "score": 0.5, "0": "zero", "list": ["a", "b"]}
    [task] = load(tmp_path, row, template=template, chat=False)
    assert task.text == prompt


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ('{q} As {"answer": 0}.', "no column '\"answer\"'"),
        ("{q} {1}", "no column '1'"),
        ("{q} \\frac{a b}{2}", "no column 'a b'"),
        ("{q!r}", "has {q!r}, which no prompt needs; remove the !r, or"),
        ("{q", "is not a format string: expected '}'"),
        ("{q} }", "is not a format string: Single '}'"),
        ("{q:d}", "its columns do not fill data.template (ValueError"),
        ("{q.x}", "no JSON that could be reached into"),
    ],
)
def test_other_braces_are_told_to_be_doubled(tmp_path, template, words):
    message = refused(tmp_path, {"q": "2+2?"}, template=template)
    assert words in message
    assert "braces that are meant as such are doubled, {{ and }}" in message


def test_a_template_of_empty_braces_alone_names_no_column():
    assert [part.column for part in template_parts("\\boxed{} {{x}}")] == [None] * len(
        template_parts("\\boxed{} {{x}}")
    )
    assert [part.column for part in template_parts("{q} {}")] == ["q", None]


def test_a_column_in_a_template_that_only_other_rows_have_is_empty(tmp_path):
    with pytest.raises(DataError, match=r"line 2: column 'hint' is empty, and data.template needs it"):
        load(tmp_path, {"q": "a", "hint": "b"}, {"q": "c"}, template="{q} {hint}")
    assert Data().chat_template_kwargs == {}
