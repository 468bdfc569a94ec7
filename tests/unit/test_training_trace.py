"""OpenEnv's TrainingTrace: what was sampled goes out and comes in token by token, and what does not fit is named."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit.data.kinds.episodes import KIND as EPISODES
from alignkit.data.kinds.kind import Kind
from alignkit.data.kinds.sft import KIND as SFT
from alignkit.data.kinds.transitions import KIND as TRANSITIONS
from alignkit.data.look.spans import marked, sequences
from alignkit.data.offline.row_filter import RowFilter
from alignkit.data.sources import load_tasks
from alignkit.data.traces.training_trace import from_training_trace, to_training_trace
from alignkit.errors import DataError
from alignkit.models.tokenizer import character_tokenizer
from alignkit.recipe.schema import Data
from alignkit.rollout.items import items
from alignkit.types.rollout import Rollout
from alignkit.types.score import Score
from alignkit.types.task import Task
from alignkit.types.turn import EpisodeEnd, StopReason, Turn


def turn(prompt: tuple[int, ...], said: tuple[int, ...]) -> Turn:
    logprobs = tuple(-0.25 * (place + 1) for place in range(len(said)))
    return Turn(
        prompt_ids=prompt, completion_ids=said, sampler_logprobs=logprobs, stop=StopReason.END_OF_TEXT, text="said"
    )


def rollout(*turns: Turn) -> Rollout:
    return Rollout(
        task=Task(id="t7", text="q"),
        group=0,
        member=1,
        turns=turns,
        policy_version=5,
        score=Score(value=1.0),
        end=EpisodeEnd.DONE,
    )


TWO = rollout(turn((1, 2), (3, 4)), turn((1, 2, 3, 4, 9), (5,)))


def test_the_numbers_of_two_turns():
    trace = to_training_trace(TWO)
    assert trace["schema_version"] == 1
    first, second = trace["turns"]
    assert first["node_id"] == "t7/1/0"
    assert first["loss_mask"] == [0, 0, 1, 1]
    assert second["prompt_token_ids"] == [1, 2, 3, 4, 9]
    assert second["per_token_logps"] == [-0.25]
    assert second["loss_mask"] == [0, 0, 0, 0, 0, 1]


def test_a_trace_that_comes_back_is_what_the_rollout_itself_would_teach():
    [own] = items(TWO, reward=1.0)
    [back] = from_training_trace(to_training_trace(TWO), where="row 0", member=1, reward=1.0)
    for name in ("prompt_ids", "completion_ids", "action", "sampler_logprobs", "turn"):
        assert list(getattr(back, name)) == list(getattr(own, name)), name


@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=4), min_size=1, max_size=5), st.data())
def test_every_sampled_token_is_learnt_exactly_once_whatever_forks(said: list[list[int]], data: st.DataObject):
    contexts: list[tuple[int, ...]] = [(31,)]
    turns = []
    for ids in said:
        prompt = (*data.draw(st.sampled_from(contexts)), 32, data.draw(st.integers(0, 3)))
        turns.append(turn(prompt, tuple(ids)))
        contexts.append(prompt + tuple(ids))
    back = from_training_trace(to_training_trace(rollout(*turns)), where="row 0")
    assert sum(sum(item.action or ()) for item in back) == sum(map(len, said))


def test_a_masked_token_stays_context_and_a_turn_without_learnt_tokens_is_not_learnt():
    trace = to_training_trace(TWO)
    trace["turns"][0]["loss_mask"] = [0, 0, 1, 0]
    [item] = from_training_trace(trace, where="row 0")
    assert list(item.action) == [True, False, False, True]
    trace["turns"][0]["loss_mask"] = [0, 0, 0, 0]
    trace["turns"][1]["loss_mask"] = [0] * 6
    assert from_training_trace(trace, where="row 0") == []


def broken(change: Any) -> dict[str, Any]:
    trace = copy.deepcopy(to_training_trace(TWO))
    change(trace)
    return trace


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.update(schema_version=2), "no TrainingTrace of schema version 1; got 2"),
        (lambda t: t["turns"][1].pop("completion_token_ids"), "turn 1 has no completion_token_ids; it was captured"),
        (lambda t: t["turns"][1].update(node_id="t7/1/0"), "two turns are called 't7/1/0'"),
        (lambda t: t["turns"][0]["per_token_logps"].pop(), "turn 0: 2 sampled tokens and 1 log-probs"),
        (lambda t: t["turns"][0].update(per_token_logps=[0.5, -1.0]), "a log-prob is above 0"),
        (lambda t: t["turns"][0]["loss_mask"].pop(), "the loss mask has 3 entries; wanted 4"),
        (lambda t: t["turns"][0].update(loss_mask=[1, 0, 1, 1]), "counts tokens of the prompt"),
        (lambda t: t["turns"][0].update(prompt_token_ids=[1, -2]), "prompt_token_ids is no list of token ids"),
        (lambda t: t.update(turns=None), "`turns` is no list"),
    ],
)
def test_what_is_no_trace_is_refused_by_name(change: Any, told: str):
    with pytest.raises(DataError, match=f"^row 3: .*{told}"):
        from_training_trace(broken(change), where="row 3")


LETTERS = character_tokenizer("abcdefgh", context=100)


def said(prompt: str, answer: str) -> Turn:
    prompt_ids, ids = (tuple(LETTERS(text)["input_ids"]) for text in (prompt, answer))
    return Turn(
        prompt_ids=prompt_ids,
        completion_ids=ids,
        sampler_logprobs=(-0.5,) * len(ids),
        stop=StopReason.END_OF_TEXT,
        text=answer,
    )


FORKED = to_training_trace(rollout(said("a", "bc"), said("abcd", "e"), said("a", "f")))


def learnt(
    tmp_path: Path, trace: dict[str, Any], *, tokenizer: Any = LETTERS, context: int = 100, kind: Kind = SFT
) -> RowFilter | Any:
    (tmp_path / "trace.json").write_text(json.dumps(trace, indent=1))
    data = Data(source=str(tmp_path / "trace.json"), chat=False)
    row_filter = RowFilter(tokenizer=tokenizer, data=data, context=context, unit="rows")
    return kind.rows(load_tasks(data, seed=0), row_filter), row_filter


def test_a_file_of_a_trace_is_learnt_by_its_own_tokens_and_masks_a_row_for_each_chain(tmp_path: Path):
    trace = copy.deepcopy(FORKED)
    trace["turns"][0]["loss_mask"][-1] = 0
    rows, row_filter = learnt(tmp_path, trace)
    own = from_training_trace(trace, where="trace")
    found = [[*item.prompt_ids, *item.completion_ids] for item in SFT.items_of(rows)]
    assert found == [[*item.prompt_ids, *item.completion_ids] for item in own]
    assert [row.completion for row in rows] == [tuple(LETTERS(text)["input_ids"]) for text in ("bcde", "f")]
    assert [row.action for row in rows] == [(True, False, False, True), (True,)]
    assert (row_filter.seen, row_filter.left_out) == (2, 0)


def test_what_cannot_be_learnt_of_a_trace_is_counted(tmp_path: Path):
    rows, row_filter = learnt(tmp_path, FORKED, context=4)
    assert [LETTERS.decode(row.completion) for row in rows] == ["f"]
    assert row_filter.reasons == {"a trace longer than the model's context": 1}
    masked = copy.deepcopy(FORKED)
    for one in masked["turns"]:
        one["loss_mask"] = [0] * len(one["loss_mask"])
    rows, row_filter = learnt(tmp_path, masked)
    assert (rows, row_filter.reasons) == ([], {"no learnt token": 1})


def test_a_trace_of_another_tokenizer_is_refused_where_that_can_be_told(tmp_path: Path):
    beyond = copy.deepcopy(FORKED)
    beyond["turns"][1]["completion_token_ids"] = [len(LETTERS)]
    with pytest.raises(DataError, match="turn 1 has the token id 11, and the tokenizer knows 0 to 10"):
        learnt(tmp_path, beyond)
    with pytest.raises(DataError, match="turn 0 answers 'bc', and its ids say 'gf'"):
        learnt(tmp_path, FORKED, tokenizer=character_tokenizer("hgfedcba", context=100))


def test_a_trace_is_shown_as_it_is_learnt(tmp_path: Path):
    rows, _ = learnt(tmp_path, {**FORKED, "reward": 1.0})
    shown = [marked(one.spans) for row in rows for one in sequences(LETTERS, SFT, row)]
    assert shown == ["a⟦bc⟧d⟦e⟧", "a⟦f⟧"]


def test_each_chain_of_a_trace_is_an_episode_whose_last_utterance_is_paid_what_the_rollout_earned(tmp_path: Path):
    rows, row_filter = learnt(tmp_path, {**FORKED, "reward": -2.5}, kind=EPISODES)
    read = [
        [(*(LETTERS.decode(ids) for ids in (turn.state, turn.action, turn.answer)), turn.reward) for turn in row.turns]
        for row in rows
    ]
    assert read == [[("a", "bc", "d", 0.0), ("abcd", "e", "", -2.5)], [("a", "f", "", -2.5)]]
    assert (row_filter.seen, row_filter.left_out) == (2, 0)
    found = [(item.prompt_ids, item.completion_ids, item.action, item.reward) for item in EPISODES.items_of(rows)]
    own = from_training_trace(FORKED, where="trace", reward=-2.5)
    assert found == [(tuple(item.prompt_ids), item.completion_ids, item.action, item.reward) for item in own]
    assert [item.rewards for item in EPISODES.items_of(rows)] == [[0.0, 0.0, 0.0, -2.5], [-2.5]]
    turns, _ = learnt(tmp_path, {**FORKED, "reward": -2.5}, kind=TRANSITIONS)
    assert [row.turn for row in turns] == [turn for row in rows for turn in row.turns]


def test_tokens_that_a_traces_mask_leaves_out_are_answers_in_its_episodes(tmp_path: Path):
    trace = copy.deepcopy(FORKED) | {"reward": 1}
    trace["turns"][0]["loss_mask"][-1] = 0  # of "bc" the c
    rows, _ = learnt(tmp_path, trace, kind=EPISODES)
    first = rows[0].turns[0]
    assert [LETTERS.decode(ids) for ids in (first.state, first.action, first.answer)] == ["a", "b", "cd"]


@pytest.mark.parametrize("reward", [{}, {"reward": None}, {"reward": "1"}, {"reward": True}, {"reward": float("nan")}])
def test_a_trace_without_what_it_earned_is_no_episode(tmp_path: Path, reward: dict[str, Any]):
    with pytest.raises(DataError, match=r"a trace knows no rewards and its column `reward` is .*; wanted a number"):
        learnt(tmp_path, {**FORKED, **reward}, kind=EPISODES)
