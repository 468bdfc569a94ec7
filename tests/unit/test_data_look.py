"""What `alignkit data` tells of rows: every count by hand, and tokens exactly as they are learnt from."""

from __future__ import annotations

import json
from itertools import count

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from alignkit.cli.main import run
from alignkit.data.kinds import paired_preference, sft, stepwise_supervision, unpaired_feedback
from alignkit.data.look.balance import balance
from alignkit.data.look.near_duplicates import jaccard, near_duplicates, shingles
from alignkit.data.look.sampled_rows import sample_rows
from alignkit.data.look.spans import marked, sequences, token_texts
from alignkit.data.look.taken_columns import taken_columns
from alignkit.data.offline.row_filter import RowFilter
from alignkit.data.rows import Row
from alignkit.data.tasks import make_task
from alignkit.recipe.schema import Data
from alignkit.run.look.look import lengths
from alignkit.run.look.trainers import stand_in
from alignkit.types.seeds import child


@pytest.fixture(autouse=True)
def no_benchmarks(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNKIT_DATA", str(tmp_path))


ASKED = {"role": "user", "content": "hi"}
TURNS = [ASKED, {"role": "assistant", "content": "a"}, ASKED, {"role": "assistant", "content": "b"}]
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"x": 2}}}


def tasks_of(*rows: dict, **settings):
    data = Data(source="rows", **settings)
    return [make_task(Row(f"line {n}", row), data, source="rows", number=n) for n, row in enumerate(rows)], data


def shown(kind, *rows: dict, **settings) -> list[list[tuple[str, str]]]:
    tasks, data = tasks_of(*rows, **settings)
    tokenizer = stand_in(tasks)
    made = kind.rows(tasks, RowFilter(tokenizer=tokenizer, data=data, context=1000, unit="rows"))
    return [[(one.caption, marked(one.spans)) for one in sequences(tokenizer, kind, row)] for row in made]


def test_of_a_conversation_all_assistant_turns_are_learnt_with_their_ends_or_the_last_alone():
    first, second = "<user>\\nhi<eos>\\n<assistant>\\n", "\\n<user>\\nhi<eos>\\n<assistant>\\n"
    assert shown(sft.KIND, {"messages": TURNS}) == [[("", f"{first}⟦a<eos>⟧{second}⟦b<eos>⟧")]]
    assert shown(sft.KIND, {"messages": TURNS}, turns="last") == [[("", f"{first}a<eos>{second}⟦b<eos>⟧")]]


def test_a_call_of_a_tool_is_learnt_and_its_result_and_the_tools_are_not():
    turns = [ASKED, {"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "4"}]
    [[(_, text)]] = shown(sft.KIND, {"messages": [*turns, {"role": "assistant", "content": "4"}], "tools": [TOOL]})
    before, call, between, answer, _ = text.replace("⟧", "⟦").split("⟦")
    assert before.startswith("<tool>{")
    assert before.endswith("<assistant>\\n")
    assert call.startswith("<call>{")
    assert '"x": 2' in call
    assert call.endswith("<eos>")
    assert (between, answer) == ("\\n<tool>\\n4<eos>\\n<assistant>\\n", "4<eos>")


def test_of_a_pair_both_sides_are_learnt_behind_one_prompt_and_named():
    pair = {"prompt": "hi", "chosen": "yes", "rejected": "no"}
    wanted = [("preferred", "<user>\\nhi<eos>\\n<assistant>\\n⟦yes<eos>⟧"), ("rejected", "⟦no<eos>⟧")]
    assert shown(paired_preference.KIND, pair) == [wanted]


def test_what_feedback_only_compares_with_is_not_shown_and_steps_are_learnt_where_they_end():
    rows = [{"prompt": word, "completion": "a", "label": word == "hi"} for word in ("hi", "ho")]
    prompt = "<user>\\n{}<eos>\\n<assistant>\\n⟦a<eos>⟧"
    kind = unpaired_feedback.KIND
    assert shown(kind, *rows) == [[("preferred", prompt.format("hi"))], [("rejected", prompt.format("ho"))]]
    [[(_, text)]] = shown(stepwise_supervision.KIND, {"prompt": "hi", "completions": ["ab", "cd"], "labels": [1, 0]})
    assert text.endswith("<assistant>\\na⟦b⟧c⟦d⟧<eos>")


def test_a_character_of_three_tokens_stands_at_the_last_and_a_first_space_is_kept():
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_only = Tokenizer(models.BPE({letter: n for n, letter in enumerate(letters)}, []))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_only)
    ids = tokenizer("a €b")["input_ids"]
    assert token_texts(tokenizer, ids) == ["a", " ", "", "", "€", "b"]
    assert token_texts(tokenizer, ids[:3])[-1] == "\ufffd", "half a character is not swallowed"


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        (
            {"prompt": "a?", "chosen": "b", "rejected": "c", "score": 1, "none": None},
            {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected", "score": "kept for rewards", "none": ""},
        ),
        (
            {"conversations": [{"from": "human", "value": "x"}], "system": "s"},
            {"conversations": "prompt", "system": "system"},
        ),
        (
            {"instruction": "a", "input": "b", "output": "c"},
            {"instruction": "prompt", "input": "prompt", "output": "completion"},
        ),
        ({"messages": TURNS}, {"messages": "prompt, completion"}),
        ({"text": "a"}, {"text": "completion"}),
        ({"q": "a"}, {"q": ""}),
    ],
)
def test_columns_are_told_by_what_they_change(row, wanted):
    found = taken_columns([Row("line 1", row)], Data(source="rows"))
    assert {name: ", ".join(roles) for name, roles in found.items()} == wanted


