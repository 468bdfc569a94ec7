"""Tokens in the terminal: what is learnt in colour, or between ⟦ and ⟧ where there is none."""

from __future__ import annotations

from collections.abc import Sequence

from alignkit.data.look.spans import Sequenced, Span, marked

LEARNT = ("black on green", "black on bright_green")
"""They take turns, so that one sees where a token ends."""
MASKED = "dim"
LEGEND = "what is learnt is green, a token light, the next one dark; without colours it stands between ⟦ and ⟧"


def print_sequences(shown: Sequence[Sequenced], *, indent: str = "  ") -> None:
    """Each sequence of a row; in colour on a terminal that has colours, else one line each."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    coloured = console.is_terminal and console.color_system is not None and not console.no_color
    for one in shown:
        caption = f"{indent}{one.caption}: " if one.caption else indent
        if coloured:
            console.print(caption, _painted(one.spans), sep="")
        else:
            console.print(f"{caption}{marked(one.spans)}")


def _painted(spans: Sequence[Span]):
    from rich.text import Text

    text = Text()
    for number, span in enumerate(spans):
        # line breaks are shown where they are learnt, since a space in colour at a line's end is not seen
        said = span.text.replace("\n", "\\n\n") if span.learnt else span.text
        text.append(said, style=LEARNT[number % 2] if span.learnt else MASKED)
    return text
