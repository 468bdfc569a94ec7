"""The rows of a benchmark: found in a data folder or on the hub, and checked before anything is asked."""

from __future__ import annotations

import gzip
import hashlib
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignkit.data.generators import generate
from alignkit.data.rows import read_rows
from alignkit.errors import DataError, on_one_line
from alignkit.evaluate.benchmark.protocol import Source
from alignkit.recipe.lookup.data_file import data_folders
from alignkit.recipe.lookup.secrets import FOR_THE_HUB, lent

Columns = dict[str, Any]


def load_rows(source: Source, *, owner: str, data: Path | None, seed: int) -> tuple[list[Columns], str]:
    """(rows, where they came from). owner: the protocol's name, for messages. data: the folder of `--data`.

    Raises DataError, one line with the file, its sha256 and the command that fetches it.
    """
    if source.generator is not None:
        return generate(source.generator, source.options, split="heldout", seed=seed), f"generator:{source.generator}"
    path = find_file(source, data)
    if path is not None:
        check_file(path, source, owner)
        rows, origin = [row.columns for row in read_rows(path)], source.file or ""
    elif source.hub is not None:
        rows, origin = _from_hub(source, owner), f"hub:{source.hub}@{source.revision or 'main'}:{source.split}"
    else:
        raise DataError(_missing(source, owner, data))
    kept = [row for row in rows if all(str(row.get(name)) in values for name, values in source.keep.items())]
    if not kept:
        raise DataError(f"{owner}: no row of {origin} has {source.keep}")
    return kept, origin


def find_file(source: Source, data: Path | None) -> Path | None:
    """The file in `data`, the working folder or $ALIGNKIT_DATA, compressed or not; None when nowhere."""
    name = source.file or ""
    names = [name, name.removesuffix(".gz")]
    places = [folder / one for folder in _folders(data) for one in names]
    return next((place for place in places if place.is_file()), None)


def check_file(path: Path, source: Source, owner: str) -> None:
    """Raises DataError unless the file's uncompressed bytes have the protocol's sha256."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            got = hashlib.sha256(file.read()).hexdigest()
    except (OSError, EOFError) as error:
        raise DataError(f"{owner}: {path} cannot be read: {error}; {_fetch(source, path)}") from error
    if got != source.sha256:
        raise DataError(
            f"{owner}: {path} is another file: its sha256 is {got}, wanted {source.sha256}; {_fetch(source, path)}"
        )


def check_tasks(source: Source, questions: Sequence[tuple[str, Any]], owner: str) -> None:
    """Raises DataError unless rows from the hub give the questions and gold answers that the protocol means."""
    got = tasks_sha256(questions)
    if got != source.tasks_sha256:
        raise DataError(
            f"{owner}: hub dataset {source.hub} gives other questions or answers than the protocol's: their sha256 is "
            f"{got}, wanted {source.tasks_sha256}; put {source.file} into a data folder instead"
        )


def tasks_sha256(questions: Sequence[tuple[str, Any]]) -> str:
    """Of all (question, gold answer) in order."""
    text = "\x1e".join(f"{question}\x1f{gold}" for question, gold in questions)
    return hashlib.sha256(text.encode()).hexdigest()


def _folders(data: Path | None) -> list[Path]:
    return [*([data] if data else []), *data_folders(None)]


def _missing(source: Source, owner: str, data: Path | None) -> str:
    folders = list(dict.fromkeys(str(folder.resolve()) for folder in _folders(data)))
    target = (data or Path(folders[-1])) / (source.file or "")
    return (
        f"{owner}: no data: {source.file} (sha256 {source.sha256}) is not in {', '.join(folders)}; "
        f"{_fetch(source, target)}, or name its folder with --data or ALIGNKIT_DATA"
    )


def _fetch(source: Source, path: Path) -> str:
    if source.url is None:
        return f"make it as docs/evals.md says ({source.file})"
    plain = path if source.url.endswith(".gz") else path.with_name(path.name.removesuffix(".gz"))
    return f"fetch it: curl -fL --create-dirs -o {shlex.quote(str(plain))} {source.url}"


@lent(FOR_THE_HUB)
def _from_hub(source: Source, owner: str) -> list[Columns]:
    from datasets import load_dataset

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # what it retries, the error below says
    try:
        dataset = load_dataset(source.hub or "", source.config, split=source.split, revision=source.revision)
    except Exception as error:  # the hub client raises many kinds, offline ones among them
        line = on_one_line(error, limit=160)
        raise DataError(
            f"{owner}: no data: {source.file} (sha256 {source.sha256}) is in no data folder, and hub dataset "
            f"{source.hub} cannot be loaded ({type(error).__name__}: {line}); {_fetch(source, Path(source.file or ''))}"
        ) from error
    return dataset.to_list()
