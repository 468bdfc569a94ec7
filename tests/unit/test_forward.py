"""The packed forward equals the plain one on every kind of model; where it does not, the run notices and goes on."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from alignkit.models import attention
from alignkit.models import forward as paths
from alignkit.models.forward import Forward, packed, padded_index, plain
from alignkit.models.own_head import own_head
from alignkit.models.verify import few, longest
from alignkit.types.batch import Batch
from alignkit.types.outputs import Outputs
from tests.live_bytes import peak
from tests.tiny import SHAPE, Shape, causal_lm, flat_gradient, random_batch, relative

KINDS = ["llama", "llama_grouped", "llama_tied", "qwen2", "qwen3"]
SHAPES: dict[str, Shape] = {
    "many blocks": SHAPE,
    "one shared prompt": [(8, [6, 1, 3, 9, 2])],
    "one sequence": [(3, [7])],
    "only single tokens": [(1, [1]), (1, [1, 1])],
    "long prompt": [(50, [2, 3]), (1, [9])],
}


def by_path(model: nn.Module, batch: Batch, *, temperature: float = 1.0) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(log-probs, entropy, gradient of a fixed weighted sum of the log-probs) of the packed and the plain path."""
    results = []
    weights = torch.randn(batch.num_tokens, generator=torch.Generator().manual_seed(5))
    for path in (packed, plain):
        outputs = path(model, batch, dtype=torch.float32, temperature=temperature)
        (outputs.logprobs * weights).sum().backward()
        results.append((outputs.logprobs.detach(), outputs.entropy, flat_gradient(model)))
    return results


def assert_equal_paths(model: nn.Module, batch: Batch, *, temperature: float = 1.0) -> None:
    (logprobs, entropy, gradient), (wanted, wanted_entropy, wanted_gradient) = by_path(
        model, batch, temperature=temperature
    )
    torch.testing.assert_close(logprobs, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy, wanted_entropy, rtol=1e-5, atol=1e-5)
    assert relative(gradient, wanted_gradient) < 5e-6


@pytest.mark.parametrize("kind", KINDS)
def test_log_probs_entropy_and_gradients_are_those_of_the_plain_forward(kind):
    assert_equal_paths(causal_lm(kind), random_batch())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share_prefix", [True, False])
def test_they_are_for_every_shape_of_batch(shape, share_prefix):
    assert_equal_paths(causal_lm("llama_grouped"), random_batch(SHAPES[shape], share_prefix=share_prefix))


@pytest.mark.parametrize("temperature", [0.7, 1.3])
def test_they_are_at_every_temperature_and_with_tokens_that_the_policy_did_not_choose(temperature):
    assert_equal_paths(causal_lm(), random_batch(holes=True), temperature=temperature)


