"""The point of the specification: log-probs -10 and -12, reference -11 and -11.5, lengths 5 and 4, beta 0.1."""

import math

import pytest
import torch

from alignkit.errors import BatchError
from alignkit.ops import preference
from alignkit.recipe.lookup.find import find, load
from alignkit.types.batch import Batch, pack
from alignkit.types.item import Item
from alignkit.types.outputs import Outputs

GOLDEN = {
    "DPO": ({"type": "dpo"}, 0.620957),
    "cDPO": ({"type": "dpo", "label_smoothing": 0.1}, 0.635957),
    "rDPO": ({"type": "dpo", "loss_type": "robust", "label_smoothing": 0.1}, 0.602207),
    "IPO, summed": ({"type": "dpo", "loss_type": "ipo"}, 12.25),
    "IPO, per token": ({"type": "dpo", "loss_type": "ipo", "pool": "mean"}, 21.855625),
    "hinge": ({"type": "dpo", "loss_type": "hinge"}, 0.85),
    "SimPO": ({"type": "simpo"}, 0.313262),
    "ORPO": ({"type": "orpo"}, 2.028875),
    "CPL": ({"type": "cpl"}, 0.913015),
}


def pair(chosen: float = -10.0, rejected: float = -12.0) -> tuple[Batch, Outputs]:
    """One pair whose tokens share the log-prob of their answer equally, and a reference of -11 and -11.5."""
    sides = ((5, chosen, -11.0), (4, rejected, -11.5))
    items = [
        Item(prompt_ids=[1], completion_ids=[2 + m] * n, member=m, side=1 - 2 * m) for m, (n, *_) in enumerate(sides)
    ]
    batch = pack(items)
    said, reference = (torch.tensor([0.0] + [s[i] / s[0] for s in sides for _ in range(s[0])]) for i in (1, 2))
    return batch.replace(ref_logprobs=reference), Outputs(logprobs=said, entropy=torch.zeros_like(said))


def loss_of(settings: dict, batch: Batch, outputs: Outputs) -> float:
    algorithm = load(find("algorithms", settings["type"]))
    config = algorithm.config.model_validate(settings)
    loss = algorithm.losses["policy"](config, outputs, algorithm.estimate(config, batch))
    assert loss.count == 1
    assert loss.metrics["loss/policy"].value == pytest.approx(float(loss.total))
    return float(loss.total)


@pytest.mark.parametrize("name", GOLDEN)
def test_losses_of_the_golden_pair(name):
    settings, wanted = GOLDEN[name]
    assert loss_of(settings, *pair()) == pytest.approx(wanted, rel=2e-6)


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [({}, 1.21), ({"eta": 2}, 0.49), ({"eta": 2, "convention": "paper"}, 0.1225)],
)
def test_rebel_on_the_golden_pair_whose_rewards_differ_by_04(settings, wanted):
    batch, outputs = pair()
    rewarded = batch.replace(reward=torch.tensor([0.9, 0.5]))
    assert loss_of({"type": "rebel_pairs"} | settings, rewarded, outputs) == pytest.approx(wanted, rel=2e-6)
    with pytest.raises(BatchError, match="give the columns chosen_reward, rejected_reward"):
        loss_of({"type": "rebel_pairs"}, batch, outputs)


@pytest.mark.parametrize(("side", "gap", "wanted"), [(1, 1.0, 0.482507), (-1, -0.5, 0.480011)])
def test_kto_of_a_good_and_of_a_bad_answer_with_gains_from_03_on(side, gap, wanted):
    own = Item(prompt_ids=[1], completion_ids=[2, 2], side=side)
    batch = pack([own, Item(prompt_ids=[1], completion_ids=[3], member=1)])
    reference, old = torch.tensor([0.0, -1, -1, -2]), torch.tensor([0.0, 0, 0, -1.7])
    batch = batch.replace(ref_logprobs=reference, old_logprobs=old)
    said = torch.tensor([0.0, -1 + gap / 2, -1 + gap / 2])
    assert loss_of({"type": "kto"}, batch, Outputs(logprobs=said, entropy=said)) == pytest.approx(wanted, rel=2e-6)


def test_the_odds_of_the_golden_pair():
    odds = preference.log_odds(torch.tensor([-10 / 5, -12 / 4]))
    assert float(odds[0] - odds[1]) == pytest.approx(1.094344, abs=1e-6)


def test_the_chosen_answers_likelihood_is_per_token():
    plain, with_nll = loss_of({"type": "dpo"}, *pair()), loss_of({"type": "dpo", "nll_weight": 0.5}, *pair())
    assert with_nll - plain == pytest.approx(0.5 * 10 / 5)


def test_what_is_logged_of_the_golden_pair():
    batch, outputs = pair()
    algorithm = load(find("algorithms", "dpo"))
    metrics = algorithm.losses["policy"](algorithm.config(type="dpo"), outputs, batch).metrics
    wanted = {"accuracy": 1, "margin": 0.15, "reward_chosen": 0.1, "reward_rejected": -0.05}
    wanted |= {"logprob_chosen": -10, "logprob_rejected": -12, "length_chosen": 5, "length_rejected": 4}
    assert {name: metrics[f"pairs/{name}"].value for name in wanted} == pytest.approx(wanted)


def test_log_odds_are_exact_at_both_ends():
    for p in (1e-30, 1e-3, 0.5, 0.75, 1 - 1e-5):
        wanted = math.log(p) - math.log1p(-p)
        assert preference.log_odds(torch.tensor([math.log(p)])).item() == pytest.approx(wanted, rel=2e-3)
    certain = torch.zeros(1, requires_grad=True)
    preference.log_odds(certain).sum().backward()
    assert torch.isfinite(certain.grad).all()


def test_an_answer_without_a_chosen_token_has_a_mean_of_0():
    batch = pack(
        [
            Item(prompt_ids=(1,), completion_ids=(2, 3), action=action, group=0, member=member)
            for member, action in enumerate(((True, True), (False, False)))
        ]
    )
    assert preference.pool(torch.full((batch.num_tokens,), -2.0), batch, "mean").tolist() == [-2.0, 0.0]
