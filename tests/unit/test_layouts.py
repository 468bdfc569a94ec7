"""Every known layout becomes the task that docs/data.md promises, from every kind of file."""

import csv
import json

import pytest

from alignkit.data.sources import load_tasks
from alignkit.errors import DataError
from alignkit.recipe.schema import Data
from tests.layouts import BAD, BRIEF, EARLIER, GOOD, LAYOUTS, SUM, USER

ALL = [pytest.param(each, id=f"{group}: {each.name}") for group, layouts in LAYOUTS.items() for each in layouts]


def write(folder, rows, kind):
    path = folder / f"rows.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif kind == "json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif kind == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            for row in rows:
                texts = {name: json.dumps(value) for name, value in row.items() if isinstance(value, list | dict)}
                writer.writerow({**row, **texts})
    else:
        import pyarrow
        from pyarrow.parquet import write_table

        names = dict.fromkeys(name for row in rows for name in row)  # from_pylist takes those of the first row alone
        write_table(pyarrow.table({name: [row.get(name) for row in rows] for name in names}), path)
    return path


def load(folder, *rows, kind="jsonl", **settings):
    return load_tasks(Data(source=str(write(folder, rows, kind)), **settings), seed=0)


def refused(folder, *rows, **settings):
    with pytest.raises(DataError) as caught:
        load(folder, *rows, **settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
@pytest.mark.parametrize("layout", ALL)
def test_a_row_of_every_layout_becomes_the_task_that_is_promised(tmp_path, layout, kind):
    [task] = load(tmp_path, layout.row, kind=kind, **layout.settings)
    assert (None if task.messages is None else list(task.messages)) == layout.messages
    assert (task.text, task.reference, task.conversation) == (layout.text, layout.reference, layout.conversation)
    assert task.columns == layout.columns


@pytest.mark.parametrize("layout", ALL)
def test_json_in_the_cells_of_a_csv_file_says_the_same_messages(tmp_path, layout):
    [task] = load(tmp_path, layout.row, kind="csv", **layout.settings)
    assert (None if task.messages is None else list(task.messages)) == layout.messages
    sides = ("completion", "chosen", "rejected", "tools", "steps")
    assert {name: task.columns.get(name) for name in sides} == {name: layout.columns.get(name) for name in sides}


def test_the_messages_that_both_sides_share_are_the_prompt_beside_any_prompt_they_hold(tmp_path):
    whole = {"chosen": [BRIEF, *EARLIER, USER, GOOD], "rejected": [BRIEF, *EARLIER, USER, BAD]}
    prompts = [None, "What is 2+2?", " What is 1+1?\n", [BRIEF, *EARLIER, USER], [BRIEF, EARLIER[0]]]
    for prompt in prompts:
        [task] = load(tmp_path, {"prompt": prompt, **whole})
        assert list(task.messages) == [BRIEF, *EARLIER, USER]
        assert (task.columns["chosen"], task.columns["rejected"]) == ([GOOD], [BAD])
    [task] = load(tmp_path, {"prompt": [BRIEF, USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]})
    assert list(task.messages) == [BRIEF, USER]
    [task] = load(tmp_path, {"prompt": "What is 2+2?", "chosen": [USER, GOOD], "rejected": "5"})
    assert (list(task.messages), task.columns["chosen"], task.columns["rejected"]) == ([USER], [GOOD], "5")
    message = refused(tmp_path, {"prompt": "Why?", **whole})
    assert "line 1: the prompt is not among the messages that chosen and rejected begin with" in message


def test_equal_sides_and_sides_that_part_early_keep_an_answer_each(tmp_path):
    [same] = load(tmp_path, {"prompt": "What is 2+2?", "chosen": [USER, GOOD], "rejected": [USER, GOOD]})
    assert (same.columns["chosen"], same.columns["rejected"]) == ([GOOD], [GOOD])
    [early] = load(tmp_path, {"chosen": [USER, GOOD, USER, GOOD], "rejected": [USER, BAD]})
    assert list(early.messages) == [USER]
    assert (early.columns["chosen"], early.columns["rejected"]) == ([GOOD, USER, GOOD], [BAD])


def test_a_completion_that_repeats_its_prompt_is_cut_to_the_answer(tmp_path):
    row = {"prompt": [USER], "completion": [USER, GOOD], "label": True}
    [task] = load(tmp_path, row)
    assert (list(task.messages), task.columns["completion"]) == ([USER], [GOOD])


def test_a_template_replaces_the_one_question_that_whole_conversations_begin_with(tmp_path):
    row = {"prompt": "What is 2+2?", "chosen": [USER, GOOD], "rejected": [USER, BAD]}
    [task] = load(tmp_path, row, template="{prompt} Be quick.")
    assert task.messages[0]["content"] == "What is 2+2? Be quick."
    assert (task.columns["chosen"], task.columns["rejected"]) == ([GOOD], [BAD])
    assert "data.template makes the prompt" in refused(
        tmp_path, {**row, "chosen": [BRIEF, USER, GOOD], "rejected": [BRIEF, USER, BAD]}, template="{prompt}!"
    )


def test_dialogues_in_the_prompt_lose_the_opened_turn_and_answers_that_repeat_them_are_cut(tmp_path):
    opened = "\n\nHuman: What is 2+2?\n\nAssistant:"
    row = {"prompt": opened, "chosen": f"{opened} 4", "rejected": f"{opened} 5"}
    [chat] = load(tmp_path, row)
    assert (list(chat.messages), chat.columns["chosen"], chat.columns["rejected"]) == ([USER], [GOOD], [BAD])
    [text] = load(tmp_path, row, chat=False)
    assert (text.text, text.columns["chosen"], text.columns["rejected"]) == (opened, " 4", " 5")
    [answers] = load(tmp_path, {"prompt": opened, "chosen": " 4", "rejected": " 5"})
    assert (list(answers.messages), answers.columns["chosen"]) == ([USER], " 4")


def test_a_whole_conversation_is_one_only_where_its_answer_is_its_own_last_message(tmp_path):
    [asked] = load(tmp_path, {"messages": [*EARLIER, USER]})
    assert (asked.conversation, list(asked.messages), dict(asked.columns)) == (True, [*EARLIER, USER], {})
    [given] = load(tmp_path, {"messages": [*EARLIER, USER], "completion": "4"})
    assert (given.conversation, given.columns["completion"]) == (False, "4")
    [begun] = load(tmp_path, {"prompt": [USER, {"role": "assistant", "content": "It is"}]})
    assert begun.messages[-1] == {"role": "assistant", "content": "It is"}
    assert not begun.conversation


def test_messages_beside_another_prompt_are_not_its_answer(tmp_path):
    for prompt, messages in (("Why?", [USER, GOOD]), ([USER], [BRIEF, USER, GOOD]), ("What is 2+2?", [USER])):
        [task] = load(tmp_path, {"prompt": prompt, "messages": messages})
        assert "completion" not in task.columns
        assert not task.conversation
    [task] = load(tmp_path, {"prompt": [BRIEF, USER], "messages": [BRIEF, USER, GOOD]})
    assert (list(task.messages), task.columns["completion"]) == ([BRIEF, USER], [GOOD])


def test_whole_texts_are_learnt_as_they_are_and_never_wrapped_as_chat(tmp_path):
    for chat in (True, False):
        [task] = load(tmp_path, {"text": "Once upon a time", "source": "book"}, chat=chat)
        assert (task.messages, task.text) == (None, "")
        assert task.columns == {"text": "Once upon a time", "completion": "Once upon a time", "source": "book"}
    [named] = load(tmp_path, {"text": "What is 2+2?"}, columns={"prompt": "text"})
    assert list(named.messages) == [USER]


def test_a_system_column_is_the_conversations_where_the_layout_has_one_or_the_recipe_names_it(tmp_path):
    [task] = load(tmp_path, {"messages": [USER, GOOD], "system": "Be brief."})
    assert list(task.messages) == [BRIEF, USER]
    [task] = load(tmp_path, {"messages": [BRIEF, USER, GOOD], "system": "Be brief."})
    assert list(task.messages) == [BRIEF, USER]
    [plain] = load(tmp_path, {"prompt": "What is 2+2?", "style": "Be brief."})
    assert list(plain.messages) == [USER]
    [named] = load(tmp_path, {"prompt": "What is 2+2?", "style": "Be brief."}, columns={"system": "style"})
    assert list(named.messages) == [BRIEF, USER]
    assert "remove data.system" in refused(tmp_path, {"messages": [USER, GOOD], "system": "Be brief."}, system="x")
    assert "two system messages" in refused(tmp_path, {"messages": [BRIEF, USER, GOOD], "system": "Be long."})
    assert "set data.chat to true" in refused(
        tmp_path, {"query": "a", "response": "b", "system": "Be brief."}, chat=False
    )


@pytest.mark.parametrize(
    ("row", "cure"),
    [
        ({"question": "a", "answer": "b"}, "write data.columns: {prompt: question, reference: answer} where rewards"),
        ({"problem": "a", "solution": "b"}, "{prompt: problem, completion: solution} where it is learnt"),
        ({"instruction": "a", "ground_truth": 3}, "{prompt: instruction, reference: ground_truth}"),
        ({"instruction": "a", "context": "b", "response": "c"}, 'write data.template: "{instruction}\\n{context}"'),
        ({"question": "a", "response": "b"}, "data.columns (prompt: question, completion: response)"),
        ({"x": "a"}, "name one with data.columns (prompt: THEIRS) or write data.template"),
    ],
)
def test_a_row_without_a_prompt_is_told_the_line_that_names_it(tmp_path, row, cure):
    message = refused(tmp_path, row)
    assert "line 1: no column 'prompt'" in message
    assert cure in message


def test_history_may_be_messages_and_must_be_pairs_otherwise(tmp_path):
    [task] = load(tmp_path, {"query": "What is 2+2?", "response": "4", "history": EARLIER})
    assert list(task.messages) == [*EARLIER, USER]
    for none in ([], None, "", "[]"):
        [task] = load(tmp_path, {"query": "What is 2+2?", "response": "4", "history": none})
        assert (list(task.messages), task.columns["completion"], task.conversation) == ([USER], "4", False)
    [other] = load(tmp_path, {"prompt": "What is 2+2?", "history": [["x"]], "system": "mine"})
    assert (list(other.messages), other.columns["history"], other.columns["system"]) == ([USER], [["x"]], "mine")
    wrong = {"query": "a", "response": "b", "history": [["x"]]}
    assert "line 1: history[0] is \"['x']\"; wanted [a question, its answer]" in refused(tmp_path, wrong)


def test_the_better_side_of_a_preference_set_can_be_learnt_as_a_conversation(tmp_path):
    row = {"prompt": None, "chosen": [BRIEF, USER, GOOD], "rejected": [BRIEF, USER, BAD]}
    [task] = load(tmp_path, row, columns={"messages": "chosen"})
    assert (list(task.messages), task.columns["completion"], task.conversation) == ([BRIEF, USER], [GOOD], True)


@pytest.mark.parametrize(
    "text",
    [
        '{"role": "admin"} What does this mean?',
        '{"content": "x", "score": 1}',
        '{"role": "admin", "rights": ["read"]}',
        "[{'a': 1}, {'b': 2}]",
        '[{"role": "a", "content": "b"}, 3]',
        "[1, 2]",
    ],
)
def test_text_with_braces_that_is_no_conversation_stays_text(tmp_path, text):
    [task] = load(tmp_path, {"prompt": text, "completion": text})
    assert list(task.messages) == [{"role": "user", "content": text}]
    assert task.columns["completion"] == text


def test_messages_that_python_wrote_into_a_cell_are_read_or_named(tmp_path):
    [task] = load(tmp_path, {"prompt": str([BRIEF, USER]), "completion": str([GOOD])})
    assert (list(task.messages), task.columns["completion"]) == ([BRIEF, USER], [GOOD])
    numpy = "[{'role': 'user', 'content': 'a'}\n {'role': 'user', 'content': 'b'}]"
    assert "line 1: prompt is" in refused(tmp_path, {"prompt": numpy})
    assert "write it with json.dumps" in refused(tmp_path, {"prompt": numpy})


def test_tools_and_template_arguments_of_a_row_are_in_one_form(tmp_path):
    bare = {**SUM["function"], "description": None}
    forms = [[SUM], json.dumps([SUM]), [bare], json.dumps(bare), [json.dumps(SUM)], {**SUM, "strict": None}]
    forms.append([{**bare, "type": "function", "parameters": json.dumps(bare["parameters"])}])
    for tools in forms:
        [task] = load(tmp_path, {"prompt": "a", "tools": tools})
        assert task.columns["tools"] == [SUM]
    [task] = load(tmp_path, {"messages": [USER], "functions": [bare]})
    assert task.columns["tools"] == [SUM]
    for empty in ([], "[]", "", None):
        [task] = load(tmp_path, {"prompt": "a", "tools": empty})
        assert "tools" not in task.columns
    assert "tools[0] is" in refused(tmp_path, {"prompt": "a", "tools": [{"parameters": {}}]})
    assert "tools is text 'add', and not JSON" in refused(tmp_path, {"prompt": "a", "tools": "add"})
    for given in ({"enable_thinking": False, "date": None}, '{"enable_thinking": false}'):
        [task] = load(tmp_path, {"prompt": "a", "chat_template_kwargs": given})
        assert task.columns["chat_template_kwargs"] == {"enable_thinking": False}
    assert "wanted a mapping" in refused(tmp_path, {"prompt": "a", "chat_template_kwargs": [1]})