def test_they_are_with_an_adapter_and_only_the_adapter_gets_a_gradient():
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(causal_lm(), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    assert_equal_paths(model, random_batch())
    packed(model, random_batch(), dtype=torch.float32, temperature=1.0).logprobs.sum().backward()
    assert {".lora_" in name for name, p in model.named_parameters() if p.grad is not None} == {True}


def test_the_plain_path_is_what_transformers_says_about_each_sequence_alone():
    model, batch = causal_lm("qwen2"), random_batch()
    got = plain(model, batch, dtype=torch.float32, temperature=0.8).logprobs.detach()
    index, mask = padded_index(batch)
    for row, real in zip(index, mask, strict=True):
        tokens = row[real]
        with torch.no_grad():
            logits = model(input_ids=batch.tokens[tokens][None]).logits[0, :-1] / 0.8
        wanted = logits.log_softmax(-1).gather(-1, batch.tokens[tokens][1:, None]).squeeze(-1)
        own = batch.action_mask[tokens[1:]]
        torch.testing.assert_close(got[tokens[1:]][own], wanted[own], rtol=1e-5, atol=1e-5)


def test_log_probs_belong_to_the_predicted_token_and_are_zero_elsewhere():
    """A head that depends on the token before: changing a token changes its own log-prob and those after it, no
    earlier one, and none of a sibling that shares the prompt."""
    model, batch = causal_lm(), random_batch([(4, [5, 5])])
    before = packed(model, batch, dtype=torch.float32, temperature=1.0).logprobs
    third = 4 + 2  # third token of the first sequence
    tokens = batch.tokens.clone()
    tokens[third] = (tokens[third] + 1) % 23
    after = packed(model, batch.replace(tokens=tokens), dtype=torch.float32, temperature=1.0).logprobs
    changed = (before != after).nonzero().flatten().tolist()
    assert changed == [third, third + 1, third + 2]
    assert not before[:4].any()


def test_the_model_keeps_its_own_attention_after_both_paths_and_after_an_error():
    model, batch = causal_lm(), random_batch()
    for path in (packed, plain):
        path(model, batch, dtype=torch.float32, temperature=1.0)
        assert model.config._attn_implementation == "sdpa"
    with pytest.raises(IndexError):
        packed(model, batch.replace(tokens=batch.tokens + 1000), dtype=torch.float32, temperature=1.0)
    assert model.config._attn_implementation == "sdpa"


def test_in_bfloat16_both_paths_stay_near_the_float32_log_probs():
    model, batch = causal_lm(), random_batch()
    exact = plain(model, batch, dtype=torch.float32, temperature=1.0).logprobs[batch.action_mask]
    for path in (packed, plain):
        outputs = path(model, batch, dtype=torch.bfloat16, temperature=1.0)
        assert outputs.logprobs.dtype is torch.float32
        assert 0 < (outputs.logprobs[batch.action_mask] - exact).abs().mean() < 0.05


def forward(model: nn.Module) -> tuple[Forward, list[str]]:
    said: list[str] = []
    return Forward(model=model, dtype=torch.float32, report=said.append), said


def spy(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that are run from now on, by name."""
    calls: list[str] = []
    for path in (packed, plain):
        monkeypatch.setattr(
            f"alignkit.models.forward.{path.__name__}",
            lambda *args, _path=path, **options: calls.append(_path.__name__) or _path(*args, **options),
        )
    return calls


def test_a_right_packed_path_is_kept_and_each_family_of_batches_is_checked_once(monkeypatch):
    runner, said = forward(causal_lm())
    calls = spy(monkeypatch)
    for _ in range(3):
        runner.verify(random_batch(), temperature=1.0)
    assert calls == ["plain", "plain", "packed"]  # the first for the head, which is checked once
    checked = 2
    calls.clear()
    runner.verify(random_batch([(40, [20, 20])]), temperature=1.0)
    assert len(calls) == checked
    assert runner.fast
    assert said == []
    calls.clear()
    runner(random_batch(), temperature=1.0)
    assert calls == ["packed"]


def wrong_by(change: float):
    right = attention.packed_attention
    return lambda *args, **options: right(*args, **options) * (1 + change)


@pytest.mark.parametrize("change", [0.01, float("nan")])
def test_a_wrong_packed_path_is_turned_off_reported_once_and_training_goes_on_plainly(monkeypatch, change):
    monkeypatch.setattr(attention, "packed_attention", wrong_by(change))
    model, batch = causal_lm(), random_batch()
    runner, said = forward(model)
    for shape in (SHAPE, [(30, [30, 30])]):
        runner.verify(random_batch(shape), temperature=1.0)
    assert not runner.fast
    assert len(said) == 1
    assert "the packed forward is off for this run" in said[0]
    outputs = runner(batch, temperature=1.0)
    wanted = plain(model, batch, dtype=torch.float32, temperature=1.0)
    assert torch.equal(outputs.logprobs, wanted.logprobs)
    outputs.logprobs.sum().backward()
    assert flat_gradient(model).norm() > 0


def test_attention_that_is_wrong_only_for_shared_prompts_is_found_when_the_first_of_them_comes(monkeypatch):
    right = attention.layout
    monkeypatch.setattr(attention, "layout", lambda blocks: replace(right(blocks), crosses=()))
    runner, said = forward(causal_lm())  # its continuations do not see their prompt, where that is shared
    runner.verify(random_batch([(4, [3]), (5, [3])]), temperature=1.0)
    assert runner.fast
    runner.verify(random_batch([(4, [3]), (5, [3]), (4, [3, 3])]), temperature=1.0)
    assert not runner.fast
    assert len(said) == 1


def test_a_head_that_cannot_be_read_tile_by_tile_is_found_and_all_logits_are_held_at_once():
    model, batch = causal_lm(), random_batch()
    with torch.no_grad():
        model.lm_head.bias = nn.Parameter(torch.randn(23))
    runner, said = forward(model)
    runner.verify(batch, temperature=1.0)
    runner.verify(random_batch([(30, [30, 30])]), temperature=1.0)
    assert (runner.fast, runner.tiled, len(said)) == (False, False, 1)
    assert "all logits are held at once" in said[0]
    assert torch.equal(
        runner(batch, temperature=0.8).logprobs, own_head(model, batch, dtype=torch.float32, temperature=0.8).logprobs
    )


@pytest.mark.parametrize(
    "config", [{"final_logit_softcapping": 2.0}, {"logit_scale": 0.3}, {"logits_scaling": 8.0}], ids=str
)
@pytest.mark.parametrize("path", [packed, plain])
def test_what_a_model_makes_of_its_logits_is_in_log_probs_entropies_divergences_and_gradients(config, path):
    """A LLaMA that does with its logits what Gemma 2, Cohere or Granite do with theirs."""
    model, other, batch = shaped(causal_lm(), **config), shaped(causal_lm(seed=1), **config), random_batch()
    results = []
    for each in (path, own_head):
        options = {"want": ("logprobs", "ref_kl"), "reference": other}
        outputs = each(model, batch, dtype=torch.float32, temperature=0.8, **options)
        weights = torch.randn(batch.num_tokens, generator=torch.Generator().manual_seed(5))
        total = outputs.logprobs + 0.5 * outputs.entropy + 0.3 * outputs.ref_kl + 0.1 * outputs.normaliser
        (total * weights).sum().backward()
        said = (outputs.logprobs, outputs.entropy, outputs.ref_kl)
        results.append((*(each.detach() for each in said), flat_gradient(model)))
    for got, wanted in zip(*results, strict=True):
        assert relative(got, wanted) < 1e-5
    plain_llama = own_head(causal_lm(), batch, dtype=torch.float32, temperature=0.8).logprobs
    assert relative(results[1][0], plain_llama) > 0.05


def shaped(model: nn.Module, **config: float) -> nn.Module:
    ((name, number),) = config.items()
    setattr(model.config, name, number)
    shape = {
        "final_logit_softcapping": lambda logits: number * (logits / number).tanh(),
        "logit_scale": lambda logits: logits * number,
        "logits_scaling": lambda logits: logits / number,
    }[name]
    model.lm_head.register_forward_hook(lambda layer, inputs, logits: shape(logits))
    return model


@pytest.mark.parametrize("error", [RuntimeError("what?\nmore"), TypeError("what?"), AttributeError("what?")], ids=repr)
def test_whatever_a_model_does_not_know_of_the_packed_path_is_a_sentence_and_no_traceback(monkeypatch, error):
    def broken(*args, **options):
        raise error

    monkeypatch.setattr(attention, "packed_attention", broken)
    runner, said = forward(causal_lm())
    runner.verify(random_batch(), temperature=1.0)
    assert said == [f"the packed forward is off for this run, the plain one is used: {type(error).__name__}: what?"]


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA"), RuntimeError("[enforce fail] DefaultCPUAllocator: no"), MemoryError("no")],
    ids=repr,
)
def test_memory_that_runs_out_while_checking_keeps_its_own_message(monkeypatch, error):
    def broken(*args, **options):
        raise error

    monkeypatch.setattr(attention, "packed_attention", broken)
    runner, said = forward(causal_lm())
    with pytest.raises(type(error), match=re.escape(str(error))):
        runner.verify(random_batch(), temperature=1.0)
    assert said == []


def test_at_most_512_tokens_of_a_sequence_are_compared_and_more_where_a_window_is_longer():
    batch = random_batch([(700, [600, 600, 5, 5]), (3, [1])])
    cut = few(batch, 512)
    assert [(block.prompt, block.lengths) for block in cut.blocks] == [(256, (256, 256, 5)), (3, (1,))]
    assert cut.tokens[:256].tolist() == batch.tokens[444:700].tolist()
    assert cut.tokens[256:512].tolist() == batch.tokens[700:956].tolist()
    model = causal_lm()
    assert longest(forward(model)[0]) == 512
    model.config.sliding_window = 4096
    assert longest(forward(model)[0]) == 4224


def test_no_path_holds_logits_of_all_tokens_nor_does_the_check(monkeypatch):
    """A vocabulary of 20,000, 4 sequences of 128 tokens: the logits alone would be 41 MB, verify once took five times
    that."""
    from transformers import LlamaConfig, LlamaForCausalLM

    monkeypatch.setitem(paths.HEAD_ROWS, "cpu", 16)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=20_000, **sizes)).eval()
    batch = random_batch([(8, [120] * 4)])
    logits = 4 * 128 * 20_000 * 4

    def train(path: Callable[..., Outputs]) -> None:
        path(model, batch, dtype=torch.float32, temperature=1.0).logprobs.sum().backward()

    def check() -> None:
        runner, said = forward(model)
        runner.families.add(("the head", 0, 0))  # which is checked on 64 tokens of a sequence, by its own logits
        runner.verify(batch, temperature=1.0)
        assert runner.fast, said

    assert peak(lambda: train(own_head)) > logits
    for work in (lambda: train(packed), lambda: train(plain), check):
        assert peak(work) < logits / 4


def test_turned_off_by_the_recipe_the_packed_path_is_never_run(monkeypatch):
    calls = spy(monkeypatch)
    runner = Forward(model=causal_lm(), dtype=torch.float32, fast=False)
    runner.verify(random_batch(), temperature=1.0)
    runner(random_batch(), temperature=1.0)
    assert set(calls) == {"plain"}
