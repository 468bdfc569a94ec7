"""Rows of a data file as dictionaries, each with the place that an error message must name."""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any

from alignkit.data.traces.training_trace import is_trace
from alignkit.errors import DataError, first_line, on_one_line

ONE_SPLIT, SPLITS = "state.json", "dataset_dict.json"  # what datasets.save_to_disk leaves in a folder
LONGEST_FIELD = 2**31 - 1
SAVED_ROWS = 1000  # of a saved dataset, in memory at a time


@dataclass(frozen=True, slots=True)
class Row:
    """columns: name -> value. where: `file line 17`, for messages."""

    where: str
    columns: dict[str, Any]


def read_rows(path: Path, limit: int | None = None, *, split: str = "train") -> list[Row]:
    """The first `limit` rows (default: all), as `iterate_rows` gives them."""
    return list(islice(iterate_rows(path, split=split), limit))


def iterate_rows(path: Path, *, split: str = "train", skip: int = 0) -> Iterator[Row]:
    """The rows, read as they are asked for, of a .jsonl, .json, .csv or .tsv file (each also .gz), a .parquet file, or
    a folder that `datasets.save_to_disk` wrote; of a folder with several splits, those of `split`.

    Text is UTF-8, with or without a byte-order mark; blank lines are left out. skip: rows at the beginning that are
    passed over: lines without being parsed, those of parquet files and folders without being read.
    Raises DataError with the line and the cure when the file is damaged, empty, or not what its name says.
    """
    reader = next((reader for suffixes, reader in READERS.items() if path.name.endswith(suffixes)), None)
    if path.is_dir():
        reader = partial(_saved, split=split)
    if reader is None:
        wanted = " ".join(suffix for suffixes in READERS for suffix in suffixes)
        raise DataError(f"{path}: unknown kind of file; wanted one of {wanted}, or a folder of datasets.save_to_disk")
    empty = not skip
    try:
        for row in reader(path, skip=skip):
            empty = False
            yield row
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text at byte {error.start}; save it as UTF-8") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: the gzip file is damaged or cut off ({error}); fetch it again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    if empty:
        raise DataError(f"{path}: has no rows; wanted at least one")


def is_saved(path: Path) -> bool:
    """Whether `datasets.save_to_disk` wrote this folder."""
    return any((path / name).is_file() for name in (ONE_SPLIT, SPLITS))


def _open(path: Path) -> IO[str]:
    def opened(**settings: Any) -> IO[Any]:
        return gzip.open(path, **settings) if path.name.endswith(".gz") else path.open(**settings)

    with opened(mode="rb") as file:
        start = file.read(len(codecs.BOM_UTF8))
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{path}: begins with the byte-order mark of UTF-16 (or 32); save it as UTF-8")
    text = opened(mode="rt", encoding="utf-8", newline="")
    if start == codecs.BOM_UTF8:
        text.read(1)
    return text


def _json_lines(path: Path, *, skip: int) -> Iterator[Row]:
    with _open(path) as file:
        filled = ((number, line) for number, line in enumerate(file, start=1) if line.strip())
        for number, line in islice(filled, skip, None):
            where = f"{path} line {number}"
            if line.strip() in ("[", "[{"):
                raise DataError(f"{where}: begins a list; wanted one object a line: name a list of objects .json")
            yield Row(where, _object(_parse(line.rstrip("\r\n"), where), where))


def _json_list(path: Path, *, skip: int) -> Iterator[Row]:
    with _open(path) as file:
        text = file.read()
    if _is_lines(text):
        yield from _json_lines(path, skip=skip)
        return
    rows = _parse(text, str(path))
    if isinstance(rows, dict):
        rows = _rows_within(rows)
    if not isinstance(rows, list):
        raise DataError(f"{path}: holds one {type(rows).__name__}; wanted a list of objects (or a .jsonl file)")
    for number, row in islice(enumerate(rows, start=1), skip, None):
        yield Row(f"{path} row {number}", _object(row, f"{path} row {number}"))


