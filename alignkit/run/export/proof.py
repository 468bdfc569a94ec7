"""The proof of an export: what was written is read again as its users will, and says what the model said."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignkit.data.chat_template import chat_template
from alignkit.engines.canary import SENTENCES
from alignkit.engines.canary import probe as canary_probe
from alignkit.errors import DataError, ExportError
from alignkit.models.adapted import base_model
from alignkit.models.tokenizer import stop_token_ids

TOLERANCE = 1e-3
"""Largest allowed mean |difference| in nats a token from the model with its weights rounded as the file has them."""
GAPS = {"float32": 1e-3, "float16": 0.02, "bfloat16": 0.1, "q8_0": 0.2}
"""The same from the model as it is: what rounding may cost. docs/export.md says what was measured."""
CONVERSATIONS: tuple[tuple[tuple[str, str], ...], ...] = (
    (("user", "What is 2+2?"),),
    (("system", "You are brief."), ("user", "Hello, Zoë!")),
    (("user", "One"), ("assistant", "Two"), ("user", "Three")),
    (("system", "Count on."), ("user", "One"), ("assistant", "Two\nlines"), ("user", "3"), ("assistant", "4")),
)
TEXTS = (
    *SENTENCES,
    "  two spaces, 12345 and\n\n\ta tab",
    "Füße, 東京, Ελλάδα, 🙂",
    "It's we'll I'M 3.14e-5 <b>x</b> a_b",
)
Sequences = Sequence[Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class Words:
    """shown: CONVERSATIONS as the chat template renders them, without and with a generation prompt; None where it
    refuses. tokens: of the renderings and of TEXTS; None where there are none. stops: ids that end a completion."""

    shown: tuple[str | None, ...]
    tokens: tuple[tuple[int, ...] | None, ...]
    stops: frozenset[int]


def probe(model: Any, tokenizer: Any) -> list[list[int]]:
    """The canary's probe, cut to what the model can read."""
    size, context = model.config.vocab_size, getattr(model.config, "max_position_embeddings", None)
    return [ids[:context] for ids in canary_probe(tokenizer, vocab_size=size, seed=0)]


@torch.no_grad()
def logprobs(model: Any, sequences: Sequences) -> Tensor:
    """Log-probs of the probe's tokens but the first ones, in float32: once as they are, and where the model is told
    positions, once with the second half of each sequence half the context away, where rotary scaling shows."""
    context = getattr(model.config, "max_position_embeddings", 0) or 0
    takes_positions = "position_ids" in inspect.signature(base_model(model).forward).parameters
    said = []
    for ids in sequences:
        tokens, half = torch.tensor([ids]), len(ids) // 2
        places = torch.arange(len(ids))[None]
        far = places + (places >= half) * max(0, context // 2 - half)
        for positions in (None, far) if takes_positions else (None,):
            options: dict[str, Any] = {} if positions is None else {"position_ids": positions}
            logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False, **options).logits
            said.append(logits[0, :-1].float().log_softmax(-1).gather(-1, tokens[0, 1:, None]).flatten())
    return torch.cat(said)


def words(tokenizer: Any, model: Any = None, *, stops: Iterable[int] | None = None) -> Words:
    """What a tokenizer makes of conversations and texts. stops: given where the model does not say them."""
    shown = tuple(_shown(tokenizer, talk, prompt) for talk in CONVERSATIONS for prompt in (False, True))
    texts = [*(page for page in shown if page is not None), *TEXTS]
    ends = stop_token_ids(tokenizer, model) if stops is None else stops
    return Words(shown=shown, tokens=tuple(_tokens(tokenizer, text) for text in texts), stops=frozenset(ends))


def check_words(wanted: Words, got: Words, where: Path, tokenizer: Any) -> None:
    """Raises ExportError that says first what differs: a rendering, the tokens of a text, the stop tokens."""
    for expected, page in zip(wanted.shown, got.shown, strict=True):
        if page != expected:
            both = f"{_cut(page, expected)} where the model's own gives {_cut(expected, page)}"
            raise ExportError(f"{where}: the chat template renders {both}; nothing was exported")
    if wanted.tokens != got.tokens:
        texts = [*(page for page in wanted.shown if page is not None), *TEXTS]
        pairs = zip(texts, wanted.tokens, got.tokens, strict=True)
        text, ours, theirs = next(pair for pair in pairs if pair[1] != pair[2])
        start = next((i for i, (a, b) in enumerate(zip(ours or (), theirs or (), strict=False)) if a != b), 0)
        both = f"{_few(theirs, start)} where the model's tokenizer gives {_few(ours, start)}"
        raise ExportError(f"{where}: {text[:40]!r} is split into {both} (from token {start}); nothing was exported")
    if missing := sorted(wanted.stops - got.stops):
        named = ", ".join(f"{token} ({tokenizer.convert_ids_to_tokens(token)})" for token in missing)
        known = ", ".join(map(str, sorted(got.stops))) or "none"
        raise ExportError(f"{where}: a completion does not end at {named}, only at {known}; nothing was exported")


def check_logprobs(got: Tensor, wanted: Tensor, where: Path, *, tolerance: float, of: str) -> float:
    """The mean |difference| in nats a token; raises ExportError where it is beyond `tolerance` or not a number.

    of: what `wanted` is, for the message."""
    gap = float((got - wanted).abs().mean())
    if not gap <= tolerance:
        numbers = f"says {got.mean():.4g} nats a token on the probe where {of} says {wanted.mean():.4g}"
        raise ExportError(
            f"{where}: what was written {numbers} (mean difference {gap:.3g}, allowed {tolerance:g}); "
            "nothing was exported"
        )
    return gap


@torch.no_grad()
def round_weights(model: Any, rounded: Callable[[str, Tensor], Tensor]) -> None:
    """Puts each parameter as `rounded(name, weight)` gives it in its place."""
    for name, weight in model.named_parameters():
        weight.copy_(rounded(name, weight.detach()))


def _shown(tokenizer: Any, talk: Sequence[tuple[str, str]], prompt: bool) -> str | None:
    if not tokenizer.chat_template:
        return None
    try:
        messages: Any = [{"role": role, "content": content} for role, content in talk]
        return chat_template(tokenizer).text(messages, where="", generation_prompt=prompt)
    except DataError:
        return None


def _tokens(tokenizer: Any, text: str) -> tuple[int, ...] | None:
    try:
        return tuple(tokenizer(text, add_special_tokens=False).input_ids)
    except DataError:  # a character tokenizer without letters
        return None


def _few(tokens: Sequence[int] | None, start: int) -> str:
    return "no tokens" if tokens is None else f"{list(tokens[start : start + 4])}"


def _cut(page: str | None, other: str | None) -> str:
    """The few characters from where two renderings part."""
    if page is None:
        return "nothing"
    pairs = enumerate(zip(page, other or "", strict=False))
    start = next((i for i, (a, b) in pairs if a != b), min(len(page), len(other or "")))
    return repr(page[max(0, start - 10) : start + 30])
