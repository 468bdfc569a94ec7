"""Model text made safe to show: nothing in it can move the cursor, colour the screen or reorder the line."""

from __future__ import annotations

import unicodedata

_SIGNS = {"\n": "⏎", "\r": "⏎", "\t": " ", "\u2028": "⏎", "\u2029": "⏎"}
_MARKS_IN_A_ROW = 2


def one_line(text: str, *, limit: int = 2000) -> str:
    """At most `limit` characters of the text on one line.

    Line ends become ⏎; control and format characters (ANSI escapes, direction overrides, zero-width characters),
    surrogates and unassigned code points become �; of stacked combining marks two are kept.
    """
    cleaned: list[str] = []
    marks = 0
    for character in text[:limit].replace("\r\n", "\n"):
        category = unicodedata.category(character)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        if marks > _MARKS_IN_A_ROW:
            continue
        shown = "\ufffd" if category in ("Cc", "Cf", "Cs", "Cn", "Co") else character
        cleaned.append(_SIGNS.get(character, shown))
    return "".join(cleaned) + ("…" if len(text) > limit else "")


def cut_middle(text: str, limit: int) -> str:
    """The text; of a longer one `limit` characters, four fifths from its start, and how many are left out between."""
    if len(text) <= limit:
        return text
    head = limit * 4 // 5
    tail = limit - head
    return f"{text[:head]}\n[... {len(text) - limit:,} characters left out ...]\n{text[-tail:]}"
