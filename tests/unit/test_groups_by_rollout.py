"""Statistics by rollout: one whose context was rewritten is several sequences, and counts once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alignkit.algorithms.rollouts import dpa, grpo, nash_md, online_dpo, raft, rebel, reinforce, rloo, sppo
from alignkit.algorithms.turns import filtered_bc, gigpo
from alignkit.ops import groups
from alignkit.recipe.schema import Constraint
from alignkit.train.hooks.confidence import ConfidenceFilter
from alignkit.train.hooks.constraints import Constraints
from alignkit.train.split import micro_batches, minibatches
from alignkit.types.batch import Batch, pack
from alignkit.types.item import Item
from alignkit.types.outputs import Outputs

SAID = {(0, 0): (5, 6, 7), (0, 1): (5, 7), (0, 2): (6, 6), (1, 0): (7, 7, 5), (1, 1): (6, 5), (1, 2): (5, 5)}
"""Tokens of each member of two groups."""
PAID = {(0, 0): 3.0, (0, 1): 0.0, (0, 2): 0.5, (1, 0): -1.0, (1, 1): 0.0, (1, 2): 2.0}
CUT = ((0, 0), (1, 0))  # those that are a sequence for each token: the best of one group, the worst of the other


def batch(*members: tuple[int, float]) -> Batch:
    """Sequences of one token each, of one group: (member, reward)."""
    items = [
        Item(prompt_ids=(1, number), completion_ids=(5,), member=m, reward=r) for number, (m, r) in enumerate(members)
    ]
    return pack(items).validate()


def played(*, cut: bool) -> tuple[Batch, torch.Tensor]:
    """The rollouts of SAID, each in one sequence or CUT ones in three; and what the policy says now of each token."""
    items = []
    for (group, member), said in SAID.items():
        pieces = [(token,) for token in said] if cut and (group, member) in CUT else [said]
        for number, piece in enumerate(pieces):
            prompt, reward = (1, number), PAID[group, member]
            channels = {"direction/a": 1.0, "a": reward}
            items.append(Item(prompt_ids=prompt, completion_ids=piece, group=group, member=member, reward=reward,
                              rewards=[0.0] * (len(piece) - 1) + [reward], channels=channels))  # fmt: skip
    made = pack(items).validate()
    chosen = made.action_mask
    numbers = torch.arange(int(chosen.sum()), dtype=torch.float64)
    columns = {name: made.scatter(-1 - numbers.mul(step).sin()) for name, step in
               {"old_logprobs": 1, "sampler_logprobs": 1, "ref_logprobs": 2}.items()}  # fmt: skip
    return made.replace(reward=made.reward.double(), **columns), made.scatter(-1 - numbers.mul(3).cos())


def settings(module, **given):
    return module.Config(type=module.__name__.rpartition(".")[2], **given)


def test_a_rollout_of_three_sequences_has_one_vote_in_the_mean_of_its_group():
    """Rewards 3 (three sequences), 0, 0: mean 1 by rollout, 9/5 by sequence."""
    broken = batch((0, 3.0), (0, 3.0), (0, 3.0), (1, 0.0), (2, 0.0))
    advantages = grpo.estimate(settings(grpo, scale="none"), broken).advantages
    assert advantages[broken.action_mask].tolist() == [2, 2, 2, -1, -1]
    others = rloo.estimate(settings(rloo), broken).advantages
    assert others[broken.action_mask].tolist() == [3, 3, 3, -1.5, -1.5]
    scaled = grpo.estimate(settings(grpo), broken).advantages[broken.action_mask]
    torch.testing.assert_close(scaled[0], torch.tensor(2 / (3**0.5 + groups.STD_EPS)))  # 4 + 1 + 1 over n - 1 = 2
    paid = reinforce.estimate(settings(reinforce, baseline="group"), broken).advantages
    assert paid[broken.action_mask].tolist() == [2, 2, 2, -1, -1]
    episodes = gigpo.estimate(settings(gigpo, scale="none", step_weight=0), broken).advantages
    assert episodes[broken.action_mask].tolist() == [3, 3, 3, -1.5, -1.5]
    beaten = nash_md.estimate(
        settings(nash_md, mixture=0, kl_weight=0), broken.replace(old_logprobs=episodes, ref_logprobs=episodes)
    ).advantages[broken.action_mask]
    against = torch.tensor(3.0).sigmoid()  # of the first; the others lose to it and tie with one another
    torch.testing.assert_close(beaten, torch.stack([*[against - 0.5] * 3, *[(0.5 - against) / 2] * 2]))


def test_the_best_rollouts_are_imitated_whole_and_take_one_place_each():
    """The best one is three sequences; two of five rollouts are the best two fifths, though four of seven sequences."""
    broken = batch((0, 3.0), (0, 3.0), (0, 3.0), (1, 2.0), (2, 1.0), (3, 0.5), (4, 0.0))
    assert raft.estimate(settings(raft, keep=2), broken).reward.tolist() == [3, 3, 3, 2]
    assert filtered_bc.estimate(settings(filtered_bc, fraction=0.4), broken).reward.tolist() == [3, 3, 3, 2]
    sides = online_dpo.estimate(settings(online_dpo), broken)
    assert (sides.side.tolist(), sides.reward.tolist()) == ([1, 1, 1, -1], [3, 3, 3, 0])


@pytest.mark.parametrize(
    ("module", "given"),
    [
        (grpo, {"loss": {"kl": "reward", "kl_weight": 0.5}}),
        (grpo, {"scale": "batch"}),
        (rloo, {"kl_weight": 0.5, "normalise": True, "min_advantage": 0.3, "loss": {"unit": "token"}}),
        (gigpo, {"step_weight": 0}),
        (nash_md, {"loss": {"unit": "token"}}),
        (reinforce, {"baseline": "group", "discount": 1}),
        (raft, {"keep": 2}),
        (dpa, {"keep": 2}),
        (filtered_bc, {"fraction": 0.5}),
        (rebel, {"kl_weight": 0.5}),
        (rebel, {"target": "win_rate", "convention": "paper"}),
        (sppo, {}),
        (online_dpo, {"beta": 0.5, "nll_weight": 0.1}),
        (online_dpo, {"pool": "mean"}),
    ],
)
def test_a_rollout_teaches_the_same_cut_into_sequences_as_in_one(module, given):
    """Advantages of tokens, or sum and count of a loss on whole rollouts, and its gradient of each token."""
    config, found = settings(module, **given), []
    for cut in (False, True):
        made, said = played(cut=cut)
        assert made.num_sequences == (10 if cut else 6)
        spoken = said.clone().requires_grad_()
        made = made.replace(returns=spoken.detach())  # to find the outputs of the sequences that are kept
        made = module.ALGORITHM.estimate(config, made)
        spoken = made.returns.clone().requires_grad_()
        loss = module.ALGORITHM.losses["policy"](config, Outputs(logprobs=spoken, entropy=spoken.detach()), made)
        if module in (rebel, sppo, online_dpo):
            (gradient,) = torch.autograd.grad(loss.total, spoken)
            found.append([loss.total.item(), loss.count, *gradient[made.action_mask].tolist()])
        else:
            told = made.advantages if made.advantages is not None else made.returns
            found.append(told[made.action_mask].tolist())
    assert found[0] == pytest.approx(found[1], abs=1e-9)
    assert max(map(abs, found[0])) > 0.1


def test_a_group_of_whole_rollouts_is_compared_as_it_always_was():
    """To the last bit, in whatever order its sequences lie."""
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    whole = batch(*[(int(n) % 8, float(n) ** 0.5) for n in order])
    found = groups.rollouts(whole.replace(group=order // 8))
    assert found.of.tolist() == found.first.tolist() == list(range(64))
    assert torch.equal(found.group, order // 8)


def test_a_loss_on_whole_rollouts_never_sees_a_part_of_one():
    """Three rollouts of 3, 1 and 2 sequences, whatever the budget; alone they are cut as sequences are."""
    broken = batch((0, 1.0), (0, 1.0), (1, 0.0), (0, 1.0), (2, 0.0), (2, 0.0))
    whole = [{0, 1, 3}, {2}, {4, 5}]
    for world in (1, 2):
        plan = micro_batches(broken, range(6), max_tokens=1, world=world, unit="rollout")
        assert sorted(sorted(part) for step in plan for part in step if part) == [[0, 1, 3], [2], [4, 5]]
    parts = minibatches(broken, 3, unit="rollout", rng=np.random.default_rng(0))
    assert all({*part} in whole for part in parts)
    single = batch(*[(n, 0.0) for n in range(6)])
    for tokens in (1, 7, 100):
        found = [micro_batches(single, range(6), max_tokens=tokens, world=2, unit=u) for u in ("rollout", "sequence")]
        assert found[0] == found[1]


def test_costs_and_confidence_are_those_of_rollouts():
    """Lengths 3 and 1: the mean is 2, and both pay for their own; the surer of two leaves with all its sequences."""
    broken = batch((0, 1.0), (0, 1.0), (0, 1.0), (1, 0.0))
    hook = Constraints(settings=[Constraint(of="length", limit=1.0, lr=0.1)], mix=False)
    after, _, metrics = hook.before_estimate(broken, hook.begin(), step=0)
    assert metrics["constraint/cost/length"] == 2
    assert after.channels["cost/length"].tolist() == [3, 3, 3, 1]
    said = broken.scatter(torch.tensor([-0.1, -0.9, -0.1, -0.5]))  # means -0.37 and -0.5
    kept = ConfidenceFilter(share=0.5).after_estimate(broken.replace(sampler_logprobs=said))
    assert kept.member.tolist() == [1]


def test_a_rollout_that_was_cut_is_cut_once_however_many_sequences_it_is():
    """Rewards 1 (three sequences, cut), 0.4, 0: less a penalty of 0.5 the cut one is still the best."""
    broken = batch((0, 1.0), (0, 1.0), (0, 1.0), (1, 0.4), (2, 0.0))
    broken = broken.replace(truncated=torch.tensor([True, True, True, False, False]))
    sides = online_dpo.estimate(settings(online_dpo, missing_eos_penalty=0.5), broken).side
    assert sides.tolist() == [1, 1, 1, -1]
    hook = Constraints(settings=[Constraint(of="truncated", limit=0.1, lr=0.1)], mix=False)
    assert hook.cost(broken, "truncated").tolist() == [1, 1, 1, 0, 0]
