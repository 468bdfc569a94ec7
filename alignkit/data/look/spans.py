"""A row as its tokens: the text of each, and whether it is learnt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from alignkit.data.kinds.kind import Kind
from alignkit.types.item import Item

HALF = "\ufffd"  # what decoders write for bytes that are no character yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One token. text: what it adds to the text; empty where its character ends in a later token."""

    text: str
    learnt: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequenced:
    """One sequence of a row. caption: which side it is, where there are sides."""

    caption: str
    spans: tuple[Span, ...]


def spans(tokenizer: Any, item: Item) -> tuple[Span, ...]:
    """All tokens of a sequence. Learnt are those of the completion, or of them the item's actions."""
    action = [True] * len(item.completion_ids) if item.action is None else list(item.action)
    learnt = [False] * len(item.prompt_ids) + action
    ids = [*item.prompt_ids, *item.completion_ids]
    return tuple(Span(text=text, learnt=each) for text, each in zip(token_texts(tokenizer, ids), learnt, strict=True))


def sequences(tokenizer: Any, kind: Kind, row: Any) -> list[Sequenced]:
    """What a row of given data becomes, as it is learnt from; a prompt that stood there before is not repeated.

    kind: of the row. Sequences that only help to learn from others (KTO's mismatched answers) are left out.
    """
    completions = [tuple(side) for side in kind.completions(row)]
    found: list[Sequenced] = []
    before: tuple[int, ...] | None = None
    for item in kind.items_of([row]):
        if tuple(item.completion_ids) not in completions:
            continue
        completions.remove(tuple(item.completion_ids))
        own = spans(tokenizer, item)
        prompt = tuple(item.prompt_ids)
        found.append(Sequenced(caption=_caption(item), spans=own[len(prompt) :] if prompt == before else own))
        before = prompt
    return found


def runs(shown: Sequence[Span]) -> Iterator[Span]:
    """Neighbours that are alike, learnt or not, as one."""
    text, learnt = "", False
    for span in shown:
        if span.learnt != learnt and text:
            yield Span(text=text, learnt=learnt)
            text = ""
        text, learnt = text + span.text, span.learnt
    if text:
        yield Span(text=text, learnt=learnt)


def marked(shown: Sequence[Span]) -> str:
    """The text with what is learnt between ⟦ and ⟧, line breaks written as such."""
    return "".join(f"⟦{run.text}⟧" if run.learnt else run.text for run in runs(shown)).replace("\n", "\\n")


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text of those before it, with special tokens. Together they are the whole text.

    Decoded beside the token before it, since some decoders drop a first space; a character of several tokens stands at
    the last of them.
    """
    texts: list[str] = []
    start = read = 0
    for end in range(1, len(ids) + 1):
        before = _decoded(tokenizer, ids[start:read])
        now = _decoded(tokenizer, ids[start:end])
        if now.endswith(HALF) and end < len(ids):
            texts.append("")
            continue
        texts.append(now[len(before) :])
        start, read = read, end
    return texts


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    if not ids:
        return ""
    return tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _caption(item: Item) -> str:
    if item.side:
        return "preferred" if item.side > 0 else "rejected"
    return f"reward {item.reward:g}" if item.reward else ""
