"""SWEET-RL: advantages that are told what the policy is not; utterances after one state, best against worst."""

from __future__ import annotations

import asyncio
import math
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.algorithms.reward_models import privileged_advantage
from alignkit.algorithms.turns import sweet
from alignkit.data.generators import guess_number_pairs
from alignkit.data.kinds.paired_episodes import make_pairs, pair_items
from alignkit.data.offline.row_filter import RowFilter
from alignkit.environments.guess_number import guess_number
from alignkit.environments.maze import maze
from alignkit.errors import DataError, RecipeError
from alignkit.models.load import load_policy
from alignkit.recipe.read import read_recipe
from alignkit.recipe.schema import Data, Model, Scratch
from alignkit.rewards.learned.reward_model import BESIDE, RewardModel, save_reward_model
from alignkit.rollout.candidates import Candidates, JudgedUtterances
from alignkit.types.batch import pack
from alignkit.types.outputs import Outputs
from alignkit.types.rollout import Rollout
from alignkit.types.score import FaultKind, Score
from alignkit.types.task import Task
from tests.tabular import on_actions, one_token_each
from tests.unit.reward_folders import reading
from tests.unit.scripted_episodes import CHARACTERS, EOS, TOKENIZER, Script, collector, ids, prompts

SMOKE = Path(__file__).parents[2] / "recipes" / "smoke"
BETTER = [{"observation": "?", "action": "3", "reward": -1.0}, {"observation": ">", "action": "7", "reward": 0.0}]
WORSE = [{"observation": "?", "action": "12", "reward": -1.0}]
PAIR = {"privileged": "=7", "chosen_turns": BETTER, "rejected_turns": WORSE}


def row_filter() -> RowFilter:
    return RowFilter(tokenizer=TOKENIZER, data=Data(source="", chat=False), context=64, unit="pairs")


def items(**columns: Any) -> list[Any]:
    (pair,) = make_pairs([Task(id="t", text="?", columns=PAIR | columns)], row_filter())
    return pair_items(pair, 0)


# --- the advantage model -----------------------------------------------------------------------------------------


def test_both_episodes_are_read_behind_what_is_privileged_and_utterances_alone_are_compared():
    better, worse = items()
    assert tuple(better.prompt_ids) == tuple(worse.prompt_ids) == ids("=7?")
    assert tuple(better.completion_ids) == (*ids("3"), EOS, *ids(">"), *ids("7"), EOS)
    assert list(better.action) == [True, True, False, True, True]
    assert (better.side, worse.side) == (1, -1)


@pytest.mark.parametrize(("episode", "worth"), [("sum", 2.0), ("mean", 1.0)])
def test_an_episode_is_worth_the_sum_or_the_mean_of_its_utterances_mean_log_ratios(episode, worth):
    """Better: A = (1 + 2) / 2 and (0 + 1) / 2; worse: A = (-3 + 0 + 0) / 3 of the two digits and the stop token."""
    batch = pack(items())
    batch = batch.replace(ref_logprobs=on_actions(batch, [-5.0] * 7))
    outputs = Outputs(logprobs=on_actions(batch, [-4.0, -3.0, -5.0, -4.0, -8.0, -5.0, -5.0]))
    config = privileged_advantage.Config(type="privileged_advantage", beta=0.5, episode=episode)
    assert privileged_advantage.worth(config, outputs, batch).tolist() == pytest.approx([worth, -1.0])
    loss = privileged_advantage.reward_loss(config, outputs, batch)
    assert (float(loss.total), loss.count) == (pytest.approx(math.log1p(math.exp(-0.5 * (worth + 1)))), 1)


def folder_of_model(folder: Path) -> tuple[Path, Any, Any]:
    """(a saved model with a reference beside it, the model, the reference), both with random weights."""
    scratch = Scratch(characters=CHARACTERS, layers=1, hidden=32, heads=2, context=32)
    model, reference = (load_policy(Model(scratch=scratch, dtype="float32"), seed=seed) for seed in (0, 1))
    save_reward_model(*model, folder, reading(algorithm={"type": "privileged_advantage"}, reference=BESIDE))
    reference[0].save_pretrained(folder / BESIDE)
    reference[1].save_pretrained(folder / BESIDE)
    return folder, model[0].eval(), reference[0].eval()


@torch.no_grad()
def mean_log_ratio(model: Any, reference: Any, state: list[int], said: str) -> float:
    tokens, start = torch.tensor([[*state, *ids(said), EOS]]), len(state)
    logs = [
        each(tokens).logits.log_softmax(-1)[0, start - 1 : -1].gather(1, tokens[0, start:, None]).mean()
        for each in (model, reference)
    ]
    return float(logs[0] - logs[1])


def test_the_reward_is_the_advantage_of_the_drawn_utterance_behind_what_the_environment_alone_knows(tmp_path):
    folder, model, reference = folder_of_model(tmp_path / "advantage")
    learned = RewardModel.load(folder, device="cpu")
    rollouts = play("12", secret := [])
    judged = asyncio.run(JudgedUtterances(rewards=Scores(learned)).score([(rollouts[0].task, rollouts)]))
    for rollout, score in zip(rollouts, judged[0], strict=True):
        state = [*ids(secret[0]), *rollout.turns[rollout.reset.turn].prompt_ids]
        said = rollout.turns[rollout.reset.turn].text
        assert score.value == pytest.approx(mean_log_ratio(model, reference, state, said), abs=2e-6)
    assert rollouts[0].reset.turn > 0
    assert len({score.value for score in judged[0]}) > 1


