"""Answers with a unit, and inequalities that say the same as an interval. Linear time, nothing is executed."""

from __future__ import annotations

import re
from fractions import Fraction

from alignkit.rewards.verify.numerals import Number, first_number, read_number, same_number, tidy
from alignkit.rewards.verify.statements import is_open
from alignkit.rewards.verify.words import SCALES

Unit = tuple[frozenset[tuple[str, int]], Fraction]
"""Powers of dimensions, and how many of the base unit one of it is: km/h is length 1, time -1, and 1000/3600."""

_TABLE = {
    "length": {"m meter metre": 1, "mm millimeter millimetre": "1/1000", "cm centimeter centimetre": "1/100",
               "dm decimeter": "1/10", "km kilometer kilometre": 1000, "in inch inche": "0.0254",
               "ft foot feet": "0.3048", "yd yard": "0.9144", "mi mile": "1609.344"},
    "mass": {"kg kilogram": 1, "g gram": "1/1000", "mg milligram": "1/1000000", "lb pound": "0.45359237",
             "oz ounce": "0.028349523125", "ton": 1000},
    "time": {"s sec second": 1, "ms millisecond": "1/1000", "min minute": 60, "h hr hour": 3600, "day": 86400,
             "week": 604800, "month": "2629746", "year yr": "31556952"},
    "volume": {"l L liter litre": 1, "ml mL milliliter millilitre": "1/1000", "gallon gal": "3.785411784"},
    "money": {"dollar usd USD": 1, "cent": "1/100"},
    "angle": {"degree deg °": 1, "radian rad": "57.29577951308232"},
    "temperature": {"K kelvin": 1},
    "force": {"N newton": 1},
    "energy": {"J joule": 1, "kJ kilojoule": 1000},
    "power": {"W watt": 1, "kW kilowatt": 1000},
    "voltage": {"V volt": 1},
    "frequency": {"Hz hertz": 1},
}  # fmt: skip
_WORDS = {"square": 2, "sq": 2, "cubic": 3}
_WRAPPED = re.compile(r"\\(?:text|mathrm|mbox|textrm|operatorname)\s?\{([^{}]*)\}")
_POWER = re.compile(r"(?P<name>[A-Za-z°]+)\.?(?:\^?\{?(?P<power>[23])\}?)?")

_DOLLARS = re.compile(r"[-+]?\s?(?:\\\$|\$(?!.*\$))", re.DOTALL)  # `$5$` is mathematics


def _units() -> dict[str, Unit]:
    found = {}
    for dimension, units in _TABLE.items():
        for names, factor in units.items():
            unit = (frozenset({(dimension, 1)}), Fraction(factor))
            for name in names.split():
                found[name] = unit
                if len(name) > 2:
                    found[f"{name}s"] = unit
    return found


UNITS = _units()