def test_near_duplicates_are_those_of_exact_jaccard_and_no_others():
    texts = []
    for number in range(120):
        words = [f"w{child(number, place) % 500}" for place in range(60)]
        texts.append(" ".join(words))
        for change in range(number % 8):
            words[child(number, "place", change) % 60] = "changed"
        texts.append(" ".join(words).upper() + " !")
    alike = [
        [place, place + 1]
        for place in range(0, len(texts), 2)
        if jaccard(shingles(texts[place]), shingles(texts[place + 1])) >= 0.8
    ]
    assert 30 < len(alike) < 90, "some are alike enough and some are not"
    assert near_duplicates(texts) == alike
    assert near_duplicates(["", "", "a", "A!"]) == [[2, 3]], "an empty text is like no other"
    assert jaccard(shingles("a b c d"), shingles("b c d e")) == pytest.approx(1 / 3)  # abc bcd | bcd cde


def test_all_rows_are_counted_and_a_fair_sample_is_kept_in_order():
    rows = [Row(f"line {n}", {"id": n, "prompt": f"Number  {n % 900}", "tag": None}) for n in range(1000)]
    found = sample_rows(rows, 100)
    assert (found.read, found.whole, found.repeated) == (1000, True, 100)
    assert {name: dict(types) for name, types in found.types.items()} == {
        "id": {"int": 1000},
        "prompt": {"str": 1000},
        "tag": {},
    }
    places = [row.columns["id"] for row in found.sample]
    assert places == sorted(places) == found.numbers
    assert len({*places}) == 100
    assert 380 < sum(places) / 100 < 620  # 500, standard deviation of the mean 27
    assert [row.where for row in sample_rows(rows, 100).sample] == [row.where for row in found.sample]


def test_of_rows_without_end_so_many_are_read_and_it_is_said():
    endless = (Row(f"row {n}", {"prompt": str(n)}) for n in count())
    found = sample_rows(endless, 10, most=500)
    assert (found.read, found.whole, len(found.sample)) == (500, False, 10)


def test_labels_margins_and_references_are_counted():
    pairs, _ = tasks_of(
        {"prompt": "q", "chosen": "long", "rejected": "no", "chosen_score": 3, "rejected_score": 1},
        {"prompt": "q", "chosen": "a", "rejected": "a", "chosen_score": 1, "rejected_score": 2},
    )
    found = balance(pairs).pairs
    assert (found.count, found.equal, found.chosen_longer, found.margins) == (2, 1, 0.5, {"score": (0.5, 0.5)})
    others, _ = tasks_of(
        {"prompt": "q", "completion": "a", "label": "true"},
        {"prompt": "q", "completion": "a", "label": 0, "reference": "4"},
        {"prompt": "q", "completion": "a", "label": "maybe", "reference": "4"},
        {"prompt": "q", "completions": ["a", "b", "c"], "labels": [True, False, True]},
    )
    found = balance(others)
    assert (found.good, found.bad, found.neither, found.steps_good, found.steps) == (1, 1, 1, 2, 3)
    assert (found.references, found.distinct_references, found.pairs) == (2, 1, None)


def test_percentiles_are_lengths_that_so_many_do_not_exceed_and_bins_hold_all():
    found = lengths("prompts", "tokens", [0, *range(1, 100)], limit=90)
    assert found.percentiles == {0.5: 49, 0.9: 89, 0.99: 98, 1.0: 99}
    assert found.over == 9
    assert found.histogram[0] == (13, 14)
    assert sum(count for _, count in found.histogram) == 100


