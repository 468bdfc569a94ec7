"""Takes the value out of a sentence that states it: `18 dollars, as 9 * 2 = 18` says 18 dollars. Linear time.

One sentence states one value. Where the words around it change it (`not 5`, `5 or 6`, `5 times x`, `between 3 and 5`)
nothing is taken.
"""

from __future__ import annotations

import re

from alignkit.rewards.verify.numerals import read_number, tidy, western_digits
from alignkit.rewards.verify.words import (
    AND,
    BECAUSE,
    BECAUSE_START,
    BEFORE_NUMBERS,
    CHANGED,
    CHANGED_START,
    FUNCTIONS,
    MAYBE,
    MINUS,
    NOT,
    NOT_LATER,
    OPENING,
    OPENING_START,
    OR,
    OR_START,
    PERCENT,
    SCALES,
    UNITS,
    any_of,
)

LONGEST = 400  # characters of a statement that are looked at

_JOINED = frozenset(AND) | frozenset(OR)
_LONG = any_of(word for word in _JOINED if len(word) > 1 or not word.isalpha() or ord(word) > 0x500)
_AND_OR = re.compile(
    rf"\s*(?<![a-zA-Z\\])(?:{_LONG})(?=\s?[-$\\\d(a-zA-Z])(?![a-zA-Z])\s*|(?<=\d)\s[eouyiaиі]\s(?=[-$]{{0,2}}\d)"
)
_UNITS, _CHANGED = frozenset(UNITS), frozenset(CHANGED)
_KNOWN = _JOINED | _UNITS | {*FUNCTIONS, *PERCENT, *SCALES}
_FOREIGN_SCALES = sorted((word for word in SCALES if not word.isascii()), key=len, reverse=True)
_OR_SO = re.compile(r"(?:\s+or (?:so|thereabouts)\b)+(?:\s+o(?:r(?: s)?)?$)?", re.IGNORECASE)
_NOT = re.compile(rf"{any_of(NOT)}(?!\w)|不|ไม่", re.IGNORECASE)
NEGATED_LATER = re.compile(rf"[^\n.!?。]{{0,12}}?{any_of(NOT_LATER)}", re.IGNORECASE)
_OPENING = re.compile(
    rf"(?:[\s*_\"'“”«»„`:|]|(?<=\n)[->]\s|{any_of(OPENING)}(?=[\s\d$*:\\-])|{any_of(OPENING_START)})+", re.IGNORECASE
)
_MINUS = re.compile(rf"{any_of(MINUS)}\s{{0,2}}(?=[\d$\\(*])", re.IGNORECASE)
_CARRIED_OUT = re.compile(r"(?:[-+*/^().\d\s×÷·{}$]|\\(?:times|cdot|div|frac)(?![a-z]))+(?:=\s*(?P<value>[^=]+))+")
_SENTENCE_END = re.compile(
    r"""\.(?=[\s*_"”»)]|$)(?<!\bapprox\.)|(?<!\\)[!?](?=[\s*_"'”»)]|$)|[。！？؟।॥；]|(?<!\\);(?=\s|$)|\n"""
)
_OPERATES = re.compile(r"""[\s*_$"')\]]*(?P<word>[^\W\d_]+(?:['’][^\W\d_]+)?|[~^*/+×÷])""")
_BOUNDS = re.compile(
    rf"[\s*]*(?:to the\b|{any_of(BEFORE_NUMBERS)}\s[$*-]*\d|(?:is|was)\s(?:not|wrong|incorrect|false|too|never|im))"
)
_CHANGED_START = re.compile(any_of(CHANGED_START))
_OR_START = re.compile(rf"{any_of(OR_START)}|か\d|と\d")
_REASON = re.compile(rf"\(|;|—|–| - |\b{any_of(BECAUSE)}\b|{any_of(BECAUSE_START)}")
_SECOND = re.compile(rf"(?:^|[\s,]){any_of([*OR, *AND, *MAYBE])}[\s,]+(?:\w+\s)?[-$*]*\d")
FORMULA = re.compile(
    r"\$\$(?P<a>[^$]{1,400})\$\$|\$(?P<b>[^$\n]{1,300})\$(?![0-9])|\\\((?P<c>.{1,300}?)\\\)|\\\[(?P<d>.{1,400}?)\\\]",
    re.DOTALL,
)
_TOKEN = re.compile(
    r"\\(?:text|mathrm|mathbf|textbf|operatorname|mbox|begin|end)\s?\{[^{}]{0,100}\}|\\[a-zA-Z]+|\\."
    r"|[0-9]+(?:[.,'\u2009][0-9]+)*"
    r"|[^\W\d_]{2,}(?:['’-][^\W\d_]+)*|[^\W\d_]|\s+|.",
    re.DOTALL,
)
_SYMBOLS = frozenset("+-*/^_={}()[],:<>|!%±×·÷√π∞°≤≥∪∈∅$€£¥₹₽₩₺⋅−–'²³⁴⁵⁶⁷⁸⁹⁰¹½¼¾⅓⅔∓~&₀₁₂₃₄₅₆₇₈₉؛،٫٬٪％")


