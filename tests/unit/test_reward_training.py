"""Reward models from pairs, rankings, classes and safety signs: by hand, in identities, and cut into micro-batches."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from alignkit import ops
from alignkit.data.kinds.paired_preference import KIND, Pair
from alignkit.errors import BatchError, DataError
from alignkit.recipe.read import load_algorithm
from alignkit.train.evaluate_offline import OfflineEvaluator
from alignkit.train.offline import check_columns
from alignkit.types.batch import Batch, pack
from alignkit.types.item import Item
from alignkit.types.outputs import Loss, Outputs
from alignkit.types.steps import StepRule
from alignkit.types.task import Task
from tests.tiny import random_batch

PAIRS = [(3, (4, 6)), (2, (1, 5)), (4, (7, 2)), (5, (3, 3))]
GROUPS = [(3, (4, 6, 2)), (2, (1, 5)), (4, (7, 2, 2, 3))]


def made(name: str, **settings: Any) -> tuple[Any, Any]:
    algorithm = load_algorithm(name)
    return algorithm, algorithm.config(type=name, **settings)


def pairs(**columns: Any) -> Batch:
    batch = random_batch(PAIRS, holes=True)
    return batch.replace(side=1 - 2 * batch.member, **columns)


def values(batch: Batch, heads: int) -> Tensor:
    return torch.randn(batch.num_tokens, heads, generator=torch.Generator().manual_seed(1))


def at_the_end(batch: Batch, *scores: float) -> Tensor:
    """Values of one head that are these scores at the sequences' last tokens, and garbage elsewhere."""
    said = torch.full((batch.num_tokens, 1), 99.0)
    said[batch.last_token(), 0] = torch.tensor(scores, dtype=torch.float32)
    return said


def answers(*rewards: float, group: int = 0, **columns: Any) -> list[Item]:
    """Answers of one prompt with these rewards."""
    shared: dict[str, Any] = {"prompt_ids": (7, 8), "group": group} | columns
    return [Item(completion_ids=(1, n), member=n, reward=reward, **shared) for n, reward in enumerate(rewards)]


def loss_of(made: tuple[Any, Any], said: Tensor, batch: Batch) -> Loss:
    algorithm, config = made
    return algorithm.losses["reward"](config, Outputs(values=said), batch)


def slope(made: tuple[Any, Any], said: Tensor, batch: Batch) -> tuple[float, Tensor]:
    said = said.clone().requires_grad_()
    total = loss_of(made, said, batch).total
    return total.item(), torch.autograd.grad(total, said)[0]


@pytest.mark.parametrize(("centring", "wanted"), [(0.0, 0.474077), (0.01, 0.510177)])
def test_a_pair_scored_12_and_07(centring, wanted):
    batch = pack(answers(0, 0)).replace(side=torch.tensor([1, -1]))
    loss = loss_of(made("bradley_terry", centring=centring), at_the_end(batch, 1.2, 0.7), batch)
    assert loss.total.item() == pytest.approx(wanted, abs=1e-6)
    assert loss.metrics["pairs/accuracy"].value == 1


@pytest.mark.parametrize(("learn", "wanted"), [("ranking", 0.720868), ("best", 0.407606)])
def test_a_ranking_scored_2_1_0_in_any_order(learn, wanted):
    algorithm = made("plackett_luce", learn=learn, centring=0)
    for rewards, scores in (((3, 2, 1), (2, 1, 0)), ((-5, 0.5, 0.2), (0, 2, 1))):
        batch = pack(answers(*rewards))
        loss = loss_of(algorithm, at_the_end(batch, *scores), batch)
        assert loss.total.item() == pytest.approx(wanted, abs=1e-6)
        assert loss.count == 1
        assert loss.metrics["pairs/accuracy"].value == 1


@pytest.mark.parametrize("learn", ["ranking", "best"])
def test_a_ranking_of_two_is_a_pair(learn):
    batch = pairs()
    batch = batch.replace(reward=batch.side.float())
    wanted = slope(made("bradley_terry"), values(batch, 1), batch)
    got = slope(made("plackett_luce", learn=learn), values(batch, 1), batch)
    assert got[0] == pytest.approx(wanted[0], rel=1e-6)
    torch.testing.assert_close(got[1], wanted[1])


