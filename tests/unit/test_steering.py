"""What a policy says with critics beside it: whose distribution it is, at no steering and at much, and who refuses."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import torch

from alignkit.engines.hf import HfEngine
from alignkit.engines.steered import SteeredEngine
from alignkit.errors import ContentError, RecipeError
from alignkit.models.critic import add_value_head
from alignkit.models.save import STEERING
from alignkit.models.steering import Steering
from alignkit.models.tokenizer import character_tokenizer
from alignkit.models.weights import VALUE_HEAD
from alignkit.recipe.read import read_recipe
from alignkit.run.evaluate.evaluated_model import folder_hash, start_engine
from tests.contracts.test_engines import ask, tiny_llama

ROOT = Path(__file__).parents[2]
HEADS = {"scored": 2, "normalised": True}


def critic(*, scale: float = 1.0) -> torch.nn.Module:
    """Another model than the policy, with scores far from 0."""
    model = add_value_head(tiny_llama(1), 5, seed=3, **HEADS)
    with torch.no_grad():
        getattr(model, VALUE_HEAD).scores.weight.mul_(100 * scale)
    return model.eval()


def engines(beta: float) -> tuple[HfEngine, SteeredEngine]:
    plain = HfEngine(tiny_llama(0), dtype="float32", version=4)
    return plain, SteeredEngine(plain, Steering(critic(), beta=beta))


def by_hand(beta: float, ids: list[int], temperature: float = 1.0) -> torch.Tensor:
    """log softmax((log pi + beta (min Q - V)) / temperature) after each token, with some V, which does not matter."""
    with torch.no_grad():
        policy = tiny_llama(0)(torch.tensor([ids])).logits[0].log_softmax(-1)
        model = critic()
        hidden = model.model(torch.tensor([ids])).last_hidden_state[0]
        vectors = getattr(model, VALUE_HEAD).scores.weight  # token, two of a state's width
        width = hidden.shape[1]
        q = torch.minimum(hidden @ vectors[:, :width].T, hidden @ vectors[:, width:].T)
        return ((policy + beta * (q - q.mean(-1, keepdim=True))) / temperature).log_softmax(-1)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_recorded_log_probs_are_those_of_the_policy_times_exp_of_beta_the_advantage(temperature):
    plain, steered = engines(0.7)
    requests = [ask(seed, temperature=temperature) for seed in range(3)]  # of several lengths, so that caches shrink
    said = asyncio.run(steered.generate(requests))
    assert said != asyncio.run(plain.generate(requests))
    for request, one in zip(requests, said, strict=True):
        ids, before = [*request.prompt_ids, *one.token_ids], len(request.prompt_ids)
        wanted = by_hand(0.7, ids, temperature)[before - 1 : -1].gather(-1, torch.tensor(one.token_ids)[:, None])[:, 0]
        assert one.logprobs == pytest.approx(wanted.tolist(), abs=2e-5)
        assert one.policy_version == 4
    [scored] = asyncio.run(steered.score([ids]))
    wanted = by_hand(0.7, ids)[:-1].gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
    assert scored == pytest.approx(wanted.tolist(), abs=2e-5)


def test_without_steering_every_bit_is_the_plain_policys():
    plain, steered = engines(0.0)
    requests = [ask(seed) for seed in range(2)]
    assert asyncio.run(steered.generate(requests)) == asyncio.run(plain.generate(requests))
    assert asyncio.run(steered.score([list(range(3, 20))])) == asyncio.run(plain.score([list(range(3, 20))]))


def test_steered_hard_the_policy_says_what_the_lesser_critic_calls_best_token_by_token():
    _, steered = engines(1e4)
    [said] = asyncio.run(steered.generate([ask(1)]))
    ids, before = [*ask(1).prompt_ids, *said.token_ids], len(ask(1).prompt_ids)
    assert list(said.token_ids) == by_hand(1e4, ids)[before - 1 : -1].argmax(-1).tolist()
    assert sum(said.logprobs) == pytest.approx(0.0, abs=1e-3)


def test_what_is_saved_says_the_same_names_its_results_and_is_refused_by_other_engines(tmp_path, monkeypatch):
    tokenizer = character_tokenizer("abc", context=64)
    steering, ids = Steering(critic(), beta=0.25), torch.tensor([[3, 4, 5]])
    steering.save(tokenizer, tmp_path / STEERING, dtype=torch.float32)
    found = Steering.find(tmp_path, "cpu")
    assert found is not None
    with torch.no_grad():
        assert torch.equal(found(ids), steering(ids))
    assert Steering.find(tmp_path / STEERING, "cpu") is None
    (tmp_path / "model.safetensors").write_bytes(b"")
    before = folder_hash(tmp_path)
    told = json.loads((tmp_path / STEERING / "steering.json").read_text())
    (tmp_path / STEERING / "steering.json").write_text(json.dumps(told | {"beta": 2.0}))
    assert folder_hash(tmp_path) != before
    with pytest.raises(ContentError, match=r"the hf engine alone can do: say --engine hf, or `alignkit export`"):
        start_engine("vllm", tmp_path, 64, 0, None)  # ty: ignore[invalid-argument-type]
    (tmp_path / STEERING / "steering.json").write_text("{}")
    with pytest.raises(ContentError, match="the critics cannot be read: 'scored'; remove it to speak without them"):
        Steering.find(tmp_path, "cpu")


def test_word_by_word_the_processor_adds_what_the_whole_sequence_says():
    steering, ids = Steering(critic(), beta=0.5), torch.tensor([[3, 4, 5, 6, 7]])
    processor = steering.processor()
    with torch.inference_mode():
        whole, blank = steering(ids), torch.zeros(1, 1)
        for length in (3, 4, 5):
            torch.testing.assert_close(processor(ids[:, :length], blank), whole[:, length - 1], rtol=1e-4, atol=1e-5)


def test_a_recipe_whose_evaluation_asks_vllm_is_refused_in_one_line_and_without_steering_is_not():
    recipe = str(ROOT / "recipes" / "smoke" / "guess-number-ilql.yaml")
    with pytest.raises(RecipeError, match="asks vLLM or servers, where the critics of ilql cannot steer what is said"):
        read_recipe(recipe, ["rollouts.engine=vllm"])
    assert read_recipe(recipe, ["rollouts.engine=vllm", "stages.1.algorithm.beta=0"]).stages
    with pytest.raises(RecipeError, match="speaks with a critic beside the cloned policy: take `shared` out"):
        read_recipe(recipe, ["stages.1.critic.shared=true"])
