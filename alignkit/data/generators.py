"""Generated tasks with exact references: arithmetic, chains of sums, comparison, parity; and played games.

Rows are in TRL's columns. Every generator takes `split` ("train" or "heldout") and `seed`. Which problems are held out
depends on the problem alone, so no seed ever trains on another run's held-out problems. Games are rows with `turns`, a
list of {observation, action, reward}.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, Literal, cast, get_args

from alignkit.data.city_rows import city_rows
from alignkit.data.dialects import dialect_sums
from alignkit.data.game_pair import game_pair
from alignkit.environments.base import Game
from alignkit.environments.behaviour import Behaviour, play
from alignkit.environments.guess_number import guess_number
from alignkit.environments.lift import find_environment
from alignkit.environments.lmrl.data_files import shared_file
from alignkit.environments.lmrl.guess_city import guess_city_conversations
from alignkit.environments.maze import maze
from alignkit.errors import DataError
from alignkit.types.seeds import child

Row = dict[str, Any]
Split = Literal["train", "heldout"]
Given = Literal["right", "paired_preference", "unpaired_feedback", "rewritten"]
Answers = Literal[Given, "mistaken", "ranked", "rated", "unsafe", "padded"]

HELD_OUT = 0.3
MISTAKEN = 0.6
MOST_ENUMERATED = 100_000
NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})
OLDER = {"compared": "paired_preference", "judged": "unpaired_feedback"}  # what `answers` were called before
SIGNS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


def arithmetic(
    *,
    split: Split,
    seed: int,
    digits: int = 1,
    operations: str = "+",
    reversed: bool = False,
    style: Literal["chat", "characters"] = "chat",
    answers: Answers = "right",
    count: int | None = None,
) -> list[Row]:
    """Sums, differences or products of two numbers of `digits` digits (0-9, 10-99, ...), as ordered pairs.

    style: "chat" asks in words; "characters" gives `12+34=`, to be completed with `46`. reversed: the answer's digits
    from last to first (`64`), which is easier to learn. answers: what stands beside the question; "paired_preference"
    has the right answer as `chosen` and one that is nearly right as `rejected`, "unpaired_feedback" one of the two with
    a `label`, "rewritten" the same and the right one as `rewrite`, "mistaken" is a teacher who gives a number too large
    by ten to 6 problems in 10 (the reference stays right); for the four others see `_graded`.
    One-digit addition has 100 pairs: 70 to train on, 30 held out.
    """
    unknown = sorted(set(operations) - set(SIGNS))
    if unknown or not operations:
        raise DataError(f"generator:arithmetic: operations is {operations!r}; wanted some of {' '.join(SIGNS)}")
    numbers = range(10 ** (digits - 1) if digits > 1 else 0, 10**digits)
    size = len(numbers)
    parts = [_split(f"{digits}{sign}", size * size, split=split, seed=seed, count=count) for sign in operations]
    rows = []
    for numbers_of_pairs in zip(*parts, strict=True):
        for sign, pair in zip(operations, numbers_of_pairs, strict=True):
            left, right = numbers[pair // size], numbers[pair % size]
            value = SIGNS[sign](left, right)
            question = f"What is {left} {sign} {right}? Answer with a number only."
            prompt = question if style == "chat" else f"{left}{sign}{right}="
            rows.append(_answered(prompt, value, answers, split=split, seed=seed, reversed=reversed))
    return rows


def directed_sums(
    *, split: Split, seed: int, digits: int = 2, weight: int | None = None, hasty: bool = False
) -> list[Row]:
    """Sums (characters, answers reversed) and how much a right and a short answer count: the column `direction`.

    weight: of a right answer (the reward exact_match), 1 to 9; a short one (length_penalty) has the rest to 10. By
    default drawn for each problem. hasty: a teacher who says only the first digit of half of the answers.
    """
    from numpy.random import Generator, Philox

    if weight is not None and weight > 9:
        raise DataError(f"generator:directed_sums: weight is {weight}; wanted 1 to 9")
    rows = arithmetic(split=split, seed=seed, digits=digits, style="characters", reversed=True)
    for row in rows:
        rng = Generator(Philox(key=child(seed, "generator", "direction", row["prompt"])))
        drawn, short = int(rng.integers(1, 10)), bool(rng.integers(2))
        right = weight or drawn
        row["direction"] = {"exact_match": right, "length_penalty": 10 - right}
        row["completion"] = row["completion"][:1] if hasty and short else row["completion"]
    return rows


def comparison(
    *,
    split: Split,
    seed: int,
    digits: int = 1,
    style: Literal["chat", "characters"] = "chat",
    answers: Literal[
        "right", "paired_preference", "unpaired_feedback", "ranked", "rated", "unsafe", "padded"
    ] = "right",
    count: int | None = None,
) -> list[Row]:
    """Which of two different numbers of `digits` digits is larger (90 ordered pairs of one-digit numbers).

    style: "chat" asks in words, "characters" gives `12>34=`. answers: as of arithmetic.
    """
    numbers = range(10 ** (digits - 1) if digits > 1 else 0, 10**digits)
    size = len(numbers)
    rows = []
    for number in _split(f"larger {digits}", size * (size - 1), split=split, seed=seed, count=count):
        first, rest = divmod(number, size - 1)
        second = rest + (rest >= first)
        left, right = numbers[first], numbers[second]
        question = f"Which number is larger, {left} or {right}? Answer with a number only."
        prompt = question if style == "chat" else f"{left}>{right}="
        rows.append(_answered(prompt, max(left, right), answers, split=split, seed=seed))
    return rows


def chains(*, split: Split, seed: int, numbers: int = 5, mistakes: bool = False, count: int | None = None) -> list[Row]:
    """Sums modulo ten of `numbers` digits, step by step: `7+5+9=` is to be completed with `7+5=2;2+9=1`.

    `steps` are the parts of `completion`, each with its semicolon, `labels` 1.0 or 0.0 for each: whether no sum so far
    is wrong, `right` their least. mistakes: half of the solutions have one wrong sum and go on from it without another
    mistake. Of five digits there are 100,000 problems: 70,000 to train on, 30,000 held out.
    """
    from numpy.random import Generator, Philox

    if numbers < 2:
        raise DataError(f"generator:chains: numbers is {numbers}; wanted 2 or more")
    rows = []
    for problem in _split(f"chain {numbers}", 10**numbers, split=split, seed=seed, count=count):
        first, *others = digits = [int(digit) for digit in f"{problem:0{numbers}d}"]
        rng = Generator(Philox(key=child(seed, "generator", "chains", problem)))
        wrong = int(rng.integers(len(others))) if mistakes and rng.integers(2) else len(others)
        total, steps = first, []
        for step, digit in enumerate(others):
            result = (total + digit + (int(rng.integers(1, 10)) if step == wrong else 0)) % 10
            steps.append(f"{total}+{digit}={result};")
            total = result
        steps[-1] = steps[-1].removesuffix(";")
        prompt = "+".join(map(str, digits)) + "="
        answer = {"completion": "".join(steps), "reference": str(sum(digits) % 10)}
        labels = [float(step < wrong) for step in range(len(steps))]
        rows.append({"prompt": prompt, **answer, "steps": steps, "labels": labels, "right": min(labels)})
    return rows


def parity(*, split: Split, seed: int, digits: int = 2, count: int | None = None) -> list[Row]:
    """Whether a number of at most `digits` digits is even or odd."""
    rows = []
    for number in _split("parity", 10**digits, split=split, seed=seed, count=count):
        question = f"Is {number} even or odd? Answer with one word."
        rows.append(_row(question, "odd" if number % 2 else "even"))
    return rows


def seeds(*, split: Split, seed: int, count: int = 10_000) -> list[Row]:
    """Tasks without content, for environments that draw their own from a seed: `0`, `1`, ..."""
    return [{"prompt": str(number)} for number in range(count)]


def dialects(*, split: Split, seed: int, count: int = 24) -> list[Row]:
    """Sums for evaluations, each in six varieties of language; to train on there are none."""
    return dialect_sums(split=split, seed=seed, count=count)


def guess_number_games(
    *,
    split: Split,
    seed: int,
    numbers: int = 20,
    guesses: int = 8,
    behaviour: Behaviour = "mixed",
    count: int = 2000,
) -> list[Row]:
    """Played games of the environment guess_number."""
    return _games(lambda: guess_number(numbers=numbers, guesses=guesses), split, seed, behaviour, guesses, count)


def guess_number_pairs(*, split: Split, seed: int, numbers: int = 20, guesses: int = 8, count: int = 2000) -> list[Row]:
    """Two games of guess_number for one hidden number, the better and the worse, and that number as `privileged`."""
    return [game_pair(numbers, guesses, child(seed, "generator", "pairs", split, number)) for number in range(count)]


def maze_games(
    *, split: Split, seed: int, behaviour: Behaviour = "mixed", max_turns: int = 12, count: int = 2000
) -> list[Row]:
    """Walks through the environment maze, cut after `max_turns`."""
    return _games(maze, split, seed, behaviour, max_turns, count)


def games(
    *,
    split: Split,
    seed: int,
    environment: str = "garden",
    options: Mapping[str, Any] = NO_OPTIONS,
    behaviour: Behaviour = "mixed",
    max_turns: int = 20,
    count: int = 2000,
) -> list[Row]:
    """Played games of any environment of the shelf that knows its best move, cut after `max_turns`."""
    make = find_environment(environment, options)
    if not isinstance(make(), Game):
        raise DataError(f"generator:games: environment {environment} knows no best move, so nothing can play it")
    return _games(cast(Callable[[], Game], make), split, seed, behaviour, max_turns, count)


def city_conversations(*, split: Split, seed: int, count: int = 10_000) -> list[Row]:
    """Published conversations of Guess My City (950, by people's questions and a network's answers), as they lie in the
    data's folder; every fifth is held out."""
    played = guess_city_conversations(shared_file("guess_my_city.jsonl.gz"))
    kept = [turns for number, turns in enumerate(played) if (number % 5 == 0) == (split == "heldout")]
    return [{"prompt": turns[0]["observation"], "turns": turns} for turns in kept[:count]]


