"""refuel: one turn of an episode taken again; on a chain with known Q, on what must not count, and where resets fail.

The chain: in state 0 `a` pays -1 and leads to state 1, `g` ends with 0 one time in four, or -4; in state 1 `r` ends
with 0, `w` with -4. A policy that says `r` three times in four has Q(0, a) = -2, Q(0, g) = -3.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alignkit.algorithms.rollouts import rebel
from alignkit.algorithms.turns.refuel import ALGORITHM, Config, estimate
from alignkit.data.offline.example import Example
from alignkit.environments.base import Observation
from alignkit.environments.guess_number import guess_number
from alignkit.errors import RecipeError
from alignkit.recipe.explain import explain_recipe
from alignkit.recipe.read import read_recipe
from alignkit.recipe.schema import Optimizer, Rollouts, Stage, Train
from alignkit.rollout.collect import Collector, describe, trainable
from alignkit.rollout.resets import Resets
from alignkit.train.source import Order, RolloutSource
from alignkit.types.batch import Batch, pack
from alignkit.types.item import Item
from alignkit.types.needs import Needs
from alignkit.types.rollout import TURNS, Request
from alignkit.types.score import FaultKind
from alignkit.types.task import Task
from tests.tabular import in_float64, loss_and_gradient, on_actions
from tests.unit.scripted_episodes import EOS, Script, collector, ids, prompts, scratch_engine, scripted, seen


def config(**settings: Any) -> Config:
    return Config(type="refuel", **settings)


def resets(engine: Any, make: Callable[[], Any], **options: Any) -> Collector:
    return collector(engine, make, wrap=lambda episodes: Resets(episodes=episodes), **options)


def collect(driver: Collector, count: int) -> Any:
    return asyncio.run(replace(driver, settings=driver.settings.model_copy(update={"prompts": count})).collect(prompts))


def source(driver: Collector) -> RolloutSource:
    examples = [Example(task=Task(id=str(i), text="-"), prompt=()) for i in range(9)]
    return RolloutSource(order=Order(examples=examples, seed=0, shuffle=False), collector=driver, share_prefix=True)


@dataclass
class Chain:
    """`u` is a, `d` is g, `l` is r and `r` is w, in the letters of the tests' vocabulary."""

    state: int = 0
    lucky: bool = False

    async def start(self, task: Task, seed: int) -> Observation:
        self.lucky = seed % 4 == 0
        return seen("0")

    async def step(self, text: str) -> Observation:
        if self.state == 0 and text == "u":
            self.state = 1
            return seen("1", -1.0)
        good = self.lucky if self.state == 0 else text == "l"
        return seen("=", 0.0 if good else -4.0, done=True)


def chance(request: Request) -> float:
    return np.random.default_rng(request.seed).random()


def chain_policy(call: int, request: Request) -> str:
    first = len(request.prompt_ids) == 1
    return ("u" if chance(request) < 0.5 else "d") if first else ("l" if chance(request) < 0.75 else "r")


