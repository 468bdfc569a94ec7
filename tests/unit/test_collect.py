"""Collecting rollouts: what is sampled, scored, dropped, replaced and refused, with every number checked by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from alignkit.data.kinds import sft
from alignkit.data.offline.example import Example
from alignkit.errors import BatchError, RewardError
from alignkit.recipe.schema import Rollouts
from alignkit.rollout.answers import Answers
from alignkit.rollout.collect import Collected, Collector, describe, trainable
from alignkit.rollout.items import pack_rollouts
from alignkit.rollout.play import Prompt
from alignkit.train.offline import OfflineSource
from alignkit.train.source import Order, RolloutSource
from alignkit.types.rollout import Completion, Request, Rollout, StopReason
from alignkit.types.score import Fault, FaultKind, Score
from alignkit.types.task import Task

Answer = tuple[tuple[int, ...], StopReason]
END, CUT, FAILED = StopReason.END_OF_TEXT, StopReason.LENGTH, StopReason.ERROR


@dataclass
class ScriptedEngine:
    """Answers request number n of the run with answer(n); keeps what it was asked."""

    answer: Callable[[int], Answer] = lambda number: ((5, 2), END)
    policy_version: int = 3
    asked: list[Request] = field(default_factory=list)

    async def generate(self, requests: Sequence[Request]) -> list[Completion]:
        completions = []
        for request in requests:
            ids, stop = self.answer(len(self.asked))
            self.asked.append(request)
            completions.append(
                Completion(token_ids=ids, logprobs=(-0.5,) * len(ids), stop=stop, versions=((0, self.policy_version),))
            )
        return completions


@dataclass
class ScriptedScorer:
    """Scores from a table: task id -> one value per member; None cannot be scored."""

    table: dict[str, Sequence[float | None]]

    async def score(self, groups: Sequence[tuple[Task, Sequence[Rollout]]]) -> list[list[Score]]:
        return [[self._score(self.table[task.id][r.member]) for r in rollouts] for task, rollouts in groups]

    def _score(self, value: float | None) -> Score:
        if value is None:
            return Score(value=None, parts={"number": None}, fault=Fault(kind=FaultKind.TIMEOUT, where="number"))
        return Score(value=value, parts={"number": value})


def prompt(position: int) -> Prompt:
    return Prompt(task=Task(id=f"t{position}", text="?"), ids=(1, 10 + position), position=position)


@dataclass
class Stream:
    """The endless order of prompts t0, t1, ...; remembers how many were drawn each time."""

    drawn: list[int] = field(default_factory=list)

    def __call__(self, count: int) -> list[Prompt]:
        first = sum(self.drawn)
        self.drawn.append(count)
        return [prompt(first + i) for i in range(count)]


def digits(ids: Sequence[int]) -> str:
    return "".join(map(str, ids))


def collector(table: dict[str, Sequence[float | None]], engine: Any = None, **settings: Any) -> Collector:
    settings = {"prompts": 2, "group": 2, "max_new_tokens": 8, "max_unscorable": 1.0} | settings
    return Collector(
        engine=engine or ScriptedEngine(),
        play=Answers(decode=digits),
        scorer=ScriptedScorer(table),
        decode=digits,
        stop_token_ids=(2,),
        settings=Rollouts(**settings),
        seed=11,
    )


def collect(subject: Collector) -> tuple[Collected, Stream]:
    stream = Stream()
    return asyncio.run(subject.collect(stream)), stream


def ids(groups: Sequence[Sequence[Rollout]]) -> list[str]:
    return [group[0].task.id for group in groups]


# --- sampling ----------------------------------------------------------------------------------------------------


def test_each_prompt_is_asked_group_times_with_seeds_of_its_own_and_its_exact_tokens():
    engine = ScriptedEngine()
    result, _ = collect(collector({"t0": [1, 0, 1], "t1": [0, 1, 1]}, engine, group=3, temperature=0.7))
    assert [request.prompt_ids for request in engine.asked] == [(1, 10)] * 3 + [(1, 11)] * 3
    assert len({request.seed for request in engine.asked}) == 6
    assert {(r.max_new_tokens, r.temperature, r.stop_token_ids) for r in engine.asked} == {(8, 0.7, (2,))}
    first = result.groups[0][0]
    turn = first.turns[0]
    assert (turn.completion_ids, turn.sampler_logprobs, turn.stop, first.text) == ((5, 2), (-0.5, -0.5), END, "52")
    assert [(r.group, r.member) for r in result.everything] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert {r.policy_version for r in result.everything} == {3}


def test_what_the_prompt_says_of_an_answer_already_is_judged_with_it():
    thinking = replace(prompt(0), opened="<think>")
    result = asyncio.run(collector({"t0": [0, 1]}, prompts=1).collect(lambda count: [thinking]))
    turn = result.groups[0][0].turns[0]
    assert (turn.text, turn.opened, turn.completion_ids) == ("<think>52", 7, (5, 2))


def test_a_sample_has_the_same_seed_whatever_batch_its_prompt_comes_in():
    """Randomness is named by the place in the endless order, so that a resumed run samples the same."""
    together, alone = ScriptedEngine(), ScriptedEngine()
    subject = collector({"t0": [0, 1], "t1": [0, 1]}, together)
    asyncio.run(subject.collect(Stream()))
    asyncio.run(collector({"t1": [0, 1]}, alone, prompts=1).collect(lambda count: [prompt(1)]))
    assert [r.seed for r in together.asked[2:]] == [r.seed for r in alone.asked]


# --- dropping and refilling --------------------------------------------------------------------------------------


def test_groups_without_spread_are_replaced_by_new_prompts():
    table = {"t0": [1, 1], "t1": [0, 1], "t2": [0, 0], "t3": [1, 0], "t4": [1, 0]}
    result, stream = collect(collector(table, dynamic_sampling=True))
    assert ids(result.groups) == ["t1", "t3"]
    assert ids(result.dropped) == ["t0", "t2"]
    assert stream.drawn == [2, 1, 1]
    assert result.consumed == ["t0", "t1", "t2", "t3"]
    assert result.rounds == 3


def test_refilling_ends_after_its_rounds_with_what_there_is():
    table = {f"t{i}": [1.0, 1.0] for i in range(20)} | {"t1": [0, 1]}
    result, stream = collect(collector(table, dynamic_sampling=True, refill_rounds=3))
    assert ids(result.groups) == ["t1"]
    assert stream.drawn == [2, 1, 1, 1]
    assert len(result.dropped) == 4


def test_groups_of_all_rounds_have_numbers_of_their_own():
    table = {f"t{i}": [1.0, 1.0] for i in range(20)} | {"t1": [0, 1], "t5": [1, 0]}
    result, _ = collect(collector(table, dynamic_sampling=True))
    numbers = [[rollout.group for rollout in group] for group in result.groups + result.dropped]
    assert sorted(map(tuple, numbers)) == [(i, i) for i in range(6)]


def test_kept_groups_without_spread_are_never_replaced():
    result, stream = collect(collector({"t0": [1, 1], "t1": [0, 0]}))
    assert ids(result.groups) == ["t0", "t1"]
    assert stream.drawn == [2]


def test_an_unscorable_rollout_leaves_its_group_and_a_group_of_one_is_dropped():
    result, stream = collect(collector({"t0": [None, 1, 0], "t1": [None, 1, None]}, group=3))
    assert ids(result.groups) == ["t0"]
    assert ids(result.dropped) == ["t1"]
    assert [(r.task.id, r.member) for r in trainable(result.groups)] == [("t0", 1), ("t0", 2)]
    assert stream.drawn == [2]


def test_scored_rollouts_that_agree_have_no_spread_however_many_could_not_be_scored():
    result, _ = collect(collector({"t0": [1, None, 1], "t1": [0, 1, 1]}, group=3, prompts=1, dynamic_sampling=True))
    assert ids(result.dropped) == ["t0"]
    assert ids(result.groups) == ["t1"]


def test_too_many_unscorable_rollouts_stop_the_run_with_their_share_and_first_cause():
    with pytest.raises(RewardError) as caught:
        collect(collector({"t0": [None, 1], "t1": [None, None]}, max_unscorable=0.5))
    assert str(caught.value) == (
        "3 of 4 rollouts could not be scored (allowed: share 0.5); the first: timeout in number; "
        "mend the reward or raise rollouts.max_unscorable"
    )
    collect(collector({"t0": [None, 1], "t1": [None, 0]}, max_unscorable=0.5))  # exactly the share is allowed


def test_rollouts_on_which_the_engine_failed_count_as_unscorable_whatever_the_reward_says():
    engine = ScriptedEngine(lambda number: ((), FAILED) if number else ((5, 2), END))
    with pytest.raises(RewardError, match=r"3 of 4 rollouts could not be scored.*the engine failed"):
        collect(collector({"t0": [1, 1], "t1": [0, 0]}, engine, max_unscorable=0.5))


def test_a_rollout_without_a_token_is_not_trained_on():
    engine = ScriptedEngine(lambda number: ((), CUT) if number == 1 else ((5, 2), END))
    result, _ = collect(collector({"t0": [0, 1, 1]}, engine, group=3, prompts=1))
    assert [r.member for r in trainable(result.groups)] == [0, 2]


# --- metrics -----------------------------------------------------------------------------------------------------


def test_every_metric_of_a_step_by_hand():
    """Two prompts x 3: lengths 1, 2, 3 | 4, 4, 2, the fourth and fifth cut and equal; rewards 1, 0, 1 | 1, none, 1."""
    answers: list[Answer] = [
        ((2,), END),
        ((5, 2), END),
        ((5, 6, 2), END),
        ((5, 6, 7, 8), CUT),
        ((5, 6, 7, 8), CUT),
        ((9, 2), END),
    ]
    subject = collector({"t0": [1, 0, 1], "t1": [1, None, 1]}, ScriptedEngine(answers.__getitem__), group=3)
    result, _ = collect(subject)
    metrics = describe(result, subject.settings)
    assert metrics["reward/mean"] == pytest.approx(4 / 5)
    assert metrics["reward/std"] == pytest.approx(0.4)  # population: 4 times .2^2 and once .8^2, over 5
    assert metrics["reward/unscorable_frac"] == pytest.approx(1 / 6)
    assert metrics["rollout/length_mean"] == pytest.approx(16 / 6)
    assert metrics["rollout/length_max"] == 4
    assert metrics["rollout/tokens"] == 16
    assert (metrics["rollout/completions"], metrics["rollout/prompts"]) == (6, 2)
    assert metrics["rollout/truncated_frac"] == pytest.approx(2 / 6)
    assert metrics["rollout/zero_spread_frac"] == pytest.approx(1 / 2)  # t1: both that could be scored got 1
    assert metrics["rollout/unique_frac"] == pytest.approx((3 / 3 + 2 / 3) / 2)
    assert metrics["rollout/dropped_frac"] == 0
    assert metrics["rollout/refill_rounds"] == 0
    assert metrics["rollout/policy_version"] == 3
    assert metrics["reward/part/number"] == pytest.approx(4 / 5)
    assert metrics["reward/fault/timeout"] == 1


def test_metrics_cover_dropped_groups_too():
    subject = collector({"t0": [1, 1], "t1": [0, 1], "t2": [0, 1]}, dynamic_sampling=True)
    metrics = describe(collect(subject)[0], subject.settings)
    assert metrics["reward/mean"] == pytest.approx(4 / 6)
    assert metrics["rollout/dropped_frac"] == pytest.approx(1 / 3)
    assert metrics["rollout/zero_spread_frac"] == pytest.approx(1 / 3)
    assert metrics["rollout/refill_rounds"] == 1


def test_when_nothing_could_be_scored_the_mean_is_absent_not_zero():
    subject = collector({"t0": [None, None]}, prompts=1)
    metrics = describe(collect(subject)[0], subject.settings)
    assert metrics["reward/mean"] is None
    assert metrics["reward/std"] is None
    assert metrics["reward/part/number"] is None
    assert metrics["reward/unscorable_frac"] == 1


# --- from rollouts to a batch ------------------------------------------------------------------------------------


def test_a_batch_holds_the_samplers_tokens_log_probs_and_rewards_with_the_prompt_once():
    result, _ = collect(collector({"t0": [1, 0], "t1": [0.25, 1]}))
    batch = pack_rollouts(trainable(result.groups), version=3, share_prefix=True)
    assert batch.tokens.tolist() == [1, 10, 5, 2, 5, 2, 1, 11, 5, 2, 5, 2]
    assert batch.reward.tolist() == [1, 0, 0.25, 1]
    assert batch.group.tolist() == [0, 0, 1, 1]
    assert batch.policy_version.tolist() == [3] * 4
    assert batch.require("sampler_logprobs")[batch.action_mask].tolist() == [-0.5] * 8
    assert int(batch.action_mask.sum()) == 8  # the stop token that the policy chose is trained


def test_a_truncated_completion_is_marked():
    engine = ScriptedEngine(lambda number: ((5, 6), CUT) if number == 1 else ((5, 2), END))
    result, _ = collect(collector({"t0": [0, 1]}, engine, prompts=1))
    assert pack_rollouts(trainable(result.groups), version=3, share_prefix=True).truncated.tolist() == [False, True]


@pytest.mark.parametrize("version", [2, 4])
def test_rollouts_of_other_weights_are_refused(version):
    result, _ = collect(collector({"t0": [1, 0], "t1": [0, 1]}))
    with pytest.raises(BatchError, match=f"task t0: sampled by policy version 3, the trainer is at {version}; .*sync"):
        pack_rollouts(trainable(result.groups), version=version, share_prefix=True)


def order(count: int) -> Order:
    examples = [Example(task=Task(id=f"e{i}", text="?"), prompt=(1, i), completion=(7, 2)) for i in range(count)]
    return Order(examples=examples, seed=5, shuffle=True)


def test_a_source_goes_on_where_its_cursor_says_and_counts_what_it_used():
    table = {f"e{i}": [1.0, 1.0] if i % 2 else [0.0, 1.0] for i in range(7)}
    source = RolloutSource(order=order(7), collector=collector(table, dynamic_sampling=True), share_prefix=True)
    first = source.next(0, version=3)
    assert first.batch is not None
    assert first.batch.num_sequences == 4
    assert first.cursor == len(first.consumed) == len(first.rollouts) / 2
    assert first.metrics["data/consumed"] == first.cursor
    assert first.metrics["data/epoch"] == pytest.approx(first.cursor / 7)
    again = source.next(0, version=3)
    assert again.consumed == first.consumed
    assert again.trained == first.trained
    later = source.next(first.cursor, version=3)
    assert first.consumed + later.consumed == [e.task.id for e in order(7).take(0, later.cursor)]


def test_a_step_without_anything_to_train_on_has_no_batch_but_moves_on():
    table = {f"e{i}": [1.0, 1.0] for i in range(7)}
    subject = collector(table, dynamic_sampling=True, refill_rounds=1)
    drawn = RolloutSource(order=order(7), collector=subject, share_prefix=True).next(0, version=3)
    assert drawn.batch is None
    assert drawn.trained == []
    assert drawn.cursor == 4
    assert len(drawn.rollouts) == 8


def test_labelled_examples_are_trained_on_their_completions_alone():
    drawn = OfflineSource(kind=sft.KIND, order=order(5), size=3, share_prefix=True).next(4, version=0)
    assert drawn.batch is not None
    assert drawn.batch.action_mask.tolist() == [False, False, True, True] * 3
    assert drawn.consumed == [e.task.id for e in order(5).take(4, 3)]
    assert drawn.cursor == 7
    assert drawn.metrics["data/epoch"] == pytest.approx(7 / 5)
