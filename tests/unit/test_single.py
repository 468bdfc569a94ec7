"""The trainer of one process: what a step does to the weights, and that saving and loading loses no bit."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from alignkit.errors import CheckpointError, HealthError
from alignkit.parallel.single import SingleTrainer
from alignkit.parallel.trainer import parameter_groups
from alignkit.recipe.schema import Optimizer
from tests.tiny import causal_lm

OPTIMIZER = Optimizer(lr=1e-2, weight_decay=0.1, max_grad_norm=1.0)


def trainer(*, seed: int = 0, kind: str = "llama", optimizer: Optimizer = OPTIMIZER) -> SingleTrainer:
    return SingleTrainer(causal_lm(kind, seed=seed), optimizer)


def losses(seed: int) -> Iterator[torch.Tensor]:
    """Inputs of endless steps, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randint(3, 23, (2, 9), generator=generator)


def train(subject: SingleTrainer, inputs: Iterator[torch.Tensor], steps: int) -> list[float]:
    norms = []
    for _ in range(steps):
        tokens = next(inputs)
        subject.backward(subject.model(input_ids=tokens, labels=tokens).loss)
        norms.append(subject.step(3e-3))
    return norms


def weights(subject: SingleTrainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in subject.model.named_parameters()}


def assert_same_bits(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    ("kind", "optimizer"),
    [("llama", OPTIMIZER), ("llama_tied", OPTIMIZER), ("llama", OPTIMIZER.model_copy(update={"moments": "bfloat16"}))],
    ids=["llama", "llama_tied", "moments in bfloat16"],
)
@pytest.mark.parametrize("before", [0, 3])
def test_a_loaded_trainer_goes_on_exactly_where_the_saved_one_stood(tmp_path, kind, optimizer, before):
    first = trainer(kind=kind, optimizer=optimizer)
    inputs = losses(1)
    train(first, inputs, before)
    first.save(tmp_path)
    second = trainer(kind=kind, seed=7, optimizer=optimizer)
    second.load(tmp_path)
    assert_same_bits(weights(second), weights(first))
    rest = [next(inputs) for _ in range(4)]
    assert train(second, iter(rest), 4) == train(first, iter(rest), 4)
    assert_same_bits(weights(second), weights(first))


def test_without_the_optimizers_state_the_next_step_would_differ(tmp_path):
    """The test above could not fail if Adam's moments did not matter."""
    first, inputs = trainer(), losses(1)
    train(first, inputs, 3)
    second = trainer(seed=7)
    second.model.load_state_dict(first.model.state_dict())
    tokens = next(inputs)
    train(first, iter([tokens]), 1)
    train(second, iter([tokens]), 1)
    assert any(not torch.equal(a, b) for a, b in zip(weights(first).values(), weights(second).values(), strict=True))


def test_saving_does_not_change_the_run(tmp_path):
    saved, plain = trainer(), trainer()
    for subject in (saved, plain):
        inputs = losses(2)
        train(subject, inputs, 2)
        if subject is saved:
            subject.save(tmp_path)
        train(subject, inputs, 2)
    assert_same_bits(weights(saved), weights(plain))


def test_only_an_adapter_is_saved_and_restored_when_only_it_is_trained(tmp_path):
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file

    def adapted() -> SingleTrainer:
        torch.manual_seed(0)
        return SingleTrainer(get_peft_model(causal_lm(), LoraConfig(r=2, target_modules="all-linear")), OPTIMIZER)

    first, inputs = adapted(), losses(3)
    train(first, inputs, 2)
    first.save(tmp_path)
    assert all(".lora_" in name for name in load_file(tmp_path / "model.safetensors"))
    second = adapted()
    second.load(tmp_path)
    rest = [next(inputs) for _ in range(2)]
    train(first, iter(rest), 2)
    train(second, iter(rest), 2)
    assert_same_bits(weights(second), weights(first))


def test_weights_of_another_model_are_refused_by_name(tmp_path):
    trainer(kind="qwen3").save(tmp_path)
    with pytest.raises(CheckpointError, match=r"its weights are not this model's, e\.g\. model\.layers.*norm"):
        trainer().load(tmp_path)


