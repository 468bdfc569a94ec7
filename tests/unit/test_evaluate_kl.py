"""KL against the base: sums by hand, and samples of a tiny model against the exact KL of its first token."""

import asyncio
import itertools

import pytest
import torch

from alignkit.engines.hf import HfEngine
from alignkit.errors import DataError
from alignkit.evaluate.statistics.kl import divergence, kl_from_base
from alignkit.types.rollout import Request
from tests.tiny import VOCABULARY, causal_lm


def test_the_estimate_is_worked_by_hand():
    """Totals 3 and 1: mean 2, standard error sqrt(2) / sqrt(2) = 1; 4 over 3 tokens."""
    told = divergence([[1.0, 2.0], [1.0]])
    assert (told.per_answer, told.per_token, told.answers, told.tokens) == (2.0, 4 / 3, 2, 3)
    assert told.standard_error == pytest.approx(1.0)
    assert divergence([[0.5]]).standard_error is None


def test_samples_estimate_the_exact_kl_within_their_error():
    """Two tokens: KL(p || q) over all 23 x 23 continuations by enumeration, against 400 samples."""
    prompt = (3, 7, 5)
    engines = [HfEngine(causal_lm(seed=seed), dtype="float32", share=True) for seed in (0, 1)]
    every = [(*prompt, *pair) for pair in itertools.product(range(VOCABULARY), repeat=2)]
    p, q = (torch.tensor([row[-2:] for row in asyncio.run(e.score(every))]).sum(1).double() for e in engines)
    exact = float((p.exp() * (p - q)).sum())
    requests = [Request(prompt_ids=prompt, seed=seed, max_new_tokens=2) for seed in range(400)]
    answers = [(prompt, completion.token_ids) for completion in asyncio.run(engines[0].generate(requests))]
    told = asyncio.run(kl_from_base(engines[0], engines[1], [*answers, (prompt, ())]))
    assert exact > 0.2
    assert (told.answers, told.tokens) == (400, 800)
    assert abs(told.per_answer - exact) < 4 * told.standard_error
    same = asyncio.run(kl_from_base(engines[0], engines[0], answers[:5]))
    assert same.per_answer == 0.0
    for engine in engines:
        engine.close()


def test_answers_without_a_token_are_no_answers():
    with pytest.raises(DataError, match="at least one token; got 1 answers"):
        asyncio.run(kl_from_base(None, None, [((1, 2), ())]))
