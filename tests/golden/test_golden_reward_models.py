"""Reward models that say more than one number: quantiles, gates, steps, implied rewards, by hand."""

import math

import pytest
import torch

from alignkit import ops
from alignkit.recipe.read import load_algorithm
from alignkit.types.batch import pack
from alignkit.types.item import Item
from alignkit.types.outputs import Outputs


def batch_of(*items: Item, share_prefix: bool = True):
    return pack(items, share_prefix=share_prefix).validate()


def said(batch, per_sequence, at=None):
    """Outputs whose values are these rows at the sequences' last tokens (or at `at`), and garbage elsewhere."""
    values = torch.full((batch.num_tokens, len(per_sequence[0])), 99.0)
    values[batch.last_token() if at is None else at] = torch.tensor(per_sequence)
    return Outputs(values=values)


def answer(group=0, member=0, length=2, **columns):
    return Item(prompt_ids=(7, 8), completion_ids=(1,) * length, group=group, member=member, **columns)


def made(name, **settings):
    algorithm = load_algorithm(name)
    return algorithm, algorithm.config(type=name, **settings)


def test_quantiles_of_two_objectives_are_mixed_level_by_level():
    algorithm, config = made("quantile", objectives=("a", "b"), levels=3, monotone=False)
    batch = batch_of(answer(channels={"a": 1.5, "b": float("nan")}))
    outputs = said(batch, [[0.0, 1.0, 2.0, -2.0, 0.0, 4.0]])
    judgement = algorithm.judge(config, outputs, batch)
    assert judgement.spread.tolist() == [[-1.0, 0.5, 3.0]]
    assert judgement.value.item() == pytest.approx(5 / 6)
    assert judgement.parts["a"].tolist() == [1.0]
    # levels 1/4, 1/2, 3/4; gaps 1.5, 0.5, -0.5: (0.375 + 0.25 + 0.125) / 3, and the missing rating costs nothing
    loss = algorithm.losses["reward"](config, outputs, batch)
    assert loss.total.item() == pytest.approx(0.25)
    assert loss.count == 1
    assert loss.metrics["quantiles/crossing_frac"].value == 0


def test_the_gate_mixes_quantiles_by_its_shares_and_leaves_the_objectives_alone():
    algorithm, config = made("gate", objectives=("a", "b"), levels=3, monotone=False, temperature=1.0)
    batch = batch_of(answer(side=1), answer(member=1, side=-1))
    values = torch.full((batch.num_tokens, 9), 99.0)
    values[batch.last_token(), :6] = torch.tensor([[0.0, 1, 2, -2, 0, 4], [0.0, 1, 2, -3, -1, 3]])
    values[1, 6:] = torch.tensor([0.0, math.log(3), 0.0])  # the prompt's last token: g = (0.25, 0.75), c = 1
    values.requires_grad_()
    outputs = Outputs(values=values)
    judgement = algorithm.judge(config, outputs, batch)
    assert judgement.spread[0].tolist() == pytest.approx([-1.5, 0.25, 3.5])
    assert judgement.value.tolist() == pytest.approx([0.75, 0.0], abs=1e-6)
    assert judgement.parts["gate b"].tolist() == pytest.approx([0.75, 0.75])
    loss = algorithm.losses["reward"](config, outputs, batch)
    assert loss.total.item() == pytest.approx(math.log1p(math.exp(-0.75)))
    gradient = torch.autograd.grad(loss.total, values)[0]
    assert not gradient[:, :6].any()
    assert gradient[1, 6:].all()