def test_the_gradient_is_clipped_by_its_global_norm_and_the_norm_before_is_returned():
    """One step of Adam from zero moments is lr * sign(g) whatever the scale, so clipping is seen in the moments."""
    subject = trainer(optimizer=OPTIMIZER.model_copy(update={"max_grad_norm": 0.5}))
    tokens = next(losses(4))
    subject.backward(100 * subject.model(input_ids=tokens, labels=tokens).loss)
    wanted = math.sqrt(sum(float(p.grad.square().sum()) for p in subject.model.parameters() if p.grad is not None))
    assert subject.step(1e-3) == pytest.approx(wanted, rel=1e-5)
    moments = [subject.optimizer.state[p]["exp_avg"] for p in subject.model.parameters()]
    norm = math.sqrt(sum(float(moment.square().sum()) for moment in moments))
    assert norm == pytest.approx(0.5 * (1 - 0.9), rel=1e-4)
    assert all(p.grad is None for p in subject.model.parameters())


def test_without_a_limit_the_gradient_is_used_as_it_is():
    subject = trainer(optimizer=OPTIMIZER.model_copy(update={"max_grad_norm": None}))
    tokens = next(losses(4))
    subject.backward(100 * subject.model(input_ids=tokens, labels=tokens).loss)
    wanted = subject.step(1e-3)
    norm = math.sqrt(
        sum(float(subject.optimizer.state[p]["exp_avg"].square().sum()) for p in subject.model.parameters())
    )
    assert wanted > 1
    assert norm == pytest.approx(0.1 * wanted, rel=1e-4)


def test_gradients_of_several_backwards_add_up():
    parts, whole = trainer(), trainer()
    tokens = next(losses(5))
    for row in tokens:
        parts.backward(parts.model(input_ids=row[None], labels=row[None]).loss / 2)
    whole.backward(whole.model(input_ids=tokens, labels=tokens).loss)
    assert parts.step(1e-3) == pytest.approx(whole.step(1e-3), rel=1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_no_number_stops_the_run_and_changes_no_weight(value):
    subject = trainer()
    before = weights(subject)
    tokens = next(losses(6))
    subject.backward(subject.model(input_ids=tokens, labels=tokens).loss * value)
    with pytest.raises(HealthError, match=r"the gradient norm is (nan|inf): no weight was changed"):
        subject.step(1e-2)
    assert_same_bits(weights(subject), before)


def test_the_learning_rate_is_that_of_the_step_not_of_the_recipe():
    subject = trainer(optimizer=OPTIMIZER.model_copy(update={"weight_decay": 0.0}))
    before = weights(subject)
    train(subject, losses(7), 1)  # at 3e-3, while the recipe's peak is 1e-2
    change = max(float((p - before[name]).abs().max()) for name, p in weights(subject).items())
    assert change == pytest.approx(3e-3, rel=1e-3)


def test_matrices_decay_and_norms_biases_and_embeddings_do_not():
    model = causal_lm("qwen2")
    decayed, kept = parameter_groups(model, OPTIMIZER)
    names = {id(p): name for name, p in model.named_parameters()}
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert all(names[id(p)].endswith("_proj.weight") or names[id(p)] == "lm_head.weight" for p in decayed["params"])
    kept_names = {names[id(p)] for p in kept["params"]}
    assert "model.embed_tokens.weight" in kept_names
    assert all("norm" in name or name.endswith("bias") or "embed" in name for name in kept_names)
    assert len(decayed["params"]) + len(kept["params"]) == len(names)


def test_a_tied_head_is_an_embedding_and_does_not_decay():
    model = causal_lm("llama_tied")
    decayed, _ = parameter_groups(model, OPTIMIZER)
    head = model.get_output_embeddings().weight
    assert all(p is not head for p in decayed["params"])


def test_frozen_weights_are_in_no_group_and_an_empty_group_is_left_out():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2))
    model[1].requires_grad_(False)
    groups = parameter_groups(model, OPTIMIZER)
    assert [len(group["params"]) for group in groups] == [1]
