"""Plays wrapped around one another: answers and episodes, gone back into, finished by a guide and begun by one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alignkit.engines.hf import HfEngine
from alignkit.environments.base import Observation
from alignkit.environments.guess_number import guess_number
from alignkit.models.forward import packed
from alignkit.parallel.group import Group
from alignkit.recipe.explain import explain_recipe
from alignkit.recipe.read import read_recipe
from alignkit.recipe.schema import Rollouts
from alignkit.rollout.answers import Answers
from alignkit.rollout.collect import Collector, describe
from alignkit.rollout.episodes import Episodes
from alignkit.rollout.guide_roll_in import GuideRollIn
from alignkit.rollout.guide_roll_out import GuideRollOut
from alignkit.rollout.items import items, pack_rollouts
from alignkit.rollout.play import Prompt
from alignkit.rollout.resets import Resets
from alignkit.run.train.build import build_collector, build_policy
from alignkit.run.train.train import run as train
from alignkit.run.train.training_play import training_play
from alignkit.types.rollout import EpisodeEnd, Request, Rollout
from alignkit.types.score import Score
from alignkit.types.seeds import child
from alignkit.types.task import Task
from tests.resume.runs import fingerprint
from tests.unit.scripted_episodes import EOS, TOKENIZER, Script, collector, ids, sample, scratch_engine, scripted, seen
from tests.unit.test_environment_recipes import RECIPE


@dataclass
class Heard:
    """The game, and all that was said to it."""

    heard: list[str]

    def __post_init__(self) -> None:
        self.game = guess_number()

    async def start(self, task: Task, seed: int) -> Observation:
        return await self.game.start(task, seed)

    async def step(self, text: str) -> Observation:
        self.heard.append(text)
        return await self.game.step(text)


def guided(
    engine: Any,
    make: Callable[[], Any],
    guide: Any,
    *,
    share: float = 1.0,
    resets: bool = False,
    **options: Any,
) -> Collector:
    """Episodes whose utterances go over to a guide, gone back into where `resets` says so."""
    options["settings"] = {"guide_roll_out": share, **options.get("settings", {})}

    def wrap(episodes: Episodes) -> GuideRollOut:
        play = Resets(episodes=episodes) if resets else episodes
        return GuideRollOut(play=play, share=share, guide=guide, context=64)

    return collector(engine, make, wrap=wrap, **options)


def always(text: str) -> Script:
    return Script(lambda call, request: text)


def digit(seed: int) -> str:
    return str(seed % 10)


def requests(script: Script) -> list[Request]:
    return [request for call in script.calls for request in call]


# --- an episode that a guide finishes ----------------------------------------------------------------------------


def test_the_environment_answers_what_policy_and_guide_said_together():
    heard: list[str] = []
    driver = guided(always("1"), lambda: Heard(heard), always("5"))
    rollouts = sample(driver, count=8)
    assert sorted(heard) == sorted(turn.text for rollout in rollouts for turn in rollout.turns)
    finished = 0
    for rollout in rollouts:
        secret = _secret(rollout)
        for turn in rollout.turns:
            # cut after one token the guide says `5` and its stop token; cut after two the policy has ended by itself
            assert (turn.completion_ids, turn.finish_ids, turn.text) in (
                (ids("1"), (*ids("5"), EOS), "15"),
                ((*ids("1"), EOS), (), "1"),
            )
            guess = int(turn.text)
            assert turn.observation == ("=" if guess == secret else "<" if secret < guess else ">")
            finished += bool(turn.finish_ids)
        for before, after in zip(rollout.turns, rollout.turns[1:], strict=False):
            said = before.prompt_ids + before.completion_ids + before.finish_ids
            assert after.prompt_ids[: len(said)] == said
    turns = sum(len(rollout.turns) for rollout in rollouts)
    assert 0.3 < finished / turns < 0.7


def _secret(rollout: Rollout) -> int:
    """The number of the rollout's game, which the stage's seed and the prompt's position name."""
    game = guess_number()
    position = int(rollout.task.id.removeprefix("t"))
    asyncio.run(game.start(rollout.task, child(5, "environment", position)))
    return game._secret