def cut_value(body: str, *, comma: bool = False) -> str | None:
    """The value with which a statement begins, as mathematics or a few words; None when it is none or is changed.

    body: what follows "the answer is". comma: whether the sentence's language has a decimal comma.
    """
    body = _OR_SO.sub("", western_digits(body[:LONGEST]))
    opening = _OPENING.match(body)
    body = body[opening.end() :] if opening else body
    if _NOT.match(body) or NEGATED_LATER.match(body):
        return None
    minus = _MINUS.match(body)
    sign, body = ("-", body[minus.end() :].lstrip("* ")) if minus else ("", body)
    formula = FORMULA.match(body)
    if formula and not _is_money(formula):
        value, rest = _formulas(body)
    else:
        value, rest = _prefix(body)
    if value is None or not value or is_open(rest):
        return None
    value = _scaled(_AND_OR.sub(", ", value), rest, comma=comma)
    carried_out = _CARRIED_OUT.fullmatch(value) if value else None
    return None if value is None else sign + (carried_out["value"] if carried_out else value)


def is_denied(body: str) -> bool:
    """Whether a statement says what the answer is not."""
    opening = _OPENING.match(body)
    body = body[opening.end() :] if opening else body
    return bool(_NOT.match(body) or NEGATED_LATER.match(body))


def _is_money(formula: re.Match[str]) -> bool:
    """`$18 and not $` between two prices."""
    inside = formula["b"]
    return (
        inside is not None
        and bool(re.search(r"(?<![\\{a-zA-Z])[a-zA-Z]{3,}(?![a-zA-Z}])", inside))
        and "\\" not in inside
    )


def _formulas(body: str) -> tuple[str, str]:
    """Formulas joined by commas or words are one list: `$3$ and $5$`."""
    values, at = [], 0
    while formula := FORMULA.match(body, at):
        values.append(next(part for part in formula.groups() if part is not None).strip())
        at = formula.end()
        joined = re.compile(
            r"[*_]{0,3}\s?(?:,|;|(?P<word>[^\W\d_]+))\s?(?P<more>(?:and|or)\s)?[*_]{0,3}(?=\$|\\\(|\\\[)"
        ).match(body, at)
        if not joined or (joined["word"] and joined["word"].lower() not in _JOINED):
            break
        at = joined.end()
    end = _SENTENCE_END.search(body, at)
    rest = body[at : end.start() if end else len(body)] + (end.group() if end else "")
    value = ", ".join(values)
    unit = re.match(r"\s{0,2}([a-zA-Z°%]+(?:[/^][a-zA-Z0-9]+)?|\\%)", rest)
    if unit and (unit[1] in ("%", "\\%") or unit[1].lower() in {*_UNITS, *PERCENT, *SCALES}):
        value, rest = f"{value} {unit[1]}", rest[unit.end() :]
    return value, rest


def _prefix(body: str) -> tuple[str | None, str]:
    """(the longest beginning that is mathematics or quantity, the rest of the sentence); words alone as they stand."""
    end = _SENTENCE_END.search(body)
    sentence, stop = body[: end.start() if end else len(body)], end.group() if end else ""
    if "$" in sentence and not re.match(r"[-+]?\$\s?[0-9.]", sentence.lstrip("*_ ")):
        sentence = sentence.replace("$", " ")
    sentence = re.sub(r"[*`]{1,3}(?=\W|$)|(?<!\w)[*`]{1,3}(?=\w)|\*\*|__", "", sentence)
    at = 0
    for token in _TOKEN.finditer(sentence):
        if not _is_mathematics(token.group(), sentence, token):
            break
        at = token.end()
    prefix, rest = sentence[:at], sentence[at:] + stop
    prefix, cut = _balanced(prefix.rstrip(" ,:-–—'\t"))
    rest = cut + rest if cut else rest
    prefix = "" if prefix.rstrip().endswith("=") else prefix.rstrip(" ,:-–—'\t")
    if re.match(r"\.[^\s*\"'”)]|['\"]?\(['\"]|\w*\(['\"]", sentence[at:]):
        return None, rest
    if not prefix or (re.fullmatch(r"[aAIioey]|[^\w\\]+", prefix) and rest.strip(" .!*")):
        words = sentence.strip(" .,:*'\"“”")
        return (words if words and re.search(r"\w", words) else None), stop
    if re.search(r"(?:^|[\s,])(?:and|or|[+*/^_])$", prefix) or (
        prefix.split()[-1].lower() in _JOINED and not re.search(r"(?<!\w)[a-z]$", prefix)
    ):
        return None, rest
    return prefix, rest