def test_the_verb_says_what_is_left_out_who_can_train_and_shows_rows_without_colours(tmp_path, monkeypatch, capsys):
    rows = [{"messages": TURNS}, {"messages": TURNS}, {"messages": []}]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    assert run(["data", "chat.jsonl", "turns=last", "--html", "page.html"]) == 0
    said = capsys.readouterr().out
    assert "1 rows left out: chat.jsonl line 3: messages is an empty list" in said
    assert "repeated: 1 of 3 rows" in said
    assert "can train on them: sft, grpo" in said
    assert "next: alignkit train sft model.path=MODEL data.source=chat.jsonl data.turns=last" in said
    assert "a<eos>\\n<user>\\nhi<eos>\\n<assistant>\\n⟦b<eos>⟧" in said
    page = (tmp_path / "page.html").read_text()
    assert 'color:#000">b</span>' in page
    assert 'color:#000">a</span>' not in page


def test_on_a_terminal_learnt_tokens_are_green_by_turns(tmp_path, monkeypatch, capsys):
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"prompt": "hi", "chosen": "yes", "rejected": "no"}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert run(["data", "pairs.jsonl"]) == 0
    said = capsys.readouterr().out
    assert "\x1b[30;102my\x1b[0m\x1b[30;42me\x1b[0m" in said or "\x1b[30;42my\x1b[0m\x1b[30;102me\x1b[0m" in said
    assert "⟦yes" not in said


def test_the_verb_counts_tokens_of_a_model_and_rows_beyond_its_context(tmp_path, monkeypatch, capsys):
    rows = [{"prompt": "1" * n, "completion": "2"} for n in (3, 30)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = stand_in([])
    tokenizer.model_max_length = 20
    tokenizer.save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    assert run(["data", "rows.jsonl", "--model", "./model", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    [whole] = [one for one in found["lengths"] if one["what"] == "rows"]
    assert (whole["limit"], whole["over"], whole["percentiles"]) == (
        20,
        1,
        {"0.5": 4, "0.9": 31, "0.99": 31, "1.0": 31},
    )
    [sft_] = [one for one in found["trainers"] if one["method"] == "sft"]
    assert sft_["problem"] is None
    assert sft_["rows"] == 0


def test_of_a_mixture_each_part_is_looked_at_with_its_share_of_draws_and_what_two_have_in_common(
    tmp_path, monkeypatch, capsys
):
    """8 rows of weight 3 and 6 of weight 1: 0.75 x 14 / 8 and 0.25 x 14 / 6 passes an epoch of 14 rows."""
    monkeypatch.chdir(tmp_path)
    words = "a long question about the number {} of the many that are asked here by someone who {}"
    one = [{"prompt": words.format(n, "knows"), "completion": "yes it is"} for n in range(8)]
    other = [{"prompt": words.format(n, "KNOWS"), "completion": "yes it  is"} for n in range(6, 10)]
    other += [{"prompt": words.format(3, "knows"), "completion": "yes it is so"}, {"prompt": "x", "completion": "y"}]
    for name, rows in (("one", one), ("other", other)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parts = [f"mixture.{name}.{rest}" for name, weight in (("one", 3), ("other", 1))
             for rest in (f"source={name}.jsonl", f"weight={weight}")]  # fmt: skip
    assert run(["data", *parts, "--html", "page.html", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(part["share"], part["passes"]) for part in found["parts"].values()] == [
        (0.75, pytest.approx(0.75 * 14 / 8)),
        (0.25, pytest.approx(0.25 * 14 / 6)),
    ]
    assert [part["look"]["read"] for part in found["parts"].values()] == [8, 6]
    assert found["between"] == [
        {
            "one": "one",
            "other": "other",
            "same": 2,
            "nearly": 1,
            "examples": ["other.jsonl/0", "other.jsonl/1", "other.jsonl/4"],
        }
    ]
    assert (
        "other: 2 rows say what a row of one says, 1 nearly that, such as other.jsonl/0"
        in (tmp_path / "page.html").read_text()
    )


def test_a_recipe_is_looked_at_by_its_data_and_weights_that_are_not_there_are_numbers_of_rows(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 3)
    mixture = "{a: {source: rows.jsonl}, b: {source: rows.jsonl, limit: 1}}"
    (tmp_path / "mine.yaml").write_text(
        f"extends: sft\nmodel: {{path: {tmp_path}}}\ndata: {{mixture: {mixture}}}\ntrain: {{batch: 1}}\n"
    )
    assert run(["data", "mine.yaml"]) == 0
    said = capsys.readouterr().out
    assert "  a: 3 rows, 75.0% of the rows drawn, 1 passes an epoch" in said
    assert "  b: 1 rows say what a row of a says, 0 nearly that, such as rows.jsonl/0" in said
    assert "next: " not in said
