"""All rows of a source gone through once, of which a sample is kept."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from random import Random

from alignkit.data.rows import Row
from alignkit.types.seeds import child

MOST = 1_000_000
"""Rows that are read at most: minutes, and 100 MB for the hashes that find repetitions."""
NAMES_OF_ROWS = ("id", "uuid", "index", "idx", "row", "prompt_id", "__index_level_0__")
"""Columns that tell rows apart and say nothing."""


@dataclass(kw_only=True)
class SampledRows:
    """What was seen of a source's rows.

    read: how many were read. whole: whether these are all. types: of each column how often it held a value of which
    type, null left out. repeated: rows that say what an earlier one said. sample: the rows that were kept, in order.
    numbers: theirs, from 0.
    """

    read: int = 0
    whole: bool = True
    types: dict[str, Counter[str]] = field(default_factory=dict)
    repeated: int = 0
    sample: list[Row] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)


def sample_rows(rows: Iterable[Row], size: int, *, most: int = MOST) -> SampledRows:
    """Goes through at most `most` rows; every one has the same chance to be among the `size` kept (algorithm R)."""
    found = SampledRows()
    seen: set[int] = set()
    random = Random(child(0, "sample_rows"))
    kept: list[tuple[int, Row]] = []
    iterator = iter(rows)
    for number, row in enumerate(islice(iterator, most)):
        found.read = number + 1
        for name, value in row.columns.items():
            types = found.types.setdefault(name, Counter())
            if value is not None:
                types[type(value).__name__] += 1
        content = _content(row)
        found.repeated += content in seen
        seen.add(content)
        if number < size:
            kept.append((number, row))
        elif (place := random.randrange(number + 1)) < size:
            kept[place] = (number, row)
    found.whole = found.read < most or next(iterator, None) is None
    kept.sort(key=lambda pair: pair[0])
    found.numbers, found.sample = [number for number, _ in kept], [row for _, row in kept]
    return found


def _content(row: Row) -> int:
    """A hash of what the row says: letters small, white space as one space, without its null columns and its name."""
    said = {name: value for name, value in row.columns.items() if value is not None and name not in NAMES_OF_ROWS}
    text = json.dumps(said, sort_keys=True, default=str, ensure_ascii=False).replace("\\n", " ").lower()
    digest = hashlib.blake2b(" ".join(text.split()).encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest)