def city_questions(*, split: Split, seed: int, played: bool = False, count: int = 1000) -> list[Row]:
    """Questions for the environment search_answer: in which country a city lies; `played` has searches as `turns`."""
    return city_rows(split=split, seed=seed, played=played, count=count)


GENERATORS: dict[str, Callable[..., list[Row]]] = {
    "arithmetic": arithmetic,
    "directed_sums": directed_sums,
    "comparison": comparison,
    "chains": chains,
    "parity": parity,
    "dialects": dialects,
    "seeds": seeds,
    "guess_number_games": guess_number_games,
    "guess_number_pairs": guess_number_pairs,
    "maze_games": maze_games,
    "games": games,
    "city_conversations": city_conversations,
    "city_questions": city_questions,
}


def generate(name: str, options: dict[str, Any], *, split: str, seed: int) -> list[Row]:
    """The rows of generator `name`. Raises DataError for an unknown generator, option, type or split."""
    if name not in GENERATORS:
        raise DataError(f"generator:{name}: unknown; wanted one of {', '.join(GENERATORS)}")
    if split not in ("train", "heldout"):
        raise DataError(f"generator:{name}: split is {split!r}; wanted train or heldout")
    function = GENERATORS[name]
    if isinstance(was := options.get("answers"), str) and was in OLDER:
        _tell(f"generator:{name}: answers: '{was}' is now '{OLDER[was]}'; the older name is still read")
        options = options | {"answers": OLDER[was]}
    known = inspect.signature(function, eval_str=True).parameters
    for option, value in options.items():
        if option not in known or option in ("split", "seed"):
            allowed = ", ".join(other for other in known if other not in ("split", "seed"))
            raise DataError(f"generator:{name}: no option {option}; wanted one of {allowed}")
        _check_type(name, option, value, known[option])
    return function(split=split, seed=seed, **options)


