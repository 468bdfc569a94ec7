"""The canary: what it accepts, what it refuses, and what it says."""

from __future__ import annotations

import math

import pytest

from alignkit.engines.canary import LENGTH, SENTENCES, check, probe
from alignkit.errors import SyncError
from alignkit.models.tokenizer import character_tokenizer


def test_gaps_are_averaged_over_tokens_not_over_sequences():
    report = check([[-1.0, -2.0, -3.0], [-4.0]], [[-1.0, -2.0, -3.3], [-4.5]], tolerance=0.3, version=1)
    assert report.mean_gap == pytest.approx((0.3 + 0.5) / 4)
    assert report.max_gap == pytest.approx(0.5)


def test_a_larger_gap_names_version_gap_and_tolerance():
    with pytest.raises(SyncError, match=r"sync to version 7 .* differ by 0\.5 nats .*largest 1\), allowed 0\.08"):
        check([[-1.0, -2.0]], [[-1.0, -3.0]], tolerance=0.08, version=7)


def test_gaps_of_opposite_sign_do_not_cancel():
    with pytest.raises(SyncError):
        check([[-1.0, -2.0]], [[-2.0, -1.0]], tolerance=0.5, version=0)


@pytest.mark.parametrize("broken", [math.nan, -math.inf])
def test_numbers_that_are_not_finite_are_refused(broken: float):
    with pytest.raises(SyncError):
        check([[broken, -1.0]], [[-1.0, -1.0]], tolerance=1e9, version=0)
    with pytest.raises(SyncError):
        check([[-1.0, -1.0]], [[-1.0, broken]], tolerance=1e9, version=0)


@pytest.mark.parametrize("trainer", [[[-1.0]], [[-1.0, -1.0], []], []])
def test_an_answer_for_other_tokens_is_refused(trainer: list[list[float]]):
    with pytest.raises(SyncError, match=r"the engine scored \[2\] tokens"):
        check([[-1.0, -1.0]], trainer, tolerance=1.0, version=0)


def test_an_empty_probe_proves_nothing_and_is_refused():
    with pytest.raises(SyncError):
        check([], [], tolerance=1.0, version=0)


def test_a_tokenizer_without_letters_gets_random_ids_by_the_seed():
    digits = character_tokenizer("0123456789+= ", context=64)
    first = probe(digits, vocab_size=16, seed=3)
    assert [len(sequence) for sequence in first] == [LENGTH] * 4
    assert all(0 <= token < 16 for sequence in first for token in sequence)
    assert first == probe(digits, vocab_size=16, seed=3) != probe(digits, vocab_size=16, seed=4)


def test_a_tokenizer_with_letters_gets_the_sentences():
    letters = sorted({letter for sentence in SENTENCES for letter in sentence})
    tokenizer = character_tokenizer("".join(letters), context=64)
    sequences = probe(tokenizer, vocab_size=len(tokenizer), seed=0)
    assert [tokenizer.decode(ids) for ids in sequences] == [sentence[:LENGTH] for sentence in SENTENCES]
