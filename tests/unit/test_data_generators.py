"""Generated tasks: exact references, and held-out problems that no run ever trains on."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit.data.generators import GENERATORS, OLDER, _tell, generate
from alignkit.errors import DataError
from alignkit.recipe.rules import _generators


def rows(name, split="train", seed=0, **options):
    return generate(name, options, split=split, seed=seed)


def prompts(*args, **options):
    return [row["prompt"] for row in rows(*args, **options)]


def test_one_digit_addition_has_70_sums_to_train_on_and_30_held_out():
    train, heldout = prompts("arithmetic"), prompts("arithmetic", "heldout")
    assert (len(train), len(heldout)) == (70, 30)
    every = {f"What is {a} + {b}? Answer with a number only." for a in range(10) for b in range(10)}
    assert set(train) | set(heldout) == every
    assert not set(train) & set(heldout)


@given(
    st.sampled_from(["+", "-", "*", "+-", "+-*"]),
    st.integers(1, 2),
    st.booleans(),
    st.sampled_from(["train", "heldout"]),
)
def test_every_reference_is_the_value_of_its_expression(operations, digits, reversed, split):
    for row in rows("arithmetic", split, operations=operations, digits=digits, reversed=reversed, style="characters")[
        :50
    ]:
        [(left, sign, right)] = re.findall(r"^(\d+)([-+*])(\d+)=$", row["prompt"])
        assert len(left) == len(right) == digits
        value = {"+": int(left) + int(right), "-": int(left) - int(right), "*": int(left) * int(right)}[sign]
        written = str(abs(value))[::-1] if reversed else str(abs(value))
        assert row["completion"] == row["reference"] == ("-" if value < 0 else "") + written


def test_character_prompts_are_those_of_the_smoke_recipe():
    [row] = [r for r in rows("arithmetic", digits=2, style="characters") + rows("arithmetic", "heldout", digits=2, style="characters") if r["prompt"] == "12+34="]  # fmt: skip  # noqa: E501
    assert row["completion"] == "46"
    assert len(rows("arithmetic", digits=2)) == 5670
    assert len(rows("arithmetic", "heldout", digits=2)) == 2430


def test_a_problem_is_held_out_whatever_else_is_asked():
    """Training on + and - must not see the sums that an addition-only run holds out."""
    both = set(prompts("arithmetic", operations="+-"))
    assert not both & set(prompts("arithmetic", "heldout", operations="+"))
    assert both >= set(prompts("arithmetic", operations="-"))


def test_the_seed_never_moves_a_problem_between_the_splits():
    assert rows("arithmetic", seed=0) == rows("arithmetic", seed=1)
    train = {seed: set(prompts("arithmetic", seed=seed, digits=4, count=300)) for seed in (0, 1)}
    heldout = set(prompts("arithmetic", "heldout", seed=0, digits=4, count=300))
    assert train[0] != train[1]
    assert len(train[0]) == 300
    assert not heldout & (train[0] | train[1])


def test_comparison_asks_for_the_larger_of_two_different_numbers():
    everything = rows("comparison") + rows("comparison", "heldout")
    assert len(everything) == len({row["prompt"] for row in everything}) == 90
    for row in everything:
        left, right = map(int, re.findall(r"\d+", row["prompt"]))
        assert left != right
        assert int(row["reference"]) == max(left, right)


def test_parity_covers_all_numbers_once():
    everything = rows("parity") + rows("parity", "heldout")
    assert len(everything) == 100
    for row in everything:
        number = int(re.findall(r"\d+", row["prompt"])[0])
        assert row["reference"] == ("odd" if number % 2 else "even")


@pytest.mark.parametrize("mistakes", [False, True])
def test_chains_are_sums_modulo_ten_whose_labels_say_where_they_go_wrong(mistakes):
    everything = rows("chains", "heldout", numbers=4, mistakes=mistakes)
    assert len(everything) == 3000
    firsts = []
    for row in everything:
        digits = [int(digit) for digit in row["prompt"].rstrip("=").split("+")]
        assert int(row["reference"]) == sum(digits) % 10
        assert "".join(row["steps"]) == row["completion"]
        total, fine = digits[0], True
        for step, digit, label in zip(row["steps"], digits[1:], row["labels"], strict=True):
            left, right, result = map(int, re.fullmatch(r"(\d)\+(\d)=(\d);?", step).groups())
            assert (left, right) == (total, digit)
            fine &= result == (left + right) % 10
            assert label == float(fine)
            total = result
        assert row["steps"][-1][-1] != ";"
        firsts.append(int(sum(row["labels"])))
    shares = [firsts.count(right) / 3000 for right in range(4)]
    assert shares == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2] if mistakes else [0, 0, 0, 1], abs=0.03)


def test_a_chain_with_a_mistake_has_one_and_ends_wrong():
    for row in rows("chains", numbers=3, mistakes=True):
        sums = [
            sum(map(int, step.split("=")[0].split("+"))) % 10 == int(step.split("=")[1].rstrip(";"))
            for step in row["steps"]
        ]
        assert sums.count(False) == int(0.0 in row["labels"])
        assert (row["completion"][-1] == row["reference"]) == (0.0 not in row["labels"])


def test_every_variety_asks_for_the_same_sums():
    """The numbers of a prompt give its reference, whatever its words; items are the same in all six varieties."""
    everything = rows("dialects", "heldout", seed=3, count=8)
    assert len(everything) == len({row["prompt"] for row in everything}) == 48
    for row in everything:
        left, right = map(int, re.findall(r"\d+", row["prompt"]))
        assert int(row["reference"]) == (left + right, left - right, left * right, left + right)[row["item"] % 4]
        assert 0 < right < left
    by_item = {}
    for row in everything:
        by_item.setdefault(row["item"], {})[row["variety"]] = row["reference"]
    assert all(len(answers) == 6 and len(set(answers.values())) == 1 for answers in by_item.values())
    assert rows("dialects", "heldout", seed=4, count=8) != everything


@pytest.mark.parametrize(
    ("name", "options", "split", "message"),
    [
        ("dialects", {}, "train", "no rows to train on"),
        ("arithmetik", {}, "train", "unknown"),
        ("arithmetic", {"digit": 2}, "train", "no option digit; wanted one of digits"),
        ("arithmetic", {"seed": 2}, "train", "no option seed"),
        ("arithmetic", {"digits": 0}, "train", "whole number above 0"),
        ("arithmetic", {"digits": True}, "train", "whole number above 0"),
        ("arithmetic", {"digits": "2"}, "train", "whole number above 0"),
        ("arithmetic", {"reversed": 1}, "train", "true or false"),
        ("arithmetic", {"style": "chars"}, "train", "chat or characters"),
        ("arithmetic", {"operations": "+/"}, "train", "wanted some of + - *"),
        ("arithmetic", {"digits": 3, "count": 10**6}, "train", "only enough problems"),
        ("arithmetic", {}, "test", "wanted train or heldout"),
        ("chains", {"numbers": 1}, "train", "numbers is 1; wanted 2 or more"),
    ],
)
def test_wrong_options_are_named(name, options, split, message):
    with pytest.raises(DataError) as caught:
        generate(name, options, split=split, seed=0)
    assert message in str(caught.value)


def test_directed_sums_are_the_same_sums_and_say_how_much_right_and_short_answers_count():
    plain, directed = rows("arithmetic", digits=2, style="characters", reversed=True), rows("directed_sums")
    assert [row["prompt"] for row in directed] == [row["prompt"] for row in plain]
    assert [row["completion"] for row in directed] == [row["reference"] for row in plain]
    weights = [tuple(row["direction"].values()) for row in directed]
    assert set(weights) == {(right, 10 - right) for right in range(1, 10)}
    assert all(500 < weights.count((right, 10 - right)) < 760 for right in range(1, 10))  # 630 expected
    assert {row["direction"]["exact_match"] for row in rows("directed_sums", weight=9)} == {9}
    with pytest.raises(DataError, match="weight is 10; wanted 1 to 9"):
        rows("directed_sums", weight=10)


def test_a_hasty_teacher_stops_after_the_first_digit_half_of_the_time_whatever_the_direction():
    asked = [[row["completion"] for row in rows("directed_sums", weight=w, hasty=True)] for w in (1, 9)]
    assert asked[0] == asked[1]
    short = [row["completion"] for row in rows("directed_sums", hasty=True) if row["completion"] != row["reference"]]
    assert {len(answer) for answer in short} == {1}
    assert len(short) / len(rows("directed_sums")) == pytest.approx(0.5, abs=0.03)


def mistakes(answer: str, right: str) -> int:
    return sum(one != other for one, other in zip(answer, right, strict=True))


@pytest.mark.parametrize(("name", "options"), [("comparison", {}), ("arithmetic", {"reversed": True})])
def test_graded_answers_are_rated_by_their_wrong_digits(name, options):
    options = {"digits": 2, "style": "characters", "count": 300} | options
    rated = rows(name, answers="rated", **options)
    assert all(row["rating"] == 2 - mistakes(row["completion"], row["reference"]) for row in rated)
    assert {row["rating"] for row in rated} == {0.0, 1.0, 2.0}
    for row in rows(name, answers="ranked", **options):
        assert row["scores"] == [2 - mistakes(answer, row["reference"]) for answer in row["completions"]]
    assert any(len(set(row["scores"])) < 4 for row in rows(name, answers="ranked", **options))


def test_the_rejected_answer_has_more_wrong_digits_and_any_is_unsafe():
    compared = rows("comparison", digits=2, style="characters", answers="unsafe", count=300)
    for row in compared:
        better, worse = (mistakes(row[side], row["reference"]) for side in ("chosen", "rejected"))
        assert better < worse
        assert (row["chosen_unsafe"], row["rejected_unsafe"]) == (better > 0, worse > 0)
    assert {row["chosen_unsafe"] for row in compared} == {True, False}


@pytest.mark.parametrize(("split", "share"), [("train", 0.9), ("heldout", 0.5)])
def test_padding_goes_with_the_right_answer_in_training_only(split, share):
    padded = rows("comparison", split, digits=2, style="characters", answers="padded", count=1000)
    assert all(row["chosen"].rstrip("=") == row["reference"] != row["rejected"].rstrip("=") for row in padded)
    longer = sum(len(row["chosen"]) > len(row["rejected"]) for row in padded) / len(padded)
    assert longer == pytest.approx(share, abs=0.05)


def test_answers_are_known_by_their_older_names_too_and_one_line_says_the_newer_one(caplog):
    _tell.cache_clear()
    for old, now in OLDER.items():
        for _ in range(2):  # told once
            assert rows("arithmetic", answers=old) == rows("arithmetic", answers=now) != rows("arithmetic")
    assert caplog.messages == [
        f"generator:arithmetic: answers: '{old}' is now '{now}'; the older name is still read"
        for old, now in OLDER.items()
    ]
    with pytest.raises(DataError, match=r"answers is \['judged'\]; wanted text"):
        rows("arithmetic", answers=["judged"])


def test_check_knows_every_generator_that_there_is():
    """It reads them from the source text, where one that was imported had no function."""
    assert _generators().keys() == GENERATORS.keys()
    assert _generators()["dialects"] == {"count"}
