"""One contract for all rollout engines, on a tiny Llama with a tied head: what they sample, report, hold and drop."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from alignkit.engines.canary import check
from alignkit.engines.hf import HfEngine
from alignkit.engines.vllm.arguments import Settings
from alignkit.engines.vllm.engine import VllmEngine
from alignkit.errors import EngineError, SyncError
from alignkit.models.load import named_policy_weights
from alignkit.models.save import describe
from alignkit.models.tokenizer import character_tokenizer
from alignkit.types.rollout import Completion, Request, StopReason

VOCABULARY, CONTEXT, CLOSE = 64, 128, 2e-4
PROMPT = (5, 9, 17, 30, 4)
needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (make setup)")


def tiny_llama(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=0.2,  # far from uniform, so that log-probs tell weights apart
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


@dataclass
class Case:
    """An engine and the models whose weights it may hold: `model` at the start of each test, `other` to update to."""

    engine: Any
    model: LlamaForCausalLM
    other: LlamaForCausalLM

    def run(self, *requests: Request) -> list[Completion]:
        return asyncio.run(self.engine.generate(requests))

    def load(self, model: torch.nn.Module, version: int) -> None:
        self.engine.update(named_policy_weights(model), version=version)


def start_vllm(folder: Path, log: Path, kind: type[VllmEngine] = VllmEngine, **given: Any) -> Any:
    return kind(folder, dtype="float32", max_model_len=CONTEXT, log_file=log, memory_gib=1, threads=1, **given)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-llama")
    tiny_llama(0).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", params=["hf", pytest.param("vllm", marks=needs_vllm)])
def session_engine(request: pytest.FixtureRequest, folder: Path) -> Iterator[Any]:
    if request.param == "hf":
        engine: Any = HfEngine(tiny_llama(0), dtype="float32")
    else:
        engine = start_vllm(folder, folder.parent / "vllm.log")
    yield engine
    engine.close()


@pytest.fixture
def case(session_engine: Any) -> Case:
    case = Case(engine=session_engine, model=tiny_llama(0), other=tiny_llama(1))
    if session_engine.policy_version:
        case.load(case.model, 0)
    return case


def ask(seed: int = 0, **changes: Any) -> Request:
    return replace(Request(prompt_ids=PROMPT, seed=seed, max_new_tokens=12), **changes)


def forced(model: torch.nn.Module, request: Request, completion: Completion) -> list[float]:
    """Log-probs of the completion's tokens by one plain forward over prompt and completion."""
    ids = torch.tensor([[*request.prompt_ids, *completion.token_ids]])
    with torch.no_grad():
        logprobs = (model(input_ids=ids).logits[0] / (request.temperature or 1.0)).log_softmax(-1)
    begin = len(request.prompt_ids) - 1
    return logprobs[begin:-1].gather(-1, ids[0, begin + 1 :, None])[:, 0].tolist()


def assert_parity(model: torch.nn.Module, requests: list[Request], completions: list[Completion]) -> None:
    for request, completion in zip(requests, completions, strict=True):
        assert completion.logprobs == pytest.approx(forced(model, request, completion), abs=CLOSE)


def test_completions_come_in_the_order_of_the_requests(case: Case):
    prompts = [(3, 4, 5), (40,), tuple(range(3, 60)), (7, 7, 7, 7)]
    requests = [ask(index, prompt_ids=prompt, max_new_tokens=3 + index) for index, prompt in enumerate(prompts)]
    completions = case.run(*requests)
    assert [len(completion.token_ids) for completion in completions] == [3, 4, 5, 6]
    assert_parity(case.model, requests, completions)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0, 0.0])
def test_logprobs_are_those_of_a_plain_forward_at_the_requests_temperature(case: Case, temperature: float):
    requests = [ask(seed, temperature=temperature) for seed in range(6)]
    assert_parity(case.model, requests, case.run(*requests))


def test_temperatures_may_differ_within_one_call(case: Case):
    requests = [ask(seed, temperature=temperature) for seed, temperature in enumerate((0.0, 1.0, 0.5, 0.0, 2.0))]
    assert_parity(case.model, requests, case.run(*requests))


def test_the_same_call_gives_the_same_tokens_and_bits(case: Case):
    requests = [ask(seed, prompt_ids=tuple(range(3, 60))) for seed in range(8)]
    first = case.run(*requests)
    case.run(*requests[:3], ask(99))  # nothing that happened before matters
    assert case.run(*requests) == first


