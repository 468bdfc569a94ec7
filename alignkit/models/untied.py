"""Head and embedding that a config ties and an adapter parts."""

from __future__ import annotations

from typing import Any

from alignkit.models.adapted import base_model, is_adapted


def unties(model: Any) -> bool:
    """Whether head and embedding are two matrices although the config ties them: an adapter on one of them parts them,
    and transformers itself does not tie what differs in the checkpoint."""
    base = base_model(model)
    head, embedding = base.get_output_embeddings(), base.get_input_embeddings()
    if head is None or not getattr(base.config.get_text_config(), "tie_word_embeddings", False):
        return False
    return is_adapted(head) or is_adapted(embedding) or head.weight is not embedding.weight


def untie(config: Any) -> None:
    """Says in a transformers config that the head is a matrix of its own."""
    for each in (config, config.get_text_config()):
        if hasattr(each, "tie_word_embeddings"):
            each.tie_word_embeddings = False
