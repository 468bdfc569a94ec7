"""Driving environments: exact tokens, seeds, ends, faults, and the one sequence that an episode becomes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pyarrow.parquet as parquet
import pytest
import torch

from alignkit.algorithms.rollouts import grpo
from alignkit.data.kinds import sft
from alignkit.data.offline.example import Example
from alignkit.environments.base import Observation
from alignkit.environments.guess_number import guess_number
from alignkit.environments.maze import maze
from alignkit.errors import BatchError, RewardError
from alignkit.models.forward import packed, plain
from alignkit.recipe.schema import Evaluation
from alignkit.rollout.collect import describe, trainable
from alignkit.rollout.episodes import SUCCESS
from alignkit.rollout.items import items, pack_rollouts
from alignkit.run_folder.run_folder import RunFolder
from alignkit.train.evaluate import Evaluator
from alignkit.train.offline import OfflineSource
from alignkit.train.source import Order, RolloutSource
from alignkit.types.batch import pack
from alignkit.types.rollout import Completion, EpisodeEnd, Request, StopReason
from alignkit.types.score import FaultKind
from alignkit.types.task import Task
from tests.unit.scripted_episodes import (
    EOS,
    TOKENIZER,
    Script,
    Scripted,
    collector,
    ids,
    prompts,
    sample,
    scratch_engine,
    scripted,
    seen,
)


def test_an_episode_is_the_exact_tokens_of_its_turns_with_only_the_policys_as_actions():
    make = scripted(seen("?"), seen("<", -1), seen(">", -2), seen("=", 0.5, done=True, success=True))
    driver = collector(Script(lambda call, request: ["19", "3~", "7"][call - 1]), make)
    rollout = sample(driver)[0]
    [item] = items(rollout, reward=-2.5)
    assert TOKENIZER.decode(item.prompt_ids) == "?"
    assert TOKENIZER.decode(item.completion_ids) == "19<eos><3<eos>>7<eos>"
    assert item.action == [True] * 3 + [False] + [True] + [False] * 2 + [True] * 2
    assert item.sampler_logprobs == [-0.25] * 3 + [0.0] + [-0.25] + [0.0] * 2 + [-0.25] * 2
    assert item.rewards == [0, 0, -1, 0, -2, 0, 0, 0, 0.5]
    assert sum(item.rewards) == rollout.reward == item.reward == -2.5
    assert (rollout.end, rollout.truncated) == (EpisodeEnd.DONE, False)
    assert rollout.score.parts == {"return": -2.5, SUCCESS: 1.0}
    assert [(turn.text, turn.reward, turn.observation) for turn in rollout.turns] == [
        ("19", -1, "<"),
        ("3", -2, ">"),
        ("7", 0.5, "="),
    ]


def test_the_policys_stop_token_is_trained_and_tokens_that_decode_to_nothing_stay():
    pad = 0  # special: it decodes to nothing, and encoding the text again would lose it
    engine = Script(lambda call, request: "5")

    async def generate(requests: list[Request]) -> list[Completion]:
        one = Completion(
            token_ids=(pad, *ids("5"), EOS), logprobs=(-1.0,) * 3, stop=StopReason.END_OF_TEXT, versions=((0, 0),)
        )
        return [one for _ in requests]

    engine.generate = generate  # ty: ignore[invalid-assignment]
    rollout = sample(collector(engine, scripted(seen("?"), seen("<"), seen("=", done=True))))[0]
    [item] = items(rollout, reward=0.0)
    assert [i for i, on in zip(item.completion_ids, item.action, strict=True) if on] == [pad, *ids("5"), EOS] * 2
    assert [turn.text for turn in rollout.turns] == ["5", "5"]


def test_the_trainer_reads_every_episode_as_the_sampler_wrote_it_whatever_the_lengths_beside_it():
    """Log-probs of sampler, of the packed and the plain forward, and of each sequence alone: no padding, no shift."""
    model, engine = scratch_engine()
    turns = iter([1, 5, 2, 4, 3, 6])
    make = lambda: Scripted([seen("?"), *[seen("<>3", -1)] * (next(turns) - 1), seen("=", done=True)])  # noqa: E731
    rollouts = sample(collector(engine, make, settings={"group": 3}), count=2)
    assert [len(rollout.turns) for rollout in rollouts] == [1, 5, 2, 4, 3, 6]
    batch = pack([item for rollout in rollouts for item in items(rollout, reward=rollout.reward)])
    mask = batch.action_mask
    for forward in (packed, plain):
        outputs = forward(model, batch, dtype=torch.float32, temperature=1.0)
        assert torch.allclose(outputs.logprobs[mask], batch.sampler_logprobs[mask], atol=2e-5), forward.__name__
    for rollout in rollouts:
        [item] = items(rollout, reward=0.0)
        tokens = torch.tensor([[*item.prompt_ids, *item.completion_ids]])
        with torch.no_grad():
            logprobs = model(input_ids=tokens).logits[0, :-1].log_softmax(-1).gather(-1, tokens[0, 1:, None])[:, 0]
        alone = logprobs[len(item.prompt_ids) - 1 :][torch.tensor(item.action)]
        assert torch.allclose(alone, torch.tensor(item.sampler_logprobs)[torch.tensor(item.action)], atol=2e-5)


def test_all_live_episodes_take_each_turn_in_one_call():
    driver = collector(Script(lambda call, request: "0"), scripted(seen("?"), seen("<"), seen("=", done=True)))
    sample(driver, count=3)
    assert [len(call) for call in driver.engine.calls] == [6, 6]
    lengths = iter([1, 2, 3, 1, 2, 3])

    def make() -> Scripted:
        return Scripted([seen("?")] + [seen("<")] * (next(lengths) - 1) + [seen("=", done=True)])

    uneven = collector(Script(lambda call, request: "0"), make)
    assert [len(rollout.turns) for rollout in sample(uneven, count=3)] == [1, 2, 3, 1, 2, 3]
    assert [len(call) for call in uneven.engine.calls] == [6, 4, 2]


def test_seeds_are_named_by_position_member_and_turn_and_a_group_plays_one_game():
    begun: list[int] = []

    class Watched(Scripted):
        async def start(self, task: Task, seed: int) -> Observation:
            begun.append(seed)
            return await super().start(task, seed)

    def run(first: int) -> list[int]:
        driver = collector(
            Script(lambda call, request: "0"), lambda: Watched([seen("?"), seen("<"), seen("=", done=True)])
        )
        sample(driver, count=2, first=first)
        return [request.seed for call in driver.engine.calls for request in call]

    assert len(set(run(0))) == 8
    assert begun[0] == begun[1] != begun[2] == begun[3]
    again = run(1)
    assert set(again) & set(run(0)) == set(again[0:2] + again[4:6]), "position 1 has the same randomness in any draw"


def test_the_same_recipe_plays_the_same_episodes():
    _, engine = scratch_engine()
    first, second = (sample(collector(engine, maze, max_turns=4), count=3) for _ in range(2))
    assert [rollout.turns for rollout in first] == [rollout.turns for rollout in second]
    assert len({rollout.turns for rollout in first}) == 6


def test_an_episode_cut_by_turns_or_by_the_context_is_truncated_and_keeps_what_it_earned():
    endless = lambda: Scripted([seen("?"), *[seen("<", -1)] * 50])  # noqa: E731
    by_turns = sample(collector(Script(lambda call, request: "0"), endless, max_turns=3))[0]
    assert (by_turns.end, by_turns.truncated, len(by_turns.turns), by_turns.reward) == (
        EpisodeEnd.MAX_TURNS,
        True,
        3,
        -3,
    )
    # `?` `0` eos `<` `0` eos `<` `1`: the third utterance finds room for one token only
    script = Script(lambda call, request: "0" if call < 3 else "11")
    by_context = sample(collector(script, endless, context=8))[0]
    assert [request.max_new_tokens for request in (call[0] for call in script.calls)] == [3, 3, 1]
    assert (by_context.end, by_context.truncated, by_context.reward) == (EpisodeEnd.CONTEXT_FULL, True, -2)
    assert (by_context.turns[-1].reward, by_context.turns[-1].observation) == (None, None)
    assert len(by_context.turns[-1].prompt_ids + by_context.turns[-1].completion_ids) == 8
    exactly = sample(collector(Script(lambda call, request: "0"), endless, context=7))[0]
    assert (exactly.end, len(exactly.turns), exactly.reward) == (EpisodeEnd.CONTEXT_FULL, 2, -2)


@pytest.mark.parametrize(
    ("answers", "kind", "where", "turns"),
    [
        ([ValueError("sandbox\ndied")], FaultKind.CRASH, "start: ValueError: sandbox", 0),
        ([seen("?"), seen("<", -1), OSError("away")], FaultKind.CRASH, "turn 2: OSError: away", 2),
        ([seen("?"), 9.0], FaultKind.TIMEOUT, "turn 1: no answer within 0.05 s", 1),
        ([seen("?"), seen("<", float("nan"))], FaultKind.NOT_A_NUMBER, "turn 1: the reward is nan", 1),
        ([seen("?"), "<"], FaultKind.CONTRACT, "turn 1: answered str; wanted an Observation", 1),
        ([seen("?"), seen("<", None)], FaultKind.CONTRACT, "turn 1: answered reward=None, success=None; wanted", 1),
        ([seen("?"), seen("<", success="no")], FaultKind.CONTRACT, "turn 1: answered reward=0.0, success='no'; w", 1),
        ([seen("?"), seen("<", messages=None)], FaultKind.CONTRACT, "turn 1: answered messages=None; wanted", 1),
        ([seen("?"), seen("\ud800")], FaultKind.CRASH, "turn 1: UnicodeEncodeError", 1),
        ([seen("?"), SystemExit(3)], FaultKind.CRASH, "turn 1: SystemExit: 3", 1),
        ([seen("?" * 64)], FaultKind.CONTRACT, "start: the first observation has 64 tokens, an episode may have 64", 0),
    ],
)
def test_what_goes_wrong_in_an_environment_is_a_fault_and_never_a_reward(answers, kind, where, turns):
    rollout = sample(collector(Script(lambda call, request: "0"), scripted(*answers), deadline_s=0.05))[0]
    assert rollout.reward is None
    assert (rollout.end, len(rollout.turns), rollout.truncated) == (EpisodeEnd.FAULT, turns, False)
    assert rollout.score.fault.kind == kind
    assert rollout.score.fault.where == "game"
    assert rollout.score.fault.message.startswith(where)
    assert rollout.score.parts == {"return": None, SUCCESS: None}
    assert trainable([[rollout]]) == []


def test_an_environment_that_cannot_be_made_and_an_engine_that_fails_are_faults_too():
    def broken() -> Scripted:
        raise RuntimeError("no display")

    rollout = sample(collector(Script(lambda call, request: "0"), broken))[0]
    assert rollout.score.fault.message == "start: RuntimeError: no display"
    failed = sample(collector(Script(lambda call, request: "ERROR"), scripted(seen("?"), seen("<"))))[0]
    assert (failed.reward, failed.score.fault.message) == (None, "engine: it failed on this request")


def test_one_broken_episode_leaves_the_others_of_its_group():
    numbers = iter(range(99))

    def make() -> Any:
        ended = seen("=", 1, done=True, success=True)
        return Scripted([OSError("away")] if next(numbers) == 4 else [seen("?"), ended])

    driver = collector(Script(lambda call, request: "0"), make, settings={"group": 3})
    collected = asyncio.run(driver.collect(prompts))
    assert [[rollout.reward for rollout in group] for group in collected.groups] == [[1, 1, 1], [1, None, 1]]
    assert [(rollout.group, rollout.member) for rollout in trainable(collected.groups)] == [
        (0, 0), (0, 1), (0, 2), (1, 0), (1, 2)
    ]  # fmt: skip


def test_metrics_count_turns_success_truncation_and_faults():
    numbers = iter(range(99))
    plays = [
        [seen("?"), seen("<", -1), seen("=", 0, done=True, success=True)],
        [seen("?"), seen("<", -1, success=False), seen("<", -1, success=False), seen("<", -1, success=False)],
        [seen("?"), seen("=", 0, done=True, success=True)],
        [seen("?"), OSError("away")],
    ]
    driver = collector(Script(lambda call, request: "0"), lambda: Scripted(list(plays[next(numbers)])), max_turns=3)
    collected = asyncio.run(driver.collect(prompts))
    metrics = describe(collected, driver.settings)
    assert metrics["rollout/turns_mean"] == (2 + 3 + 1 + 1) / 4
    assert metrics["reward/mean"] == pytest.approx((-1 - 3 + 0) / 3)
    assert metrics["reward/part/return"] == metrics["reward/mean"]
    assert metrics["reward/part/success"] == pytest.approx(2 / 3)
    assert metrics["reward/fault/crash"] == 1
    assert metrics["reward/unscorable_frac"] == 0.25
    assert metrics["rollout/truncated_frac"] == 0.25
    assert metrics["rollout/length_mean"] == 2 * 7 / 4


def test_a_rewritten_context_is_a_sequence_of_its_own_that_is_paid_the_whole_return():
    """`?` 0 `<` 1 | (forgotten) `>` 2: three turns in two contexts, of the same group and member."""
    answers = seen("?"), seen("<", -1), seen(">", -2, new_context=True), seen("=", 5, done=True)
    driver = collector(Script(lambda call, request: "012"[call - 1]), scripted(*answers))
    rollout = sample(driver)[0]
    first, second = items(rollout, reward=2.0)
    assert TOKENIZER.decode(first.prompt_ids) + TOKENIZER.decode(first.completion_ids) == "?0<eos><1<eos>"
    assert TOKENIZER.decode(second.prompt_ids) + TOKENIZER.decode(second.completion_ids) == ">2<eos>"
    assert [(item.group, item.member, item.reward, item.turn[-1]) for item in (first, second)] == [
        (0, 0, 2, 1),
        (0, 0, 2, 0),
    ]
    assert (first.rewards, second.rewards) == ([0, 0, 0, 0, 2], [0, 2])
    assert pack([first, second]).validate().num_actions == 6
    metrics = describe(
        asyncio.run(collector(Script(lambda call, request: "0"), scripted(*answers)).collect(prompts)), driver.settings
    )
    assert metrics["rollout/new_contexts"] == 4, "once in each of four episodes"


def test_stale_episodes_are_refused_and_fresh_ones_reach_grpo_with_advantages_on_actions_only():
    _, engine = scratch_engine()
    source = RolloutSource(
        order=Order(
            examples=[Example(task=Task(id=str(i), text="-"), prompt=()) for i in range(9)], seed=0, shuffle=True
        ),
        collector=collector(engine, guess_number, settings={"group": 6}),
        share_prefix=True,
    )
    drawn = source.next(0, 0)
    assert (drawn.cursor, len(drawn.consumed)) == (2, 2)
    batch = grpo.estimate(grpo.Config(type="grpo"), drawn.batch)
    assert len(batch.blocks) == 2, "a group shares its first observation"
    assert bool((batch.advantages[~batch.action_mask] == 0).all())
    sums = batch.sum_per_sequence(batch.rewards)
    assert torch.equal(sums, batch.reward)
    with pytest.raises(BatchError, match="sampled by policy version 0, the trainer is at 1"):
        pack_rollouts(drawn.trained, version=1, share_prefix=True)


def test_given_turns_reach_the_loss_without_the_environments_tokens():
    example = Example(task=Task(id="g", text="?"), prompt=ids("?"), completion=ids("5<7"), action=(True, False, True))
    order = Order(examples=[example], seed=0, shuffle=False)
    source = OfflineSource(kind=sft.KIND, order=order, size=2, share_prefix=True)
    assert source.next(0, 0).batch.action_mask.tolist() == [False, True, False, True] * 2


def test_an_evaluation_plays_held_out_games_and_reports_success_and_return():
    driver = collector(
        Script(lambda call, request: "0"),
        lambda: Scripted([seen("?"), seen("<", -1, success=False), seen("=", 0, done=True, success=True)]),
    )
    examples = [Example(task=Task(id=str(i), text="-"), prompt=()) for i in range(3)]
    evaluator = Evaluator(collector=driver, examples=examples, settings=Evaluation(), grader=lambda task: SUCCESS)
    rows, summary = evaluator.run()
    assert (summary["eval/accuracy"], summary["eval/reward_mean"], summary["eval/tasks"]) == (1.0, -1.0, 3)
    assert {key: rows[0][key] for key in ("correct", "reward", "text", "stop")} == {
        "correct": 1.0,
        "reward": -1.0,
        "text": "0 [<]\n0 [=]",
        "stop": "done",
    }
    training = {request.seed for call in driver.engine.calls for request in call}
    sample(driver, count=2)
    assert not training & {request.seed for request in driver.engine.calls[-1]}


def test_the_parquet_shows_what_was_asked_said_paid_and_answered_in_each_turn(tmp_path):
    driver = collector(Script(lambda call, request: "0~"), scripted(seen("?"), seen("<", -1), seen("=", 0, done=True)))
    broken = collector(Script(lambda call, request: "0"), scripted(OSError("away")))
    path = RunFolder(tmp_path).rollouts(0, [sample(driver)[0], sample(broken)[0]])
    first, second = parquet.read_table(path).to_pylist()
    shown = [first[name] for name in ("prompt", "completion", "stop", "prompt_tokens")]
    assert shown == ["?", "0 [<]\n0 [=]", "done", 1]
    assert json.loads(first["turns"]) == [
        {"text": "0", "reward": -1, "observation": "<", "tokens": 1, "stop": "length"},
        {"text": "0", "reward": 0, "observation": "=", "tokens": 1, "stop": "length"},
    ]
    assert (second["turns"], second["stop"], second["reward"], second["prompt_tokens"]) == ("[]", "fault", None, 0)
    assert second["fault"] == "crash in game: start: OSError: away"


def test_too_many_faults_stop_the_run_with_the_first_cause():
    driver = collector(Script(lambda call, request: "0"), scripted(OSError("away")))
    with pytest.raises(
        RewardError, match=r"4 of 4 rollouts could not be scored .* crash in game: start: OSError: away"
    ):
        asyncio.run(driver.collect(prompts))
