"""Ranked, rated and stepped answers as token ids: what cannot be learnt from is left out, counted and explained."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit.data.kinds import ranked as ranked_kind
from alignkit.data.kinds import rated as rated_kind
from alignkit.data.kinds.ranked import make_ranked, ranked_items
from alignkit.data.kinds.rated import make_rated
from alignkit.data.kinds.stepwise_supervision import make_stepped, step_ids, stepped_items
from alignkit.data.offline.columns import numbers
from alignkit.data.offline.row_filter import RowFilter
from alignkit.errors import DataError
from alignkit.models.tokenizer import character_tokenizer
from alignkit.recipe.schema import Data
from alignkit.types.batch import pack
from alignkit.types.task import Task

TOKENIZER = character_tokenizer("0123456789+=;. ", context=32)
EOS = TOKENIZER.eos_token_id
PROMPT = [3, 4]


def row_filter(context: int = 32, **data) -> RowFilter:
    settings = Data(source="rows.jsonl", chat=False, **data)
    return RowFilter(tokenizer=TOKENIZER, data=settings, context=context, unit="rows")


def rows(*columns: dict) -> list[tuple[Task, list[int]]]:
    return [(Task(id=f"rows.jsonl/{n}", text="0+", columns=each), PROMPT) for n, each in enumerate(columns)]


def ids(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER(text)["input_ids"])


def test_ranked_answers_keep_their_order_scores_and_ties():
    [row] = make_ranked(rows({"completions": ["12", "3", "4"], "scores": [1, 0.5, 0.5]}), row_filter())
    assert row.completions == ((*ids("12"), EOS), (*ids("3"), EOS), (*ids("4"), EOS))
    assert row.scores == (1.0, 0.5, 0.5)
    batch = pack(ranked_items(row, 0), share_prefix=True).validate()
    assert batch.reward.tolist() == [1.0, 0.5, 0.5]
    assert [block.lengths for block in batch.blocks] == [(3, 2, 2)], "one prompt for all answers"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"completions": ["1"], "scores": [1]}, "fewer than two completions"),
        ({"completions": ["1", "2"], "scores": [1, math.nan]}, "a score that is not a finite number"),
        ({"completions": ["1", "2"], "scores": [1, "high"]}, "a score that is not a finite number"),
        ({"completions": ["1", "2"], "scores": [1, None]}, "a score that is not a finite number"),
        ({"completions": ["1", ""], "scores": [1, 2]}, "an empty completion"),
        ({"completions": ["1", "2" * 40], "scores": [1, 2]}, "a completion too long"),
    ],
)
def test_a_ranking_that_teaches_nothing_is_counted(bad, reason):
    own = row_filter(long_completions="filter")
    kept = make_ranked(rows({"completions": ["1", "2"], "scores": [2, 1]}, bad), own)
    assert [row.scores for row in kept] == [(2.0, 1.0)]
    assert dict(own.reasons) == {reason: 1}
    assert own.report() == f"rows.jsonl: 1 of 2 rows left out, 1 with {reason}"


@pytest.mark.parametrize(
    ("make", "bad", "names"),
    [
        (make_ranked, {"completions": ["1", "2"], "scores": [1]}, "completions and scores"),
        (make_ranked, {"completions": "12", "scores": [1, 2]}, "completions and scores"),
        (make_stepped, {"steps": ["1", "2"], "labels": [1]}, "steps and labels"),
        (make_stepped, {"steps": ["1"], "labels": 1}, "steps and labels"),
    ],
)
def test_lists_that_do_not_belong_together_name_their_row(make, bad, names):
    with pytest.raises(DataError, match=rf"task rows\.jsonl/0: {names} must be two lists of one length"):
        make(rows(bad), row_filter())


def test_nothing_left_says_why():
    with pytest.raises(DataError, match="1 of 1 rows left out, 1 with fewer than two completions"):
        make_ranked(rows({"completions": ["1"], "scores": [1]}), row_filter())


def test_every_number_of_a_row_is_a_rating_and_nothing_else_is():
    columns = {
        "completion": "7",
        "helpful": 3,
        "safe": True,
        "harm": "0.5",
        "note": "good",
        "lost": math.nan,
        "no": None,
    }
    [row] = make_rated(rows(columns), row_filter())
    assert row.ratings == {"helpful": 3.0, "safe": 1.0, "harm": 0.5}, (
        "the completion is no rating, though it is a number"
    )
    own = row_filter()
    make_rated(rows({"completion": "1+", "good": 1}, {"completion": "1+", "note": "x"}), own)
    assert dict(own.reasons) == {"no rating": 1}


def test_steps_are_tokenised_one_by_one_and_the_stop_token_is_of_none():
    tokens, ends = step_ids(TOKENIZER, ["1+1=2;", "2+3"])
    assert tokens == [*ids("1+1=2;"), *ids("2+3"), EOS]
    assert ends == [5, 8]


def test_a_label_is_paid_at_its_steps_last_token():
    [row] = make_stepped(rows({"steps": ["1;", "23;"], "labels": [1, 0.25]}), row_filter())
    batch = pack(stepped_items(row, 0), share_prefix=True).validate()
    own = (batch.segment == 0).nonzero().squeeze(-1)
    assert batch.action_mask[own].tolist() == [False, True, False, False, True, False]
    assert batch.rewards[own].tolist() == [0, 1, 0, 0, 0.25, 0]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"steps": [], "labels": []}, "an empty step"),
        ({"steps": ["1", " "], "labels": [1, 0]}, "an empty step"),
        ({"steps": ["1"], "labels": [1.01]}, "a step's label that is not between 0 and 1"),
        ({"steps": ["1"], "labels": [-0.1]}, "a step's label that is not between 0 and 1"),
        ({"steps": ["1"], "labels": [math.nan]}, "a step's label that is not between 0 and 1"),
        ({"steps": ["1" * 31], "labels": [1]}, "no whole step within the length limit"),
    ],
)
def test_steps_that_teach_nothing_are_counted(bad, reason):
    own = row_filter(long_completions="truncate")
    kept = make_stepped(rows({"steps": ["1"], "labels": [1]}, bad), own)
    assert len(kept) == 1
    assert dict(own.reasons) == {reason: 1}


def test_a_cut_solution_keeps_its_whole_steps_and_their_labels():
    own = row_filter(context=8, long_completions="truncate")
    [row] = make_stepped(rows({"steps": ["1;", "2;", "345;"], "labels": [1, 0.5, 0]}), own)
    assert row.completion == ids("1;2;34")
    assert (row.ends, row.labels) == ((1, 3), (1.0, 0.5))
    assert own.truncated == 1


def test_numbers_take_a_prefix_away():
    columns = {"chosen_help": 1, "rejected_help": 2, "chosen": "text", "chosen_label": "no"}
    assert numbers(columns, "chosen_") == {"help": 1.0}


@given(st.lists(st.text("0123456789+=;. ", min_size=1).filter(str.strip), min_size=1, max_size=6))
def test_the_ends_of_steps_cut_the_text_where_the_steps_do(steps):
    tokens, ends = step_ids(TOKENIZER, steps)
    begins = [0, *(end + 1 for end in ends)]
    assert [TOKENIZER.decode(tokens[a : b + 1]) for a, b in zip(begins, ends, strict=False)] == steps
    assert tokens[ends[-1] + 1 :] == [EOS]


def test_lengths_are_those_of_all_completions():
    ranked = make_ranked(rows({"completions": ["12", "3"], "scores": [1, 0]}), row_filter())
    assert ranked_kind.KIND.lengths(ranked) == "mean tokens of 2 completions 2.5"
    rated = make_rated(rows({"completion": "1", "good": 1}, {"completion": "123", "good": 0}), row_filter())
    assert rated_kind.KIND.lengths(rated) == "mean tokens of 2 completions 3.0"
