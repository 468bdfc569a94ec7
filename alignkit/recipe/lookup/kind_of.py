"""The kind of data behind an algorithm's `source`. A kind is found because its file is there; there is no registry."""

from __future__ import annotations

import importlib
import logging
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from alignkit.errors import ContentError
from alignkit.recipe.lookup.find import did_you_mean

if TYPE_CHECKING:
    from alignkit.data.kinds.kind import Kind

OLDER = {
    "duels": "pairwise",
    "judged": "unpaired_feedback",
    "labelled": "sft",
    "pairs": "paired_preference",
    "steps": "stepwise_supervision",
    "turns": "transitions",
}
"""What kinds were called before -> what they are called."""

FOLDER = Path(__file__).resolve().parents[2] / "data" / "kinds"


def kind_of(source: str | Kind) -> Kind:
    """The Kind that an algorithm names by its file in alignkit/data/kinds, or holds itself. Imports no torch.

    Raises ContentError for a name that no file has.
    """
    return _named(source) if isinstance(source, str) else source


@cache
def _named(source: str) -> Kind:
    if source in OLDER:
        now = OLDER[source]
        logging.getLogger(__name__).warning(
            f"an algorithm's `source` '{source}' is now '{now}'; the older name is still read"
        )
        source = now
    known = sorted(path.stem for path in FOLDER.glob("[!_]*.py") if path.stem != "kind")
    if source not in known:
        guess = did_you_mean(source, known)
        one = f"an algorithm's `source` is one of {', '.join(known)}"
        raise ContentError(f"no kind of data is called '{source}'{guess}; {one}")
    return importlib.import_module(f"alignkit.data.kinds.{source}").KIND
