"""The head with which a causal language model says numbers about states instead of words.

It is a linear layer on the last hidden state of every token, kept in float32, under the name `value_head` beside the
language-model head: on the policy itself (shared layers) or on a copy that is trained alone.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from alignkit.errors import RecipeError
from alignkit.models.adapted import base_model
from alignkit.models.encoder import packs
from alignkit.models.weights import VALUE_HEAD
from alignkit.types.seeds import child

FIRST_STD = 0.01  # small, so that first values are near 0; not 0, or two heads of one critic could never differ


def add_value_head(model: nn.Module, heads: int, *, seed: int) -> nn.Module:
    """Gives a transformers causal LM (or a PEFT model of one) a value head of `heads` outputs; returns the model."""
    causal = base_model(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(child(seed, VALUE_HEAD))
        layer = nn.Linear(causal.config.hidden_size, heads)
        nn.init.normal_(layer.weight, std=FIRST_STD)
        nn.init.zeros_(layer.bias)
    causal.add_module(VALUE_HEAD, layer.to(next(causal.parameters()).device))
    return model


def check_reads(key: str, path: str, model: nn.Module, tokenizer: Any, policys: Any) -> None:
    """Raises RecipeError about `key` where the model at `path` cannot read what the policy writes, token by token."""
    if not packs(model) or tokenizer.get_vocab() != policys.get_vocab():
        raise RecipeError(
            f"{key}: {path} cannot read the policy's tokens one after another: it is an encoder, or its "
            "tokenizer is another; take a causal model of the policy's family"
        )


def freeze_words(causal: Any) -> None:
    """A model that only says numbers keeps its language-model head: what nothing trains needs no optimizer state."""
    words, read = causal.get_output_embeddings(), {id(p) for p in causal.get_input_embeddings().parameters()}
    for parameter in words.parameters() if words is not None else ():
        if id(parameter) not in read:
            parameter.requires_grad_(False)


def remove_value_head(model: nn.Module) -> None:
    """Takes the value head away again, where there is one: the policy goes on without."""
    causal = base_model(model)
    if hasattr(causal, VALUE_HEAD):
        delattr(causal, VALUE_HEAD)


def read_values(causal: nn.Module, hidden: Float[Tensor, "token hidden"]) -> Float[Tensor, "token head"]:
    """The value head's numbers for the state that ends with each token."""
    with torch.autocast(hidden.device.type, enabled=False):
        return getattr(causal, VALUE_HEAD)(hidden.float())
