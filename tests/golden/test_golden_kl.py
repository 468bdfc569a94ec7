"""KL estimators on policies small enough to enumerate. Numbers: a 3-arm softmax, theta = (.3, -.2, .5)."""

import pytest
import torch

from alignkit import ops
from alignkit.types.batch import pack
from alignkit.types.item import Item

REFERENCE = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
KL_OF_POLICY = [0.138796, -0.219580, 0.080784]  # gradient of KL(policy || reference)
KL_OF_REFERENCE = [0.153615, -0.285522, 0.131906]  # gradient of KL(reference || policy)


def theta() -> torch.Tensor:
    return torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)


def expected(estimator, logits: torch.Tensor) -> torch.Tensor:
    """E over arms drawn from the policy; the draw is not differentiated, as in a loss over samples."""
    logprobs = logits.log_softmax(0)
    return (logprobs.exp().detach() * estimator(logprobs - REFERENCE.log())).sum()


def gradient(value: torch.Tensor, of: torch.Tensor) -> list[float]:
    return torch.autograd.grad(value, of)[0].tolist()


def test_k1_and_k3_have_the_value_of_the_kl_and_k2_does_not():
    values = {name: expected(getattr(ops.kl, name), theta()).item() for name in ("k1", "k2", "k3")}
    assert values == pytest.approx({"k1": 0.177386, "k2": 0.162928, "k3": 0.177386}, abs=1e-6)


def test_the_true_gradients_are_those_of_the_table():
    logits = theta()
    logprobs = logits.log_softmax(0)
    divergence = (logprobs.exp() * (logprobs - REFERENCE.log())).sum()
    assert gradient(divergence, logits) == pytest.approx(KL_OF_POLICY, abs=1e-6)
    logits = theta()
    divergence = (REFERENCE * (REFERENCE.log() - logits.log_softmax(0))).sum()
    assert gradient(divergence, logits) == pytest.approx(KL_OF_REFERENCE, abs=1e-6)


def test_k1_in_a_loss_regularises_nothing():
    logits = theta()
    assert gradient(expected(ops.kl.k1, logits), logits) == pytest.approx([0, 0, 0], abs=1e-12)


def test_k2_in_a_loss_has_the_gradient_of_kl_policy_to_reference():
    logits = theta()
    assert gradient(expected(ops.kl.k2, logits), logits) == pytest.approx(KL_OF_POLICY, abs=1e-6)


def test_k3_in_a_loss_has_the_gradient_of_kl_reference_to_policy():
    logits = theta()
    assert gradient(expected(ops.kl.k3, logits), logits) == pytest.approx(KL_OF_REFERENCE, abs=1e-6)


def test_k3_is_never_negative_and_zero_only_without_difference():
    difference = torch.linspace(-3, 3, 601, dtype=torch.float64)
    values = ops.kl.k3(difference)
    assert values.min().item() == pytest.approx(0, abs=1e-12)
    assert values.argmin().item() == 300  # difference 0


def test_a_kl_per_token_in_the_loss_is_myopic_and_the_kl_of_the_sequence_is_not():
    """Two binary tokens. Gradient of the KL of the sequence to the first logit: 0.073418. The sum of per-token terms
    drops how the first token changes the later KL and even has the wrong sign: -0.001313."""
    first = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    second = torch.tensor([-0.3, 0.8], dtype=torch.float64)  # logit of token 1, given the first token
    reference = (torch.tensor([0.4, 0.6]).double().log(), torch.tensor([[0.5, 0.5], [0.7, 0.3]]).double().log())
    log_first = torch.stack([-first, first]).mul(0.5).log_softmax(0)
    log_second = torch.stack([-second, second], 1).mul(0.5).log_softmax(1)
    myopic = exact = true = torch.zeros((), dtype=torch.float64)
    for a in (0, 1):
        for b in (0, 1):
            probability = (log_first[a] + log_second[a, b]).exp()
            differences = torch.stack([log_first[a] - reference[0][a], log_second[a, b] - reference[1][a, b]])
            myopic = myopic + probability.detach() * ops.kl.k2(differences).sum()
            exact = exact + probability.detach() * ops.kl.k2(differences.sum(0, keepdim=True)).sum()
            true = true + probability * differences.sum()
    assert torch.autograd.grad(true, first, retain_graph=True)[0].item() == pytest.approx(0.073418, abs=1e-6)
    assert torch.autograd.grad(exact, first, retain_graph=True)[0].item() == pytest.approx(0.073418, abs=1e-6)
    assert torch.autograd.grad(myopic, first)[0].item() == pytest.approx(-0.001313, abs=1e-6)


@pytest.mark.parametrize(
    ("distance", "wanted"),
    [(2.0, 0.1 * (1 + 0.2 * 4 / 10_000)), (0.45, 0.1 * (1 - 0.1 * 4 / 10_000)), (0.0, 0.1 * (1 - 0.2 * 4 / 10_000))],
)
def test_the_weight_of_the_kl_follows_its_distance_from_the_target_by_at_most_a_fifth_in_10_000_sequences(
    distance, wanted
):
    """Four sequences of two tokens, of which the first is `distance` away, the target is 1/2."""
    items = [Item(prompt_ids=(1,), completion_ids=(2, 3), group=0, member=member) for member in range(4)]
    batch = pack(items)
    old = torch.where(batch.action_mask, distance / 2 - 1.0, 7.0)
    batch = batch.replace(
        old_logprobs=old, ref_logprobs=torch.full_like(old, -1.0), controls={"kl_weight": 0.1, "x": 3.0}
    )
    assert ops.kl.adapted_weight(batch, target=0.5) == pytest.approx({"kl_weight": wanted, "x": 3.0}, rel=1e-6, abs=0)
    assert ops.kl.adapted_weight(batch, target=None) == {"kl_weight": 0.1, "x": 3.0}
