"""Search over local documents by BM25 (the library bm25s): `{name: search, options: {corpus: documents.jsonl}}`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from alignkit.errors import ContentError


def search(*, corpus: str, results: int = 3, characters: int = 1000) -> Callable[[str], str]:
    """The tool. corpus: a file of JSON lines with `text` and perhaps `title`, or of plain text with a document a line.

    results: documents that a search shows. characters: of each that are shown.
    Raises ContentError when the file has no documents.
    """
    import bm25s

    documents = _documents(Path(corpus).expanduser())
    index = bm25s.BM25()
    index.index(bm25s.tokenize(documents, show_progress=False), show_progress=False)

    def search(query: str) -> str:
        """Searches the documents.

        Args:
            query: Words to look for.

        Returns:
            The documents that fit best, one after the other.
        """
        words = bm25s.tokenize(query, show_progress=False)
        found, scores = index.retrieve(words, k=min(results, len(documents)), show_progress=False)
        best = [documents[number] for number, score in zip(found[0], scores[0], strict=True) if score > 0]
        shown = [f"[{place}] {text[:characters]}" for place, text in enumerate(best, start=1)]
        return "\n\n".join(shown) or "nothing was found"

    return search


def _documents(path: Path) -> list[str]:
    if not path.is_file():
        raise ContentError(f"search: there is no file {path}; name one of documents, one a line")
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if path.suffix in (".jsonl", ".json"):
        try:
            rows = [json.loads(line) for line in lines]
            lines = ["\n".join(part for part in (row.get("title"), row["text"]) if part) for row in rows]
        except (ValueError, KeyError, AttributeError) as error:
            raise ContentError(f"search: {path}: wanted JSON lines with `text`: {error!r}") from error
    if not lines:
        raise ContentError(f"search: {path} has no documents")
    return lines
