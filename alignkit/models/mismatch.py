"""Where a tokenizer and a checkpoint do not belong together, in one sentence each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alignkit.models.tokenizer import StopToken


def mismatches(tokenizer: Any, stops: Sequence[StopToken]) -> list[str]:
    """What is wrong between the two and would not be seen by itself; nothing is refused for it.

    Tokens without an embedding (`data/tokens.py`), which a row may never hold; and a stop token that
    only the checkpoint names, where the tokenizer has text there, or the token that begins one.
    """
    found = []
    rows = getattr(tokenizer, "embedded_tokens", None)
    without = sorted(id for id in tokenizer.get_vocab().values() if rows is not None and id >= rows)
    if without:
        first = tokenizer.convert_ids_to_tokens(without[0])
        found.append(
            f"tokenizer: {len(without)} of its tokens have no embedding in the model (first {first!r}, id {without[0]} "
            f"of {rows}): a row with one of them is refused; resize the model's embeddings, or take the tokens out"
        )
    special = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", {})} - {tokenizer.bos_token_id}
    for stop in stops:
        if stop.named_by == ("generation config",) and stop.id not in special:
            what = "the token that begins a text" if stop.id == tokenizer.bos_token_id else "a piece of text"
            found.append(
                f"tokenizer: the checkpoint ends answers with token {stop.id}, which is {what} here ({stop.text!r}): "
                "they are of two families; put the checkpoint's own tokenizer there, or mend its generation_config.json"
            )
    return found