def test_a_groups_members_differ_by_their_seeds_alone(case: Case):
    completions = case.run(*[ask(seed) for seed in range(8)], ask(3))
    assert len({completion.token_ids for completion in completions}) == 8
    assert completions[8].token_ids == completions[3].token_ids
    assert completions[8].logprobs == pytest.approx(completions[3].logprobs, abs=CLOSE)


def test_a_sample_does_not_depend_on_what_else_is_in_the_call(case: Case):
    alone = case.run(ask(3))[0]
    among = case.run(ask(1, prompt_ids=(9,) * 40), ask(3), ask(2, temperature=0.0))[1]
    assert among.token_ids == alone.token_ids
    assert among.logprobs == pytest.approx(alone.logprobs, abs=CLOSE)


def test_temperature_zero_takes_the_most_likely_token(case: Case):
    request = ask(temperature=0.0)
    completion = case.run(request)[0]
    ids = torch.tensor([[*PROMPT, *completion.token_ids]])
    with torch.no_grad():
        best = case.model(input_ids=ids).logits[0, len(PROMPT) - 1 : -1].argmax(-1)
    assert completion.token_ids == tuple(best.tolist())


def test_a_stop_token_ends_the_completion_and_is_its_last_token(case: Case):
    free = case.run(ask(4))[0].token_ids
    stop = free[5]
    cut = free[: free.index(stop) + 1]
    requests = [ask(4, stop_token_ids=(stop, 63))]
    completion = case.run(*requests)[0]
    assert completion.token_ids == cut
    assert completion.stop is StopReason.END_OF_TEXT
    assert_parity(case.model, requests, [completion])


def test_only_the_requests_stop_tokens_stop(case: Case):
    """The model's own end token (2) is not special unless the request says so."""
    requests = [ask(seed, max_new_tokens=60) for seed in range(16)]
    completions = case.run(*requests)
    assert any(2 in completion.token_ids[:-1] for completion in completions)
    assert {completion.stop for completion in completions} == {StopReason.LENGTH}


def test_a_full_context_is_told_from_the_asked_length(case: Case):
    long = tuple(3 + index % 50 for index in range(CONTEXT - 8))
    full, exact = case.run(ask(prompt_ids=long, max_new_tokens=20), ask(prompt_ids=long, max_new_tokens=8))
    assert (len(full.token_ids), full.stop) == (8, StopReason.CONTEXT_FULL)
    assert (len(exact.token_ids), exact.stop) == (8, StopReason.LENGTH)


@pytest.mark.parametrize("length", [0, CONTEXT, CONTEXT + 1])
def test_a_prompt_that_leaves_no_room_is_a_clear_error_and_the_engine_lives_on(case: Case, length: int):
    with pytest.raises(EngineError, match=rf"a prompt has {length} tokens, wanted 1 to 127"):
        case.run(ask(), ask(prompt_ids=(3,) * length))
    assert case.run(ask())[0].token_ids


def test_a_temperature_that_vllm_would_change_or_refuse_is_a_clear_error_there(case: Case):
    for temperature in (0.005, 2.5):
        request = ask(temperature=temperature)
        if isinstance(case.engine, VllmEngine):
            with pytest.raises(EngineError, match=rf"temperature {temperature}: vLLM takes 0 or 0\.01 to 2\.0"):
                case.run(request)
        else:
            assert_parity(case.model, [request], case.run(request))
    assert case.run(ask())[0].token_ids


def test_samples_follow_the_probabilities(case: Case):
    """Chi-square of 4,000 first tokens; seeded, so it passes or fails for good (4 standard deviations)."""
    request = ask(temperature=1.5, max_new_tokens=1)
    counts = Counter(
        completion.token_ids[0] for completion in case.run(*[replace(request, seed=seed) for seed in range(4000)])
    )
    with torch.no_grad():
        logits = case.model(input_ids=torch.tensor([PROMPT])).logits[0, -1]
    expected = (4000 * (logits / 1.5).softmax(-1)).tolist()
    common = [token for token in range(VOCABULARY) if expected[token] >= 5]
    bins = [(counts[token], expected[token]) for token in common]
    bins.append((4000 - sum(seen for seen, _ in bins), 4000 - sum(wanted for _, wanted in bins)))
    statistic = sum((seen - wanted) ** 2 / wanted for seen, wanted in bins if wanted > 1)
    degrees = len(bins) - 1
    assert degrees >= 5, "the distribution must be spread for this test to mean anything"
    assert abs(statistic - degrees) < 4 * (2 * degrees) ** 0.5


