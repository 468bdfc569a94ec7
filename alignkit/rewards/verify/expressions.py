"""Reads mathematical answers into trees: LaTeX or plain, expressions, sets, intervals, lists, matrices, bases.

A tree is a tuple whose first item is its kind; `exact.py` says what each means. Nothing is evaluated here.
"""

from __future__ import annotations

import re
from fractions import Fraction

from alignkit.rewards.verify.math_tokens import FUNCTIONS, GREEK, Unreadable, tokens
from alignkit.rewards.verify.numerals import tidy

Tree = tuple

_BASED = re.compile(r"\(?\s*(?P<digits>[0-9A-Fa-f]{1,100})\s*\)?\s*_\s*(?:\{\s*)?\(?(?P<base>[0-9]{1,2})\)?(?:\s*\})?")


def read_tree(text: str) -> Tree:
    """The tree of an answer without `\\boxed`. Raises Unreadable."""
    plain = tidy(text).strip().removesuffix(".").rstrip(",; ")
    plain = re.sub(r"(?<=[0-9])\s*[xX]\s*(?=[0-9])", r"\\times ", plain)
    based = _BASED.fullmatch(re.sub(r"\\(?:text|mathrm)\s*\{([0-9A-Fa-f]+)\}|[$\s]", r"\1", plain))
    if based and any(character.isdigit() for character in based["digits"]):
        return ("base", based["digits"].lower().lstrip("0") or "0", int(based["base"]))
    parser = _Parser(tokens(plain))
    try:
        tree = parser.answer()
    except RecursionError:
        raise Unreadable("too deep") from None
    if parser.peek():
        raise Unreadable(f"stops before {parser.peek()!r}")
    return tree


