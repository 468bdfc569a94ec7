"""The questions of all benchmarks whose files are on this machine."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from alignkit.data.rows import read_rows
from alignkit.errors import AlignkitError
from alignkit.evaluate.benchmark.data import find_file
from alignkit.evaluate.benchmark.protocol import Named, read_protocol
from alignkit.evaluate.held_out.overlap import Benchmark
from alignkit.recipe.lookup.find import list_content


def known_questions(protocols: Iterable[Named]) -> list[Benchmark]:
    """One Benchmark for each file that the protocols ask questions of, as far as it is here.

    A file that cannot be read is left out: whoever evaluates with it is told so.
    """
    asked: dict[Path, list[Named]] = {}
    for named in protocols:
        source = named.protocol.source
        path = find_file(source, None) if source.file and named.protocol.prompt else None
        if path is not None:
            asked.setdefault(path, []).append(named)
    return [found for path, protocols in asked.items() if (found := _benchmark(path, protocols)) is not None]


def every_protocol(*, beside: Path | None = None) -> Iterator[Named]:
    """All of `alignkit ls evals`."""
    for found in list_content("evals", beside=beside):
        if not found.name.startswith("suites/") and found.path.parent.name != "suites":
            try:
                yield read_protocol(found.name, beside=beside)
            except AlignkitError:
                continue  # a file of one's own that is no protocol


def _benchmark(path: Path, protocols: list[Named]) -> Benchmark | None:
    names = frozenset[str]().union(
        *(_columns(one.protocol.prompt.template) for one in protocols if one.protocol.prompt)
    )
    try:
        questions = _texts(path, path.stat().st_mtime_ns, names)
    except (AlignkitError, OSError):
        return None
    file = protocols[0].protocol.source.file or path.name
    return Benchmark(file=file, protocols=tuple(one.name for one in protocols), questions=questions)


@functools.cache
def _texts(path: Path, changed: int, names: frozenset[str]) -> tuple[tuple[str, ...], ...]:
    """The texts of these columns, row by row. changed: when the file was; one that changes is read again."""
    rows = (row.columns for row in read_rows(path))
    return tuple(tuple(value for name in names if isinstance(value := row.get(name), str)) for row in rows)


def _columns(template: str) -> frozenset[str]:
    """The columns that a prompt is made of."""
    from jinja2 import Environment, meta

    environment: Any = Environment()
    return frozenset(meta.find_undeclared_variables(environment.parse(template)))
