"""Turn-PPO and GiGPO: what a turn is credited with, whatever its length, and which turns met one state."""

from __future__ import annotations

import pytest
import torch

from alignkit import ops
from alignkit.algorithms.rollouts import grpo, rloo
from alignkit.algorithms.turns import gigpo, turn_grpo, turn_ppo
from alignkit.types.batch import Batch, pack
from alignkit.types.item import Item


def episode(group: int, said: list[int], answers: list[int], paid: list[float], *, member: int = 0) -> Item:
    """Turns of so many tokens each, after each but the last an answer of one token; a turn's pay on its last token."""
    ids, action, rewards = [], [], []
    for number, (length, pay) in enumerate(zip(said, paid, strict=True)):
        ids += [1] * length
        action += [True] * length
        rewards += [0.0] * (length - 1) + [pay]
        if number < len(answers):
            ids.append(answers[number])
            action.append(False)
            rewards.append(0.0)
    numbers = {"group": group, "member": member}
    return Item(prompt_ids=[9], completion_ids=ids, action=action, rewards=rewards, reward=sum(paid), **numbers)


def at_turns(batch: Batch, column: torch.Tensor) -> list[float]:
    return column[ops.turns.turns(batch).last].tolist()


def test_what_a_turn_is_credited_with_does_not_depend_on_how_many_tokens_it_has():
    """Token PPO at lambda 0.5 would give the long first turn 0.5^9 of what the second earned."""
    found = []
    for length in (1, 10):
        batch = pack([episode(0, [length, 1], [5], [0.0, 1.0]), episode(1, [1, length], [5], [0.0, 0.0])])
        batch = batch.replace(values=torch.zeros(batch.num_tokens, 1))
        config = turn_ppo.Config(type="turn_ppo", discount=1.0, gae_lambda=0.5)
        batch = turn_ppo.estimate(config, batch)
        assert at_turns(batch, batch.returns) == [0.5, 1.0, 0.0, 0.0]
        found.append(at_turns(batch, batch.advantages))
        assert len(set(batch.advantages[batch.action_mask & (batch.segment == 0)].tolist())) == 2
    assert found[0] == pytest.approx(found[1])


def test_two_discounts_are_one_where_utterances_are_one_token_and_a_lambda_of_one_keeps_the_turns_return():
    """Utterances of 3 and 2 tokens; R = V + A of each turn, less the value before each of its tokens."""
    batch = pack([episode(0, [3, 2], [5], [1.0, 2.0]), episode(1, [1, 1], [5], [0.0, 4.0])])
    known = torch.randn(batch.num_tokens, 1, generator=torch.Generator().manual_seed(0))
    batch = batch.replace(values=known)
    settings = {"type": "turn_ppo", "discount": 0.9, "gae_lambda": 0.5}
    plain = turn_ppo.estimate(turn_ppo.Config(**settings), batch)
    fine = turn_ppo.estimate(turn_ppo.Config(**settings, token_lambda=1.0), batch)
    before = known[batch.parent[batch.actions], 0]
    raw = plain.returns[batch.actions] - before
    torch.testing.assert_close(fine.returns, plain.returns)
    torch.testing.assert_close(fine.advantages[batch.actions], (raw - raw.mean()) / raw.std(correction=0))
    short = batch.select([1])
    both = turn_ppo.Config(**settings, token_discount=0.3, token_lambda=0.7)
    for column in ("advantages", "returns"):
        found = [getattr(turn_ppo.estimate(c, short), column) for c in (turn_ppo.Config(**settings), both)]
        torch.testing.assert_close(found[0], found[1])


def test_turns_met_one_state_where_their_group_was_told_the_same_since_the_last_utterance():
    items = [episode(0, [1, 2, 1], [5, 6], [0.0] * 3), episode(0, [3, 1, 1], [6, 5], [0.0] * 3)]
    batch = pack([*items, episode(1, [1, 1], [5], [0.0] * 2)])
    first = ops.turns.anchors(batch, ops.turns.turns(batch)).tolist()
    assert first == [0, 1, 2, 0, 2, 1, 3, 4]  # the prompt, 5, 6; the prompt, 6, 5; another task's prompt and 5


def test_turns_of_one_state_are_compared_and_one_alone_is_not():
    """Returns 1 and 0. Both prompts lead to 5: the turn after it is better by 1, the first by the discounted 1/2."""
    batch = pack([episode(0, [1, 1], [5], [0.0, 1.0]), episode(0, [1, 1], [5], [0.0, 0.0], member=1)])
    config = gigpo.Config(type="gigpo", discount=0.5, scale="none")
    assert at_turns(batch, gigpo.estimate(config, batch).advantages) == [1.5, 2.0, -1.5, -2.0]
    apart = pack([episode(0, [1, 1], [5], [0.0, 1.0]), episode(0, [1, 1], [6], [0.0, 0.0], member=1)])
    assert at_turns(apart, gigpo.estimate(config, apart).advantages) == [1.5, 1.0, -1.5, -1.0]
    alone = gigpo.Config(type="gigpo", step_weight=0.0, scale="none")
    assert at_turns(apart, gigpo.estimate(alone, apart).advantages) == [1.0, 1.0, -1.0, -1.0]


@pytest.mark.parametrize(("scale", "known"), [("std", grpo.Config(type="grpo")), ("none", rloo.Config(type="rloo"))])
def test_with_one_turn_grpo_by_turns_is_grpo_and_without_scale_rloo_to_the_last_bit(scale, known):
    items = [episode(n // 4, [1 + n % 3], [], [0.1 * n * n], member=n % 4) for n in range(12)]
    batch = pack(items)
    got = turn_grpo.estimate(turn_grpo.Config(type="turn_grpo", scale=scale, turn_weight=0.3), batch)
    module = grpo if scale == "std" else rloo
    assert torch.equal(got.advantages, module.estimate(known, batch).advantages)


def test_what_earlier_turns_earned_is_no_merit_of_a_later_one():
    """Turns paid (5, 0) and (0, 1): the second rollout's second turn is the better one, not its return."""
    batch = pack([episode(0, [1, 2], [5], [5.0, 0.0]), episode(0, [2, 1], [6], [0.0, 1.0], member=1)])
    config = turn_grpo.Config(type="turn_grpo", turn_weight=1.0, scale="none")
    assert at_turns(batch, turn_grpo.estimate(config, batch).advantages) == [4.0, -1.0, -4.0, 1.0]


def test_turns_are_counted_on_where_a_rollout_goes_on_in_another_sequence():
    """Two sequences of one turn, paid 2 each, beside two turns in one, paid 1 at its end: like turns meet."""
    cut = [episode(0, [1], [], [2.0]), episode(0, [3], [], [2.0])]
    batch = pack([*cut, episode(0, [1, 1], [5], [0.0, 1.0], member=1)])
    assert ops.turns.numbers(torch.tensor([0, 0, 1, 1])).tolist() == [0, 1, 0, 1]
    assert ops.turns.numbers(torch.tensor([1, 0, 1, 0, 1])).tolist() == [0, 0, 1, 1, 2]
    config = turn_grpo.Config(type="turn_grpo", turn_weight=1.0, scale="none")
    assert at_turns(batch, turn_grpo.estimate(config, batch).advantages) == [1.0, 1.0, -1.0, -1.0]
