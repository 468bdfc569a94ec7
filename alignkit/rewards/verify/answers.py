"""The final answer of a completion: one grammar for all verifiers. Linear time, nothing is executed.

In this order: the last `<answer>` tag; the boxes; what follows the last `####`; what is called the answer ("the
answer is", in some 35 languages); else the last number, where it stands for itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from alignkit.rewards.verify.numerals import Number as Number
from alignkit.rewards.verify.numerals import last_match, number_of, tidy
from alignkit.rewards.verify.numerals import last_number as last_number
from alignkit.rewards.verify.numerals import read_number as read_number
from alignkit.rewards.verify.numerals import same_number as same_number
from alignkit.rewards.verify.phrases import stated_phrases
from alignkit.rewards.verify.statements import FORMULA, LONGEST, cut_value, is_denied, is_open, plain_single
from alignkit.rewards.verify.thoughts import spoken as spoken
from alignkit.rewards.verify.thoughts import tagged_answer
from alignkit.rewards.verify.thoughts import think_answer as think_answer
from alignkit.rewards.verify.words import MINUS, NOT_THIS, UNITS, any_of

MAX_MATH_CHARACTERS = 1000
TAIL = 1000  # characters from the end in which the last number is looked for first
NEAR = 120  # characters between "the answer is" and its box

_LISTED = re.compile(r"[\s$*]*(?:(?:,|;|，|、)(?:\s*(?:and|or)\b)?|and\b|or\b|und\b|et\b|y\b|и\b|和|と|및)[\s$*]*")
TAKEN_BACK = re.compile(
    r"(?:^|[.!?\n…—–-])\s*(?:\*\*)?(?:(?:but |hmm,? |oh,? )?(?:wait|no|actually|correction|sorry|oops|hmm"
    r"|scratch that|on second thought|strike that|"
    r"i (?:made|was|misread|forgot)|that(?:['’]s| is) (?:wrong|incorrect|not right)|let me (?:re|check|fix"
    r"|correct)|nein|non|não|нет|стоп|不对|不對|等等|いや)"
    r"(?![\w]))",
    re.IGNORECASE,
)
_PROSE = re.compile(
    r"(?:[^\W\d_]{2,}\W+){3}[^\W\d_]|[^\W\d_]{3,}(?!\}).*\d.*[^\W\d_]{3}|^(?:let|first|to|we|she|he|they|it"
    r"|there|if|given|as)\b",
    re.IGNORECASE,
)
_ASKED = re.compile(r"[^.!?\n]{0,60}\?")
_COMMAND = re.compile(r"\\(?:begin|end|text|mbox|mathrm)\s?\{[^{}]*\}|\\[a-zA-Z]+")
_NOT_ALONE_BEFORE = re.compile(
    rf"""(?:
    [+*/^_×÷·±√\[{{<>≤≥≠|~\\]\s?[-$]?\s?                                            # part of an expression
  | \\(?!approx|to|implies|Rightarrow|rightarrow|therefore|quad|boxed|text)[a-zA-Z]+\s?[-({{\[]?\s?
  | (?:[0-9)\]}}]|(?<!\w)[a-zA-Z])\s?-\s?                                            # a difference
  | [0-9]:                                                                          # a time
  | \w\(\s?['"]?-?\s?                                                               # the argument of a call
  | \blambda\b[^\n:]{{0,30}}:\s? | \b(?:return|assert|yield|import|raise)\s{{1,3}} | ==\s?
  | [0-9]\s[^\W\d_]{{1,20}}\s(?:and|or|und|oder|et|ou|y|o|e|и|или)\s[-$*]*
  | [0-9][%$*)]*\s*(?:[,;/|、，]|\s(?:or|and|to|und|oder|et|ou|y|o|и|или)\s|或|和|か|と)\s*(?:and\s|or\s)?[-$*(]*
  | [0-9][%$*]*[ \t]+[-$*]*                                                           # one of several
  | (?:n['’]t|(?<!\w){any_of(NOT_THIS).replace(" ", "[ ]")})\s{{1,2}}
    (?:(?:be|is|a|an|the|even|just|equal\sto|ist|es|est|это)\s)?[-$*]{{0,4}}
  | (?:不是|不|或者|或|第|または|ではなく)\s?
  | (?<!\w){any_of(MINUS)}\s?[$*]{{0,3}}
    )$""",
    re.VERBOSE | re.IGNORECASE,
)


@dataclass(frozen=True)
class Answer:
    """A final answer as text: LaTeX, a number or a few words. `comma`: its sentence's language has a decimal comma.

    others: answers that were given with the same claim to be the last; one that differs from `text` refutes it.
    """

    text: str
    comma: bool = False
    others: tuple[str, ...] = ()


def find_answer(text: str) -> Answer | None:
    """The final answer of a text without thoughts (`spoken`); None when none can be told from what else it says."""
    tagged = tagged_answer(text)
    if tagged is not None:
        return find_answer(tagged) or _short(tagged)
    if boxes_of(text):
        return boxed(text)
    line = after_hashes(text)
    if line is not None:
        value = cut_value(line)
        return Answer(value) if value else None
    stated = stated_answer(text)
    return alone(text) if stated is None else stated if stated.text else None


def boxed(text: str) -> Answer | None:
    """What the boxes say. Boxes with nothing but `,` or `and` between them are one list.

    Of several, the last decides where it is called the answer; else the others refute it, as does a later statement.
    None without a box, and when the last one is not closed or empty.
    """
    boxes = boxes_of(text)
    if not boxes or not boxes[-1][2]:
        return None
    said: list[str] = []
    end = None
    for start, stop, content in boxes:
        if end is not None and start - end < 40 and _LISTED.fullmatch(text, end, start):
            said[-1] += f", {content}"
        elif content:
            said.append(content)
        end = stop
    phrases = stated_phrases(text)
    comma = any(phrase.comma for phrase in phrases)
    since = max((stop for start, stop, _ in boxes[:-1]), default=0)
    if any(since <= phrase.start and phrase.end <= boxes[-1][0] < phrase.end + NEAR for phrase in phrases):
        return Answer(plain_single(said[-1], comma=comma), comma)
    later = stated_answer(text[boxes[-1][1] :])
    refuting = (later.text,) if later is not None and re.search(r"\d", later.text) else ()
    return Answer(plain_single(said[-1], comma=comma), comma, (*said[:-1], *refuting))


def stated_answer(text: str) -> Answer | None:
    """What the last statement of an answer says; an empty text when it says several values or doubts its own.

    None when nothing is called the answer, when prose follows that says no value, and when it was taken back.
    """
    denied = None
    for phrase in reversed(stated_phrases(text)):
        body = text[phrase.end : phrase.end + LONGEST + 1]
        value = cut_value(body, comma=phrase.comma)
        if phrase.denied:
            denied = Answer("")
        elif value is None and not is_denied(body):
            return None if _ASKED.match(body) else Answer("")
        elif value is not None:
            prose = not re.match(r"[-+$\\(\[{]*\d", value) and _PROSE.search(_COMMAND.sub(" ", value))
            taken_back = TAKEN_BACK.search(text, phrase.end, phrase.end + 2 * LONGEST)
            return None if prose or taken_back else Answer(value, phrase.comma)
    return denied


def alone(text: str) -> Answer | None:
    """The last number when it stands for itself, else the last formula: no part of an expression, a list or code."""
    tail = text[-TAIL:].replace("**", "")
    found = last_match(tidy(tail))
    if found is None and len(tail) < len(text):
        found = last_match(tidy(text))
    if found is None:
        return None
    before, after = (
        found.string[max(0, found.start() - 80) : found.start()],
        found.string[found.end() : found.end() + 120],
    )
    number = number_of(found)
    line_before = before.rstrip().rpartition("\n")[2] if before.endswith("\n") else ""
    if number and not _NOT_ALONE_BEFORE.search(before) and not _changes(after) and not read_number(line_before):
        return Answer(f"{number.value}%" if number.percent else str(number.value))
    return _last_formula(tail)


def _changes(after: str) -> bool:
    """Whether what follows a number makes another value of it."""
    attached = re.match(r"[a-zA-Z]+", after)
    if attached and attached.group().lower() not in {*UNITS, "th", "st", "nd", "rd"}:
        return True
    if re.match(r"\s?[b-hj-zB-HJ-Z](?![\w.'’])", after) and after.strip()[0] not in UNITS:
        return True
    if re.match(
        r"\s?[\^_!(\[{/*+×÷·:<>≤≥√π±]|\s?-\s?[\d(]|\s?\\(?!text|mathrm|mbox|%|\$|\)|\]|,|;| |quad|end|\\|circ|degree)",
        after,
    ):
        return not re.match(r"\s?\((?!\d)|\s?\^\{?\s?\\circ|:(?!\d)|\*\*|\*(?!\s?\d)|\s\[", after)
    sentence = re.split(r"\.(?=\s|$)|\n|。|।", after, maxsplit=1)[0]
    return is_open(sentence)


def _last_formula(text: str) -> Answer | None:
    formulas = list(FORMULA.finditer(text))
    if not formulas or _NOT_ALONE_BEFORE.search(text[: formulas[-1].start()][-80:]):
        return None
    rest = text[formulas[-1].end() :]
    inside = next(part for part in formulas[-1].groups() if part is not None).strip()
    if len(rest) > 80 or re.search(r"\d", rest) or is_open(rest.split("\n")[0]):
        return None
    value = re.split(r"(?<![<>!\\])=|\\approx|\\implies|\\Rightarrow", inside)[-1].strip()
    return Answer(value) if value and re.search(r"\d", value) else None


def _short(text: str) -> Answer | None:
    """The whole of a tagged answer, when it is one line of a formula or a few words without numbers among them."""
    value = text.strip()
    return (
        Answer(value)
        if value and "\n" not in value and not re.search(r"\d.*[^\W\d_]{3,}|[^\W\d_]{3,}.*\d", value)
        else None
    )


_BOX_OR_BRACE = re.compile(r"\\(?P<box>boxed|fbox)(?![a-zA-Z])\s*(?P<bare>[^\s$\\{}]++)?|\\.|[{}]", re.DOTALL)


def boxes_of(text: str) -> list[tuple[int, int, str | None]]:
    """(start, end, content) of every `\\boxed{...}` and `\\fbox{...}`, of nested ones the inner; None: not closed."""
    if "\\boxed" not in text and "\\fbox" not in text:
        return []
    found: list[tuple[int, int, str | None]] = []
    braces: list[tuple[int, int] | None] = []
    opens = None
    for token in _BOX_OR_BRACE.finditer(text):
        if token["bare"]:  # TeX's `\boxed 5`
            found.append((token.start(), token.end(), token["bare"].rstrip(".")))
        elif token["box"]:
            opens = (token.start(), token.end())
        elif token.group() == "{":
            braces.append(opens if opens and opens[1] == token.start() else None)
        elif token.group() == "}" and braces and (box := braces.pop()):
            found.append((box[0], token.end(), text[box[1] + 1 : token.start()].strip()))
    found.extend((box[0], len(text), None) for box in braces if box)
    if opens and not text.startswith("{", opens[1]):
        found.append((*opens, None))
    return [one for one in sorted(found) if one[2] is None or "\\boxed" not in one[2]]


def last_boxed(text: str) -> str | None:
    """What stands in the last `\\boxed{...}`; None when there is none or it is not closed."""
    boxes = boxes_of(text)
    return boxes[-1][2] if boxes else None


def after_hashes(text: str) -> str | None:
    """The line after the last `####`, as in GSM8K's reference solutions; None without one."""
    _, mark, tail = text.rpartition("####")
    return tail.strip().split("\n")[0].strip() if mark and tail.strip() else None


def plain_math(latex: str) -> str:
    """LaTeX without what does not change its meaning: dollars, spaces, \\left, units, \\dfrac, `x =`, degree signs.

    Two answers whose plain forms are equal are the same answer; nothing follows from a difference.
    """
    text = tidy(latex).strip().removesuffix(".")
    text = re.sub(r"\\[()\[\]]|\\?\$|\\(?:left|right|displaystyle)(?![a-zA-Z])|~", "", text)
    text = re.sub(r"\\[dtc]frac(?![a-z])", r"\\frac", text)
    text = re.sub(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree|°|\\?%", "", text)
    text = re.sub(
        r"(?<=[0-9a-z}])\s*\\(?:text|mbox|mathrm)\s?\{(?!\s*(?:[ap]\.?m|[^{}]*(?:illi|thousand|hundred)))[^{}]*\}\s*(?:\^\{?[0-9]\}?)?\s*$",
        "",
        text,
    )  # a unit
    text = re.sub(r"\\(?:text|mbox|mathrm|textbf|mathbf|operatorname)\s?\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\s+|\\ ", "", text)
    text = re.sub(r"\\frac([0-9])([0-9])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac([0-9])\{", r"\\frac{\1}{", text)
    text = re.sub(r"(\\frac\{[^{}]*\})([0-9])", r"\1{\2}", text)
    text = re.sub(r"\\sqrt([0-9])", r"\\sqrt{\1}", text)
    text = re.sub(r"([_^])\{([0-9a-zA-Z])\}", r"\1\2", text)
    text = re.sub(r"^[a-zA-Z](?:=|\\in(?![a-z]))(?=[^=]+$)", "", text)
    text = re.sub(r"^\(([A-Za-z])\)$", r"\1", text)
    return text.casefold() if text.isalpha() and len(text) > 1 else text