class _Parser:
    """Recursive descent; brackets deeper than `math_equal` allows never come here."""

    def __init__(self, tokens: list[str]):
        self._tokens, self._at = tokens, 0

    def peek(self, ahead: int = 0) -> str:
        place = self._at + ahead
        return self._tokens[place] if place < len(self._tokens) else ""

    def take(self, wanted: str | None = None) -> str:
        token = self.peek()
        if not token or (wanted is not None and token != wanted):
            raise Unreadable(f"wanted {wanted or 'more'}, got {token!r}")
        self._at += 1
        return token

    def eat(self, *tokens: str) -> str:
        return self.take() if self.peek() in tokens and self.peek() else ""

    def answer(self) -> Tree:
        items = [self.item()]
        while self.eat(",", ";"):
            items.append(self.item())
        return items[0] if len(items) == 1 else ("list", *items)

    def item(self) -> Tree:
        """A relation, a ratio, a union of sets or an expression."""
        sides = [self.union()]
        signs = []
        while sign := self.eat("=", "<", ">", "\\le", "\\ge", "\\in", ":", "\\ne"):
            signs.append(sign)
            sides.append(self.union())
        if not signs:
            return sides[0]
        if set(signs) == {":"}:
            return ("ratio", *sides)
        if signs == ["\\in"]:
            return sides[1]
        if set(signs) == {"="}:
            return ("equation", *sides)
        return ("relation", tuple(signs), *sides)

    def union(self) -> Tree:
        parts = [self.difference()]
        while self.eat("\\cup"):
            parts.append(self.difference())
        return parts[0] if len(parts) == 1 else ("union", *parts)

    def difference(self) -> Tree:
        whole = self.sum()
        return ("without", whole, self.sum()) if self.eat("\\setminus") else whole

    def sum(self) -> Tree:
        sign = self.eat("+", "-", "\\pm")
        total = self.product()
        total = ("neg", total) if sign == "-" else ("pm", ("number", Fraction(0)), total) if sign == "\\pm" else total
        while sign := self.eat("+", "-", "\\pm"):
            term = self.product()
            total = ("pm" if sign == "\\pm" else "add", total, ("neg", term) if sign == "-" else term)
        return total

    def product(self) -> Tree:
        value = self.factor()
        while True:
            if self.eat("*"):
                value = ("mul", value, self.signed())
            elif self.eat("/"):
                value = ("div", value, self.signed())
            elif self._starts_factor():
                value = self._beside(value)
            else:
                return value

    def _beside(self, left: Tree) -> Tree:
        """Two factors without a sign between them: `2x`, but `1\\frac{1}{2}` is a mixed number and `2 3` is nothing."""
        after_number = left[0] == "number"
        fraction = self.peek() == "\\frac"
        digit = self.peek()[:1].isdigit()
        right = self.factor()
        if after_number and fraction and right[0] == "div" and right[1][0] == right[2][0] == "number":
            return ("add", left, right) if left[1].denominator == 1 else ("mul", left, right)
        if digit and right[0] in ("number", "div"):
            raise Unreadable("two numbers beside each other")
        return ("mul", left, right)

    def signed(self) -> Tree:
        sign = self.eat("+", "-")
        return ("neg", self.factor()) if sign == "-" else self.factor()

    def _starts_factor(self) -> bool:
        token = self.peek()
        if token in ("(", "\\{", "[", "\\frac", "\\sqrt", "\\binom", "\\pi", "\\infty", "\\lfloor", "\\lceil", "{"):
            return token not in ("[", "\\{")
        return token[:1].isdigit() or self._is_name(token) or token.removeprefix("\\") in FUNCTIONS

    def _is_name(self, token: str) -> bool:
        letter = len(token) == 1 and token.isalpha() and token.isascii()
        return letter or (token[:1] == "\\" and token[1:] in GREEK)

    def factor(self) -> Tree:
        value = self.atom()
        while True:
            if self.eat("!"):
                value = ("factorial", value)
            elif self.eat("^"):
                if self.peek() == "°" or (self.peek() == "{" and self.peek(1) == "°" and self.peek(2) == "}"):
                    for _ in range(1 if self.peek() == "°" else 3):
                        self.take()
                    value = ("degrees", value)
                else:
                    value = ("pow", value, self.script())
            elif self.eat("°"):
                value = ("degrees", value)
            elif self.eat("\\%", "%"):
                value = ("percent", value)
            else:
                return value

    def script(self) -> Tree:
        """What stands raised: a group, or one sign as TeX takes it (`x^10` outside of TeX is the tenth power)."""
        if self.peek() == "{":
            return self.group()
        if self.eat("-"):
            return ("neg", self.atom())
        return self.atom()

    def group(self) -> Tree:
        self.take("{")
        value = self.answer()
        self.take("}")
        if value[0] == "list":
            raise Unreadable("a list in a group")
        return value

    def atom(self) -> Tree:
        token = self.take()
        if token[0].isdigit() or (token[0] == "." and len(token) > 1):
            return ("number", Fraction(token))
        if token == "{":
            self._at -= 1
            return self.group()
        if token in ("(", "["):
            return self._bracket(token)
        if token == "\\{":
            return ("set", *self._items("\\}"))
        if token == "|":
            value = self.sum()
            self.take("|")
            return ("call", "abs", value)
        name = token.removeprefix("\\")
        if name in FUNCTIONS:
            return self._call(name)
        if self._is_name(token):
            return ("name", token + self._primes() + self._index())
        if token == "\\mathbb":
            letter = self.take("{") and self.take()
            self.take("}")
            token = f"\\{letter}"
        if token == "\\R":
            return ("bracket", "(", ")", ("neg", ("infinity",)), ("infinity",))
        if token in ("\\Q", "\\Z", "\\N", "\\C", "\\ldots", "\\dots", "\\cdots", "…"):
            return ("symbol", "…" if "dots" in token else token)
        simple = {"\\pi": ("name", "\\pi"), "\\infty": ("infinity",), "\\emptyset": ("set",)}
        if token in simple:
            return simple[token]
        return self._command(token)

    def _command(self, token: str) -> Tree:
        if token == "\\frac":
            return ("div", self._argument(), self._argument())
        if token == "\\binom":
            return ("binom", self._argument(), self._argument())
        if token == "\\sqrt":
            degree = None
            if self.eat("["):
                degree = self.sum()
                self.take("]")
            return ("root", self._argument(), degree or ("number", Fraction(2)))
        closing = {"\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}.get(token)
        if closing:
            value = self.sum()
            self.take(closing)
            return ("call", token[2:], value)
        if token.startswith("\\begin{") and "matrix" in token and "vmatrix" not in token.lower():
            return self._matrix(token)
        raise Unreadable(f"{token!r}")

    def _argument(self) -> Tree:
        """A group, or one sign: of several digits TeX takes the first (`\\frac12` is a half)."""
        if self.peek() == "{":
            return self.group()
        token = self.peek()
        if token.isdigit() and len(token) > 1:
            self._tokens[self._at : self._at + 1] = [token[0], token[1:]]
        if token in ("(", "["):
            return self.atom()
        value = self.atom()
        return value

    def _primes(self) -> str:
        """`f'`, also written `f^{\\prime}`."""
        primes = ""
        while True:
            if self.eat("'"):
                primes += "'"
            elif self.peek() == "^" and self.peek(1) == "{" and self.peek(2) == "'":
                self._at += 2
                while self.eat("'"):
                    primes += "'"
                self.take("}")
            else:
                return primes

    def _index(self) -> str:
        if not self.eat("_"):
            return ""
        if self.eat("{"):
            parts = []
            while not self.eat("}"):
                parts.append(self.take())
            return "_" + "".join(parts)
        return "_" + self.take()

    def _call(self, name: str) -> Tree:
        base, power = None, None
        while self.peek() in ("_", "^"):
            if self.eat("_"):
                base = self.script()
            else:
                self.take("^")
                power = self.script()
        if self.peek() in ("(", "{"):
            inner = self.atom()
        else:
            inner = self.factor()
            while self._starts_factor() and self.peek().removeprefix("\\") not in FUNCTIONS and self.peek() != "(":
                inner = ("mul", inner, self.factor())
        if name == "log" and base is not None:
            value: Tree = ("div", ("call", "ln", inner), ("call", "ln", base))
        elif base is not None:
            raise Unreadable("an index of a function")
        else:
            value = ("call", "ln" if name == "log" else name, inner)
        if power is None:
            return value
        if power == ("neg", ("number", Fraction(1))):
            return ("call", f"arc{name}", inner)
        return ("pow", value, power)

    def _items(self, *closing: str) -> list[Tree]:
        items: list[Tree] = []
        if self.eat(*closing):
            return items
        items.append(self.item())
        while self.eat(",", ";"):
            items.append(self.item())
        self.last_closing = self.eat(*closing)
        if not self.last_closing:
            raise Unreadable(f"wanted {closing}, got {self.peek()!r}")
        return items

    def _bracket(self, opening: str) -> Tree:
        items = self._items(")", "]")
        closing = self.last_closing
        if (
            len(items) == 1
            and (opening, closing) in (("(", ")"), ("[", "]"))
            and items[0][0] not in ("equation", "relation")
        ):
            return items[0]
        if len(items) < 2:
            raise Unreadable("brackets around nothing that can be in brackets")
        return ("bracket", opening, closing, *items)

    def _matrix(self, opening: str) -> Tree:
        rows, row = [], []
        closing = opening.replace("begin", "end")
        while True:
            row.append(self.sum())
            if self.eat("&"):
                continue
            rows.append(tuple(row))
            row = []
            if self.eat("\\\\"):
                if self.eat(closing):
                    break
                continue
            self.take(closing)
            break
        return ("matrix", *rows)
