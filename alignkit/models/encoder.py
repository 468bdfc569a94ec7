"""Encoders (BERT and its like) in the place of a causal LM, for reward models: they read, and say no words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from alignkit.models.adapted import base_model

TOGETHER = 1024  # tokens that are read at a time, padding included


def is_encoder(config: Any) -> bool:
    """Whether a transformers config is that of a model that fills in masks."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.is_decoder


class Encoder(nn.Module):
    """An encoder with the interface of a causal LM that `alignkit.models.forward.plain` reads.

    Its state after a token is that token's own plus the mean of all up to it (arXiv 1908.10084): at the last token the
    mean says what the text is about, at the end of a step the token's own tells steps apart. Every token has seen the
    whole text, so prompts cannot be shared and there is no packed path.
    """

    def __init__(self, encoder: Any):
        super().__init__()
        self.encoder = encoder
        self.name_or_path = getattr(encoder, "name_or_path", None)  # which adapters are saved with
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler.requires_grad_(False)  # nothing here reads what it says

    @property
    def config(self) -> Any:
        return self.encoder.config

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> SimpleNamespace:
        own = self._states(input_ids, attention_mask)
        real = attention_mask[..., None].to(torch.float32)
        means = (own * real).cumsum(1) / real.cumsum(1).clamp(min=1)
        return SimpleNamespace(last_hidden_state=own + means)

    def get_decoder(self) -> Encoder:
        return self

    def _states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The encoder's states; rows of like lengths are read together, so that little of it is padding (right)."""
        width, lengths = input_ids.shape[1], attention_mask.sum(1)
        parts, order = [], lengths.argsort(stable=True)
        for rows in order.split(max(1, TOGETHER // width)):
            longest = int(lengths[rows].max())
            ids, mask = input_ids[rows, :longest], attention_mask[rows, :longest]
            states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state.float()
            parts.append(nn.functional.pad(states, (0, 0, 0, width - longest)))
        return torch.cat(parts)[order.argsort()]

    def get_output_embeddings(self) -> None:
        return None

    def get_input_embeddings(self) -> Any:
        return self.encoder.get_input_embeddings()


def packs(model: Any) -> bool:
    """Whether the packed forward can be tried: with a causal LM only."""
    return not isinstance(base_model(model), Encoder)
