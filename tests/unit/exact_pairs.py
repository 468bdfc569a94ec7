"""Pairs of answers whose equality is known from how they were made: exact values, each written in one of many ways."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from random import Random


@dataclass(frozen=True)
class Pair:
    """Two texts; `equal`: whether they are the same answer; `formula`: both as sympy writes them, None for no."""

    kind: str
    gold: str
    answer: str
    equal: bool
    formula: tuple[str, str] | None = None


def pairs(count: int, seed: int) -> list[Pair]:
    random = Random(seed)
    kinds = list(_KINDS)
    return [_KINDS[kind](random, kind) for kind in (kinds[number % len(kinds)] for number in range(count))]


def _pair(random: Random, kind: str, values: tuple, write: Callable, formula: Callable | None = None) -> Pair:
    equal = values[0] == values[1]
    texts = write(random, values[0]), write(random, values[1])
    return Pair(kind, *texts, equal, formula and (formula(values[0]), formula(values[1])))


def _two(random: Random, draw: Callable, change: Callable) -> tuple:
    """A value, and either the same again or one that differs a little."""
    value = draw()
    return value, value if random.random() < 0.4 else change(value)


def _fraction_text(random: Random, value: Fraction) -> str:
    sign, size = ("-" if value < 0 else ""), abs(value)
    forms = [rf"{sign}\frac{{{size.numerator}}}{{{size.denominator}}}", f"{sign}{size.numerator}/{size.denominator}"]
    forms.append(rf"{sign}\dfrac{{{2 * size.numerator}}}{{{2 * size.denominator}}}")
    whole, rest = divmod(size, 1)
    if whole and rest:
        forms.append(rf"{sign}{whole}\frac{{{rest.numerator}}}{{{rest.denominator}}}")
    ten = Fraction(10) ** 12 * size
    if ten.denominator == 1:
        digits = f"{int(ten):013d}"
        forms += [f"{sign}{digits[:-12]}.{digits[-12:]}".rstrip("0").rstrip(".")] * 2
    if size.denominator == 1:
        forms += [f"{sign}{int(size):,}", f"{sign}{size}"]
    return random.choice(forms)


def _rational(random: Random, kind: str) -> Pair:
    values = _two(
        random,
        lambda: Fraction(random.randint(-999, 9999), random.choice((1, 2, 3, 4, 5, 7, 8, 10, 16, 100, 999))),
        lambda v: random.choice(
            (
                v + 1,
                -v or v + 1,
                v / 10 or v + 1,
                v * 100 or v - 1,
                v + Fraction(1, 10**6),
                1 / v if v**2 not in (0, 1) else v + 2,
            )
        ),
    )
    return _pair(random, kind, values, _fraction_text, str)


def _tiny(random: Random, kind: str) -> Pair:
    def write(random: Random, value: tuple[int, int]) -> str:
        digits, power = value
        forms = [rf"{digits} \times 10^{{-{power}}}", f"{digits}e-{power}", rf"\frac{{{digits}}}{{10^{{{power}}}}}"]
        return random.choice([*forms, "0." + "0" * (power - 1) + str(digits)])

    values = _two(
        random,
        lambda: (random.randint(1, 9), random.randint(3, 40)),
        lambda v: random.choice(((v[0] % 9 + 1, v[1]), (v[0], v[1] + 1), (v[0], v[1] + random.randint(2, 9)))),
    )
    return _pair(random, kind, values, write, lambda v: f"{v[0]}*10**-{v[1]}")


def _power(random: Random, kind: str) -> Pair:
    def write(random: Random, value: tuple[int, int, int]) -> str:
        top, base, power = value
        forms = [rf"\frac{{{top}}}{{{base}^{{{power}}}}}", rf"{top} \cdot {base}^{{-{power}}}"]
        return random.choice([*forms, rf"\frac{{{top * base}}}{{{base}^{{{power + 1}}}}}"])

    values = _two(
        random,
        lambda: (random.choice((1, 5, 7)), random.choice((2, 3, 6)), random.randint(5, 90)),
        lambda v: random.choice(((v[0] + 1, *v[1:]), (v[0], v[1] + 1, v[2]), (v[0], v[1], v[2] + 1))),
    )
    equal = Fraction(values[0][0], values[0][1] ** values[0][2]) == Fraction(values[1][0], values[1][1] ** values[1][2])
    pair = _pair(random, kind, values, write, lambda v: f"Rational({v[0]}, {v[1]}**{v[2]})")
    return Pair(kind, pair.gold, pair.answer, equal, pair.formula)


def _surd(random: Random, kind: str) -> Pair:
    def write(random: Random, value: tuple[int, int, int]) -> str:
        whole, factor, under = value
        root = random.choice((rf"{factor}\sqrt{{{under}}}", rf"\sqrt{{{factor * factor * under}}}"))
        return random.choice(
            (f"{whole}+{root}", f"{root}+{whole}", rf"\frac{{{2 * whole}+{2 * factor}\sqrt{{{under}}}}}{{2}}")
        )

    values = _two(
        random,
        lambda: (random.randint(1, 30), random.randint(2, 9), random.choice((2, 3, 5, 6, 7, 10))),
        lambda v: random.choice(
            (
                (v[0] + 1, *v[1:]),
                (v[0], v[1] + 1, v[2]),
                (v[0], v[1], 11),
                (v[1], v[0], v[2]) if v[0] != v[1] else (v[0] + 2, *v[1:]),
            )
        ),
    )
    return _pair(random, kind, values, write, lambda v: f"{v[0]}+{v[1]}*sqrt({v[2]})")


def _constant(random: Random, kind: str) -> Pair:
    def write(random: Random, value: tuple[Fraction, str]) -> str:
        factor, name = value
        top = f"{factor.numerator}{name}" if factor.numerator != 1 else name
        return random.choice(
            (rf"\frac{{{top}}}{{{factor.denominator}}}", rf"\frac{{{factor.numerator}}}{{{factor.denominator}}}{name}")
        )

    values = _two(
        random,
        lambda: (
            Fraction(random.randint(1, 20), random.randint(2, 12)),
            random.choice((r"\pi", r"\sqrt{2}", "e", r"\ln 3")),
        ),
        lambda v: random.choice(
            ((v[0] + Fraction(1, 7), v[1]), (1 / v[0] if v[0] != 1 else Fraction(2), v[1]), (v[0], r"\sqrt{5}"))
        ),
    )
    names = {r"\pi": "pi", r"\sqrt{2}": "sqrt(2)", "e": "E", r"\ln 3": "log(3)", r"\sqrt{5}": "sqrt(5)"}
    return _pair(random, kind, values, write, lambda v: f"Rational({v[0].numerator}, {v[0].denominator})*{names[v[1]]}")


def _polynomial(random: Random, kind: str) -> Pair:
    def write(random: Random, value: tuple[int, int, int]) -> str:
        factor, one, two = value
        expanded = f"{factor}x^2+{factor * (one + two)}x+{factor * one * two}"
        return random.choice(
            (
                expanded,
                f"{factor}(x+{one})(x+{two})",
                f"{factor}(x+{two})(x+{one})",
                f"{factor * one * two}+{factor * (one + two)}x+{factor}x^{{2}}",
            )
        )

    values = _two(
        random,
        lambda: (random.randint(2, 9), *sorted((random.randint(1, 9), random.randint(10, 19)))),
        lambda v: random.choice(((v[0] + 1, *v[1:]), (v[0], v[1], v[2] + 1), (v[0], v[1] + 10, v[2] + 10))),
    )
    return _pair(random, kind, values, write, lambda v: f"{v[0]}*(x+{v[1]})*(x+{v[2]})")


def _tuple(random: Random, kind: str) -> Pair:
    values = _two(
        random,
        lambda: tuple(random.randint(-20, 20) for _ in range(random.randint(2, 4))),
        lambda v: random.choice((v[::-1], (*v[:-1], v[-1] + 1), v[:-1] if len(v) > 2 else (*v, 0))),
    )
    return _pair(
        random,
        kind,
        values,
        lambda r, v: r.choice(("({})", r"\left({}\right)")).format(r.choice((",", ", ")).join(map(str, v))),
    )


def _set(random: Random, kind: str) -> Pair:
    def write(random: Random, value: frozenset[int]) -> str:
        items = random.sample(sorted(value), len(value))
        return random.choice((r"\{{{}\}}", "{}")).format(", ".join(map(str, items)))

    values = _two(
        random,
        lambda: frozenset(random.sample(range(-30, 30), random.randint(2, 5))),
        lambda v: random.choice((v | {31}, (v - {min(v)}) | {-31}, frozenset(item + 1 for item in v))),
    )
    return _pair(random, kind, values, write)


def _interval(random: Random, kind: str) -> Pair:
    def write(random: Random, value: tuple[str, int, int, str]) -> str:
        opening, low, high, closing = value
        signs = [r"\le" if bracket in "[]" else "<" for bracket in (opening, closing)]
        return random.choice(
            (
                f"{opening}{low},{high}{closing}",
                f"{low} {signs[0]} x {signs[1]} {high}",
                rf"\left{opening}{low}, {high}\right{closing}",
            )
        )

    values = _two(
        random,
        lambda: (random.choice("(["), random.randint(-9, 0), random.randint(1, 9), random.choice(")]")),
        lambda v: random.choice(
            (("[" if v[0] == "(" else "(", *v[1:]), (*v[:3], "]" if v[3] == ")" else ")"), (v[0], v[1] - 1, *v[2:]))
        ),
    )
    return _pair(random, kind, values, write)


def _matrix(random: Random, kind: str) -> Pair:
    def write(random: Random, value: tuple[tuple[Fraction, ...], ...]) -> str:
        name = random.choice(("pmatrix", "bmatrix"))
        rows = [" & ".join(_fraction_text(random, one) for one in row) for row in value]
        return rf"\begin{{{name}}} " + r" \\ ".join(rows) + rf" \end{{{name}}}"

    size = random.choice(((2, 2), (1, 3), (3, 1)))
    values = _two(
        random,
        lambda: tuple(
            tuple(Fraction(random.randint(-9, 99), random.choice((1, 1, 4))) for _ in range(size[1]))
            for _ in range(size[0])
        ),
        lambda v: random.choice(
            ((tuple(one + 1 for one in v[0]), *v[1:]), (*v[:-1], (*v[-1][:-1], v[-1][-1] + Fraction(1, 3))))
        ),
    )
    return _pair(random, kind, values, write)


def _based(random: Random, kind: str) -> Pair:
    values = _two(
        random,
        lambda: ("".join(random.choices("01", k=5)).lstrip("0") or "1", random.randint(2, 9)),
        lambda v: random.choice(((v[0] + "1", v[1]), (v[0], v[1] + 1), (v[0], None))),
    )
    return _pair(
        random,
        kind,
        values,
        lambda r, v: v[0] if v[1] is None else r.choice(("{}_{}", "{}_{{{}}}", "({})_{{{}}}")).format(*v),
    )


def _sign(random: Random, kind: str) -> Pair:
    values = _two(
        random,
        lambda: ("pm", random.randint(1, 99)),
        lambda v: random.choice((("pm", v[1] + 1), ("plus", v[1]), ("minus", v[1]))),
    )
    forms = {"pm": (r"\pm {0}", "{0}, -{0}", r"x = {0} \text{{ or }} x = -{0}"), "plus": ("{0}",), "minus": ("-{0}",)}
    return _pair(random, kind, values, lambda r, v: r.choice(forms[v[0]]).format(v[1]))


_KINDS: dict[str, Callable[[Random, str], Pair]] = {
    "rational": _rational,
    "tiny": _tiny,
    "power": _power,
    "surd": _surd,
    "constant": _constant,
    "polynomial": _polynomial,
    "tuple": _tuple,
    "set": _set,
    "interval": _interval,
    "matrix": _matrix,
    "base": _based,
    "sign": _sign,
}
