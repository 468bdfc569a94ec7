"""Numbers as people write them: many scripts, groups, decimal commas, Chinese numerals. Exact, linear time."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from fractions import Fraction

MAX_NUMBER_CHARACTERS = 300

_ZEROS = (
    *(0x660, 0x6F0, 0x7C0, 0x966, 0x9E6, 0xA66, 0xAE6, 0xB66, 0xBE6, 0xC66, 0xCE6, 0xD66, 0xDE6, 0xE50, 0xED0, 0xF20),
    *(0x1040, 0x17E0, 0x1810, 0x1946, 0xA9D0, 0xFF10, 0x1D7CE, 0x1D7D8, 0x1D7E2, 0x1D7EC, 0x1D7F6),
)
_CHARACTERS = str.maketrans(
    {
        **{chr(zero + digit): str(digit) for zero in _ZEROS for digit in range(10)},
        **dict.fromkeys("\u2010\u2011\u2013\u2212\ufe63\uff0d", "-"),
        **dict.fromkeys("\u00a0\u2007\u2009\u200a\u202f", "\u2009"),  # thin: it may hold a number together
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u2066\u2067\u2068\u2069"),
        **dict(zip("．，：％（）＝＋／＊＜＞［］｛｝＄￥", ".,:%()=+/*<>[]{}$¥", strict=True)),
        **dict(zip("٫٬،٪", ".\u2009,%", strict=True)),
        "\u3000": " ",
        "’": "'",
        "⁄": "/",
        **{fraction: f"\\frac{{{over}}}{{{under}}}" for fraction, over, under in (
            ("½", 1, 2), ("⅓", 1, 3), ("⅔", 2, 3), ("¼", 1, 4), ("¾", 3, 4), ("⅕", 1, 5), ("⅖", 2, 5), ("⅗", 3, 5),
            ("⅘", 4, 5), ("⅙", 1, 6), ("⅚", 5, 6), ("⅐", 1, 7), ("⅛", 1, 8), ("⅜", 3, 8), ("⅝", 5, 8), ("⅞", 7, 8),
            ("⅑", 1, 9), ("⅒", 1, 10),
        )},
    }
)  # fmt: skip
_ONE_FOR_ONE = {sign: plain for sign, plain in _CHARACTERS.items() if isinstance(plain, str) and len(plain) == 1}
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+", strict=True))
_LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))

_UNSIGNED = r"(?:[0-9]++(?:\.[0-9]++)?+|(?<![0-9])\.[0-9]++)"


def _fraction_pattern(top: str, bottom: str) -> str:
    over = rf"\{{\s?(?P<{top}>-?{_UNSIGNED})\s?\}}|(?P<{top}_digit>[0-9])"
    under = rf"\{{\s?(?P<{bottom}>{_UNSIGNED})\s?\}}|(?P<{bottom}_digit>[0-9])"
    return rf"\\[dtc]?frac\s?(?:{over})\s?(?:{under})"


_NUMBER = re.compile(
    rf"""
    (?: (?<![A-Za-z0-9_^])(?<!\^\{{)(?<!_\{{)                     # not inside a word, an exponent or an index
        (?P<decimal>{_UNSIGNED})
        (?: (?P<exponent>[eE][-+]?[0-9]{{1,3}})(?![0-9A-Za-z])    # 2e5
          | \s?/\s?(?P<divisor>{_UNSIGNED})                       # 3/4
          | \s(?P<over>[0-9]++)/(?P<under>[0-9]++)                # 1 3/4
          | \s?(?P<mixed>{_fraction_pattern("mixed_top", "mixed_bottom")})
        )?
      | (?P<frac>{_fraction_pattern("top", "bottom")})
    )
    (?P<percent>\s?\\?%)?
    """,
    re.VERBOSE,
)
_RUN = re.compile(r"(?<![0-9A-Za-z_^])[0-9]++(?:[.,'\u2009][0-9]++)++")
_GROUPED = re.compile(  # 1,234,567.8  12,34,567  1'234'567.8  1 234 567,8  1.234.567,8
    r"(?P<anglo>[1-9][0-9]{0,2}(?:,[0-9]{3})++(?:\.[0-9]++)?)"
    r"|(?P<indian>[1-9][0-9]?(?:,[0-9]{2}(?=,))++,[0-9]{3}(?:\.[0-9]++)?)"
    r"|(?P<other>[1-9][0-9]{0,2}(?:(?:'[0-9]{3})++|(?:\u2009[0-9]{3})++)(?:[.,][0-9]++)?)"
    r"|(?P<dotted>[1-9][0-9]{0,2}(?:(?:\.[0-9]{3})++,[0-9]++|(?:\.[0-9]{3}){2,}+))"
)
_ONE_DOT_GROUP = re.compile(r"[1-9][0-9]{0,2}\.[0-9]{3}")
_DECIMAL_COMMA = re.compile(r"[0-9]++,[0-9]++")
_CURRENCY = r"(?:(?:US|CA|AU|HK|NT|[ACRS])?\\?[$€£¥₹₽₩₺₫฿₴₦]|(?:EUR|USD|Rs\.?)\s)"
_CURRENCY_AT_END = re.compile(rf"{_CURRENCY}\s?$")


@dataclass(frozen=True)
class Number:
    """An exact value; `percent` when it was written with a percent sign (the value is the number before the sign)."""

    value: Fraction
    percent: bool = False


def tidy(text: str, *, comma: bool = False) -> str:
    """Text with one kind of digit, minus sign and space, numbers without groups, exponents with `^`, ½ as a fraction.

    comma: whether a comma stands before decimals, as in German or Russian; `1,234` and `1.234` depend on it.
    """
    if not text.isascii():
        text = text.translate(_CHARACTERS)
        text = re.sub(
            f"[{''.join(_RAISED)}]+", lambda run: f"^{{{''.join(map(_RAISED.__getitem__, run.group()))}}}", text
        )
        text = re.sub(
            f"[{''.join(_LOWERED)}]+", lambda run: f"_{{{''.join(map(_LOWERED.__getitem__, run.group()))}}}", text
        )
    if "\\" in text or "{,}" in text:
        text = re.sub(r"(?<=[0-9])(?:,\\!\s?|\{,\}|\\[,;:!]\s?)(?=[0-9]{3}(?![0-9]))", "", text)
        text = re.sub(r"(?<=[0-9])\{,\}(?=[0-9])", ".", text)
        text = re.sub(r"(?<=[0-9])\\[!,;:](?=[0-9])", " ", text)
        text = re.sub(r"\\[!,;:]\s?", "", text).replace("{,}", ",")
        text = _REPEATING.sub(_repeating, text)
    return _RUN.sub(lambda run: run.group() if _is_list(run) else plain_digits(run.group(), comma=comma), text).replace(
        "\u2009", " "
    )


_REPEATING = re.compile(
    r"(?P<whole>[0-9]{0,30})\.(?P<first>[0-9]{0,30})\\(?:overline|bar|dot)\s?\{(?P<again>[0-9]{1,30})\}"
)


def _repeating(found: re.Match[str]) -> str:
    """`0.1\\overline{6}` as a fraction."""
    first, again = found["first"], found["again"]
    value = Fraction(int(f"0{found['whole']}{first}{again}") - int(f"0{found['whole']}{first}"), 1)
    value /= 10 ** len(first) * (10 ** len(again) - 1)
    return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"


def western_digits(text: str) -> str:
    """One kind of digit, minus sign, bracket and separator, character by character, so that places stay the same."""
    return text.translate(_ONE_FOR_ONE)


def _is_list(run: re.Match[str]) -> bool:
    """Commas between brackets separate: `(1,234)` is a point, `\\{100,200\\}` a set."""
    before, after = run.string[max(0, run.start() - 2) : run.start()], run.string[run.end() : run.end() + 6]
    opened = before.endswith(("(", "[", "\\{"))
    return opened and after.startswith((")", "]", "\\}", "\\right")) and "," in run.group()


def plain_digits(run: str, *, comma: bool = False) -> str:
    """One number of digits, commas, dots, apostrophes and thin spaces with a decimal point and without groups.

    What could be several numbers (`1,2,3`) or is no number (`1.2.3`) stays as it is.
    """
    grouped = _GROUPED.fullmatch(run)
    if comma and (_DECIMAL_COMMA.fullmatch(run) or _ONE_DOT_GROUP.fullmatch(run)):
        return run.replace(".", "").replace(",", ".")
    if grouped is None:
        return run
    if grouped["anglo"] or grouped["indian"]:
        return run.replace(",", "")
    return re.sub(r"['\u2009]", "", run if grouped["other"] else run.replace(".", "")).replace(",", ".")


def last_match(text: str) -> re.Match[str] | None:
    """The last number in a tidy text as a match, which `number_of` reads."""
    matches = deque(_NUMBER.finditer(text), maxlen=1)
    return matches[0] if matches else None


def number_of(found: re.Match[str]) -> Number | None:
    """The value of a match, with its sign; None when it is too long or has a zero denominator."""
    return _value(found, negative=_is_negative(found.string, found.start()))


def last_number(text: str) -> Number | None:
    """The last number in a text, or None when there is none or it is too long or has a zero denominator.

    Reads 1,234 and 1234.50, .5, 3/4, 1 3/4, \\frac{3}{4}, 2e5, 50%, $12, and a minus sign in all its forms. A hyphen
    between two numbers (`3-5`) and a list dash are not minus signs; digits in `CO2`, `x_2` and `m^2` are not numbers.
    """
    found = last_match(tidy(text))
    return number_of(found) if found else None


def first_number(text: str, start: int = 0) -> tuple[Number, int] | None:
    """The number with which a tidy text begins at `start` (sign and currency before it), and where it ends."""
    sign = re.compile(rf"(?:[-+]\s?)?(?:{_CURRENCY}\s?)?(?P<late>-?)").match(text, start)
    begins = sign.end() if sign else start
    found = _NUMBER.match(text, begins)
    number = _value(found, negative="-" in text[start:begins]) if found else None
    return (number, found.end()) if found and number else None


def read_number(text: str, *, comma: bool = False) -> Number | None:
    """The whole text as one number (currency, `\\boxed`-less LaTeX, a final full stop are allowed), else None."""
    plain = tidy(text, comma=comma).strip().strip("$").strip().removesuffix(".")
    plain = re.sub(rf"(?<=[0-9])\s?{_CURRENCY}$", "", plain)
    read = first_number(plain)
    if read is not None:
        return read[0] if read[1] == len(plain) else None
    return chinese_number(plain)


def read_single(text: str) -> Number | None:
    """As `read_number`, where one number is wanted, so that `3,5` is no list but has a decimal comma."""
    plain = tidy(text).strip().strip("$").removesuffix(".")
    return read_number(plain.replace(",", ".") if re.fullmatch(r"-?[0-9]+,[0-9]+", plain) else text)


def same_number(gold: Number, answer: Number | None) -> bool | None:
    """Exactly equal? 50% equals 50% and, where only one side has the sign, both 50 and 0.5. None without an answer."""
    if answer is None:
        return None
    if gold.percent == answer.percent:
        return gold.value == answer.value
    percent, plain = (gold.value, answer.value) if gold.percent else (answer.value, gold.value)
    return plain in (percent, percent / 100)


_HAN_DIGITS = ("零〇", "一壹", "二两兩贰", "三叁", "四", "五", "六", "七", "八", "九")
_HAN = {digit: value for value, digits in enumerate(_HAN_DIGITS) for digit in digits}
_HAN_UNITS = {"十": 10, "拾": 10, "百": 100, "千": 1000}
_HAN_MYRIADS = {"万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8}


def chinese_number(text: str) -> Number | None:
    """`一千二百` is 1200, `三分之二` is 2/3, `二〇二四` is 2024, `负五` is -5; None for everything else."""
    plain = text.strip().removesuffix("。")
    if (
        not plain
        or len(plain) > 30
        or not re.fullmatch(r"[负負]?[零〇一壹二两兩贰三叁四五六七八九十拾百千万萬亿億点點分之の]+", plain)
    ):
        return None
    negative, plain = plain[0] in "负負", plain.lstrip("负負")
    under, parted, over = re.sub("分[之の]", "/", plain).partition("/")
    whole, pointed, decimals = plain.replace("點", "点").partition("点")
    if parted:
        value = _ratio_of(_han_whole(over), _han_whole(under))
    elif pointed:
        digits = [_HAN.get(character) for character in decimals]
        start = _han_whole(whole)
        known = start is not None and digits and None not in digits
        value = Fraction(f"{start}.{''.join(map(str, digits))}") if known else None
    else:
        start = _han_whole(plain)
        value = None if start is None else Fraction(start)
    return None if value is None else Number(-value if negative else value)


def _ratio_of(over: int | None, under: int | None) -> Fraction | None:
    return Fraction(over, under) if over is not None and under else None


def _han_whole(text: str) -> int | None:
    """Units must fall within a myriad and myriads in the number, as in clear forms; digits alone are read in a row."""
    if not text:
        return None
    if all(character in _HAN for character in text):
        return int("".join(str(_HAN[character]) for character in text))
    total = section = 0
    digit, unit, myriad = None, 10**4, 10**12
    for character in text:
        if character in _HAN:
            if digit:
                return None
            digit = _HAN[character]
        elif character in _HAN_UNITS:
            if _HAN_UNITS[character] >= unit:
                return None
            unit = _HAN_UNITS[character]
            section += (1 if digit is None else digit) * unit
            digit = None
        elif character in _HAN_MYRIADS and _HAN_MYRIADS[character] < myriad and (section or digit):
            myriad = _HAN_MYRIADS[character]
            total += (section + (digit or 0)) * myriad
            section, digit, unit = 0, None, 10**4
        else:
            return None
    if digit and len(text) > 1 and text[-2] not in "十拾零〇":  # 三百五 is said for 350
        return None
    return total + section + (digit or 0)


def _is_negative(text: str, start: int) -> bool:
    """Whether a minus sign belongs to the number that starts at `start`."""
    before = _CURRENCY_AT_END.sub("", text[max(0, start - 40) : start])
    spaced = before.endswith(" ")
    before = before.rstrip(" ")
    if not before.endswith("-"):
        return False
    left = before[:-1].rstrip(" ")
    if spaced:  # `x = - 5` is negative, the list item `- 5` and the difference `a - 5` are not
        return left.endswith(("=", "(", "[", "<", ">"))
    if left != before[:-1]:  # `is -5` is negative, `3 -5` is a difference
        return not left.endswith(tuple("0123456789)]}%"))
    return not (left[-1:].isalnum() or left.endswith((")", "]", "}", "%", "-")))


def _value(match: re.Match[str], *, negative: bool) -> Number | None:
    if len(match.group()) > MAX_NUMBER_CHARACTERS:
        return None
    part = {name: text for name, text in match.groupdict().items() if text is not None}
    try:
        value = _magnitude(part)
    except ZeroDivisionError:
        return None
    return Number(value=-value if negative else value, percent="percent" in part)


def _magnitude(part: dict[str, str]) -> Fraction:
    if "frac" in part:
        return _ratio(part, "top", "bottom")
    value = Fraction(part["decimal"] + part.get("exponent", ""))
    if "divisor" in part:
        return value / Fraction(part["divisor"])
    if "over" in part:
        return value + Fraction(int(part["over"]), int(part["under"]))
    return value + _ratio(part, "mixed_top", "mixed_bottom") if "mixed" in part else value


def _ratio(part: dict[str, str], top: str, bottom: str) -> Fraction:
    over, under = (part[name] if name in part else part[f"{name}_digit"] for name in (top, bottom))
    return Fraction(over) / Fraction(under)
