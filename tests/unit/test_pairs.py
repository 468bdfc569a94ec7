"""Paired preferences and unpaired feedback: exact token ids on both sides, and what is left out counted by reason."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.data.generators import generate
from alignkit.data.kinds import paired_preference, unpaired_feedback
from alignkit.data.kinds.paired_preference import Pair, make_pairs
from alignkit.data.kinds.unpaired_feedback import Feedback, make_feedback
from alignkit.data.offline.row_filter import RowFilter
from alignkit.data.prompts import render
from alignkit.data.rows import Row
from alignkit.data.tasks import make_task
from alignkit.errors import DataError
from alignkit.models.tokenizer import character_tokenizer
from alignkit.recipe.schema import Data
from alignkit.train.offline import OfflineSource
from alignkit.train.source import Order

DATA = Path(os.environ.get("ALIGNKIT_DATA") or Path(__file__).parents[3] / "shared" / "data")
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no preference data: set ALIGNKIT_DATA")
TOKENIZER = character_tokenizer("0123456789+=ab ", context=16)
EOS = 2
CHAT = "{% for m in messages %}{{ m.role[0] }}{{ m.content }}{% if m.role == 'assistant' %}<eos>{% endif %}{% endfor %}"


def row_filter(context: int = 16, unit: str = "pairs", chat: bool = False, **settings: Any) -> RowFilter:
    return RowFilter(
        tokenizer=TOKENIZER, data=Data(source="rows.jsonl", chat=chat, **settings), context=context, unit=unit
    )


def prompts(rows: list[dict[str, Any]], row_filter: RowFilter) -> list:
    tasks = [
        make_task(Row(f"row {n}", row), row_filter.data, source="rows.jsonl", number=n) for n, row in enumerate(rows)
    ]
    return [(task, render(row_filter.tokenizer, task, row_filter.data)) for task in tasks]


def pairs(rows: list[dict[str, Any]], row_filter: RowFilter) -> list[Pair]:
    return make_pairs(prompts(rows, row_filter), row_filter)


def judged(rows: list[dict[str, Any]], row_filter: RowFilter, seed: int = 0) -> list[Feedback]:
    return make_feedback(prompts(rows, row_filter), row_filter, seed=seed)


def ids(text: str, *more: int) -> tuple[int, ...]:
    return (*TOKENIZER(text)["input_ids"], *more)


def row(chosen: str, rejected: str, prompt: str = "1+2=", **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def test_both_sides_continue_the_same_prompt_tokens_and_end_with_the_stop_token():
    [pair] = pairs([row("3", "12")], row_filter())
    assert pair.prompt == ids("1+2=")
    assert (pair.chosen, pair.rejected) == (ids("3", EOS), ids("12", EOS))
    assert (pair.cut, pair.rewards) == ((False, False), None)


def test_what_cannot_be_learnt_from_is_left_out_and_counted_by_its_reason():
    rows = [
        row("3", "4"),
        row("3", "3"),
        row("", "4"),
        row("3", "  "),
        row("3", "4", chosen_reward=float("nan"), rejected_reward=0.0),
        row("3333a", "3333b"),
        row("31", "5"),
    ]
    by_rule = row_filter(max_completion_tokens=4, long_completions="truncate")
    kept = pairs(rows, by_rule)
    assert [pair.task.id for pair in kept] == ["rows.jsonl/0", "rows.jsonl/6"]
    assert by_rule.reasons == {
        "equal sides": 1,
        "an empty completion": 2,
        "a reward that is not a finite number": 1,
        "sides that differ only behind the length limit": 1,
    }
    assert (by_rule.seen, by_rule.left_out, by_rule.truncated) == (7, 5, 1)
    assert by_rule.report() == (
        "rows.jsonl: 5 of 7 pairs left out, 2 with an empty completion, 1 with equal sides, 1 with a reward that is "
        "not a finite number, 1 with sides that differ only behind the length limit; 1 truncated"
    )
    assert paired_preference.KIND.lengths(kept) == "mean tokens of 2 chosen completions 2.5, of 2 rejected 2.0"


def test_one_limit_holds_for_both_sides_and_a_cut_side_has_no_stop_token():
    [pair] = pairs([row("12345", "1299999")], row_filter(max_completion_tokens=3, long_completions="truncate"))
    assert (pair.chosen, pair.rejected, pair.cut) == (ids("123"), ids("129"), (True, True))
    [pair] = pairs([row("12", "99999")], row_filter(max_completion_tokens=3, long_completions="truncate"))
    assert (pair.chosen, pair.rejected, pair.cut) == (ids("12", EOS), ids("999"), (False, True))


def test_the_models_context_is_a_limit_too_and_long_pairs_are_errors_unless_the_recipe_says_otherwise():
    long = row("12345", "1")
    with pytest.raises(DataError, match=r"has 6 tokens, 4 fit after its prompt of 4; raise data.max_completion_tokens"):
        pairs([long], row_filter(context=8))
    filtered = row_filter(context=8, long_completions="filter")
    assert len(pairs([long, row("1", "2")], filtered)) == 1
    assert filtered.reasons == {"a completion too long": 1}
    full = row_filter(
        context=4, long_completions="truncate"
    )  # nothing fits behind the prompt: no side is cut to nothing
    with pytest.raises(DataError, match="1 of 1 pairs left out, 1 with a completion too long"):
        pairs([long], full)


def test_a_row_without_two_sides_is_an_error_and_so_is_data_of_which_nothing_is_left():
    with pytest.raises(
        DataError, match=r"task rows.jsonl/0: no column 'rejected' to compare; name one with data.columns"
    ):
        pairs([{"prompt": "1+2=", "chosen": "3"}], row_filter())
    with pytest.raises(DataError, match="2 of 2 pairs left out, 2 with equal sides"):
        pairs([row("3", "3"), row("4", "4")], row_filter())
    with pytest.raises(DataError, match="1 of 2 pairs have chosen_reward and rejected_reward; give them to all"):
        pairs([row("3", "4", chosen_reward=1, rejected_reward=0), row("3", "5")], row_filter())
    with pytest.raises(DataError, match="must be numbers; got"):
        pairs([row("3", "4", chosen_reward="good", rejected_reward=1)], row_filter())


def test_chats_go_through_the_template_and_a_dialogue_that_parts_early_is_left_out():
    chat = character_tokenizer("uas0123456789+= ", context=32)
    chat.chat_template = CHAT
    by_rule = row_filter(chat=True)
    by_rule.tokenizer = chat
    first = [{"role": "user", "content": "1+2="}]

    def said(text: str, role: str = "assistant") -> dict[str, str]:
        return {"role": role, "content": text}

    rows = [
        {"chosen": [*first, said("3")], "rejected": [*first, said("4")]},
        {"chosen": [*first, said("3"), said("5", "user"), said("6")], "rejected": [*first, said("4")]},
    ]
    [pair] = pairs(rows, by_rule)
    assert chat.decode(pair.prompt) == "u1+2="
    assert (chat.decode(pair.chosen), chat.decode(pair.rejected)) == ("a3<eos>", "a4<eos>")
    assert by_rule.reasons == {"a completion of several messages": 1}


@pytest.mark.parametrize(
    "columns",
    [
        {
            "messages": [{"from": "human", "value": "1+2="}],
            "chosen": {"from": "gpt", "value": "3"},
            "rejected": {"from": "gpt", "value": "4"},
        },
        {"chosen": "\n\nHuman: 1+2=\n\nAssistant: 3", "rejected": "\n\nHuman: 1+2=\n\nAssistant: 4"},
    ],
)
def test_other_spellings_of_messages_are_read(columns):
    task = make_task(Row("row", columns), Data(source="rows.jsonl"), source="rows.jsonl", number=0)
    assert task.messages == ({"role": "user", "content": "1+2="},)
    assert task.columns["chosen"] == [{"role": "assistant", "content": "3"}]
    assert task.columns["rejected"] == [{"role": "assistant", "content": "4"}]


def test_text_that_only_looks_like_a_dialogue_stays_text_without_chat():
    columns = {"chosen": "\n\nHuman: a", "rejected": "\n\nHuman: b"}
    task = make_task(Row("row", columns), Data(source="rows.jsonl", chat=False), source="rows.jsonl", number=0)
    assert (task.text, task.columns["chosen"]) == ("\n\nHuman:", " a")


def test_labels_are_read_in_every_spelling_and_others_are_errors():
    spellings = [True, 1, "True", "1", 1.0, False, 0, "false", "0"]
    rows = [{"prompt": f"{n}+1=", "completion": "3", "label": label} for n, label in enumerate(spellings)]
    assert [each.good for each in judged(rows, row_filter(unit="completions"))] == [True] * 5 + [False] * 4
    for bad in (2, "good", None, 0.5):
        with pytest.raises(DataError, match=r"label is .*; wanted true or false"):
            judged([{"prompt": "1+1=", "completion": "2", "label": bad}], row_filter())


def test_labels_of_one_class_only_are_refused():
    rows = [{"prompt": f"{n}+1=", "completion": "3", "label": True} for n in range(3)]
    with pytest.raises(DataError, match="all 3 completions are good, so there is nothing to tell apart"):
        judged(rows, row_filter())
    rows.append({"prompt": "1+1=", "completion": " ", "label": False})  # the only bad one is empty
    with pytest.raises(
        DataError, match=r"all 3 completions are good.*1 of 4 pairs left out, 1 with an empty completion"
    ):
        judged(rows, row_filter())


def test_a_pair_gives_one_completion_of_each_kind():
    found = judged([row("3", "4"), row("7", "8", prompt="3+4=")], row_filter(unit="completions"))
    assert [(each.completion, each.good) for each in found] == [
        (ids("3", EOS), True),
        (ids("4", EOS), False),
        (ids("7", EOS), True),
        (ids("8", EOS), False),
    ]


def test_every_mismatched_completion_answers_another_prompt_and_fits_behind_this_one():
    rows = [row(f"{n}" * (n + 1), "a", prompt=f"{n}=") for n in range(6)]
    rows.append(row("1", "b", prompt="1+1+1+1+1+1="))
    found = judged(rows, row_filter(long_completions="truncate", unit="completions"), seed=3)
    answers: dict[tuple[int, ...], set] = {}
    for each in found:
        answers.setdefault(each.prompt, set()).add(each.completion)
    for each in found:
        others = {answer for prompt, own in answers.items() if prompt != each.prompt for answer in own}
        assert each.mismatched in {other[: 16 - len(each.prompt)] for other in others}
        assert len(each.prompt) + len(each.mismatched) <= 16
    assert found == judged(rows, row_filter(long_completions="truncate", unit="completions"), seed=3)
    assert found != judged(rows, row_filter(long_completions="truncate", unit="completions"), seed=4)
    alone = judged([row("3", "4")], row_filter())
    assert [each.mismatched for each in alone] == [(), ()]  # both answer the only prompt there is


def test_a_step_of_pairs_is_one_block_each_and_resumes_at_its_cursor():
    rewards = {"chosen_reward": 1.5, "rejected_reward": -1}
    given = pairs([row("3", "4", **rewards), *(row(f"{n}", "99", **rewards) for n in range(4, 9))], row_filter())
    order = Order(examples=given, seed=1, shuffle=True)
    source = OfflineSource(kind=paired_preference.KIND, order=order, size=2, share_prefix=True, left_out=0.25)
    first = source.next(0, 0)
    again = source.next(first.cursor, 0)
    assert [block.lengths for block in first.batch.blocks] == [(2, 3), (2, 3)]
    assert first.batch.side.tolist() == [1, -1, 1, -1]
    assert first.batch.group.tolist() == [0, 0, 1, 1]
    assert again.metrics["data/consumed"] == 4
    assert again.metrics["data/left_out_frac"] == 0.25
    taken = [*first.consumed, *again.consumed, *source.next(again.cursor, 0).consumed]
    assert sorted(taken) == [f"rows.jsonl/{n}" for n in range(6)]
    assert first.batch.reward.tolist() == [1.5, -1, 1.5, -1]
    apart = OfflineSource(kind=paired_preference.KIND, order=source.order, size=2, share_prefix=False).next(0, 0).batch
    assert len(apart.blocks) == 4
    assert torch.equal(apart.tokens[apart.segment == 3], first.batch.tokens[first.batch.segment == 3])


def test_a_step_of_judged_completions_has_the_mismatched_ones_with_side_0():
    given = judged([row("3", "44", prompt="1+2="), row("5", "66", prompt="2+3=")], row_filter())
    order = Order(examples=given, seed=1, shuffle=False)
    source = OfflineSource(kind=unpaired_feedback.KIND, order=order, size=4, share_prefix=True)
    batch = source.next(0, 0).batch
    assert batch.side.tolist() == [1, 0, -1, 0, 1, 0, -1, 0]
    assert batch.group.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(batch.blocks) == 4


@pytest.mark.parametrize("operations", ["+", "-", "*"])
def test_generated_pairs_hold_the_right_answer_and_one_that_is_off_in_a_digit(operations):
    for reversed in (False, True):
        options = {"digits": 2, "operations": operations, "style": "characters", "reversed": reversed}
        for row in generate("arithmetic", {**options, "answers": "paired_preference"}, split="train", seed=0)[:200]:
            right, wrong = (
                int(side[::-1] if reversed else side)
                for side in (row["chosen"].lstrip("-"), row["rejected"].lstrip("-"))
            )
            assert row["chosen"] == row["reference"] != row["rejected"]
            assert abs(right - wrong) in (1, 10, 100, 1000)


def test_generated_judgements_are_true_about_half_the_time():
    rows = generate("arithmetic", {"digits": 2, "answers": "unpaired_feedback"}, split="train", seed=0)
    assert all((row["completion"] == row["reference"]) == row["label"] for row in rows)
    assert 0.47 < sum(row["label"] for row in rows) / len(rows) < 0.53
    assert json.dumps(rows) == json.dumps(
        generate("arithmetic", {"digits": 2, "answers": "unpaired_feedback"}, split="train", seed=0)
    )


@needs_data
def test_public_pairs_are_read_and_their_few_flaws_counted():
    from alignkit.data.sources import load_tasks

    data = Data(source=str(DATA / "hh_rlhf" / "harmless_base_test.jsonl.gz"))
    tasks = load_tasks(data, seed=0)
    parted = [task for task in tasks if max(len(task.columns[side]) for side in ("chosen", "rejected")) > 1]
    assert len(tasks) == 2312
    assert len(parted) == 5  # they part before the last answer