@cache
def _tell(sentence: str) -> None:
    """Once, however often the rows are made."""
    logging.getLogger(__name__).warning(sentence)


def _check_type(name: str, option: str, value: object, parameter: inspect.Parameter) -> None:
    default = parameter.default
    if isinstance(default, bool):
        fits, wanted = isinstance(value, bool), "true or false"
    elif isinstance(default, str):
        fits, wanted = isinstance(value, str), "text"
    elif isinstance(default, Mapping):
        fits, wanted = isinstance(value, Mapping), "a mapping"
    else:
        fits, wanted = type(value) is int and value > 0, "a whole number above 0"
    if not fits:
        raise DataError(f"generator:{name}: {option} is {value!r}; wanted {wanted}")
    choices = get_args(parameter.annotation) if isinstance(default, str) else ()
    if choices and value not in choices:
        raise DataError(f"generator:{name}: {option} is {value!r}; wanted {' or '.join(choices)}")


def _games(
    make: Callable[[], Game], split: Split, seed: int, behaviour: Behaviour, max_turns: int, count: int
) -> list[Row]:
    rows = []
    for number in range(count):
        own = child(seed, "generator", "games", split, number)
        turns = play(make(), seed=own, behaviour=behaviour, max_turns=max_turns)
        rows.append({"prompt": turns[0]["observation"], "turns": turns})
    return rows


def _answered(prompt: str, value: int, answers: str, *, split: Split, seed: int, reversed: bool = False) -> Row:
    """The row of a prompt whose answer is a number, with the columns that `answers` asks for."""
    right, own = _answer(value, reversed=reversed), child(seed, "generator", "wrong", prompt)
    columns = _compared(value, answers, reversed=reversed, seed=own) | _graded(right, answers, split=split, seed=own)
    return _row(prompt, right) | columns


