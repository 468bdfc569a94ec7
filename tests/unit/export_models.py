"""Tiny random models of real families with tokenizers of their kind, for the tests of export."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from alignkit.models.save import save_pretrained
from tests.families import tokenizer as family_tokenizer
from tests.model_families import SIZES


def tokenizer_of(template: str) -> Any:
    """A byte-level tokenizer with a family's template, one's own to change."""
    return copy.deepcopy(family_tokenizer(template))


def tiny(kind: str, tokenizer: Any, *, tied: bool = False, **settings: Any) -> Any:
    """A two-layer model of transformers' kind `kind`, with log-probs that differ visibly and norms that are not 1."""
    sizes = {
        **SIZES,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 256,
        "initializer_range": 0.15,
        "tie_word_embeddings": tied,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**sizes, **settings}))
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                torch.nn.init.normal_(parameter, mean=0.0 if name.endswith("bias") else 1.0, std=0.2)
    return model.eval()


def write(folder: Path, kind: str, template: str, **settings: Any) -> Path:
    """Such a model as a folder."""
    tokenizer = tokenizer_of(template)
    save_pretrained(tiny(kind, tokenizer, **settings), tokenizer, folder)
    return folder