def test_requests_that_come_one_at_a_time_run_together_and_say_what_a_call_in_lockstep_says(case: Case):
    """Some join in the middle of others: tokens are those of the seed, log-probs but for rounding."""
    requests = [ask(seed, prompt_ids=PROMPT[: 2 + seed % 4], max_new_tokens=4 + 9 * seed) for seed in range(10)]
    together = case.run(*requests)

    async def trickle() -> list[Completion]:
        begun = []
        for request in requests:
            begun.append(asyncio.create_task(case.engine.sample(request)))
            await asyncio.sleep(0.01)
        return await asyncio.gather(*begun)

    alone = asyncio.run(trickle())
    assert [completion.token_ids for completion in alone] == [completion.token_ids for completion in together]
    assert_parity(case.model, requests, alone)
    assert case.run(*requests) == together, "a call in lockstep depends on nothing before it"


def test_a_completion_says_which_weights_sampled_which_of_its_tokens(case: Case):
    case.load(case.other, 3)
    assert [completion.versions for completion in case.run(ask(1), ask(2))] == [((0, 3),)] * 2
    assert asyncio.run(case.engine.sample(ask(1))).versions == ((0, 3),)


def test_an_update_changes_what_is_computed_and_stamped(case: Case):
    requests = [ask(seed) for seed in range(4)]
    before = case.run(*requests)
    case.load(case.other, 5)
    after = case.run(*requests)
    assert {completion.policy_version for completion in after} == {case.engine.policy_version} == {5}
    assert_parity(case.other, requests, after)
    assert [c.token_ids for c in after] != [c.token_ids for c in before]
    case.load(case.model, 6)
    assert [c.token_ids for c in case.run(*requests)] == [c.token_ids for c in before]


def test_prefixes_cached_before_an_update_are_not_used_after_it(case: Case):
    requests = [ask(seed, prompt_ids=tuple(3 + index % 50 for index in range(100))) for seed in range(3)]
    case.run(*requests)
    case.load(case.other, 7)
    assert_parity(case.other, requests, case.run(*requests))