def read_quantity(text: str) -> tuple[Number, Unit | None] | None:
    """A number with the unit behind (or the dollar before) it; None when the text is not a number or the unit unknown.

    A bare number has no unit: (Number, None).
    """
    plain = _WRAPPED.sub(r" \1", tidy(text)).replace("~", " ").strip().strip("$").strip().removesuffix(".")
    plain = re.sub(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree", " degrees", plain)
    number = read_number(plain)
    if number is not None:
        return number, UNITS["dollar"] if _DOLLARS.match(tidy(text).strip()) else None
    read = first_number(plain)
    rest = plain[read[1] :] if read else ""
    if read is None or not 0 < len(rest.strip()) <= 40 or (len(rest) == 1 and rest != "°"):  # 3m is three times m
        return None
    unit = _read_unit(rest.strip())
    return (read[0], unit) if unit is not None else None


def same_quantity(gold: str, answer: str) -> bool | None:
    """Equal amounts? Where only one side names a unit, it does not count. None when one is not a plain quantity."""
    one, other = read_quantity(gold), read_quantity(answer)
    if one is None or other is None or (one[1] is None and other[1] is None):
        return None
    (number, unit), (answer_number, answer_unit) = one, other
    if unit is None or answer_unit is None:
        return number.value == answer_number.value
    return unit[0] == answer_unit[0] and number.value * unit[1] == answer_number.value * answer_unit[1]


_NOUN = re.compile(r"\s?(?:[^\W\d_]+[\s'’-]?){1,4}")


def read_amount(text: str) -> tuple[Number, str] | None:
    """A number with a noun that is no known unit behind it: `42 sheep`, `\\text{12 apples}`; None for all else."""
    plain = _WRAPPED.sub(r" \1", tidy(text)).replace("~", " ").strip().strip("$").strip().removesuffix(".")
    plain = re.sub(r"^[a-zA-Z]\s?=\s?", "", re.sub(r"\s+", " ", plain))
    read = first_number(plain)
    if read is None:
        return None
    noun = plain[read[1] :]
    number, scale = read[0], re.match(r"\s?([^\W\d_]+)\s?", noun)
    if scale and scale[1].lower() in SCALES:
        number, noun = Number(number.value * SCALES[scale[1].lower()]), " " + noun[scale.end() :]
        if not noun.strip():
            return number, ""
    known = _NOUN.fullmatch(noun) and (noun[0] == " " or not noun[0].isascii())
    if not known or not re.search(r"[^\W\d_]{3}|[^\x00-\x7f]", noun) or is_open(noun):
        return None
    return number, noun.strip().casefold()


def same_amount(gold: str, answer: str) -> bool | None:
    """Equal numbers of the same things? Where only one side names them, they do not count. None without a noun."""
    one, other = read_amount(gold), read_amount(answer)
    if one is None and other is None:
        return None
    number, answer_number = one[0] if one else read_number(gold), other[0] if other else read_number(answer)
    if number is None or answer_number is None:
        return None
    alike = not (one and one[1] and other and other[1]) or one[1].rstrip("s") == other[1].rstrip("s")
    return alike and bool(same_number(number, answer_number))


def _read_unit(text: str) -> Unit | None:
    above, slash, below = re.sub(r"\s+per\s+", "/", text).partition("/")
    top, bottom = _read_product(above), _read_product(below) if slash else (frozenset(), Fraction(1))
    if top is None or bottom is None:
        return None
    powers = dict(top[0])
    for dimension, power in bottom[0]:
        powers[dimension] = powers.get(dimension, 0) - power
    return frozenset((name, power) for name, power in powers.items() if power), top[1] / bottom[1]


def _read_product(text: str) -> Unit | None:
    """`cm^2`, `square centimeters`: one unit to a power."""
    words = text.split()
    power = _WORDS.get(words[0].lower(), 0) if len(words) == 2 else int(len(words) == 1)
    found = _POWER.fullmatch(words[-1]) if words and power else None
    known = found and (UNITS.get(found["name"]) or UNITS.get(found["name"].lower()))
    if not found or not known:
        return None
    power *= int(found["power"] or 1)
    return frozenset((name, one * power) for name, one in known[0]), known[1] ** power


_SIGNS = {"<": "<", ">": ">", "<=": "<=", ">=": ">=", "\\le": "<=", "\\leq": "<=", "\\ge": ">=", "\\geq": ">=",
          "\\lt": "<", "\\gt": ">", "≤": "<=", "≥": ">=", "\\leqslant": "<=", "\\geqslant": ">="}  # fmt: skip
_SIGN = re.compile(r"(<=|>=|[<>≤≥]|\\(?:leqslant|geqslant|leq|geq|le|ge|lt|gt)(?![a-zA-Z]))")
_VARIABLE = re.compile(r"[a-zA-Z]|\\(?:theta|alpha|beta|lambda|mu)")


def as_interval(text: str) -> str | None:
    """The interval that an inequality in one variable describes: `1 < x \\le 3` is `(1,3]`, `x > 2` is `(2,\\infty)`.

    None when the text is no such inequality.
    """
    parts = [part.strip() for part in _SIGN.split(tidy(text).strip().strip("$").removesuffix("."))]
    signs = [_SIGNS[sign] for sign in parts[1::2]]
    sides = parts[::2]
    if len(signs) not in (1, 2) or not all(sides):
        return None
    places = [place for place, side in enumerate(sides) if _VARIABLE.fullmatch(side)]
    if len(signs) == 2 and (places != [1] or signs[0][0] != signs[1][0]):
        return None
    if len(signs) == 1 and len(places) != 1:
        return None
    if signs[0][0] == ">":  # read it from the other end
        sides, signs = sides[::-1], [sign.replace(">", "<") for sign in signs[::-1]]
    if len(signs) == 2:
        low, high, closed = sides[0], sides[2], (signs[0] == "<=", signs[1] == "<=")
    elif _VARIABLE.fullmatch(sides[0]):
        low, high, closed = "-\\infty", sides[1], (False, signs[0] == "<=")
    else:
        low, high, closed = sides[0], "\\infty", (signs[0] == "<=", False)
    return f"{'[' if closed[0] else '('}{low},{high}{']' if closed[1] else ')'}"