def test_ties_teach_nothing_about_their_order():
    """Scores 2, 1, 0 of which the first two are tied: log(1 + e^-2) + log(1 + e^-1), for the best alone their mean."""
    batch = pack(answers(1, 1, 0))
    each = math.log1p(math.exp(-2)), math.log1p(math.exp(-1))
    for learn, wanted in (("ranking", sum(each)), ("best", sum(each) / 2)):
        loss = loss_of(made("plackett_luce", learn=learn, centring=0), at_the_end(batch, 2, 1, 0), batch)
        assert loss.total.item() == pytest.approx(wanted)
    algorithm, config = made("plackett_luce")
    mixed = pack(answers(1, 1) + answers(0, 2, group=1) + answers(3, 3, 3, group=2))
    assert algorithm.estimate(config, mixed).group.tolist() == [1, 1]
    assert algorithm.estimate(config, pack(answers(1, 1))).num_sequences == 0


def test_a_class_between_its_bounds():
    algorithm = made("rating", classes=(-1, 0, 7))
    batch = pack(answers(0, channels={"rating": 0.0}))
    batch = batch.replace(targets=torch.tensor([[0.0, 0.3, 0.7, 1.0]]))
    loss = loss_of(algorithm, at_the_end(batch, math.log(0.55 / 0.45)), batch)
    assert loss.total.item() == pytest.approx(-math.log(0.656292), abs=1e-5)
    assert loss.metrics["ratings/accuracy"].value == 1


def test_as_many_answers_lie_between_two_bounds_as_were_rated_so():
    algorithm, config = made("rating", classes=(1, 2, 3))
    ratings = [1, 3, 2, 2, math.nan, 3, 2, 2, 1, 2, 2]
    batch = pack(
        [item for n, rating in enumerate(ratings) for item in answers(0, group=n, channels={"rating": rating})]
    )
    scores = torch.linspace(-2, 2, len(ratings))
    prepared = algorithm.estimate(config, batch.replace(values=at_the_end(batch, *scores.tolist())))
    assert prepared.num_sequences == 10  # one has no rating
    low, *inner, high = prepared.require("targets")[7].tolist()
    assert (low, high) == (0, 1)
    kept = torch.cat([scores[:4], scores[5:]]).sigmoid()
    assert [int((kept < bound).sum()) for bound in inner] == [2, 8]


def test_a_rating_that_is_no_class_is_named():
    algorithm, config = made("rating", classes=(1, 2))
    batch = pack(answers(0, channels={"rating": 1.5}))
    with pytest.raises(BatchError, match=r"rating is 1.5 in a row; algorithm.classes are 1, 2"):
        algorithm.estimate(config, batch.replace(values=at_the_end(batch, 0.0)))


def harmful(chosen: float, rejected: float) -> Batch:
    items = [
        Item(prompt_ids=(7,), completion_ids=(n,), side=side, channels={"unsafe": unsafe}, group=0, member=n)
        for n, (side, unsafe) in enumerate(((1, chosen), (-1, rejected)))
    ]
    return pack(items)


def test_the_rejected_answer_costs_more_and_zero_divides_safe_from_unsafe():
    """c = -0.5 (chosen, safe) and 1 (rejected, unsafe): log(1 + e^-1.5) + log(1 + e^-1) + log(1 + e^-.5)."""
    algorithm, batch = made("cost", decay=0), harmful(0, 1)
    loss = loss_of(algorithm, at_the_end(batch, -0.5, 1), batch)
    assert loss.total.item() == pytest.approx(sum(math.log1p(math.exp(-gap)) for gap in (1.5, 1, 0.5)))
    assert loss.metrics["costs/sign_accuracy"].value == loss.metrics["pairs/accuracy"].value == 1
    both = loss_of(algorithm, at_the_end(batch, -0.5, 1), harmful(1, 1))
    assert both.metrics["costs/sign_accuracy"].value == 0.5
    decayed = loss_of(made("cost", decay=0.1), at_the_end(batch, -0.5, 1), batch)
    assert (decayed.total - loss.total).item() == pytest.approx(0.125)
    with pytest.raises(BatchError, match="chosen_unsafe and rejected_unsafe"):
        loss_of(algorithm, at_the_end(batch, -0.5, 1), harmful(0, math.nan))


