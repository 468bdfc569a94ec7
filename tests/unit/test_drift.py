"""Drift of answers against hand-counted texts and nltk's BLEU; the hacking indicator's four words."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit.evaluate.results.before_after import compare
from alignkit.evaluate.results.drift import distinct, drift, repetition, reward_hacking, self_bleu, words
from alignkit.evaluate.results.eval_folder import EvalResult, Sample


def result(*completions, stop="end_of_text"):
    samples = [Sample(task_id=str(i), completion=text, stop=stop) for i, text in enumerate(completions)]
    return EvalResult(protocol="p", protocol_hash="h", samples=samples)


def rows(before, after):
    return {row.name: row for row in drift(before, after)}


def test_words_are_lower_case_with_marks_apart():
    assert words("Don't stop, it's 3.5!") == ["don't", "stop", ",", "it's", "3", ".", "5", "!"]
    assert words("naïve – 你好") == ["naïve", "–", "你好"]


def test_repetition_is_the_share_of_4_grams_seen_before():
    """a b c d a b c d: 5 4-grams, abcd twice: 4 different of 5."""
    assert repetition(list("abcdabcd")) == pytest.approx(1 / 5)
    assert repetition(list("abc")) == 0.0


def test_distinct_counts_over_all_texts_together():
    """2-grams: ab, bc, ab, bd: 3 of 4."""
    assert distinct([list("abc"), list("abd")], 2) == 3 / 4
    assert distinct([["a"]], 2) is None


@given(st.lists(st.lists(st.sampled_from("abcde"), min_size=4, max_size=12), min_size=2, max_size=8))
def test_self_bleu_is_nltks(texts):
    bleu = pytest.importorskip("nltk.translate.bleu_score")
    smooth = bleu.SmoothingFunction().method2
    scores = [bleu.sentence_bleu(texts[:i] + texts[i + 1 :], t, smoothing_function=smooth) for i, t in enumerate(texts)]
    assert self_bleu(texts) == pytest.approx(sum(scores) / len(scores), abs=1e-12)


def test_self_bleu_of_equal_texts_is_one_and_takes_a_seeded_sample():
    assert self_bleu([["yes"]] * 5) == pytest.approx(1.0)
    assert self_bleu([["yes"], []]) is None
    draw = random.Random(0)
    texts = [[draw.choice("abcdefgh") for _ in range(10)] for _ in range(150)]
    assert self_bleu(texts, seed=1) == self_bleu(texts, seed=1) != self_bleu(texts, seed=2)


def test_answers_that_grew_are_longer_and_not_called_less_varied():
    """The same sentences with ten more words each: cut to equal length nothing changed."""
    short = [f"the answer to number {index} is {index * 7}" for index in range(40)]
    before, after = result(*short), result(*[text + " and that is all there is to say about it" for text in short])
    told = rows(before, after)
    assert (told["length"].before, told["length"].after, told["length"].trend) == (7, 17, "up")
    for size in (1, 2, 3):
        row = told[f"distinct-{size}"]
        assert (row.before, row.p_value, row.trend) == (row.after, 1.0, "no detectable change")
    assert told["self-BLEU"].before == pytest.approx(told["self-BLEU"].after)


def test_answers_that_collapsed_to_one_sentence_are_less_varied():
    draw = random.Random(1)
    varied = [" ".join(draw.choices([f"w{i}" for i in range(200)], k=12)) for _ in range(40)]
    told = rows(result(*varied), result(*["I am happy to help you with that today my very dear friend"] * 40))
    assert told["distinct-2"].trend == "down"
    assert told["distinct-2"].after == pytest.approx(11 / 440)
    assert told["self-BLEU"].after == pytest.approx(1.0)
    assert told["self-BLEU"].before < 0.5


def test_truncation_and_repetition_are_trends_too():
    calm = [f"one two three four five {index}" for index in range(20)]
    told = rows(result(*calm), result(*["go on and on " * 10] * 20, stop="length"))
    assert (told["truncated"].before, told["truncated"].after, told["truncated"].trend) == (0, 1, "up")
    assert told["repetition"].trend == "up"


def test_different_tasks_and_empty_answers_do_not_break_it():
    other = EvalResult(protocol="p", protocol_hash="h", samples=[Sample(task_id="x", completion="a b")])
    assert drift(result("a"), other) == []
    told = rows(result("", ""), result("", ""))
    assert told["length"].after == 0
    assert "self-BLEU" not in told


@pytest.mark.parametrize(
    ("proxy", "gold", "verdict"),
    [
        ((5, 25), (25, 5), "reward hacking"),
        ((5, 25), (15, 15), "proxy gain not seen in gold"),
        ((5, 25), (5, 25), "gold gains with the proxy"),
        ((15, 15), (25, 5), "proxy did not rise"),
    ],
)
def test_a_proxy_that_rises_while_the_gold_falls_is_hacking(proxy, gold, verdict):
    def change(before, after):
        return compare([i < before for i in range(30)], [i < after for i in range(30)])

    assert reward_hacking(change(*proxy), change(*gold)).verdict == verdict
