"""What `alignkit data` found, and rows with their learnt tokens in colour, as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from markupsafe import Markup

from alignkit.data.look.spans import Sequenced, Span
from alignkit.report.page import Section, Table, write_page
from alignkit.run.look.look import Lengths, Look
from alignkit.run.look.mixed import Mixed
from alignkit.run.look.sentences import balance_sentences, between_sentences, mixed_cells

COLOURS = ("#2f9e5b", "#5fce8b")
"""Of learnt tokens, which take turns so that one sees where one ends."""
TOKEN = Markup('<span style="background:{};color:#000">{}</span>')
MASKED = Markup('<span style="opacity:.65">{}</span>')
LEGEND = "Green tokens are learnt, all others are only read."


def write_data_page(found: Look, path: Path) -> None:
    """Everything of one source."""
    tiles = [("rows", f"{found.read:,}"), ("looked at", f"{found.looked_at:,}"), ("repeated", f"{found.repeated:,}")]
    write_page(path, found.source, tiles, _sections(found))


def write_mixture_page(mixed: Mixed, path: Path) -> None:
    """Everything of every part of a mixture, and what they are to one another."""
    shares = [(name, *mixed_cells(part)) for name, part in mixed.parts.items()]
    table = Table(headers=("part", "#rows", "#of the rows drawn", "#passes an epoch"), rows=shares)
    sections = [Section(title="Mixture", tables=[table], warnings=between_sentences(mixed))]
    for name, part in mixed.parts.items():
        sections += [replace(section, title=f"{name}: {section.title}") for section in _sections(part.look)]
    write_page(path, " + ".join(mixed.parts), [], sections)


def _sections(found: Look) -> list[Section]:
    able = [one.method for one in found.trainers if one.problem is None]
    return [
        Section(title="Columns", tables=[_columns(found)]),
        Section(title="Rows", text=_about_rows(found), tables=[_lengths(found)], warnings=found.asked),
        Section(title="Who can train on them", text=[", ".join(able) or "no method"], tables=[_refused(found)]),
        rows_section(found.shown),
    ]


def write_rows_page(path: Path, title: str, stages: Sequence[tuple[str, Sequence[Sequenced]]]) -> None:
    """One row of each stage of a recipe."""
    write_page(path, title, [], [rows_section([shown], title=f"Stage {name}") for name, shown in stages])


def rows_section(rows: Sequence[Sequence[Sequenced]], *, title: str = "As the model sees them") -> Section:
    """Rows, each of its sequences as tokens."""
    blocks = [
        Markup('<p class="soft">{}</p><pre style="white-space:pre-wrap">{}</pre>').format(
            one.caption or f"row {number}", Markup("").join(_tokens(one.spans))
        )
        for number, row in enumerate(rows, start=1)
        for one in row
    ]
    return Section(title=title, text=[LEGEND] if blocks else ["There is none."], markup=blocks)


def _tokens(spans: Sequence[Span]) -> list[Markup]:
    return [
        TOKEN.format(COLOURS[number % 2], span.text.replace("\n", "\\n\n")) if span.learnt else MASKED.format(span.text)
        for number, span in enumerate(spans)
    ]


def _columns(found: Look) -> Table:
    rows = [
        (
            column.name,
            ", ".join(column.taken_for) or "ignored",
            ", ".join(f"{name} {count:,}" for name, count in column.types.items()) or "always empty",
        )
        for column in found.columns
    ]
    return Table(headers=("column", "taken for", "holds"), rows=rows)


def _about_rows(found: Look) -> list[str]:
    forms = [f"{count:,} {name}" for name, count in found.forms.items()]
    left_out = [f"{count:,} left out: {sentence}" for count, sentence in found.left_out.values()]
    near = [f"{sum(map(len, found.near)) - len(found.near):,} rows nearly repeat another"] if found.near else []
    return [", ".join(forms), *left_out, *near, *balance_sentences(found.balance)]


def _lengths(found: Look) -> Table:
    rows = [(one.what, one.unit, *map("{:,}".format, one.percentiles.values()), _over(one)) for one in found.lengths]
    return Table(headers=("of", "in", "#half at most", "#90 %", "#99 %", "#longest", "#over the context"), rows=rows)


def _over(one: Lengths) -> str:
    return "" if one.over is None else f"{one.over:,}"


def _refused(found: Look) -> Table:
    rows = [(one.method, one.problem) for one in found.trainers if one.problem is not None]
    return Table(headers=("method", "why it cannot"), rows=rows)