@pytest.mark.parametrize(("name", "correct"), [("cost", 1.0), ("bradley_terry", 0.0)])
def test_on_held_out_pairs_the_cheaper_answer_counts_as_the_better(name, correct):
    algorithm, config = made(name)
    said = torch.tensor([[0.0], [-1.0], [2.0]])  # prompt, chosen, rejected
    step: Any = SimpleNamespace(algorithm=algorithm, config=config, read=lambda batch, forward, name: said)
    step.forward = SimpleNamespace(want=("values",))
    loop: Any = SimpleNamespace(annotate=lambda batch: batch, step=step)
    row = SimpleNamespace(task=Task(id="1", text="q"))
    both = [Item(prompt_ids=(7,), completion_ids=(n,), side=1 - 2 * n, member=n) for n in (0, 1)]
    evaluator = OfflineEvaluator(kind=replace(KIND, items=lambda row, group: both), rows=[row], share_prefix=True)
    _, summary = evaluator.run(loop)
    assert summary["eval/accuracy"] == correct
    assert summary["eval/reward_mean"] == (3.0 if name == "cost" else -3.0)


def test_odin_without_its_weight_is_bradley_terry_on_the_sum_of_the_heads():
    batch, (algorithm, config) = pairs(), made("odin", length_weight=0)
    said = values(batch, 2)
    prepared = algorithm.estimate(config, batch.replace(values=said))
    total, gradient = slope((algorithm, config), said, prepared)
    wanted, one = slope(made("bradley_terry"), said.sum(-1, keepdim=True), batch)
    assert total == pytest.approx(wanted, rel=1e-6)
    torch.testing.assert_close(gradient, one.expand(-1, 2))
    assert torch.equal(algorithm.judge(config, Outputs(values=said), batch).value, said[batch.last_token(), 0])


def test_odins_parts_add_up_to_the_correlations_of_the_whole_batch():
    batch, (algorithm, config) = pairs(), made("odin", length_weight=0.7, centring=0)
    said = values(batch, 2).requires_grad_()
    prepared = algorithm.estimate(config, batch.replace(values=said.detach()))
    total = cut_apart((algorithm, config), said, prepared)
    heads, (chosen, rejected) = said[batch.last_token()], ops.preference.sides(batch)
    both = heads.sum(-1)
    pull = ops.length.disentangle(heads[:, 0], heads[:, 1], batch.actions_per_sequence())
    wanted = ops.ranking.bradley_terry(both[chosen], both[rejected]).sum() + len(chosen) * 0.7 * pull
    assert total.item() == pytest.approx(wanted.item(), rel=1e-5)
    got, direct = (torch.autograd.grad(loss, said, retain_graph=True)[0] for loss in (total, wanted))
    torch.testing.assert_close(got, direct, rtol=1e-4, atol=1e-6)


def cut_apart(made: tuple[Any, Any], said: Tensor, batch: Batch) -> Tensor:
    """The sum of the losses of each group read alone."""
    losses = []
    for group in batch.group.unique().tolist():
        members = (batch.group == group).nonzero().squeeze(-1).tolist()
        losses.append(loss_of(made, said[batch.token_index(members)], batch.select(members)).total)
    return torch.stack(losses).sum()


def test_one_member_without_contrast_is_plain_and_needs_no_targets():
    algorithm, config = made("bradley_terry", members=1)
    batch = pairs()
    assert algorithm.estimate(config, batch) is batch
    assert algorithm.heads(config) == ("reward",)
    assert algorithm.judge(config, Outputs(values=values(batch, 1)), batch).members is None


@pytest.mark.parametrize("members", [2, 3])
def test_members_learn_from_their_own_halves_and_are_judged_together(members):
    algorithm, config = made("bradley_terry", members=members, centring=0.01)
    assert algorithm.heads(config) == ("reward 1", "reward 2", "reward 3")[:members]
    batch = algorithm.estimate(config, pairs())
    said, (chosen, rejected) = values(batch, members).requires_grad_(), ops.preference.sides(batch)
    scores, weights = said[batch.last_token()], batch.require("targets")[:, :members]
    assert torch.equal(weights[chosen], weights[rejected])
    each = ops.ranking.bradley_terry(scores[chosen], scores[rejected], centring=0.01)
    wanted = (weights[chosen] * each).sum() / members
    total = cut_apart((algorithm, config), said, batch)
    assert total.item() == pytest.approx(wanted.item(), rel=1e-6)
    blind = weights == 0
    assert blind.any()
    assert not torch.autograd.grad(total, said)[0][batch.last_token()][blind].any()
    judgement = algorithm.judge(config, Outputs(values=said), batch)
    torch.testing.assert_close(judgement.value, judgement.members.mean(-1))