def _is_mathematics(token: str, sentence: str, found: re.Match[str]) -> bool:
    if token == ".":  # `.5`, but `np.pi` is code
        return sentence[found.end() : found.end() + 1].isdigit() or sentence.startswith("\\overline", found.end())
    if (
        token.isspace()
        or token[0].isdigit()
        or token.startswith("\\")
        or token in _SYMBOLS
        or (token[0].isnumeric() and not token[0].isalpha())
    ):
        return True
    if not token[0].isalpha():
        return False
    lowered = token.lower()
    if len(token) == 1 and token.isascii():
        return True
    if lowered == "in" and re.match(r"\s+[^\W\d_]", sentence[found.end() :]):
        return False
    if lowered in _KNOWN or re.fullmatch(r"[零〇一二两兩三四五六七八九十百千万萬亿億负負点]+", token):
        return True
    short = len(token) <= 3 and token.isascii() and not re.search(r"[aeiouy]", lowered)
    return short or re.fullmatch(r"[αβγδθλμπρστφω]", token) is not None


def _balanced(prefix: str) -> tuple[str, str]:
    """The part before a bracket that is not closed in it."""
    places: list[int] = []
    for place, character in enumerate(prefix):
        if character in "([{":
            places.append(place)
        elif character in ")]}" and places:
            places.pop()
        elif character in ")]}":
            return prefix[:place], ""
    return (prefix[: places[0]], prefix[places[0] :]) if places else (prefix, "")


def is_open(rest: str) -> bool:
    """Whether what follows in the sentence changes the value: a question, an operator, a second value."""
    rest = _OR_SO.sub("", rest)
    lowered = rest.lower()
    if re.match(r"[\s*]*[?？؟]", rest) or rest.endswith(("?", "？", "؟")) or NEGATED_LATER.match(rest):
        return True
    first = _OPERATES.match(lowered)
    if _BOUNDS.match(lowered) or _OR_START.match(rest.strip(" *")) or (first and _operates(first["word"])):
        return True
    reason = _REASON.search(rest)
    return bool(_SECOND.search(lowered[: reason.start()] if reason else lowered))


def _operates(word: str) -> bool:
    joins = word in _JOINED and word not in BEFORE_NUMBERS
    return joins or word in _CHANGED or word in "~^*/+×÷" or _CHANGED_START.match(word) is not None


def _scaled(value: str, rest: str, *, comma: bool) -> str | None:
    """`3 million` as 3000000, `50 percent` as 50%, `101 in base 2` as 101_{2}."""
    base = re.match(r"[\s(]*(?:in |written in |zur |en |in der )?(?:base|basis|Basis)[\s-]*(\d{1,2})", rest)
    if base and re.fullmatch(r"[0-9A-Fa-f]+", value):
        return f"{value}_{{{base[1]}}}"
    plain = plain_single(value, comma=comma)
    scaled = re.fullmatch(r"(?P<number>\$?\s?-?[0-9]+(?:\.[0-9]+)?)\s?(?P<word>[^\W\d_]+)(?P<unit>(?:\s.*)?)", plain)
    if scaled and scaled["word"].lower() in SCALES:
        return None if scaled["unit"].strip() else _times(scaled["number"], SCALES[scaled["word"].lower()])
    if scaled and scaled["word"].lower() in PERCENT:
        return f"{scaled['number']}%"
    scale = next((one for one in _FOREIGN_SCALES if rest.lstrip().startswith(one)), None)
    if scale is not None:
        return _times(plain, SCALES[scale])
    after = re.match(
        r"\s?(?:%|٪|(?:per ?cent|pour ?cent|por ciento|por cento|per cento|phần trăm)\b)", rest, re.IGNORECASE
    )
    return f"{plain}%" if after else plain


def _times(number: str, factor: int) -> str | None:
    read = read_number(number)
    return None if read is None else str(read.value * factor)


def plain_single(value: str, *, comma: bool) -> str:
    """With a decimal comma, a value that is one number is written with a point; everything else stays as it is."""
    if not comma:
        return value.replace(",", ".") if re.fullmatch(r"-?0,[0-9]+", value) else value
    spaced = re.fullmatch(
        r"(?P<sign>-?)(?P<number>[0-9]{1,3}(?: [0-9]{3})+(?:[.,][0-9]+)?|[0-9][0-9.,']*[0-9])(?P<rest>\D*)",
        _one_space(value),
    )
    if spaced is None or "," in spaced["rest"]:
        return value
    return spaced["sign"] + tidy(spaced["number"].replace(" ", "\u2009"), comma=True) + spaced["rest"]


def _one_space(value: str) -> str:
    return re.sub("[\u00a0\u2009\u202f]", " ", value).replace("−", "-").strip()
