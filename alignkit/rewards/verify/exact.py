"""Whether two trees of `expressions.py` are the same: rationals exactly, all else with far more digits than it has.

Expressions with variables are compared at random rational points, so that a polynomial or rational function is settled
exactly there; two different ones agree at all of them with a probability below 1e-20.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from math import comb, factorial, isqrt
from random import Random

from alignkit.rewards.verify.expressions import Tree
from alignkit.rewards.verify.words import words

MOST_BITS = 40_000
MOST_DIGITS = 3_000
POINTS = 4
LARGEST_ARGUMENT = 10**5
MOST_COMPARISONS = 3_600
_EXPRESSIONS = frozenset(words("number name neg add mul div pow root call factorial binom percent degrees"))


class Undecided(ValueError):
    """The two trees cannot be compared: too large, undefined, or of a kind that has no rule."""


def same_tree(one: Tree, other: Tree) -> bool:
    """True or False. Raises Undecided."""
    try:
        return _same(_normal(one), _normal(other))
    except RecursionError:
        raise Undecided("too deep") from None


def _normal(tree: Tree) -> Tree:
    """Plus-minus as a list, equations of one unknown as its values, `x =` in front of a value taken away."""
    kind = tree[0]
    if kind == "pm":
        return ("list", ("add", tree[1], tree[2]), ("add", tree[1], ("neg", tree[2])))
    if kind == "equation" and len(tree) == 3 and _is_unknown(tree[1]):
        return ("equation", tree[1], _normal(tree[2]))
    if kind in ("list", "set"):
        items = [_normal(item) for item in tree[1:]]
        flat = [part for item in items for part in (item[1:] if item[0] == "list" else (item,))]
        names = {item[1] for item in flat if item[0] == "equation" and len(item) == 3 and _is_unknown(item[1])}
        if kind == "list" and len(names) == 1 and all(item[0] == "equation" for item in flat):
            return ("list", *(item[2] for item in flat))
        return (kind, *flat)
    if kind == "without":
        return _without(tree)
    if kind == "union":
        return ("union", *(_normal(part) for part in tree[1:]))
    return tree


_REALS = ("bracket", "(", ")", ("neg", ("infinity",)), ("infinity",))


def _without(tree: Tree) -> Tree:
    """All real numbers but some as the intervals between them."""
    if (
        tree[1] != _REALS
        or tree[2][0] != "set"
        or any(_names(one) or one[0] not in _EXPRESSIONS for one in tree[2][1:])
    ):
        return tree
    ordered = sorted(tree[2][1:], key=lambda one: float(_number(_value(one, {}, 60)).real))
    ends = [("neg", ("infinity",)), *ordered, ("infinity",)]
    return ("union", *(("bracket", "(", ")", low, high) for low, high in pairwise(ends)))


def _is_unknown(tree: Tree) -> bool:
    """`x`, `(x, y)`, or `f(x)` as the parser reads it: a product of names."""
    if tree[0] == "bracket":
        return all(part[0] == "name" for part in tree[3:])
    return tree[0] == "name" or (tree[0] == "mul" and tree[1][0] == "name" and tree[2][0] in ("name", "number"))


def _same(one: Tree, other: Tree) -> bool:
    if one[0] == "equation" and other[0] != "equation" and len(one) == 3 and _is_unknown(one[1]):
        return _same(one[2], other)
    if other[0] == "equation" and one[0] != "equation":
        return _same(other, one) if len(other) == 3 and _is_unknown(other[1]) else False
    if (infinite := _infinite(one)) or _infinite(other):
        return infinite == _infinite(other)
    if "ratio" in (one[0], other[0]):
        return _same_ratio(one, other)
    if one[0] in _EXPRESSIONS and other[0] in _EXPRESSIONS:
        return _same_expression(one, other)
    if one[0] in ("set", "list") and other[0] in ("set", "list"):
        return _same_items(one[1:], other[1:])
    if {one[0], other[0]} & {"set"} and len(
        one if one[0] == "set" else other
    ) == 2:  # the only solution is the solution
        return _same(one[1] if one[0] == "set" else one, other[1] if other[0] == "set" else other)
    if one[0] != other[0]:
        return False
    rule = _RULES.get(one[0])
    if rule is None:
        raise Undecided(one[0])
    return rule(one, other)


def _infinite(tree: Tree) -> int:
    """1 and -1 for the infinities, 0 for all else."""
    return -_infinite(tree[1]) if tree[0] == "neg" else int(tree[0] == "infinity")


def _same_items(one: Sequence[Tree], other: Sequence[Tree]) -> bool:
    """Equal as sets: what comes twice counts once, the order does not."""
    simple = all(item[0] == "number" for item in (*one, *other))
    if len(one) * len(other) > (MOST_COMPARISONS if simple else MOST_COMPARISONS // 4):
        raise Undecided("too many items")
    return all(any(_same(item, twin) for twin in other) for item in one) and all(
        any(_same(item, twin) for twin in one) for item in other
    )


def _same_in_order(one: Sequence[Tree], other: Sequence[Tree]) -> bool:
    return len(one) == len(other) and all(_same(*pair) for pair in zip(one, other, strict=True))


def _same_bracket(one: Tree, other: Tree) -> bool:
    return one[1:3] == other[1:3] and _same_in_order(one[3:], other[3:])


def _same_matrix(one: Tree, other: Tree) -> bool:
    return len(one) == len(other) and all(_same_in_order(*rows) for rows in zip(one[1:], other[1:], strict=True))


def _same_equation(one: Tree, other: Tree) -> bool:
    """Both sides equal, also exchanged, or the difference of the sides a multiple of the other's."""
    if len(one) != 3 or len(other) != 3:
        return _same_in_order(one[1:], other[1:])
    sides = [*one[1:], *other[1:]]
    if any(side[0] not in _EXPRESSIONS for side in sides):
        return _same_in_order(one[1:], other[1:]) or _same_in_order(one[1:], other[:0:-1])
    if _is_unknown(one[1]) and _is_unknown(other[1]) and one[1] != other[1] and not _names(one[2]) & _names(other[1]):
        return False
    first, second = ("add", one[1], ("neg", one[2])), ("add", other[1], ("neg", other[2]))
    names = _names(first) | _names(second)
    if names != _names(first) or names != _names(second):
        return False
    ratios = _values(("div", first, second), ("number", Fraction(1)), names)
    return all(_close(value, ratios[0][0], digits) for value, _, digits in ratios) and ratios[0][0] != 0