def gaps(driver: Collector, count: int) -> dict[tuple[int, str, str], list[tuple[float, float]]]:
    """(context length, one utterance, the other) -> (difference of their targets, weight) of each group."""
    batch = estimate(config(), pack_all(driver, count))
    found: dict[tuple[int, str, str], list[tuple[float, float]]] = {}
    said = batch.tokens[batch.first_action()].tolist()
    letters = {ids(letter)[0]: letter for letter in "udlr"}
    for number in range(0, batch.num_sequences, 2):
        block = batch.blocks[number // 2]
        gap = float(batch.targets[number, 0] - batch.targets[number + 1, 0])
        key = (block.prompt, letters[said[number]], letters[said[number + 1]])
        found.setdefault(key, []).append((gap, float(batch.channels[TURNS][number])))
    return found


def pack_all(driver: Collector, count: int) -> Batch:
    settings = driver.settings.model_copy(update={"prompts": count})
    batch = source(replace(driver, settings=settings)).next(0, 0).batch
    assert batch is not None
    return batch


def mean(pairs: list[tuple[float, float]]) -> float:
    return sum(gap * weight for gap, weight in pairs) / sum(weight for _, weight in pairs)


# --- collection --------------------------------------------------------------------------------------------------


def test_the_sides_share_all_before_the_turn_and_go_on_with_fresh_utterances():
    driver = resets(Script(lambda call, request: str(chance(request))[2]), guess_number, settings={"group": 3})
    collected = collect(driver, 8)
    turns = set()
    for position, group in enumerate(collected.groups):
        first, *others = group
        reset = first.reset
        assert reset.of == len(first.turns)
        turns.add(reset.turn)
        for other in others:
            assert (other.reset, other.group, other.policy_version) == (reset, position, 0)
            assert other.turns[: reset.turn] == first.turns[: reset.turn]
            assert other.turns[reset.turn].prompt_ids == first.turns[reset.turn].prompt_ids
    assert len(turns) > 2, "turns are drawn"
    asked = [request.seed for call in driver.engine.calls for request in call]
    assert len(set(asked)) == len(asked), "past turns are not sampled again, and no two utterances share a seed"


def test_a_batch_holds_the_context_the_turn_and_the_return_from_it_on():
    driver = resets(Script(chain_policy), Chain)
    drawn = source(driver).next(0, 0)
    rollouts = list(drawn.trained)
    batch = drawn.batch
    assert batch.num_sequences == len(rollouts) == 4
    for number, rollout in enumerate(rollouts):
        turn = rollout.turns[rollout.reset.turn]
        own = batch.tokens[batch.segment == number].tolist()
        assert tuple(own) == turn.completion_ids
        assert bool(batch.action_mask[batch.segment == number].all())
        assert batch.reward[number] == sum(later.reward for later in rollout.turns[rollout.reset.turn :])
        assert batch.channels[TURNS][number] == rollout.reset.of
        block = batch.blocks[number // 2]
        assert tuple(batch.tokens[block.start : block.start + block.prompt].tolist()) == turn.prompt_ids
    assert int(batch.action_mask.sum()) == 8  # a letter and its stop token each


def test_the_target_is_an_unbiased_difference_of_q():
    """2,500 groups: Q(0, a) - Q(0, g) = -2 + 3, Q(1, r) - Q(1, w) = 4."""
    found = gaps(resets(Script(chain_policy), Chain), 2500)
    both = found[1, "u", "d"] + [(-gap, weight) for gap, weight in found[1, "d", "u"]]
    # a side's standard deviation is 1.73, and there are about 900 such pairs
    assert mean(both) == pytest.approx(1.0, abs=0.3)
    assert {gap for gap, _ in found[4, "l", "r"]} == {4.0}
    assert mean(found[1, "u", "u"]) == pytest.approx(0.0, abs=0.3)


def test_short_episodes_do_not_count_more_often_than_they_are_played():
    """`u` ends at once with 0 when lucky (1 in 2), else a second turn pays -4; `d` ends with -3. Q(u) - Q(d) = 1.

    Turns drawn within episodes meet luck too often: the plain mean of the same groups tends to 5/3.
    """

    class Short(Chain):
        async def start(self, task: Task, seed: int) -> Observation:
            self.lucky = seed % 2 == 0
            return seen("0")

        async def step(self, text: str) -> Observation:
            if self.state == 0 and text == "u" and not self.lucky:
                self.state = 1
                return seen("1", 0.0)
            paid = -4.0 if self.state else 0.0 if text == "u" else -3.0
            return seen("=", paid, done=True)

    found = gaps(resets(Script(chain_policy), Short), 2000)[1, "u", "d"]
    assert mean(found) == pytest.approx(1.0, abs=0.3)
    assert sum(gap for gap, _ in found) / len(found) == pytest.approx(5 / 3, abs=0.25)


@pytest.mark.parametrize(
    ("again", "message"),
    [
        ([seen("?"), seen(">", -1)], "reset, turn 1: it gave other tokens to read"),
        ([seen("?"), seen("=", -1, done=True)], "reset, turn 1: the episode went on, now it ended"),
        ([seen("?"), seen("<", -2)], "reset, turn 1: it paid -1, now -2"),
        ([seen("0")], "reset, turn 0: it gave other tokens to read"),
        ([seen("?"), OSError("away")], "turn 1: OSError: away"),
        ([OSError("away")], "start: OSError: away"),
    ],
)
def test_an_environment_that_does_not_answer_as_before_is_a_fault_and_its_pair_is_dropped_and_counted(again, message):
    plays = [[seen("?"), seen("<", -1), seen("=", done=True)], again]
    numbers = iter(range(9))
    # a seed by which the second of two turns is drawn
    seed = next(s for s in range(99) if _drawn(s) == 1)
    driver = resets(
        Script(lambda call, request: "0"), lambda: scripted(*plays[next(numbers)])(), seed=seed, settings={"prompts": 1}
    )
    collected = collect(driver, 1)
    assert collected.groups == []
    first, other = collected.dropped[0]
    assert (first.reward, other.reward) == (-1, None)
    assert other.score.fault.message.startswith(message)
    if "reset" in message:
        assert other.score.fault.kind == FaultKind.CONTRACT
    metrics = describe(collected, driver.settings)
    assert (metrics["rollout/dropped_frac"], metrics["reward/unscorable_frac"]) == (1.0, 0.5)
    assert metrics[f"reward/fault/{other.score.fault.kind}"] == 1
    assert trainable(collected.groups) == []


def _drawn(seed: int) -> int:
    script = Script(lambda call, request: "0")
    driver = resets(script, scripted(seen("?"), seen("<", -1), seen("=", done=True)), seed=seed)
    return asyncio.run(driver.sample(prompts(1)))[0][0].reset.turn


def test_a_failed_first_episode_is_not_gone_back_into():
    numbers = iter(range(9))
    plays = [[OSError("away")], [seen("?"), seen("=", 1, done=True)], [seen("?"), seen("=", 1, done=True)]]
    driver = resets(Script(lambda call, request: "0"), lambda: scripted(*plays[next(numbers)])())
    collected = collect(driver, 2)
    assert [[rollout.reward for rollout in group] for group in collected.dropped] == [[None]]
    assert [[rollout.reward for rollout in group] for group in collected.groups] == [[1, 1]]


def test_returns_are_reported_of_first_episodes_and_tokens_of_all_that_were_sampled():
    driver = resets(Script(chain_policy), Chain)
    collected = collect(driver, 50)
    metrics = describe(collected, driver.settings)
    firsts = [group[0] for group in collected.groups]
    assert metrics["reward/mean"] == metrics["reward/part/return"] == sum(r.reward for r in firsts) / 50
    assert metrics["rollout/turns_mean"] == sum(len(r.turns) for r in firsts) / 50
    assert metrics["rollout/completions"] == 100
    sampled = sum(len(call) for call in driver.engine.calls)
    assert metrics["rollout/tokens"] == 2 * sampled


# --- the loss ----------------------------------------------------------------------------------------------------


def test_with_one_turn_it_is_rebel_to_the_last_bit():
    _, engine = scratch_engine()
    one_turn = {"max_turns": 1, "settings": {"group": 4, "prompts": 3, "max_new_tokens": 2}}
    mine = source(resets(engine, guess_number, **one_turn)).next(0, 0).batch
    theirs = source(collector(engine, guess_number, **one_turn)).next(0, 0).batch
    assert torch.equal(mine.tokens, theirs.tokens)
    assert torch.equal(mine.reward, theirs.reward)
    torch.testing.assert_close(mine.sampler_logprobs, theirs.sampler_logprobs)  # the engine's batches differ in size
    generator = torch.Generator().manual_seed(0)
    size = mine.num_actions
    old, new = (torch.randn(size, generator=generator) for _ in range(2))
    results = []
    for algorithm, settings, batch in (
        (ALGORITHM, config(eta=0.7), mine),
        (rebel.ALGORITHM, rebel.Config(type="rebel", eta=0.7), theirs),
    ):
        batch = algorithm.estimate(settings, batch.replace(old_logprobs=on_actions(batch, old)))
        value, gradient, loss = loss_and_gradient(algorithm, settings, batch, new)
        results.append((value, gradient, loss.count))
    assert results[0] == results[1]
    assert any(results[0][1])


def whole_episodes(old: float = -1.0) -> Batch:
    """Two sides of three turns each, of which only the second is taken anew: `5 e < 7 e > 9 e`, `e` the stop token."""
    items = []
    for member, (said, paid) in enumerate([("7", -2.0), ("3", -1.0)]):
        text = [*ids("5"), EOS, *ids("<"), *ids(said), EOS, *ids(">"), *ids("9"), EOS]
        action = [False] * 3 + [True] * 2 + [False] * 3
        items.append(
            Item(
                prompt_ids=ids("?"), completion_ids=text, action=action, member=member, reward=paid, channels={TURNS: 3}
            )
        )
    batch = pack(items)
    return batch.replace(old_logprobs=on_actions(batch, [old] * 4))


@pytest.mark.parametrize("convention", ["code", "paper"])
def test_only_the_turn_taken_anew_has_a_gradient_and_the_rest_is_not_read(convention):
    """D = .3 and -.1, R = -2 and -1, eta 2: (.4 + 2)^2 in the code's form, a quarter of it in the paper's."""
    settings = config(eta=2, convention=convention)
    batch = estimate(settings, whole_episodes())
    spoken = on_actions(batch, [-0.9, -0.8, -1.1, -1.0])
    gradients = []
    for garbage in (0.0, float("nan")):
        given = torch.where(batch.action_mask, spoken, garbage).requires_grad_()
        old = torch.where(batch.action_mask, batch.old_logprobs, garbage)
        outputs = rebel.Outputs(logprobs=given, entropy=torch.full_like(given, garbage))
        loss = ALGORITHM.losses["policy"](settings, outputs, batch.replace(old_logprobs=old))
        assert loss.total.item() / loss.count == pytest.approx(5.76 if convention == "code" else 1.44, rel=1e-5)
        gradients.append(torch.autograd.grad(loss.total / loss.count, given)[0])
    assert torch.equal(gradients[0], gradients[1])
    assert not gradients[0][~batch.action_mask].any()
    slope = 4.8 if convention == "code" else 1.2
    assert gradients[0][batch.action_mask].tolist() == pytest.approx([slope, slope, -slope, -slope], rel=1e-5)


def test_a_group_weighs_as_its_episode_has_turns():
    """Gaps 1 and 3 of episodes of 1 and 3 turns: (1 x 1 + 3 x 9) / 4; the group of one counts for nothing."""
    rewards = [(0, 1.0, 1), (0, 0.0, 1), (1, 3.0, 3), (1, 0.0, 3), (2, 5.0, 8)]
    items = [
        Item(prompt_ids=[1], completion_ids=[2], group=group, member=i, reward=reward, channels={TURNS: turns})
        for i, (group, reward, turns) in enumerate(rewards)
    ]
    batch = estimate(config(), in_float64(pack(items)))
    value, gradient, loss = loss_and_gradient(ALGORITHM, config(), batch, [-1.0] * 5)
    assert (value, loss.count) == (pytest.approx(7.0), pytest.approx(4.0))
    assert gradient == pytest.approx([-0.5, 0.5, -4.5, 4.5, 0.0])


def test_its_objection_and_its_objective_name_what_matters():
    stage = Stage.model_validate(
        {"data": {"source": "generator:seeds"}, "algorithm": {}, "optimizer": Optimizer(lr=1e-3)}
        | {"train": Train(steps=1), "rollouts": Rollouts(group=1)}
    )
    assert ALGORITHM.requires(config(), stage)[0].endswith("set rollouts.group to at least 2")
    assert ALGORITHM.needs(config()) == Needs()
    assert "D / 3 - R" in ALGORITHM.explain(config(eta=3, convention="paper"))


def test_a_recipe_needs_an_environment_and_explains_its_batch():
    path = Path(__file__).parents[2] / "recipes" / "smoke" / "guess-number-refuel.yaml"
    with pytest.raises(RecipeError) as caught:
        read_recipe(path, ["stages.1.environment=null"])
    (problem,) = [line for line in caught.value.problems if "refuel" in line]
    assert problem.endswith("refuel plays episodes; give it an `environment` (see `alignkit ls environments`)")
    stage = explain_recipe(read_recipe(path))["stages"][1]
    rollouts = read_recipe(path).stages[1].rollouts
    assert stage["batch"]["sequences"] == rollouts.prompts * rollouts.group
    assert stage["reward"] == "return of an episode in guess_number, at most 8 turns"
    assert stage["without_effect"] == []
