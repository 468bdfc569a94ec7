"""Sets, intervals, fractions, units and LaTeX: what is the same answer and what only looks like it."""

import asyncio
import re
import time
from contextlib import closing
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reward_rollouts import question, rollouts

from alignkit.recipe.schema import RewardSpec
from alignkit.rewards.pool.pool import RewardPool
from alignkit.rewards.verdict import Outcome, outcome_of
from alignkit.rewards.verify.math_equal import same_math
from alignkit.rewards.verify.quantities import as_interval, read_quantity, same_quantity
from tests.pace import takes_at_most


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\{1,2,3\}", r"\{3,2,1\}"),
        (r"\{1,2\}", "1, 2"),
        ("1 and 2", "2, 1"),
        (r"x=1 \text{ or } x=2", "1,2"),
        (r"\pm 3", "3,-3"),
        (r"x \in \{1,2\}", "1,2"),
        (r"\emptyset", r"\{\}"),
        ("[0,1)", r"0 \le x < 1"),
        ("[0,1)", "1 > x >= 0"),
        (r"(-\infty,3]", r"x\le 3"),
        (r"[1,\infty)", r"x \ge 1"),
        (r"(-\infty, \frac12)", "0.5 > t"),
        (r"x \leq 3", "x<=3"),
        (r"(0,1)\cup(2,3)", r"(2,3)\cup(0,1)"),
        (r"\mathbb{R}", r"(-\infty,\infty)"),
        (r"\frac{1}{2}", "0.5"),
        (r"1\frac{1}{2}", "3/2"),
        ("3:4", r"\frac34"),
        (r"3 \times 10^5", "300000"),
        (r"\sqrt{8}", r"2\sqrt2"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}"),
        ("y=2x+1", "y = 1+2x"),
        (r"5\text{ cm}", "5"),
        (r"5\text{ cm}", "0.05 m"),
        ("12 km", r"12\,\mathrm{kilometers}"),
        (r"5\,\mathrm{m/s}", "18 km/h"),
        ("2 square meters", "20000 cm^2"),
        (r"1 \text{ m}^3", "1000000 cubic centimeters"),
        (r"\$5", "5 dollars"),
        (r"\$5", "500 cents"),
        (r"90^\circ", "90 degrees"),
        ("1 hour", "3600 seconds"),
        ("36 inches", "1 yard"),
    ],
)
def test_the_same_answer_in_two_forms(one, other):
    assert same_math(one, other) is True
    assert same_math(other, one) is True


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("(1,2)", "[1,2]"),
        ("(1,2)", "(2,1)"),
        ("[0,1)", "[0,1]"),
        ("[0,1)", r"0 \le x \le 1"),
        (r"(-\infty,3]", "x<3"),
        (r"(-\infty,3]", r"x\ge 3"),
        ("x<3", "x>3"),
        (r"\{1,2\}", r"\{1,2,3\}"),
        ("1,2", "12"),
        (r"\pm 3", "3"),
        (r"(0,1)\cup(2,3)", "(0,1)"),
        ("5 cm", "5 m"),
        ("5 kg", "5 m"),
        ("10 m", "10 km"),
        ("5 m/s", "5 km/h"),
        ("5 m/s", "5 m"),
        ("2 square meters", "2 meters"),
        (r"\$5", "5 cents"),
        ("0.5", "0.25"),
        (r"\sqrt{2}", "1.41"),
        (r"\frac13", "0.333"),
        (r"\emptyset", "0"),
    ],
)
def test_answers_that_only_look_alike(one, other):
    assert same_math(one, other) is not True
    assert same_math(other, one) is not True


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("1 < x < 2", "(1,2)"),
        (r"2 \geq x > -1", "(-1,2]"),
        ("x > 2", r"(2,\infty)"),
        (r"2 \ge x", r"(-\infty,2]"),
        (r"\theta \le \frac{\pi}{2}", r"(-\infty,\frac{\pi}{2}]"),
        ("1 < 2", None),
        ("1 < x > 0", None),
        ("x < y", None),
        ("x <", None),
        (r"\left(1,2\right)", None),
        ("1 < x < 2 < 3", None),
    ],
)
def test_inequalities_in_one_variable_are_intervals(text, interval):
    assert as_interval(text) == interval


@given(
    st.fractions(min_value=-1000, max_value=1000, max_denominator=1000), st.sampled_from(["{} m", r"{} \text{{ km}}"])
)
def test_a_quantity_survives_writing_and_reading(value, frame):
    number, unit = read_quantity(frame.format(value))
    assert number.value == value
    assert unit[1] == (1000 if "km" in frame else 1)


