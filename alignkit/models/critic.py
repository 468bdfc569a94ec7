"""The head with which a causal language model says numbers about states instead of words.

It is a linear layer on the last hidden state of every token (or `TokenScores`), kept in float32, under the name
`value_head` beside the language-model head: on the policy itself (shared layers) or on a copy that is trained alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn

from alignkit.errors import RecipeError
from alignkit.models.adapted import base_model
from alignkit.models.encoder import packs
from alignkit.models.token_scores import TokenScores
from alignkit.models.weights import VALUE_HEAD, whole
from alignkit.types.seeds import child

if TYPE_CHECKING:
    from pathlib import Path

    from alignkit.types.batch import Batch

FIRST_STD = 0.01  # small, so that first values are near 0; not 0, or two heads of one critic could never differ


def add_value_head(model: nn.Module, heads: int, *, seed: int, scored: int = 0, normalised: bool = False) -> nn.Module:
    """Gives a transformers causal LM (or a PEFT model of one) a value head of `heads` outputs; returns the model.

    scored: how many of them, the first ones, are scores of the chosen token, normalised: and as many their logsumexps
    (`TokenScores`).
    """
    causal = base_model(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(child(seed, VALUE_HEAD))
        width = causal.config.hidden_size
        vocabulary = causal.get_input_embeddings().num_embeddings
        kept = {"scored": scored, "normalised": normalised, "vocabulary": vocabulary}
        layer = TokenScores(width, heads, **kept) if scored else nn.Linear(width, heads)
        for name, parameter in layer.named_parameters():
            nn.init.zeros_(parameter) if name.endswith("bias") else nn.init.normal_(parameter, std=FIRST_STD)
    causal.add_module(VALUE_HEAD, layer.to(next(causal.parameters()).device))
    return model


def save_value_head(model: nn.Module, folder: Path, *, writes: bool = True) -> None:
    """Writes the value head beside the weights in `folder`. writes: as of `save_pretrained`."""
    head = getattr(base_model(model), VALUE_HEAD)
    with whole(head.parameters()):
        if writes:
            weights = {name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()}
            save_file(weights, folder / f"{VALUE_HEAD}.safetensors")


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


def read_values(
    causal: nn.Module, hidden: Float[Tensor, "token hidden"], batch: Batch | None = None
) -> Float[Tensor, "token head"]:
    """The value head's numbers for the state that ends with each token; of scores, for each token after the one before.

    batch: whose tokens these are, for heads that score them.
    """
    head = getattr(causal, VALUE_HEAD)
    with torch.autocast(hidden.device.type, enabled=False):
        return head(hidden.float(), batch) if isinstance(head, TokenScores) else head(hidden.float())