def _is_lines(text: str) -> bool:
    """Whether a file called .json has one object a line, of which there are several."""
    first, _, rest = text.lstrip().partition("\n")
    try:
        return bool(rest.strip()) and isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _rows_within(whole: dict[str, Any]) -> Any:
    """The rows of one object: itself where it is a trace, the list under `data` or a like name, or columns of one
    length; else the object."""
    if is_trace(whole.get("turns")):
        return [whole]
    for name in ("data", "rows", "examples", "instances", "records"):
        if isinstance(whole.get(name), list) and all(isinstance(row, dict) for row in whole[name]):
            return whole[name]
    columns = list(whole.values())
    if (
        columns
        and all(isinstance(column, dict) for column in columns)
        and len({tuple(column) for column in columns}) == 1
    ):
        columns = [list(column.values()) for column in columns]  # as pandas writes them, by the number of the row
    if not columns or not all(isinstance(column, list) for column in columns) or len({*map(len, columns)}) != 1:
        return whole
    if any(isinstance(value, dict) and {"role", "from"} & {*value} for column in columns for value in column):
        return whole  # one conversation, or columns of messages: nobody can tell
    return [dict(zip(whole, values, strict=True)) for values in zip(*columns, strict=True)]


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno} column {error.colno}"
        raise DataError(f"{where}: not JSON at {place}: {error.msg}; got {text.strip()[:40]!r}") from error
    except (RecursionError, ValueError) as error:
        raise DataError(f"{where}: not JSON that can be read: {error}") from error


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: is a JSON {type(value).__name__}; wanted an object with named columns")
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise DataError(
            f"{where}: holds {half!r}, half of a surrogate pair, which is no character; take it out"
        ) from error
    return value


def _csv(path: Path, delimiter: str = ",", *, skip: int) -> Iterator[Row]:
    csv.field_size_limit(LONGEST_FIELD)  # its default is 128 KiB, which a conversation in JSON can be longer than
    with _open(path) as file:
        reader = csv.reader(file, strict=True, delimiter=delimiter)
        try:
            header = next((names for names in reader if names), [])
            _check_header(header, f"{path} line {reader.line_num}")
            for values in islice(filter(None, reader), skip, None):
                where = f"{path} line {reader.line_num}"
                if len(values) != len(header):
                    raise DataError(f"{where}: has {len(values)} fields; the header names {len(header)} columns")
                yield Row(where, dict(zip(header, values, strict=True)))
        except csv.Error as error:
            raise DataError(f"{path} line {reader.line_num}: not CSV: {error}; check its quotes") from error


def _check_header(header: list[str], where: str) -> None:
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{where}: the header names '{twice}' twice; give each column its own name")
    other = next((mark for mark in ";\t|" if len(header) == 1 and mark in header[0]), None)
    if other is not None:
        raise DataError(
            f"{where}: the header is one column {header[0][:60]!r}; wanted commas in place of {other!r} (tabs: .tsv)"
        )


def _parquet(path: Path, *, skip: int) -> Iterator[Row]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(path) as file:
            groups = [*range(file.num_row_groups)]
            while groups and number + file.metadata.row_group(groups[0]).num_rows <= skip:
                number += file.metadata.row_group(groups.pop(0)).num_rows
            for batch in file.iter_batches(row_groups=groups) if groups else ():
                begin = min(max(skip - number, 0), len(batch))
                number += begin
                for columns in batch[begin:].to_pylist(maps_as_pydicts="lossy"):
                    number += 1
                    yield Row(f"{path} row {number}", columns)
    except (pyarrow.ArrowException, OSError) as error:
        line = first_line(error)
        raise DataError(f"{path}: not a readable parquet file after row {number}: {line}; fetch it again") from error


def _saved(path: Path, *, split: str, skip: int) -> Iterator[Row]:
    if not is_saved(path):
        held = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "nothing"
        raise DataError(f"{path}: is a folder, but not one of datasets.save_to_disk (it holds {held}); name a file")
    from datasets import DatasetDict, load_from_disk

    try:
        dataset = load_from_disk(path)
    except (OSError, ValueError, KeyError) as error:
        line = on_one_line(error)
        raise DataError(f"{path}: cannot be loaded ({type(error).__name__}: {line}); save it again") from error
    if isinstance(dataset, DatasetDict):
        if split not in dataset:
            raise DataError(f"{path}: has no split '{split}'; set data.split to one of {', '.join(map(str, dataset))}")
        dataset = dataset[split]
    number = skip
    dataset = dataset.select(range(min(skip, len(dataset)), len(dataset)))
    for table in dataset.with_format("arrow").iter(batch_size=SAVED_ROWS):
        for columns in table.to_pylist():
            number += 1
            yield Row(f"{path} row {number}", columns)


READERS: dict[tuple[str, ...], Callable[..., Iterator[Row]]] = {
    (".jsonl", ".jsonl.gz"): _json_lines,
    (".json", ".json.gz"): _json_list,
    (".parquet",): _parquet,
    (".csv", ".csv.gz"): _csv,
    (".tsv", ".tsv.gz"): partial(_csv, delimiter="\t"),
}