def _compared(value: int, answers: str, *, reversed: bool, seed: int) -> Row:
    """The columns that tell the right answer from one that is off by one in some digit, as when a carry is lost."""
    if answers not in ("paired_preference", "unpaired_feedback", "rewritten", "mistaken"):
        return {}
    from numpy.random import Generator, Philox

    rng = Generator(Philox(key=seed))
    if answers == "mistaken":
        return {"completion": _answer(value + 10 * (rng.random() < MISTAKEN), reversed=reversed)}
    step = 10 ** int(rng.integers(len(str(abs(value)))))
    near = [number for number in (value - step, value + step) if number >= 0 or value < 0]
    right, wrong = (_answer(number, reversed=reversed) for number in (value, near[int(rng.integers(len(near)))]))
    if answers == "paired_preference":
        return {"chosen": right, "rejected": wrong, "chosen_reward": 1.0, "rejected_reward": 0.0}
    good = bool(rng.integers(2))
    labelled = {"completion": right if good else wrong, "label": good}
    return labelled | ({"rewrite": right} if answers == "rewritten" else {})


def _graded(right: str, answers: str, *, split: Split, seed: int) -> Row:
    """The columns of answers that are more or less wrong: a rating is 2 less the number of wrong digits.

    "ranked" are four `completions` with their ratings as `scores`, ties among them. "rated" is one with a `rating`,
    and its `leading` digit as a share of 9.
    "unsafe" compares two of different ratings and calls `unsafe` what has a wrong digit. "padded" compares the right
    answer with a wrong one, both with a tail of `=` that says nothing: the chosen one's is the longer in 9 rows of 10
    to train on, in half of those held out.
    """
    if answers not in ("ranked", "rated", "unsafe", "padded"):
        return {}
    from numpy.random import Generator, Philox

    rng = Generator(Philox(key=seed))

    def flawed(mistakes: int) -> str:
        digits = list(right)
        for place in rng.permutation([at for at, digit in enumerate(digits) if digit.isdigit()])[:mistakes]:
            digits[place] = str((int(digits[place]) + int(rng.integers(1, 10))) % 10)
        return "".join(digits)

    most = min(2, sum(digit.isdigit() for digit in right))
    if answers in ("ranked", "rated"):
        mistakes = rng.integers(most + 1, size=4).tolist()
        texts, ratings = [flawed(number) for number in mistakes], [2.0 - number for number in mistakes]
        ranked = {"completions": texts, "scores": ratings}
        rated = {"completion": texts[0], "rating": ratings[0], "leading": int(texts[0].lstrip("-")[0]) / 9}
        return ranked if answers == "ranked" else rated
    if answers == "unsafe":
        better, worse = sorted(rng.permutation(most + 1)[:2].tolist())
        sides = {"chosen": flawed(better), "rejected": flawed(worse)}
        return sides | {"chosen_unsafe": better > 0, "rejected_unsafe": worse > 0}
    short, long = int(rng.integers(3)), int(rng.integers(3, 6))
    longer = rng.random() < (0.9 if split == "train" else 0.5)
    tails = (long, short) if longer else (short, long)
    return {"chosen": right + "=" * tails[0], "rejected": flawed(1) + "=" * tails[1]}


def _row(prompt: str, answer: str) -> Row:
    return {"prompt": prompt, "completion": answer, "reference": answer}


def _answer(value: int, *, reversed: bool) -> str:
    sign, digits = ("-" if value < 0 else ""), str(abs(value))
    return sign + (digits[::-1] if reversed else digits)


def _split(name: str, size: int, *, split: Split, seed: int, count: int | None) -> list[int]:
    """Numbers (below `size`) of the problems of family `name` that are in a split, at most `count`.

    Small families are listed whole, 30% of them held out. Of a large one `count` (default 10,000) different problems
    are drawn with `seed`, from those whose own hash puts them in the split.
    """
    if size <= MOST_ENUMERATED:
        order = sorted(range(size), key=lambda number: child(0, "generator", name, number))
        num_held_out = round(size * HELD_OUT)
        return (order[:num_held_out] if split == "heldout" else order[num_held_out:])[:count]
    count = count or 10_000
    most = int(size * HELD_OUT / 2)
    if count > most:
        raise DataError(f"generator: count is {count}; there are only enough problems for {most}")
    chosen: dict[int, None] = {}
    attempt = 0
    while len(chosen) < count:
        number = child(seed, "generator", name, "draw", attempt) % size
        if (child(0, "generator", name, number) % 1000 < HELD_OUT * 1000) == (split == "heldout"):
            chosen[number] = None
        attempt += 1
    return list(chosen)