def test_only_the_policys_tokens_are_actions_paid_turn_by_turn_and_the_group_is_kept_by_hand():
    """`? | 1 5 e | < | 1 5 e`: of each utterance the policy says `1`, and its last token is paid."""
    make = scripted(seen("?"), seen("<", -1), seen("=", 0.5, done=True, success=True))
    seed = next(s for s in range(999) if _both_cut_after_one(s))
    [first, second, *others] = sample(guided(always("1"), make, always("5"), seed=seed), count=2, first=0)
    [item] = items(first, reward=-0.5)
    assert TOKENIZER.decode(item.prompt_ids) == "?"
    assert TOKENIZER.decode(item.completion_ids) == "15<eos><15<eos>"
    assert item.action == [True, False, False, False, True, False, False]
    assert item.sampler_logprobs == [-0.25, 0, 0, 0, -0.25, 0, 0]
    assert item.rewards == [-1, 0, 0, 0, 0.5, 0, 0]
    assert (first.sampled_tokens, first.reward, first.end) == (2, -0.5, EpisodeEnd.DONE)
    assert [(r.group, r.member) for r in (first, second, *others)] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    batch = pack_rollouts([first, second, *others], version=0, share_prefix=True)
    assert batch.group.tolist() == [0, 0, 1, 1]
    assert batch.member.tolist() == [0, 1, 0, 1]
    assert batch.tokens[batch.action_mask & (batch.segment == 0)].tolist() == [*ids("1"), *ids("1")]


def _both_cut_after_one(seed: int) -> bool:
    """Whether the first member's two utterances go over after a token, by the names of their randomness."""
    cuts = []
    for turn in range(2):
        rng = np.random.default_rng(child(seed, "finish", 0, 0, turn))
        rng.random()
        cuts.append(int(rng.integers(1, 3)))
    return cuts == [1, 1]


def test_the_guide_reads_the_exact_tokens_and_all_randomness_is_named_by_position_member_and_turn():
    policy, guide = always("1"), always("5")
    sample(guided(policy, scripted(seen("?"), seen("<"), seen("=", done=True)), guide), count=2, first=7)
    names = [(position, member) for position in (7, 8) for member in (0, 1)]
    spoken = [child(5, "sample", *name, turn) for turn in range(2) for name in names]
    assert [request.seed for request in requests(policy)] == spoken
    tails = {child(5, "guide sample", *name, turn): (name, turn) for name in names for turn in range(2)}
    assert guide.calls
    for request in requests(guide):
        assert request.seed in tails
        assert request.prompt_ids[-1:] == ids("1")
        assert request.max_new_tokens == 2, "policy and guide share the three tokens of an utterance"
        assert request.prompt_ids[0] == ids("?")[0]


def test_answers_are_named_by_position_and_member_alone():
    policy, guide = always("1"), always("5")
    settings = Rollouts(engine="hf", prompts=1, group=2, max_new_tokens=3, guide_roll_out=1.0)
    decode = TOKENIZER.decode
    play = GuideRollOut(play=Answers(decode=decode), share=1.0, guide=guide, context=64)
    made = Collector(
        engine=policy, play=play, scorer=None, decode=decode, stop_token_ids=(EOS,), settings=settings, seed=5
    )
    asyncio.run(made.sample([Prompt(task=Task(id="a", text="?"), ids=ids("?"), position=3)]))
    assert [request.seed for request in requests(policy)] == [child(5, "sample", 3, member) for member in (0, 1)]
    assert {request.seed for request in requests(guide)} <= {child(5, "guide sample", 3, m) for m in (0, 1)}


def test_with_room_for_one_token_the_policy_says_it_alone():
    """`?`, then at most three tokens: an utterance of one and the game's answer fill the context of five."""
    policy, guide = always("1"), always("5")
    driver = guided(policy, lambda: Endless(), guide, context=5, share=1.0)
    for rollout in sample(driver, count=4):
        assert (rollout.end, rollout.truncated) == (EpisodeEnd.CONTEXT_FULL, True)
        size = [len(turn.prompt_ids + turn.completion_ids + turn.finish_ids) for turn in rollout.turns]
        assert max(size) <= 5
        last = rollout.turns[-1]
        if len(last.prompt_ids) == 4:
            assert (len(last.completion_ids), last.finish_ids) == (1, ())
    assert {request.max_new_tokens for request in requests(policy)} <= {1, 2}


class Endless:
    async def start(self, task: Task, seed: int) -> Observation:
        return seen("?")

    async def step(self, text: str) -> Observation:
        return seen("<", -1)


