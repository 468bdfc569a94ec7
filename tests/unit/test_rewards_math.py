"""Equality of mathematical answers, cheap paths first; hostile answers in the pool."""

import asyncio
import subprocess
import sys
from contextlib import closing

import pytest
from reward_rollouts import question, rollouts

from alignkit.recipe.schema import RewardSpec
from alignkit.rewards.pool.pool import RewardPool
from alignkit.rewards.verify.math_equal import UnreadableGold, is_too_large, same_math
from alignkit.types.score import FaultKind
from tests.pace import takes_at_most


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("x^2+2x+1", "(x+1)^2"),
        (r"\frac{1}{2}", "0.5"),
        ("50\\%", "0.5"),
        ("10,080", "10080"),
        (r"\sqrt{12}", r"2\sqrt{3}"),
        ("(2,4)", r"\left(2, 4\right)"),
        (r"\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix}", r"\begin{pmatrix} -\frac{1}{3} \\ \frac{2}{3} \end{pmatrix}"),
        (r"(-\infty, 2) \cup (3, \infty)", r"(-\infty,2)\cup(3,\infty)"),
        (r"\text{Evelyn}", "Evelyn"),
        ("x=5", "5"),
        ("p - q", "-q + p"),
        ("7" * 900, "7" * 900),
    ],
)
def test_equal_answers_are_equal_in_any_notation(gold, answer):
    assert same_math(gold, answer) is True


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("x^2+2x+1", "(x+1)^3"),
        (r"\frac{1}{2}", "0.51"),
        ("50\\%", "5"),
        (r"\text{Evelyn}", "yelvnE"),
        ("(2,4)", "(4,2)"),
        ("(2,4)", "2"),
        ("3", "x^5 - x^4 + x^3"),
        ("10", "10,\\!080"),
    ],
)
def test_different_answers_differ(gold, answer):
    assert same_math(gold, answer) is False


@pytest.mark.parametrize(
    "answer",
    [
        "",
        " ",
        "9^{9^{9^9}}",
        "2^2^2",
        "(10^9)!",
        r"\sum_{k=1}^{9} k",
        r"\binom{10^9}{10^8}",
        "x^{9999}",
        "x" + "7" * 101,
        "1" * 10**6,
        "(" * 31 + "1" + ")" * 31,
        r"\int_0^1 x dx",
    ],
    ids=lambda text: text[:12],
)
def test_answers_that_are_too_large_or_not_carried_out_are_unread_at_once(answer):
    assert same_math("42", answer) is None
    assert takes_at_most(0.5, lambda: same_math("42", answer))


def test_an_unfinished_form_is_right_where_the_gold_answer_has_it():
    assert same_math("2^{1000}", "2^{1000}") is True
    assert same_math("10!", "10 !") is True


@pytest.mark.parametrize("gold", ["", "  ", "1" * 1001, r"\text{}"])
def test_an_unreadable_gold_answer_is_an_error_and_never_right(gold):
    with pytest.raises(UnreadableGold):
        assert not same_math(gold, "1 + 1")


def test_the_cheap_paths_do_not_import_math_verify():
    script = (
        "import sys; from alignkit.rewards.verify.math_equal import same_math; "
        "assert same_math('1,080', '1080.0') and same_math('x+1', 'x + 1') and same_math('Evelyn', 'Bob') is False; "
        "assert 'sympy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


HOSTILE = {
    r"\boxed{(a+b+c+d+e+f)^{60}}": 0.0,
    r"\boxed{" + r"\sin(" * 29 + "x" + ")" * 29 + "}": 0.0,
    r"\boxed{" + r"\sqrt" * 300 + "{x}}": 0.0,
    r"\boxed{((1+\pi)^{99})^{99}}": 0.0,
    r"\boxed{\ddot{" * 30 + "x" + "}" * 31: 0.0,
    r"\boxed{((10^{99})^{99})^{99}}": 0.0,
    r"\boxed{9^{9^{9^9}}}": 0.0,
    r"\boxed{(10^9)!}": 0.0,
    r"\boxed" + "{" * 5000 + "1" + "}" * 5000: 0.0,
    r"\boxed{" + "(" * 2000 + "1" + ")" * 2000 + "}": 0.0,
    r"\boxed{" + "x+" * 20_000 + "x}": 0.0,
    r"\boxed{" + "7" * 10**6 + "}": 0.0,
    "7" * 10**6: 0.0,
    r"\boxed{\sum_{k=1}^{100000000} k^k}": 0.0,
    r"\boxed{__import__('os').system('touch owned')}": 0.0,
    "\x00\ud7ff\U0001f600 \\boxed{\x00}": 0.0,
}


def test_hostile_answers_end_by_the_deadline_and_the_others_score(tmp_path, monkeypatch, record_property):
    record_property("tries", len(HOSTILE))
    monkeypatch.chdir(tmp_path)
    task = question("x^2+2x+1")
    texts = [text for hostile in HOSTILE for text in (r"\boxed{(x+1)^2}", hostile)]
    with closing(RewardPool([RewardSpec(name="math_answer", deadline_s=2.0)], workers=2)) as pool:
        [scores] = asyncio.run(pool.score([(task, rollouts(task, *texts))]))
    assert [one.value for one in scores[::2]] == [1.0] * len(HOSTILE)
    for hostile, score in zip(texts[1::2], scores[1::2], strict=True):
        assert score.value in (0.0, None), hostile[:60]
        if HOSTILE[hostile] is None:
            assert score.fault is not None
            assert score.fault.kind is FaultKind.TIMEOUT
    assert not (tmp_path / "owned").exists()


def test_size_limits_count_brackets_and_digits():
    assert not is_too_large("(" * 30 + ")" * 30)
    assert is_too_large("(" * 31)
    assert not is_too_large("()" * 300)
    assert not is_too_large("1" * 100)
    assert is_too_large("1" * 101)
    assert is_too_large("x" * 1001)
