"""From text to token ids and back, without anything that a tokenizer would add or leave out by itself."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from alignkit.errors import DataError

DUMMY_SPACE = "▁"
ANCHOR = "\n"  # merges with no letter


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of plain text at the start of a context: after the BOS token if the tokenizer adds one, no EOS."""
    plain = plain_ids(tokenizer, text)
    bos = tokenizer.bos_token_id
    adds_bos = bos is not None and list(tokenizer(text, verbose=False)["input_ids"])[:1] == [bos] and plain[:1] != [bos]
    return [bos, *plain] if adds_bos else plain


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text on its own, without special tokens. Of any length: what does not fit is counted later.

    Raises DataError for a token that is none of the first `tokenizer.embedded_tokens`, where a model told how many.
    """
    ids = list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    rows = getattr(tokenizer, "embedded_tokens", None)
    if rows is not None and max(ids, default=0) >= rows:
        token = max(ids)
        raise DataError(
            f"tokenizer: {str(tokenizer.convert_ids_to_tokens(token))!r} (id {token}) has no embedding in the model, "
            f"which has {rows}, in {text[:60]!r}; resize the model's embeddings, or take the token out"
        )
    return ids


def continuation_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text that goes on from another one: as `plain_ids`, without the space that some tokenizers
    (SentencePiece's) put before the first word of every text."""
    if not text or not _adds_space(tokenizer):
        return plain_ids(tokenizer, text)
    anchor = plain_ids(tokenizer, ANCHOR)
    together = plain_ids(tokenizer, ANCHOR + text)
    return together[len(anchor) :] if together[: len(anchor)] == anchor else plain_ids(tokenizer, text)


def said_text(tokenizer: Any, ids: Sequence[int], stop_token_ids: Collection[int]) -> str:
    """What the policy said with these tokens: all of it, special tokens too, but for stop and pad tokens."""
    silent = {*stop_token_ids, tokenizer.pad_token_id, tokenizer.eos_token_id}
    kept = [token for token in ids if token not in silent]
    return tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _adds_space(tokenizer: Any) -> bool:
    try:
        first = plain_ids(tokenizer, "a")[:1]
    except DataError:  # a tokenizer of few characters
        return False
    return bool(first) and str(tokenizer.convert_ids_to_tokens(first)[0]).startswith(DUMMY_SPACE)