def test_a_guide_that_fails_is_a_fault_of_its_episode_alone():
    make = scripted(seen("?"), seen("=", 1, done=True))
    whole = always("5")
    sample(guided(always("1"), make, whole), count=4)
    failing = requests(whole)[1].seed
    guide = Script(lambda call, request: "ERROR" if request.seed == failing else "5")
    rollouts = sample(guided(always("1"), make, guide), count=4)
    broken = [rollout for rollout in rollouts if rollout.score.fault]
    assert [rollout.score.fault.message for rollout in broken] == ["engine: it failed on this request"]
    assert [rollout.reward for rollout in rollouts].count(None) == 1


def test_the_share_counts_utterances():
    driver = guided(always("1"), scripted(seen("?"), seen("<"), seen("=", done=True)), always("5"))
    collected = asyncio.run(
        driver.collect(lambda n: [Prompt(task=Task(id=f"t{i}", text=""), ids=(), position=i) for i in range(n)])
    )
    turns = [turn for rollout in collected.everything for turn in rollout.turns]
    metrics = describe(collected, driver.settings)
    assert metrics["rollout/finished_frac"] == sum(bool(turn.finish_ids) for turn in turns) / 8
    assert metrics["rollout/turns_mean"] == 2
    assert metrics["rollout/tokens"] == sum(len(turn.completion_ids) for turn in turns)


def test_the_trainer_reads_the_policys_tokens_of_a_finished_episode_as_the_sampler_wrote_them():
    model, engine = scratch_engine()
    other, guide = scratch_engine()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(-1.0)
    assert isinstance(guide, HfEngine)
    rollouts = sample(guided(engine, guess_number, guide, max_turns=4, settings={"group": 3}), count=4)
    assert sum(bool(turn.finish_ids) for rollout in rollouts for turn in rollout.turns) > 4
    again = sample(guided(engine, guess_number, guide, max_turns=4, settings={"group": 3}), count=4)
    assert [rollout.turns for rollout in again] == [rollout.turns for rollout in rollouts]
    batch = pack_rollouts(rollouts, version=0, share_prefix=True)
    mask = batch.action_mask
    assert int(mask.sum()) == sum(rollout.sampled_tokens for rollout in rollouts)
    outputs = packed(model, batch, dtype=torch.float32, temperature=1.0)
    assert torch.allclose(outputs.logprobs[mask], batch.sampler_logprobs[mask], atol=2e-5)


# --- gone back into, and finished --------------------------------------------------------------------------------


def test_a_fork_says_the_guides_past_part_again_and_its_own_turn_is_finished_too():
    policy, guide = Script(lambda call, request: digit(request.seed)), Script(lambda call, request: "5")
    driver = guided(policy, guess_number, guide, resets=True, settings={"group": 3})
    rollouts = sample(driver, count=12)
    assert [(r.group, r.member) for r in rollouts] == [(g, m) for g in range(12) for m in range(3)]
    assert not any(rollout.score.fault for rollout in rollouts), "the games answered as before"
    shared = kept = 0
    for number in range(12):
        first, *others = rollouts[3 * number : 3 * number + 3]
        turn = first.reset.turn
        for other in others:
            assert (other.reset, other.turns[:turn]) == (first.reset, first.turns[:turn])
            assert other.turns[turn].prompt_ids == first.turns[turn].prompt_ids
        shared += sum(bool(past.finish_ids) for past in first.turns[:turn])
        for rollout in (first, *others):
            [item] = items(rollout, reward=rollout.reward)
            taken = rollout.turns[turn]
            assert item.prompt_ids == taken.prompt_ids
            assert item.completion_ids == taken.completion_ids + taken.finish_ids
            assert item.action == [True] * len(taken.completion_ids) + [False] * len(taken.finish_ids)
            assert len(item.sampler_logprobs) == len(item.completion_ids)
            assert (item.group, item.member) == (number, rollout.member)
            kept += bool(taken.finish_ids)
    assert min(shared, kept) > 4
    batch = pack_rollouts(rollouts, version=0, share_prefix=True)
    assert int(batch.action_mask.sum()) == sum(len(r.turns[r.reset.turn].completion_ids) for r in rollouts)
    asked = [request.seed for request in requests(policy) + requests(guide)]
    assert len(set(asked)) == len(asked)


