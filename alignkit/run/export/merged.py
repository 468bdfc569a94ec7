"""Target `merged`: an ordinary folder for transformers, vLLM and all that reads such folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from alignkit.models.load import save_pretrained
from alignkit.models.pretrained import load_pretrained
from alignkit.run.export.proof import (
    GAPS,
    TOLERANCE,
    check_logprobs,
    check_words,
    logprobs,
    probe,
    round_weights,
    words,
)


def write_merged(model: Any, tokenizer: Any, folder: Path, dtype: str) -> dict[str, float]:
    """Writes the model in `dtype`, reads it again by transformers, and returns how far it is from `model` on the probe.

    gap: from the model as it is, in nats a token; rounded: from the model with rounded weights, which it must be.
    The model's weights are rounded when this returns. Raises ExportError where something differs.
    """
    number = getattr(torch, dtype)
    save_pretrained(model, tokenizer, folder, dtype=number)
    return check_merged(model, tokenizer, folder, dtype)


def check_merged(model: Any, tokenizer: Any, folder: Path, dtype: str) -> dict[str, float]:
    """The proof of `write_merged`: what it returns and raises."""
    number = getattr(torch, dtype)
    sequences = probe(model, tokenizer)
    saved, its_tokenizer = load_pretrained(str(folder))
    check_words(words(tokenizer, model), words(its_tokenizer, saved), folder, tokenizer)
    said = logprobs(saved.eval(), sequences)
    del saved
    wanted = logprobs(model, sequences)
    gap = check_logprobs(said, wanted, folder, tolerance=GAPS[dtype], of="the model")
    round_weights(model, lambda name, weight: weight.to(number).float())
    rounded = logprobs(model, sequences)
    return {
        "gap": gap,
        "rounded": check_logprobs(said, rounded, folder, tolerance=TOLERANCE, of=f"the model rounded to {dtype}"),
    }
