"""What a run computes from besides its recipe, as a checkpoint remembers it, and what has changed since."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from alignkit.errors import CheckpointError

KINDS = (
    "data",
    "evaluation",
    "rewards",
    "environments",
    "tools",
    "algorithms",
    "tokenizer",
    "template",
    "model",
    "reference",
)
"""What may be named to `--accept-changes`."""
FILE = "inputs.json"
SHOWN = 8  # digits of a hash in a sentence


@dataclass(frozen=True, kw_only=True)
class Input:
    """One thing that a run computes from. name: as the recipe calls it, unique within its kind.

    parts: file (or protocol) -> hash. rows, order: of data their number, and a hash of them in their order; parts then
    holds a hash that any order gives. place: file or folder that it came from. written: when that was last written.
    """

    kind: str
    name: str
    parts: dict[str, str] = field(default_factory=dict)
    rows: int | None = None
    order: str | None = None
    place: str | None = None
    written: float | None = None


@dataclass(frozen=True, kw_only=True)
class Change:
    """kind: one of KINDS. sentence: what was, what is, and when the file was written."""

    kind: str
    sentence: str


def dump(inputs: Sequence[Input]) -> str:
    """What `read` reads."""
    return json.dumps([asdict(one) for one in inputs], indent=1)


def read(checkpoint: Path) -> list[Input] | None:
    """The inputs that a checkpoint was computed from; None of one that was written without them.

    Raises CheckpointError when the record is there and cannot be read.
    """
    file = checkpoint / FILE
    if not file.exists():
        return None
    try:
        return [Input(**one) for one in json.loads(file.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{file}: cannot be read ({type(error).__name__}: {error}); it was written by another version of alignkit: "
            "resume with that one, or move the checkpoint away to go on from the one before"
        ) from error


def changes(old: Sequence[Input], new: Sequence[Input]) -> list[Change]:
    """What differs between two records of one recipe, in the order of the new one; what only one of them has is not."""
    before = {(one.kind, one.name): one for one in old}
    pairs = [(before[one.kind, one.name], one) for one in new if (one.kind, one.name) in before]
    return [Change(kind=now.kind, sentence=sentence) for was, now in pairs for sentence in _told(was, now)]


def refuse(found: Sequence[Change], accepted: Sequence[str], *, checkpoint: str) -> None:
    """Raises CheckpointError that names all changes of kinds that were not accepted; silent when there are none."""
    left = [change for change in found if change.kind not in accepted]
    if left:
        kinds = ",".join(dict.fromkeys(change.kind for change in found))
        told = "; ".join(change.sentence for change in left)
        raise CheckpointError(
            f"{checkpoint} was computed from what is no longer there: {told}. Put it back, start another run "
            f"(run=OTHER), or go on with what is there now: --accept-changes {kinds}"
        )


def parse_kinds(text: str | None) -> tuple[str, ...]:
    """`data,template` as kinds. Raises CheckpointError for what is none."""
    kinds = tuple(part.strip() for part in (text or "").split(",") if part.strip())
    for kind in kinds:
        if kind not in KINDS:
            raise CheckpointError(f"--accept-changes: '{kind}' is nothing that can change; wanted {', '.join(KINDS)}")
    return kinds


def _told(was: Input, now: Input) -> Iterator[str]:
    when = f" (written {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(now.written))})" if now.written else ""
    where = f", {now.place}{when}" if now.place else ""
    name = f"{now.kind}: {now.name}"
    if now.order is not None:
        if (was.order, was.rows) != (now.order, now.rows):
            hashes = f"hash {_short(was.order)} -> {_short(now.order)}"
            same = was.parts == now.parts and was.rows == now.rows
            rows = f"the same {now.rows} rows in another order" if same else _counts(was.rows, now.rows)
            yield f"{name}: {rows}, {hashes}{where}"
        return
    for part in dict.fromkeys((*was.parts, *now.parts)):
        old, new = was.parts.get(part), now.parts.get(part)
        if old != new:
            what = "is gone" if new is None else "is new" if old is None else "changed"
            shown = "" if part == now.name else f" {part}"
            yield f"{name}:{shown} {what}, hash {_short(old)} -> {_short(new)}{where}"


def _counts(was: int | None, now: int | None) -> str:
    return f"other rows, {now} as before" if was == now else f"{was} rows -> {now} rows"


def _short(digest: Any) -> str:
    return str(digest)[:SHOWN] if digest else "none"