# --- begun, and finished -----------------------------------------------------------------------------------------


def test_a_guide_begins_the_policy_goes_on_and_a_guide_finishes():
    policy, guide = always("1"), always("5")
    decode = TOKENIZER.decode
    play = GuideRollIn(play=GuideRollOut(play=Answers(decode=decode), share=1.0, guide=guide, context=64), share=1.0)
    settings = Rollouts(engine="hf", prompts=1, group=2, max_new_tokens=3, guide_roll_out=1.0, guide_roll_in=1.0)
    made = Collector(
        engine=policy, play=play, scorer=Paid(), decode=decode, stop_token_ids=(EOS,), settings=settings, seed=5
    )
    whole = ids("9876")
    prompts = [Prompt(task=Task(id=f"{i}", text="?"), ids=ids("?"), position=i, completion=whole) for i in range(20)]
    groups = asyncio.run(made.score(asyncio.run(made.sample(prompts))))
    shapes = set()
    for group in groups:
        assert len({rollout.turns[0].prompt_ids for rollout in group}) == 1
        for rollout in group:
            [turn] = rollout.turns
            begun = turn.prompt_ids[1:]
            assert begun == whole[: len(begun)]
            assert turn.text == decode(begun + turn.completion_ids + turn.finish_ids)
            [item] = items(rollout, reward=rollout.reward)
            assert sum(item.action) == len(turn.completion_ids)
            shapes.add((len(begun), len(turn.finish_ids)))
    assert shapes == {(begun, tail) for begun in (1, 2, 3) for tail in (0, 2)}


class Paid:
    async def score(self, groups: Any) -> list[list[Score]]:
        return [[Score(value=1.0) for _ in rollouts] for _, rollouts in groups]


# --- from a recipe -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "kinds"),
    [
        ([], [Episodes]),
        (["stages.1.rollouts.guide_roll_out=0.5"], [GuideRollOut, Episodes]),
        (["stages.1.algorithm.type=refuel"], [Resets]),
        (["stages.1.algorithm.type=refuel", "stages.1.rollouts.guide_roll_out=0.5"], [GuideRollOut, Resets]),
        (
            [
                "stages.1.environment=null",
                'stages.1.rewards=[{"name": "exact_match"}]',
                "stages.1.rollouts.guide_roll_in=0.5",
                "stages.1.rollouts.guide_roll_out=0.5",
            ],
            [GuideRollIn, GuideRollOut, Answers],
        ),
    ],
)
def test_a_recipe_says_what_is_wrapped_around_its_answers_or_episodes(tmp_path: Path, overrides, kinds):
    file = tmp_path / "games.yaml"
    file.write_text(RECIPE)
    recipe = read_recipe(file, overrides)
    policy, stage = build_policy(recipe, Group()), recipe.stages[1]
    play: Any = build_collector(recipe, stage, policy, always("1"), None).play
    assert isinstance(play, Episodes if stage.environment else Answers), "of which an evaluation is made"
    play = training_play(play, recipe, stage, policy, None)
    for kind in kinds:
        assert isinstance(play, kind)
        play = getattr(play, "play", None)


@pytest.mark.parametrize("algorithm", ["grpo", "refuel"])
def test_a_run_in_an_environment_trains_beside_a_guide_and_gives_the_same_again(tmp_path: Path, algorithm):
    file = tmp_path / "games.yaml"
    file.write_text(RECIPE)
    changed = [f"stages.1.algorithm.type={algorithm}", "stages.1.rollouts.guide_roll_out=0.5"]
    runs = []
    for name in ("one", "two"):
        recipe = read_recipe(file, [f"run={tmp_path / name}", *changed])
        train(recipe, resume=False)
        runs.append(fingerprint(tmp_path / name))
    assert runs[0] == runs[1]
    steps = runs[0]["metrics"][24:]
    assert len(steps) == 4
    assert 0.05 < sum(step["rollout/finished_frac"] for step in steps) / 4 < 0.6
    assert all(step["policy/kl_sampler"] == pytest.approx(0.0, abs=1e-4) for step in steps)
    explained = explain_recipe(read_recipe(file, changed))["stages"][1]["besides"]
    assert "0.5 of the utterances go over to the reference midway, whose part is not trained on" in explained
