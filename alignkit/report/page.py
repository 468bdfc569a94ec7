"""A self-contained HTML page made of tiles, tables and charts: for reports that are not about a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from alignkit.report.html import shown
from alignkit.types.files import write_atomically


@dataclass(frozen=True, kw_only=True)
class Table:
    """headers: a name that begins with `#` heads a column of numbers. rows: text, as many cells as headers."""

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart, the names of its lines in order, and a sentence for readers who cannot see it."""

    title: str
    svg: Markup
    labels: Sequence[str] = ()
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Section:
    title: str
    text: Sequence[str] = ()
    warnings: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = field(default_factory=tuple)
    markup: Sequence[Markup] = ()


def write_page(path: Path, title: str, tiles: Sequence[tuple[str, str]], sections: Sequence[Section]) -> None:
    """Writes the page; tiles are (label, value) on top. All text is escaped; nothing is loaded from elsewhere."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters.update(shown=shown)
    page = environment.get_template("page.html.j2").render(title=title, tiles=tiles, sections=sections)
    write_atomically(path, page)
