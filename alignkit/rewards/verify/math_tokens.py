"""Cuts a mathematical answer into tokens, one sign for each meaning, LaTeX or plain. Linear time."""

from __future__ import annotations

import re

from alignkit.rewards.verify.words import words

FUNCTIONS = frozenset(
    words("sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log lg exp"),
)
GREEK = frozenset(
    words(
        """
        alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau
        upsilon phi varphi chi psi omega hbar ell Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega
        """
    )
)
_SAME = {
    **dict.fromkeys(("×", "·", "⋅", "∙", "\\times", "\\cdot", "\\ast", "∗"), "*"),
    **dict.fromkeys(("÷", "\\div", "∕"), "/"),
    **dict.fromkeys(("≤", "\\leq", "\\le", "\\leqslant", "<="), "\\le"),
    **dict.fromkeys(("≥", "\\geq", "\\ge", "\\geqslant", ">="), "\\ge"),
    **dict.fromkeys(("\\lt",), "<"),
    **dict.fromkeys(("\\gt",), ">"),
    **dict.fromkeys(("∪", "\\bigcup"), "\\cup"),
    **dict.fromkeys(("∅", "\\varnothing", "ø"), "\\emptyset"),
    **dict.fromkeys(("±",), "\\pm"),
    **dict.fromkeys(("∞", "\\infinity"), "\\infty"),
    **dict.fromkeys(("π",), "\\pi"),
    **dict.fromkeys(("√",), "\\sqrt"),
    **dict.fromkeys(("∈",), "\\in"),
    **dict.fromkeys(("≠", "\\neq"), "\\ne"),
    **dict.fromkeys(("∖", "\\backslash"), "\\setminus"),
    **dict.fromkeys(("′", "\\prime"), "'"),
    **dict.fromkeys(("\\lbrace",), "\\{"),
    **dict.fromkeys(("\\rbrace",), "\\}"),
    **dict.fromkeys(("\\lvert", "\\rvert", "\\vert", "\\mid"), "|"),
    **dict.fromkeys(("\\dfrac", "\\tfrac", "\\cfrac"), "\\frac"),
    **dict.fromkeys(("\\dbinom", "\\tbinom"), "\\binom"),
    **dict.fromkeys(("\\colon", "∶"), ":"),
    **dict.fromkeys(("ℝ",), "\\R"),
    **dict.fromkeys(("\\degree", "\\circ", "°"), "°"),
    **{f"\\{name}": name for name in ("min", "max", "gcd", "lcm")},
    **{letter: f"\\{name}" for letter, name in zip("αβγδθλμρστφω", words(
       "alpha beta gamma delta theta lambda mu rho sigma tau phi omega"), strict=True)},
}  # fmt: skip
_SKIPPED = re.compile(
    r"\\(?:left|right|displaystyle|limits|big|Big|bigg|Bigg|bigl|bigr|quad|qquad)(?![a-zA-Z])\.?|~|(?<!\\)\\ |\$"
    r"|\\[()\[\]]"
)
_WRAPPER = re.compile(r"\\(?:mathrm|mathbf|mathit|mathsf|operatorname|textbf|textit|boldsymbol|bm|text|textrm|mbox)"
                      r"\s*\{\s*([^{}]*)\}")  # fmt: skip
_TOKEN = re.compile(
    r"[0-9]+(?:\.[0-9]+|\.(?=\s*[-/*+)]))?(?:[eE][-+]?[0-9]{1,3}(?![0-9A-Za-z]))?|\.[0-9]+|\\begin\{[a-z]+\*?\}"
    r"|\\end\{[a-z]+\*?\}|\\[a-zA-Z]+|\\[{}|\\%]"
    r"|<=|>=|\*\*|[a-zA-Z]+|\S"
)
_JOINED = re.compile(r"\\(?:text|mbox|mathrm|textrm)\s*\{\s*,?\s*(?:and|or)\s*\}|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])")
MOST_TOKENS = 600


class Unreadable(ValueError):
    """The text is no mathematics that this grammar covers."""


def tokens(plain: str) -> list[str]:
    """The tokens of a tidy text; `and`, `or` are commas. Raises Unreadable for words and for more than MOST_TOKENS."""
    joined = re.sub(r",\s*,", ",", _JOINED.sub(" , ", _SKIPPED.sub(" ", plain)))
    found = []
    for token in _TOKEN.findall(_WRAPPER.sub(r" \1 ", joined)):
        token = _SAME.get(token, token)
        if token == "**":
            token = "^"
        if token.isalpha() and token.isascii() and len(token) > 1 and token not in FUNCTIONS:
            found.extend(_letters(token))
        else:
            found.append(token)
    if len(found) > MOST_TOKENS:
        raise Unreadable("too long")
    return found


def _letters(word: str) -> list[str]:
    """`pi`, `sqrt` and `sinx` for what they are; up to three letters are factors, words are no mathematics."""
    if word in ("pi", "sqrt", "infty"):
        return [f"\\{word}"]
    for name in sorted(FUNCTIONS, key=len, reverse=True):
        if word.startswith(name) and len(word) == len(name) + 1:
            return [name, word[-1]]
    if len(word) > 3:
        raise Unreadable(f"a word: {word!r}")
    return list(word)
