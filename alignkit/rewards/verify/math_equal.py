"""Whether two mathematical answers are the same: exact numbers, then exact trees, then text, then math-verify.

math-verify is asked only where the grammar of `expressions.py` covers neither side, and what it calls equal must name
the same numbers, because it drops what it cannot read and rounds. It may take for ever, so it belongs in a worker of
the reward pool, whose kill is the bound; its timers are off. Only its LaTeX parser sees model text, never the parser
that evaluates Python.
"""

from __future__ import annotations

import re
from functools import lru_cache

from alignkit.rewards.verify.answers import MAX_MATH_CHARACTERS, plain_math
from alignkit.rewards.verify.exact import Undecided, same_tree
from alignkit.rewards.verify.expressions import Tree, read_tree
from alignkit.rewards.verify.math_tokens import Unreadable
from alignkit.rewards.verify.numerals import read_number, same_number, tidy
from alignkit.rewards.verify.quantities import as_interval, read_amount, read_quantity, same_amount, same_quantity
from alignkit.rewards.verify.words import words

MAX_NESTING = 30
MAX_DIGITS = 100

_UNFINISHED = re.compile(
    r"""
    \\(?:sum|prod|int|iint|iiint|oint|lim|binom|dbinom|tbinom)(?![a-zA-Z])   # not carried out
  | !                                                                        # a factorial
  | \^\s*(?:\{[^{}]{0,80}|[0-9a-zA-Z]\s*)\^                                  # a tower of powers
  | \^\s*\{?\s*-?[0-9]{3,}                                                   # a huge exponent
    """,
    re.VERBOSE,
)
_SPACED = re.compile(r"\$?-?[0-9]{1,3}(?: [0-9]{3})+\$?")
_TEXT = re.compile(r"[^\W\d_][\w '’.,()&/-]{0,79}")
_NUMBER_WORDS = frozenset(
    words(
        """
        a zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
        seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million
        billion dozen half and minus negative point third thirds quarter quarters
        """
    )
)


class UnreadableGold(ValueError):
    """The reference answer is empty, too large, in words, or nothing that can be read as mathematics or short text."""


def same_math(gold: str, answer: str) -> bool | None:
    """True or False, or None when `answer` is no answer that can be read: empty, too large, or not carried out.

    gold, answer: LaTeX or plain text, without `\\boxed`. Units are converted, and ignored where only one side has one;
    an inequality in one variable is its interval. An answer that leaves a sum, an integral, a factorial or a tower of
    powers to the reader counts as not carried out, unless the gold answer does the same.
    Raises UnreadableGold when nothing could be equal to `gold`, whatever `answer` is.
    """
    if not is_readable(gold):
        raise UnreadableGold("it is empty, too long, several lines, or no mathematics and no short text")
    if not answer.strip() or len(answer) > MAX_MATH_CHARACTERS:
        return None
    gold, answer = gold.strip(), re.sub(r"^\s*=\s*|[\s\\]+$", "", answer)
    if gold == answer:
        return True
    numbers = read_number(gold), read_number(answer)
    if numbers[0] and numbers[1] and "$" not in gold + answer:
        return same_number(numbers[0], numbers[1])
    interval, answer_interval = as_interval(gold), as_interval(answer)
    if (interval is None) != (answer_interval is None):
        gold, answer = interval or gold, answer_interval or answer
    same = same_quantity(gold, answer)
    if same is None:
        same = same_amount(gold, answer)
    if same is not None:
        return same
    if is_too_large(answer) or (_UNFINISHED.search(tidy(answer)) and not _UNFINISHED.search(tidy(gold))):
        return None
    return _same_form(gold, answer)