def _same_ratio(one: Tree, other: Tree) -> bool:
    """`2:4` is `1:2`; of two terms it is also the fraction. `12:00` is a time and only itself."""
    if one[0] != "ratio" or other[0] != "ratio":
        ratio, value = (one, other) if one[0] == "ratio" else (other, one)
        if len(ratio) != 3 or value[0] not in _EXPRESSIONS:
            return False
        return not _is_zero(ratio[2]) and _same(("div", ratio[1], ratio[2]), value)
    if len(one) != len(other):
        return False
    if any(_is_zero(term) for term in (*one[1:], *other[1:])):
        return _same_in_order(one[1:], other[1:])
    return all(_same(("mul", one[1], b), ("mul", other[1], a)) for a, b in zip(one[2:], other[2:], strict=True))


def _is_zero(tree: Tree) -> bool:
    return tree == ("number", Fraction(0))


_RULES: dict[str, Callable[[Tree, Tree], bool]] = {
    "bracket": _same_bracket,
    "matrix": _same_matrix,
    "equation": _same_equation,
    "union": lambda one, other: _same_items(one[1:], other[1:]),
    "relation": lambda one, other: one[1] == other[1] and _same_in_order(one[2:], other[2:]),
    "without": lambda one, other: _same_in_order(one[1:], other[1:]),
    "base": lambda one, other: one == other,
    "symbol": lambda one, other: one == other,
}


def _same_expression(one: Tree, other: Tree) -> bool:
    one, other = _without_sign(one), _without_sign(other)
    if one == other:
        return True
    names, others = _names(one), _names(other)
    pairs = _values(one, other, names | others)
    return all(_close(*pair) for pair in pairs)


def _without_sign(tree: Tree) -> Tree:
    """An angle as an answer is its number of degrees."""
    return tree[1] if tree[0] == "degrees" else tree


def _names(tree: Tree) -> frozenset[str]:
    """The unknowns; e, i and pi are none."""
    if tree[0] == "name":
        return frozenset() if tree[1] in ("e", "i", "\\pi") else frozenset({tree[1]})
    return frozenset().union(*(_names(part) for part in tree[1:] if isinstance(part, tuple)), ())


def _values(one: Tree, other: Tree, names: frozenset[str]) -> list[tuple]:
    """(value, value, digits) at several points where both are defined."""
    digits = 60 + _height(one) + _height(other)
    if digits > MOST_DIGITS:
        raise Undecided("too many digits")
    random = Random(repr(sorted(names)))
    found: list[tuple] = []
    for _ in range(4 * POINTS):
        point = {
            name: Fraction(random.randrange(2**20, 2**24) * random.choice((1, 1, -1)), random.randrange(2**20, 2**22))
            for name in sorted(names)
        }
        try:
            found.append((_value(one, point, digits), _value(other, point, digits), digits))
        except (ZeroDivisionError, OverflowError):
            if not names:
                break
            continue
        if len(found) == (POINTS if names else 1):
            return found
    raise Undecided("undefined")


def _height(tree: Tree) -> int:
    """How many decimal digits the numbers of a tree have, powers carried out."""
    if tree[0] == "number":
        return len(str(tree[1]))
    inner = sum(_height(part) for part in tree[1:] if isinstance(part, tuple))
    if tree[0] == "pow":
        exponent = tree[2][1] if tree[2][0] == "neg" else tree[2]
        if exponent[0] == "number":
            return int(min(abs(exponent[1]), 10**6) + 1) * max(1, _height(tree[1]))
    return inner