def test_a_unit_on_one_side_does_not_count_and_none_is_no_matter_of_units():
    assert same_quantity("5 cm", "5") is True
    assert same_quantity("5 cm", "6") is False
    assert same_quantity("5", "5") is None
    assert same_quantity("5 apples", "5") is None
    assert same_quantity("x cm", "5 cm") is None
    assert read_quantity("$5$")[1] is None
    assert read_quantity(r"\$5")[1] == (frozenset({("money", 1)}), Fraction(1))


@given(st.text(max_size=200) | st.text(alphabet="0123456789.<>=\\le gx,cmkhs/^{}()$[]", max_size=60))
def test_reading_never_raises(text):
    read_quantity(text)
    as_interval(text)


@pytest.mark.parametrize(
    "text", ["5 " * 500, "<" * 1000, "x<" * 500, "9" * 1000, "5 m/" * 250, "}" * 1000, "\\text{" * 160]
)
def test_the_longest_answers_are_read_at_once(text):
    assert takes_at_most(0.2, lambda: (read_quantity(text), as_interval(text), same_quantity(text, "5 m")))


HOSTILE = [
    r"\boxed{9^{9^{9^{9}}}}", r"\boxed{10^{10^{10}}}", r"\boxed{(10^9)!}", r"\boxed{\binom{10^9}{10^8}}",
    r"\boxed{\sum_{i=1}^{10^8} i}", r"\boxed{\int_0^1 x^{x^{x}} dx}", r"\boxed{" + "{" * 5000 + "1" + "}" * 5001,
    r"\boxed{" + "(" * 2000 + "1" + ")" * 2000 + "}", r"\boxed{" + "x+" * 20000 + "x}", r"\boxed{(a+b+c+d+e+f)^{60}}",
    r"\boxed{\{" + ",".join(map(str, range(1000))) + r"\}}", r"\boxed{" + "=".join(["x"] * 400) + "}", "7" * 5000,
    r"\boxed{" * 20000, r"\frac{" * 20000, "<think>" * 20000, "\x00" * 1000, "1" * 10**6,
]  # fmt: skip


PIECES = (
    r"\boxed{ } 1 23 \frac \sqrt ^ { ( ) [ ] , x + - = < \le \cup \infty #### answer is <answer> </answer> $ "
    r"</think> \text{ cm} % / \pm \{ \} ! \log \pi . é ½"
)


@pytest.mark.slow
def test_ten_thousand_fuzzed_answers_give_no_crash_and_no_hang(record_property):
    """Pieces of answers, glued at random, with hostile ones among them; two workers, one second for each answer."""
    rng = Random(0)
    pieces = [*re.split(" ", PIECES), " ", "\n"]
    texts = ["".join(rng.choices(pieces, k=rng.randint(0, 30))) for _ in range(10_000 - len(HOSTILE))] + HOSTILE
    record_property("tries", len(texts))
    rng.shuffle(texts)
    task = question("42")
    with closing(RewardPool([RewardSpec(name="math_answer", deadline_s=1.0)], workers=2)) as pool:
        start = time.monotonic()
        [scores] = asyncio.run(pool.score([(task, rollouts(task, *texts))]))
        seconds = time.monotonic() - start
    outcomes = {one: sum(outcome_of(score) is one for score in scores) for one in Outcome}
    print(f"\n{len(texts) / seconds:,.0f} answers/s, {dict(outcomes)}")
    assert outcomes[Outcome.GOLD_ERROR] == 0
    assert outcomes[Outcome.CRASHED] + outcomes[Outcome.TIMEOUT] < 20
    for text, score in zip(texts, scores, strict=True):
        assert score.value in (0.0, None) or "42" in text


@pytest.mark.slow
def test_hostile_answers_cost_a_batch_no_more_than_their_deadlines():
    """512 answers with 64 hostile ones: at most twice the clean time and 64 deadlines shared by two workers."""
    task, deadline_s = question(r"\frac{1}{2}"), 1.0
    normal = [rf"so it is \boxed{{\frac{{{n}}}{{{n + 3}}} + \sqrt{{{n}}}}}" for n in range(512)]
    hostile = normal[:448] + (HOSTILE * 4)[:64]
    with closing(RewardPool([RewardSpec(name="math_answer", deadline_s=deadline_s)], workers=2)) as pool:
        seconds = []
        for texts in (normal[:32], normal, hostile):
            start = time.monotonic()
            [scores] = asyncio.run(pool.score([(task, rollouts(task, *texts))]))
            seconds.append(time.monotonic() - start)
    print(f"\nclean {512 / seconds[1]:,.0f} answers/s, {seconds[1]:.2f} s; with hostile ones {seconds[2]:.2f} s")
    assert len(scores) == 512
    assert seconds[2] <= 2 * seconds[1] + 64 * deadline_s / 2