def test_lora_reaches_the_engine_merged(case: Case):
    from peft import LoraConfig, get_peft_model

    policy = get_peft_model(tiny_llama(0), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    case.load(policy.eval(), 8)
    requests = [ask(seed) for seed in range(4)]
    completions = case.run(*requests)
    assert_parity(policy, requests, completions)
    assert completions[0].logprobs != pytest.approx(forced(case.model, requests[0], completions[0]), abs=0.01)


def test_scores_are_the_plain_forwards_logprobs_at_temperature_one(case: Case):
    sequences = [list(PROMPT), [3, 3], list(range(3, 63)), [8]]
    scores = asyncio.run(case.engine.score(sequences))
    for sequence, score in zip(sequences, scores, strict=True):
        ids = torch.tensor([sequence])
        with torch.no_grad():
            logprobs = case.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        assert score == pytest.approx(logprobs.gather(-1, ids[0, 1:, None])[:, 0].tolist(), abs=CLOSE)


def test_an_update_that_lacks_or_misshapes_a_weight_is_refused_and_changes_nothing(case: Case):
    before = case.run(ask(1))
    weights = dict(named_policy_weights(case.other))
    lacking = {name: tensor for name, tensor in weights.items() if "layers.1.mlp.down_proj" not in name}
    with pytest.raises(EngineError, match=r"model\.layers\.1\.mlp\.down_proj\.weight"):
        case.engine.update(lacking.items(), version=9)
    with pytest.raises(EngineError, match=r"brings|does not know"):
        case.engine.update((weights | {"model.extra": torch.zeros(1)}).items(), version=9)
    with pytest.raises(EngineError, match=r"model\.norm\.weight .*\(3,\), wanted \(64,\)"):
        case.engine.update((weights | {"model.norm.weight": torch.zeros(3)}).items(), version=9)
    assert case.run(ask(1)) == before
    assert case.engine.policy_version == before[0].policy_version


@needs_vllm
@pytest.mark.slow
def test_vllms_own_scheduler_goes_through_sleep_and_both_wakings_and_samples_the_new_weights(
    folder: Path, tmp_path: Path
):
    """On a CPU no memory moves; what pauses and resumes in vLLM is real, and half awake it does not sample."""
    engine = VllmEngine(
        folder,
        dtype="float32",
        max_model_len=CONTEXT,
        log_file=tmp_path / "log",
        memory_gib=1,
        threads=1,
        settings=Settings(sleeps=True),
    )
    try:
        for version, model in enumerate((tiny_llama(1), tiny_llama(0)), start=1):
            engine.sleep()
            engine.wake("weights")
            engine.update(named_policy_weights(model), version=version)
            engine.wake("cache")
            assert_parity(model, [ask(3)], asyncio.run(engine.generate([ask(3)])))
    finally:
        engine.close()


class Faulty(VllmEngine):
    """Real vLLM whose updates have the faults that stand in a file."""

    faults: Path

    def spoil(self, *faults: str) -> None:
        self.faults.write_text(" ".join(faults))


@pytest.fixture(scope="module")
def another(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    """A second vLLM, without a fault at first: a start takes 10 s. The last test that uses it closes it.

    Unlike the first it begins with weights out of memory, as in training: of a model its folder holds the config only.
    """
    place = tmp_path_factory.mktemp("another")
    describe(tiny_llama(0), character_tokenizer("01", context=CONTEXT), place / "model")
    assert not list(place.glob("model/*.safetensors"))
    worker = str(Path(__file__).with_name("faulty_worker.py"))
    (place / "faults").touch()
    Faulty.command, Faulty.faults = (VllmEngine.command[0], worker, str(place / "faults")), place / "faults"
    weights = named_policy_weights(tiny_llama(0))
    engine = start_vllm(place / "model", place / "vllm.log", Faulty, weights=weights)
    yield engine
    engine.close()


def test_a_new_engine_repeats_the_old_ones_bits(case: Case, request: pytest.FixtureRequest):
    """Exact resume depends on it. The old engine was updated meanwhile, the new one begins with the same weights."""
    requests = [ask(seed, prompt_ids=tuple(range(3, 60))) for seed in range(8)]
    case.load(case.other, 1)
    case.load(case.model, 0)
    before = case.run(*requests)
    fresh = isinstance(case.engine, HfEngine)
    engine = HfEngine(case.model, dtype="float32") if fresh else request.getfixturevalue("another")
    assert not engine.policy_version, "it was not updated"
    assert asyncio.run(engine.generate(requests)) == before


@needs_vllm
def test_the_canary_by_itself_catches_a_stale_tied_head(another: Faulty):
    sequence = list(range(3, 27))
    trainer = asyncio.run(HfEngine(tiny_llama(1), dtype="float32").score([sequence]))
    another.spoil("head", "unread")
    another.update(named_policy_weights(tiny_llama(1)), version=1)
    with pytest.raises(SyncError, match="sync to version 1 engine and trainer differ by"):
        check(asyncio.run(another.score([sequence])), trainer, tolerance=0.08, version=1)


@needs_vllm
def test_weights_that_an_update_missed_are_named_however_small_the_update(another: Faulty):
    another.spoil()
    another.update(named_policy_weights(tiny_llama(0)), version=2)
    another.spoil("head", "layer")
    weights = {name: tensor * (1 + 1e-6) for name, tensor in named_policy_weights(tiny_llama(0))}
    named = r"model\.layers\.1\.self_attn\.o_proj\.weight, lm_head\.weight"
    with pytest.raises(SyncError, match=rf"update to version 3, 2 parameters still compute .* first: {named};"):
        another.update(weights.items(), version=3)
    with pytest.raises(EngineError, match="closed"):
        asyncio.run(another.generate([ask()]))


def test_the_canary_is_content_after_a_right_update(case: Case):
    sequence = list(range(3, 27))
    trainer = asyncio.run(HfEngine(case.other, dtype="float32").score([sequence]))
    case.load(case.other, 10)
    assert check(asyncio.run(case.engine.score([sequence])), trainer, tolerance=0.08, version=10).max_gap < CLOSE


def test_a_killed_engine_is_an_error_without_orphans(case: Case):
    """The last test of this file: nobody needs the engine any more."""
    if isinstance(case.engine, HfEngine):
        pytest.skip("an engine in this process cannot be killed")
    process = case.engine.process_id
    threading.Timer(0.5, os.kill, (process, signal.SIGKILL)).start()
    begin = time.monotonic()
    with pytest.raises(EngineError, match="was killed by SIGKILL"):
        case.run(*[ask(seed, max_new_tokens=120) for seed in range(3000)])
    assert time.monotonic() - begin < 20
    case.engine.close()
    case.engine.close()
    assert not Path(f"/proc/{process}").exists()
    with pytest.raises(EngineError, match="closed"):
        case.run(ask())
