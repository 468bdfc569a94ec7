"""ILQL on a chain of two turns whose values are known, and what its head says of the tokens that nobody played.

State 0: `ask` pays -1 and leads to state 1, `guess` ends with 0 one time in four, or -4. State 1: `right` ends with 0,
`wrong` with -4. Discount 1/2, all choices equally often.
"""

from __future__ import annotations

import asyncio
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from alignkit.algorithms.turns import ilql
from alignkit.engines.hf import HfEngine
from alignkit.engines.steered import SteeredEngine
from alignkit.models.steering import Steering
from alignkit.models.token_scores import TokenScores
from alignkit.types.batch import Batch, pack
from alignkit.types.item import Item
from alignkit.types.rollout import Request
from tests.contracts.test_engines import tiny_llama
from tests.unit.value_table import Table

ASK, GUESS, RIGHT, WRONG = 1, 2, 3, 4


def episodes() -> Batch:
    asked = [(RIGHT, 0.0), (WRONG, -4.0)] * 2
    items = [
        Item(
            prompt_ids=[10],
            completion_ids=[ASK, 11, then],
            action=[True, False, True],
            rewards=[-1.0, 0.0, paid],
            reward=paid - 1,
            group=number,
        )
        for number, (then, paid) in enumerate(asked)
    ]
    for paid in (0.0, -4.0, -4.0, -4.0):
        items.append(Item(prompt_ids=[10], completion_ids=[GUESS], rewards=[paid], reward=paid, group=len(items)))
    return pack(items)


def fitted(**settings: float) -> Table:
    batch = episodes()
    table = Table(batch, heads=5)
    config = ilql.Config(type="ilql", discount=0.5, target_rate=0.3, cql_weight=0.0, **settings)
    table.fit(ilql, config, batch)
    return table


def q(table: Table, *tokens: int) -> list[float]:
    return table.at(*tokens)[:2].tolist()


def test_at_an_expectile_of_one_half_the_critics_learn_the_values_of_those_who_played():
    """V(1) = -2, Q(ask) = -1 - 2 / 2 = -2, Q(guess) = -3, V(0) = -2.5."""
    table = fitted(expectile=0.5)
    assert q(table, 10, ASK) == pytest.approx([-2.0] * 2, abs=2e-3)
    assert q(table, 10, GUESS) == pytest.approx([-3.0] * 2, abs=2e-3)
    assert q(table, 10, ASK, 11, RIGHT) == pytest.approx([0.0] * 2, abs=2e-3)
    assert float(table.at(10)[4]) == pytest.approx(-2.5, abs=2e-3)
    assert float(table.at(10, ASK, 11)[4]) == pytest.approx(-2.0, abs=2e-3)


def test_at_a_large_expectile_they_learn_those_of_the_best_choices_seen():
    """0.9 (0 - V) = 0.1 (V + 4): V(1) = -0.4; Q(ask) = -1.2; 0.9 (-1.2 - V) = 0.1 (V + 3): V(0) = -1.38."""
    table = fitted(expectile=0.9)
    assert float(table.at(10, ASK, 11)[4]) == pytest.approx(-0.4, abs=2e-3)
    assert q(table, 10, ASK) == pytest.approx([-1.2] * 2, abs=2e-3)
    assert float(table.at(10)[4]) == pytest.approx(-1.38, abs=2e-3)


def test_mc_returns_are_what_was_earned_whatever_the_expectile():
    """Q(ask) = -1 + (0 - 4) / 4 = -2 where TD at this expectile says -1.2."""
    table = fitted(expectile=0.9, q_lambda=1.0)
    assert q(table, 10, ASK) == pytest.approx([-2.0] * 2, abs=2e-3)
    assert q(table, 10, GUESS) == pytest.approx([-3.0] * 2, abs=2e-3)


class Known(nn.Module):
    """A critic whose state is the last token, and whose scores after it are a table's."""

    def __init__(self, table: Table, played: list[tuple[int, ...]]):
        super().__init__()
        policy = tiny_llama(0)
        self.config, self.size = policy.config, policy.config.vocab_size
        self.value_head = TokenScores(self.size, 3, scored=2, vocabulary=self.size)
        with torch.no_grad():
            vectors = self.value_head.scores.weight.fill_(-50.0).view(self.size, 2, self.size)  # as CQL leaves others
            for path in played:
                vectors[path[-1], :, path[-2]] = table.at(*path)[:2]

    def forward(self, input_ids, **_):
        return SimpleNamespace(hidden_states=[nn.functional.one_hot(input_ids, self.size).float()])


def test_steered_hard_by_what_it_learnt_a_policy_asks_and_then_is_right():
    """At beta 30 Q(ask) - Q(guess) = 1.8 is 54 nats, more than any difference of the policy's own."""
    played = [(10, ASK), (10, GUESS), (10, ASK, 11, RIGHT), (10, ASK, 11, WRONG)]
    critic = Known(fitted(expectile=0.9), played)
    plain = HfEngine(tiny_llama(0), dtype="float32")
    says = [Request(prompt_ids=ids, seed=seed, max_new_tokens=1) for ids in ((10,), (10, ASK, 11)) for seed in range(4)]
    for beta, wanted in ((30.0, [ASK] * 4 + [RIGHT] * 4), (-30.0, None)):
        said = asyncio.run(SteeredEngine(plain, Steering(critic, beta=beta)).generate(says))
        assert ([one.token_ids[0] for one in said] == wanted) == (beta > 0)


def test_the_normaliser_is_the_logsumexp_of_every_tokens_score_and_cql_pulls_unplayed_tokens_down():
    """After the state (1, 2), e = (0 1), (2 3), (4 5) score 2, 8, 14 and those of the second head 0, 0, 1."""
    batch = pack([Item(prompt_ids=[1], completion_ids=[2, 0], action=[True, False])])
    head = TokenScores(2, 5, scored=2, vocabulary=3, normalised=True)
    with torch.no_grad():
        head.scores.weight.copy_(torch.tensor([[0.0, 1, 0, 0], [2, 3, 0, 0], [4, 5, 1, 0]]))
    hidden = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 0.0]])
    said = head(hidden, batch)
    every = torch.tensor([[2.0, 0.0], [8.0, 0.0], [14.0, 1.0]])
    torch.testing.assert_close(head.every(hidden[:1])[0], every)
    torch.testing.assert_close(said[1], torch.cat([every[2], every.logsumexp(0), head.states(hidden[1])]))
    assert said[2, 2:4].tolist() == [0.0, 0.0]  # nobody chose that token
    (gradient,) = torch.autograd.grad(said[1, 3] - said[1, 1], head.scores.weight)
    p = 1 / (2 + math.e)  # of the tokens that score 0; the played one is pulled up by what they are pulled down
    torch.testing.assert_close(gradient[:, 2:], torch.tensor([[p, 2 * p], [p, 2 * p], [-2 * p, -4 * p]]))