def _close(one, other, digits: int) -> bool:
    """Equal exactly where both are rational, else to all but the last of many digits."""
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return one == other
    import mpmath

    with mpmath.workdps(digits):
        one, other = _number(one), _number(other)
        size = max(abs(one), abs(other), mpmath.mpf(1) if one == 0 or other == 0 else 0)
        return abs(one - other) <= size * mpmath.mpf(10) ** (30 - digits)


def _number(value):
    import mpmath

    if isinstance(value, Fraction):
        return mpmath.mpf(value.numerator) / value.denominator
    return value


def _value(tree: Tree, point: dict[str, Fraction], digits: int):
    """A Fraction where it can be one, else an mpmath number. Raises Undecided, ZeroDivisionError."""
    kind = tree[0]
    if kind == "number":
        return tree[1]
    if kind == "name" and tree[1] in point:
        return point[tree[1]]
    import mpmath

    with mpmath.workdps(digits):
        if kind == "name":
            return {"e": mpmath.e, "i": mpmath.mpc(0, 1), "\\pi": mpmath.pi}[tree[1]] * mpmath.mpf(1)
        if kind == "call":
            return _called(tree, point, digits)
        if kind not in _EXPRESSIONS:
            raise Undecided(kind)
        parts = [_value(part, point, digits) for part in tree[1:]]
        if kind == "pow":
            return _power(*parts)
        if kind == "root":
            return _root(*parts)
        if all(isinstance(part, Fraction) for part in parts):
            return _rational(kind, parts)
        return _irrational(kind, [_number(part) for part in parts])


def _rational(kind: str, parts: list[Fraction]) -> Fraction:
    if kind in ("factorial", "binom"):
        if any(part.denominator != 1 or not 0 <= part <= 1000 for part in parts):
            raise Undecided(kind)
        whole = [int(part) for part in parts]
        return Fraction(factorial(whole[0]) if kind == "factorial" else comb(*whole))
    value = {
        "neg": lambda a: -a,
        "add": lambda a, b: a + b,
        "mul": lambda a, b: a * b,
        "div": lambda a, b: a / b,
        "percent": lambda a: a / 100,
        "degrees": lambda a: a,
    }[kind](*parts)
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MOST_BITS:
        raise Undecided("too large")
    return value


def _irrational(kind: str, parts: list):
    if kind == "neg":
        return -parts[0]
    if kind == "add":
        return parts[0] + parts[1]
    if kind == "mul":
        return parts[0] * parts[1]
    if kind == "div":
        return parts[0] / parts[1]
    if kind in ("percent", "degrees"):
        return parts[0] / 100 if kind == "percent" else parts[0]
    raise Undecided(kind)


def _power(base, exponent):
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        if exponent.denominator == 1:
            size = max(base.numerator.bit_length(), base.denominator.bit_length())
            if abs(exponent) * size > MOST_BITS:
                raise Undecided("a power that is too large")
            return base ** int(exponent)
        if base >= 0:
            exact = _exact_root(base, exponent.denominator)
            if exact is not None:
                return _power(exact, Fraction(exponent.numerator))
    base, exponent = _number(base), _number(exponent)
    if abs(exponent) > 10**5:
        raise Undecided("a power that is too large")
    return base**exponent


def _root(value, degree):
    """The real root where there is one."""
    if not isinstance(degree, Fraction) or degree.denominator != 1 or not 2 <= degree <= 100:
        raise Undecided("a root of that degree")
    if isinstance(value, Fraction) and value < 0 and degree % 2:
        return -_root(-value, degree)
    return _power(value, 1 / degree)


def _exact_root(value: Fraction, degree: int) -> Fraction | None:
    if degree != 2:
        tops = [_integer_root(part, degree) for part in (value.numerator, value.denominator)]
    else:
        tops = [isqrt(part) for part in (value.numerator, value.denominator)]
    found = Fraction(*tops)
    return found if found**degree == value else None


def _integer_root(value: int, degree: int) -> int:
    low, high = 0, 1 << (value.bit_length() // degree + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**degree <= value else (low, middle - 1)
    return max(low, 1) if value else 0


def _called(tree: Tree, point: dict[str, Fraction], digits: int):
    import mpmath

    inner = tree[2]
    value = _value(inner[1] if inner[0] == "degrees" else inner, point, digits)
    if tree[1] in ("abs", "floor", "ceil"):
        if isinstance(value, Fraction):
            return abs(value) if tree[1] == "abs" else Fraction(value // 1 if tree[1] == "floor" else -(-value // 1))
        if tree[1] == "abs":
            return abs(value)
        raise Undecided("a rounded irrational number")
    value = _number(value)
    if inner[0] == "degrees":
        value = value * mpmath.pi / 180
    if tree[1] == "ln" and value == 0:
        raise ZeroDivisionError
    if tree[1] != "ln" and abs(value) > LARGEST_ARGUMENT:
        raise Undecided("the argument of a function is too large")
    names = {"arcsin": "asin", "arccos": "acos", "arctan": "atan", "lg": "log10"}
    function = getattr(mpmath, names.get(tree[1], tree[1]), None)
    if function is None:
        raise Undecided(tree[1])
    return function(value)