class Scores:
    def __init__(self, model: RewardModel):
        self.model = model

    async def score(self, groups: Any) -> list[list[Score]]:
        return self.model.score(groups, name="learned")


def test_an_episode_without_privileged_information_cannot_be_scored_and_a_row_without_is_refused(tmp_path):
    learned = RewardModel.load(folder_of_model(tmp_path / "advantage")[0], device="cpu")
    (rollout, *_) = play("u", None, make=maze)
    ((score,),) = learned.score([(rollout.task, [rollout])], name="learned")
    assert score.fault.kind == FaultKind.REFUSED
    assert "'privileged' is None; wanted text, of a column" in score.fault.message
    with pytest.raises(DataError, match="task t: 'privileged' is None; wanted text, of a column"):
        items(privileged=None)
    with pytest.raises(DataError, match=r"task t: 'privileged' is 7; wanted text"):
        items(privileged=7)
    with pytest.raises(DataError, match="begin with different observations; pairs are of one task"):
        items(rejected_turns=[{**WORSE[0], "observation": "!"}])


def test_pairs_are_of_one_hidden_number_and_the_better_has_the_larger_return():
    rows = guess_number_pairs(split="train", seed=3, guesses=4, count=20)
    assert rows == guess_number_pairs(split="train", seed=3, guesses=4, count=20)
    assert len({row["privileged"] for row in rows}) > 5
    for row in rows:
        better, worse = (sum(turn["reward"] for turn in row[side]) for side in ("chosen_turns", "rejected_turns"))
        assert better > worse
        won = row["chosen_turns"][-1]
        assert (won["reward"] == 0) == (won["action"] == row["privileged"].removeprefix("="))
    with pytest.raises(DataError, match="100 games ended alike; allow more guesses"):
        guess_number_pairs(split="train", seed=3, numbers=3000, guesses=1, count=1)


# --- candidates --------------------------------------------------------------------------------------------------


def play(letters: str, secret: list[str] | None, *, make: Any = guess_number, group: int = 4) -> list[Rollout]:
    """A group of candidates whose utterances are drawn from `letters`. secret: gets what the game hid."""

    def started() -> Any:
        game = make()
        if secret is not None:
            begin = game._begin

            def told(*given: Any) -> Any:
                first = begin(*given)
                secret.append(game.privileged)
                return first

            game._begin = told
        return game

    engine = Script(lambda call, request: letters[request.seed % len(letters)])
    driver = collector(
        engine, started, wrap=lambda episodes: Candidates(episodes=episodes), settings={"group": group, "prompts": 1}
    )
    (rollouts,) = asyncio.run(driver.sample(prompts(1)))
    play.requests = [request for call in engine.calls for request in call]
    return rollouts


def test_candidates_are_said_in_the_very_context_of_the_drawn_turn_and_only_the_first_goes_on():
    rollouts = play("123", [], group=5)
    first, *others = rollouts
    turn = first.turns[first.reset.turn]
    assert [rollout.member for rollout in rollouts] == [0, 1, 2, 3, 4]
    for other in others:
        assert other.turns[:-1] == first.turns[: first.reset.turn]
        assert (other.turns[-1].prompt_ids, other.turns[-1].reward) == (turn.prompt_ids, None)
    assert len({request.seed for request in play.requests}) == len(play.requests) == len(first.turns) + 4


def test_what_is_privileged_is_in_no_token_that_the_policy_reads_or_learns():
    secret: list[str] = []
    rollouts = play("0", secret, group=3)
    (mark,) = ids("=")
    assert secret
    assert secret[0].startswith("=")
    assert all(rollout.turns[0].info_before["privileged"] == secret[0] for rollout in rollouts)
    read = [request.prompt_ids for request in play.requests]
    assert read[0] == ids("?")
    assert len(read) == 10
    assert all(mark not in prompt for prompt in read)
    assert all(mark not in (*turn.prompt_ids, *turn.completion_ids) for rollout in rollouts for turn in rollout.turns)


def test_best_against_worst_of_every_group_of_three():
    """All 27 groups of the rewards 0, 1, 2: the first of the largest against the first of the smallest, or nothing."""
    groups = list(product((0.0, 1.0, 2.0), repeat=3))
    rewards = [reward for group in groups for reward in group]
    batch = one_token_each(rewards, groups=[number // 3 for number in range(81)])
    kept = sweet.estimate(sweet.Config(type="sweet"), batch)
    sides = zip(kept.group.tolist(), kept.member.tolist(), kept.side.tolist(), strict=True)
    got = {(group, member % 3): side for group, member, side in sides}
    wanted = {}
    for number, group in enumerate(groups):
        if len(set(group)) > 1:
            wanted |= {(number, group.index(max(group))): 1, (number, group.index(min(group))): -1}
    assert got == wanted
    assert len(got) == 2 * 24


def test_a_recipe_of_candidates_needs_an_environment_and_rewards_that_judge_them():
    path = SMOKE / "guess-number-sweet.yaml"
    for override, told in (
        ("stages.1.environment=null", "sweet plays episodes; give it an `environment`"),
        ("stages.1.rewards=[]", "sweet learns from rewards; name at least one"),
        ("stages.1.rollouts.group=1", "set rollouts.group to at least 2"),
    ):
        with pytest.raises(RecipeError, match=told):
            read_recipe(path, [override])
