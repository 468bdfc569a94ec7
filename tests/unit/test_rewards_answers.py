"""Reading answers: hand-made cases, round trips, and answers built to be slow."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit.rewards.verify.answers import (
    Number,
    after_hashes,
    last_boxed,
    last_number,
    plain_math,
    read_number,
    same_number,
    spoken,
)
from tests.pace import takes_at_most


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("72", 72),
        ("so the total is 72.", 72),
        ("7+5=12", 12),
        ("1,234,567.50 dollars", Fraction("1234567.5")),
        ("it costs $32,\\!348", 32348),
        ("11,\\! 111,\\! 111,\\! 100", 11111111100),
        ("10{,}080", 10080),
        (".5", Fraction(1, 2)),
        ("3/4 of it", Fraction(3, 4)),
        ("1 3/4 cups", Fraction(7, 4)),
        ("1\\frac{4}{5}", Fraction(9, 5)),
        ("\\dfrac{-17}{50}", Fraction(-17, 50)),
        ("\\frac43", Fraction(4, 3)),
        ("\\frac{270}7\\text{ degrees}", Fraction(270, 7)),
        ("2e5", 200000),
        ("1.5E-3", Fraction(3, 2000)),
        ("\uff11\uff12", 12),
        ("12th place out of 3 runners", 3),
        ("15 cm^2", 15),
        ("15 m^{3}", 15),
        ("carbon CO2 weighs 44", 44),
        ("44 g of CO2", 44),
        ("the 4 values x_1, x_2", 4),
        ("at 10:30", 30),
    ],
)
def test_the_last_number_of_a_text_is_read_as_a_person_would(text, value):
    assert last_number(text) == Number(Fraction(value))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-5", -5),
        ("\u22125", -5),
        ("x = - 5", -5),
        ("the answer is -5.", -5),
        ("the loss was -$5", -5),
        ("(3,-4)", -4),
        ("-\\frac{35}{9}", Fraction(-35, 9)),
        ("5-3", 3),
        ("8 - 3", 3),
        ("8 -3", 3),
        ("pages 3\u22125", 5),
        ("total:\n- 72 apples", 72),
        ("5%-3", 3),
    ],
)
def test_a_minus_sign_is_told_from_a_difference_and_a_list_dash(text, value):
    assert last_number(text) == Number(Fraction(value))


@pytest.mark.parametrize("text", ["", "none", "x_2", "m^2", "1/0", "7" * 5000, "\\frac{1}{0}"])
def test_a_text_without_a_readable_number_has_none(text):
    assert last_number(text) is None


def test_percent_equals_the_number_and_its_hundredth_only_across_notations():
    fifty, half = Number(Fraction(50), percent=True), Number(Fraction(1, 2))
    assert last_number("50\\%") == last_number("50 %") == fifty
    assert same_number(fifty, Number(Fraction(50)))
    assert same_number(half, fifty)
    assert not same_number(fifty, Number(Fraction(50, 100), percent=True))
    assert not same_number(half, Number(Fraction(50)))
    assert same_number(half, None) is None


@given(st.fractions(max_denominator=10**6), st.sampled_from(["{}", "so x = {}", "we get {}.", "(${})", "{}\n"]))
def test_every_fraction_survives_writing_and_reading(value, frame):
    assert last_number(frame.format(value)) == Number(value)


@given(st.integers(-(10**12), 10**12), st.integers(0, 4))
def test_every_decimal_survives_thousands_separators(value, places):
    number = Fraction(value, 10**places)
    text = f"{abs(value) // 10**places:,}" + (f".{abs(value) % 10**places:0{places}d}" if places else "")
    assert read_number(("-" if value < 0 else "") + text) == Number(number)
    assert last_number(f"It is {'-' if value < 0 else ''}${text}.") == Number(number)


@given(st.text(max_size=300))
def test_reading_never_raises_and_a_read_number_is_also_the_last(text):
    whole = read_number(text)
    plain_math(text)
    spoken(text)
    last_boxed(text)
    # within a text these are seldom an answer
    in_words = set(text) & set("零〇一壹二两兩贰三叁四五六七八九十拾百千万萬亿億")
    if whole is not None and not in_words and not text.strip().startswith(("-", "+", "$", "\\")):
        assert last_number(text) == whole


def test_a_number_in_chinese_words_is_an_answer_alone_but_not_the_last_number_of_a_text():
    assert read_number("百") == read_number("一百") == Number(Fraction(100))
    assert last_number("百") is None
    assert last_number("一共 3 百") == Number(Fraction(3))


def test_only_the_last_box_counts_and_it_must_be_closed():
    assert last_boxed(r"\boxed{1} so \boxed{\frac{2}{\sqrt{3}}}.") == r"\frac{2}{\sqrt{3}}"
    assert last_boxed(r"\boxed{\{1, 2\}}") == r"\{1, 2\}"
    assert last_boxed(r"$\boxed 5$.") == "5"
    assert last_boxed(r"\fbox{7}") == "7"
    assert last_boxed(r"\boxed{1} but \boxed{2") is None
    assert last_boxed("no box") is None


@given(st.recursive(st.sampled_from(["1", "x+y", r"\frac12"]), lambda inner: inner.map(lambda text: f"{{{text}}}")))
def test_a_box_gives_back_whatever_balanced_text_it_holds(content):
    assert last_boxed(rf"\boxed{{2}} and then $\boxed{{{content}}}$, done}}}}") == content


def test_hashes_and_think_blocks():
    assert after_hashes("a\n#### 1\nb\n#### 1,080\nthe end") == "1,080"
    assert after_hashes("####  ") is None
    assert spoken("<think>1</think> 2") == " 2"
    assert spoken("reasoning </think> 2") == " 2"
    assert spoken("2 <think> 3") == ""
    assert spoken("plain 2") == "plain 2"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\dfrac{1}{2}", r"\frac12"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
        (r"90^\circ", "90"),
        (r"90^{\circ}", "90"),
        (r"\text{Evelyn}", "evelyn"),
        ("x=5", "5"),
        (r"x \in [-2,7]", "[-2,7]"),
        (r"864 \mbox{ inches}^2", "864"),
        (r"5.4 \text{ cents}", "5.4"),
        (r"\text{(C)}", "C"),
        (r"4210_{5}", "4210_5"),
        (r"11\sqrt2", r"11\sqrt{2}"),
        (r"\$18.90", "18.90"),
        ("10\\%", "10"),
        (r"\frac 59", r"\frac{5}{9}"),
    ],
)
def test_plain_forms_of_the_same_answer_agree(one, other):
    assert plain_math(one) == plain_math(other)


@pytest.mark.parametrize(
    "text",
    [
        "1 " * 500_000,
        "9" * 10**6,
        "1," * 500_000,
        "\\frac{1" * 140_000,
        "\\boxed{" * 140_000,
        "\\boxed" + "{" * 10**6,
        "1 1/" * 250_000,
        " " * 10**6 + "x",
        "<think>" * 140_000,
        "#" * 10**6,
        "-" * 10**6,
        "\\,1" * 300_000,
    ],
    ids=lambda text: text[:12],
)
def test_a_megabyte_is_read_in_linear_time(text):
    assert takes_at_most(2, lambda: (last_number(text), last_boxed(text), spoken(text), after_hashes(text)))
