"""The format strings of `data.template`, in parts."""

from __future__ import annotations

import string
from typing import NamedTuple

DOUBLE = "braces that are meant as such are doubled, {{ and }}"


class Part(NamedTuple):
    """Text, and the column (or path into one) that follows it with its format; the last part may have no column."""

    text: str
    column: str | None
    format: str


def template_parts(template: str) -> list[Part]:
    """The parts of a template, in order.

    `{question}` is a column, `{{` a brace; `{}` names nothing, so that it is meant as it stands (`\\boxed{}`).
    Raises ValueError, with the cure, for unmatched braces and for `{answer!r}`.
    """
    parts = []
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"is not a format string: {error}; {DOUBLE}") from error
    for text, column, style, conversion in parsed:
        if conversion:
            raise ValueError(
                f"has {{{column}!{conversion}}}, which no prompt needs; remove the !{conversion}, or {DOUBLE}"
            )
        if column == "" and not style:
            parts.append(Part(text + "{}", None, ""))
        else:
            parts.append(Part(text, column, style or ""))
    return parts