@pytest.mark.parametrize(("value", "reward"), [("min", 0.2), ("product", 0.1), ("last", 0.5), ("mean", 1.7 / 3)])
def test_a_solution_is_worth_what_its_steps_are(value, reward):
    algorithm, config = made("process", value=value)
    item = answer(length=5, action=[True, False, True, True, False], rewards=[1.0, 0, 0, 1.0, 0], reward=2.0)
    batch = batch_of(item)
    probabilities = torch.tensor([[1.0], [0.2], [0.5]]).clamp(max=1 - 1e-7)
    outputs = said(batch, probabilities.logit().tolist(), at=batch.action_mask)
    judgement = algorithm.judge(config, outputs, batch)
    assert judgement.value.item() == pytest.approx(reward, rel=1e-5)
    assert judgement.steps[batch.action_mask].tolist() == pytest.approx([1.0, 0.2, 0.5])
    loss = algorithm.losses["reward"](config, outputs, batch)
    assert loss.total.item() == pytest.approx(-math.log(0.8) - math.log(0.5), rel=1e-5)
    assert loss.count == 3
    early = algorithm.losses["reward"](config.model_copy(update={"until_first_error": True}), outputs, batch)
    assert early.total.item() == pytest.approx(-math.log(0.8), rel=1e-5)
    assert early.count == 2


def test_first_errors_are_found_sequence_by_sequence():
    labels = torch.tensor([0.9, 1.0, 0.0, 0.4, 1.0, 0.2, 1.0])
    steps = torch.tensor([False, True, True, False, True, True, True])
    segment = torch.tensor([-1, 0, 0, 0, 0, 1, 1])
    kept = ops.step_labels.before_errors(labels, steps, segment)
    assert kept.tolist() == [False, True, True, False, False, True, False]
    alone = ops.step_labels.up_to_first_error(labels[[1, 2, 4]])
    assert alone.tolist() == [True, True, False]


def test_implied_rewards_add_up_to_the_answers_and_learn_from_its_outcome():
    algorithm, config = made("implicit", beta=0.5)
    batch = batch_of(answer(channels={"rating": 1.0}), answer(member=1, channels={"rating": 0.0}))
    logprobs, reference = torch.zeros(batch.num_tokens), torch.zeros(batch.num_tokens)
    logprobs[batch.action_mask] = torch.tensor([-1.0, -2.0, -1.0, -1.0])
    reference[batch.action_mask] = torch.tensor([-2.0, -3.0, -1.0, -3.0])
    batch, outputs = batch.replace(ref_logprobs=reference), Outputs(logprobs=logprobs)
    judgement = algorithm.judge(config, outputs, batch)
    assert judgement.value.tolist() == [1.0, 1.0]
    assert judgement.steps[batch.action_mask].tolist() == [0.5, 0.5, 0.0, 1.0]
    loss = algorithm.losses["reward"](config, outputs, batch)
    assert loss.total.item() == pytest.approx(math.log1p(math.exp(-1)) + math.log1p(math.e))
    assert loss.metrics["outcomes/accuracy"].value == 0.5


def test_objectives_that_lack_a_rating_teach_nothing():
    algorithm, config = made("multi_objective", objectives=("a", "b"), weights=(1.0, 2.0))
    missing = float("nan")
    batch = batch_of(answer(channels={"a": 1.0, "b": missing}), answer(group=1, channels={"a": missing, "b": 3.0}))
    values = [[0.5, 7.0], [7.0, 1.0]]
    outputs = said(batch, values)
    outputs.values.requires_grad_()
    loss = algorithm.losses["reward"](config, outputs, batch)
    assert (loss.total.item(), loss.count) == (0.25 + 4, 2)
    gradient = torch.autograd.grad(loss.total, outputs.values)[0][batch.last_token()]
    assert gradient.tolist() == [[-1.0, 0.0], [0.0, -4.0]]
    assert algorithm.judge(config, outputs, batch).value.tolist() == [14.5, 9.0]
    chances = made("multi_objective", objectives=("a",), loss="logistic")[1]
    assert algorithm.judge(chances, said(batch, [[0.0], [math.log(3)]]), batch).value.tolist() == pytest.approx(
        [0.5, 0.75]
    )


def test_a_prompts_last_token_is_found_whether_or_not_it_is_shared():
    items = [answer(length=3), answer(member=1), answer(group=1)]
    assert batch_of(*items).last_prompt_token().tolist() == [1, 1, 8]
    assert batch_of(*items, share_prefix=False).last_prompt_token().tolist() == [1, 6, 10]