def test_what_a_member_is_shown_depends_on_the_pair_alone_and_is_half_of_all():
    algorithm, config = made("bradley_terry", members=4)
    batch = random_batch([(3, (4, 6))] * 400, seed=5)
    batch = batch.replace(side=1 - 2 * batch.member)
    shown = algorithm.estimate(config, batch).require("targets")[::2, :4]
    assert set(shown.unique().tolist()) == {0.0, 2.0}
    assert shown.mean(0).tolist() == pytest.approx([1.0] * 4, abs=0.16)
    assert torch.corrcoef(shown.T).fill_diagonal_(0).abs().max() < 0.2
    few = batch.select(range(100, 120))
    assert torch.equal(algorithm.estimate(config, few).require("targets")[::2, :4], shown[50:60])


def test_states_and_goals_are_drawn_from_the_actions_and_anew_with_each_batch():
    algorithm, config = made("bradley_terry", contrast=0.5)
    batch = algorithm.estimate(config, pairs())
    drawn = batch.require("targets")[:, 1:]
    last = batch.actions_per_sequence() - 1
    assert ((drawn[:, 0] >= 0) & (drawn[:, 0] <= drawn[:, 1]) & (drawn[:, 1] <= last)).all()
    lone = algorithm.estimate(config, batch.select(range(4))).require("targets")[:, 1:]
    assert not torch.equal(lone, drawn[:4])
    said = values(batch, 17).requires_grad_()
    total = cut_apart((algorithm, config), said, batch)
    whole = loss_of((algorithm, config), said, batch)
    assert total.item() == pytest.approx(whole.total.item(), rel=1e-6)
    plain = loss_of(made("bradley_terry"), said[:, :1], batch)
    added, contrast = whole.total - plain.total, whole.metrics["loss/contrast"].value or 0.0
    assert added.item() == pytest.approx(0.5 * contrast * len(PAIRS), rel=1e-5)


def test_contrast_pulls_a_chosen_answers_states_together_and_the_others_apart():
    algorithm, config = made("bradley_terry", contrast=1.0)
    items = [Item(prompt_ids=(7,), completion_ids=(5, 6), member=n, side=1 - 2 * n) for n in (0, 1)]
    batch = algorithm.estimate(config, pack(items))
    said = torch.zeros(batch.num_tokens, 17)
    said[:, 1:3] = torch.tensor([[0, 0], [1, 0], [1, 1], [1, 0], [1, 1]])
    said.requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of((algorithm, config), said, batch).total, said)
    moved = (said - 0.1 * gradient).detach()[:, 1:]
    before = math.sqrt(0.5)
    assert torch.cosine_similarity(moved[1], moved[2], 0) > before > torch.cosine_similarity(moved[3], moved[4], 0)


def test_what_a_recipe_gets_wrong_is_said_with_the_cure():
    def objections(name: str, *, batch: int = 64, **settings: Any) -> list[str]:
        algorithm, config = made(name, **settings)
        stage: Any = SimpleNamespace(train=SimpleNamespace(batch=batch))
        return algorithm.requires(config, stage)

    assert "set centring above 0" in objections("bradley_terry", members=2, centring=0)[0]
    assert not objections("bradley_terry", centring=0) + objections("bradley_terry", members=2)
    assert "worst first" in objections("rating", classes=(2, 1))[0]
    assert "set train.batch to at least 6" in objections("rating", classes=(1, 2, 3), batch=5)[0]
    assert "set train.batch to at least 8" in objections("odin", batch=7)[0]
    row = Pair(task=Task(id="1", text="7", columns={"chosen_reward": 1.0}), prompt=(7,), chosen=(1,), rejected=(2,))
    with pytest.raises(DataError, match=r"rating 'unsafe' \(chosen_unsafe, rejected_unsafe\); the data has reward"):
        check_columns([row], KIND, ("unsafe",))


def test_a_process_model_says_something_at_the_ends_of_steps_alone_and_an_implicit_one_everywhere():
    algorithm, config = made("process", split="sentence", pattern=r"\d\.", tag="+")
    assert algorithm.steps(config) == StepRule(split="sentence", pattern=r"\d\.", tag="+", alone=True)
    algorithm, config = made("implicit", split="sentence", pattern=r"\d\.")
    assert algorithm.steps(config) == StepRule(split="sentence", pattern=r"\d\.", alone=False)