@lru_cache(maxsize=4096)
def is_readable(gold: str) -> bool:
    """Whether a reference can be compared with: a number, a quantity, mathematics, or a few words on one line."""
    if not gold.strip() or len(gold) > MAX_MATH_CHARACTERS:
        return False
    plain = plain_math(gold)
    words = re.sub(r"\\(?:text|mathrm|textbf|mbox)\s*\{([^{}]*)\}", r"\1", gold).strip().strip("$.").strip()
    spelled = set(re.split(r"[\s-]+", words.lower())) - {""}
    if not plain or "\n" in gold.strip() or (spelled <= _NUMBER_WORDS and spelled != {"a"}):
        return False
    if (
        read_number(gold)
        or read_quantity(gold)
        or read_amount(gold)
        or as_interval(gold)
        or _TEXT.fullmatch(words)
        or re.fullmatch(r"[A-Za-z]+\s?=\s?[A-Za-z]+", gold.strip())
    ):
        return True
    return _tree(gold) is not None or (not _has_prose(gold) and bool(_math_verify_reads(gold)))


def is_too_large(latex: str) -> bool:
    """Limits that no readable answer exceeds: length, depth of brackets, digits in a row."""
    if len(latex) > MAX_MATH_CHARACTERS or re.search(rf"[0-9]{{{MAX_DIGITS + 1}}}", latex):
        return True
    depth = deepest = 0
    for bracket in re.findall(r"[({\[\])}]", latex):
        depth = depth + 1 if bracket in "({[" else max(0, depth - 1)
        deepest = max(deepest, depth)
    return deepest > MAX_NESTING


def _same_form(gold: str, answer: str) -> bool | None:
    plain_gold, plain_answer = plain_math(gold), plain_math(answer)
    joins_digits = any(re.search(r"[0-9]\s+[0-9]", tidy(one)) and not _SPACED.fullmatch(one) for one in (gold, answer))
    if plain_gold == plain_answer and not joins_digits and (plain_gold.isalpha() or "=" not in gold + answer):
        return True
    trees = _tree(gold), _tree(answer)
    if trees[0] and trees[1]:
        try:
            return same_tree(trees[0], trees[1])
        except Undecided:
            return None
    if plain_gold == plain_answer and not joins_digits:
        return True
    if trees[0] or trees[1]:
        return None if trees[0] else False
    if _is_text(plain_gold) or _has_prose(answer) or _has_prose(gold):
        return False
    return _verify(gold, answer)


def _tree(text: str) -> Tree | None:
    if is_too_large(text):
        return None
    try:
        return read_tree(text)
    except (Unreadable, ValueError, ZeroDivisionError):
        return None


def _is_text(plain: str) -> bool:
    return plain.isalpha() and len(plain) > 3


def _has_prose(text: str) -> bool:
    """Words that are neither commands nor functions: what math-verify takes for a product of letters, or drops."""
    bare = re.sub(r"\\(?:begin|end)\s*\{[^{}]*\}|\\[a-zA-Z]+", " ", text)
    known = {"sin", "cos", "tan", "log", "ln", "exp", "and", "or", "max", "min", "gcd", "lcm", "deg"}
    return bool({word.lower() for word in re.findall(r"[^\W\d_]{3,}", bare)} - known) or bool(
        re.search("['\"`@#&;?]|__", bare)
    )


def _verify(gold: str, answer: str) -> bool | None:
    """math-verify's verdict, with its timers off; None when it cannot read the answer."""
    from math_verify import verify

    answer_found = _math_verify_reads(answer)
    if not answer_found:
        return None
    return verify(_math_verify_reads(gold), answer_found, timeout_seconds=0) and _numerals(gold) == _numerals(answer)


def _numerals(text: str) -> list[str]:
    return sorted(re.findall(r"[0-9]+(?:\.[0-9]+)?", tidy(text)))


def _math_verify_reads(latex: str) -> list:
    from math_verify import LatexExtractionConfig, parse

    config = [LatexExtractionConfig(boxed_match_priority=0)]
    found = parse(f"\\boxed{{{latex}}}", config, extraction_mode="first_match", parsing_timeout=0)
    return [] if all(isinstance(expression, str) for expression in found) else found
