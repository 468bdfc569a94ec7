"""What a critic of tokens adds to a policy's logits where it speaks: decode-time steering (ILQL, arXiv 2206.11871)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from alignkit.errors import ContentError, first_line
from alignkit.models.adapted import base_model
from alignkit.models.critic import add_value_head, save_value_head
from alignkit.models.pretrained import load_pretrained
from alignkit.models.save import STEERING, save_pretrained
from alignkit.models.weights import VALUE_HEAD

FILE = "steering.json"  # how much, beside the critic


class Steering:
    """beta min_j Q_j(s, .) over the vocabulary, in nats: softmax(log pi + this) is that of log pi + beta (Q - V).

    critic: a causal language model whose value head scores tokens (`TokenScores`); it is read as it is at each call.
    beta: nats for a unit of Q.
    """

    def __init__(self, critic: nn.Module, *, beta: float):
        self._critic: Any = critic
        self.beta = beta

    @property
    def context(self) -> int:
        """Longest sequence that the critic reads, in tokens."""
        return base_model(self._critic).config.max_position_embeddings

    def cache(self) -> Any:
        """For what the critic has read."""
        from transformers import DynamicCache

        return DynamicCache(config=base_model(self._critic).config)

    def __call__(
        self, ids: Int[Tensor, "row position"], cache: Any = None, *, last: bool = False, **seen: Tensor
    ) -> Float[Tensor, "row position vocabulary"]:
        """Of the token after each of `ids`, or after the last one alone. cache, seen: as a transformers model takes."""
        causal = base_model(self._critic)
        read = {"past_key_values": cache, "use_cache": cache is not None, "output_hidden_states": True, **seen}
        hidden = self._critic(input_ids=ids, logits_to_keep=1, **read).hidden_states[-1]
        hidden = hidden[:, -1:] if last else hidden
        with torch.autocast(hidden.device.type, enabled=False):
            scores = getattr(causal, VALUE_HEAD).every(hidden.flatten(0, 1).float())
        return self.beta * scores.amin(-1).unflatten(0, hidden.shape[:2])

    def processor(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The same for transformers' `generate` of one answer: (tokens so far, logits) -> logits."""
        cache, read = self.cache(), 0

        def steered(ids: Tensor, logits: Tensor) -> Tensor:
            nonlocal read
            new, read = ids[:, read:], ids.shape[1]
            return logits + self(new, cache, last=True)[:, 0]

        return steered

    def save(self, tokenizer: Any, folder: Path, *, dtype: torch.dtype, writes: bool = True) -> None:
        """Writes the critic, whose language-model part is of `dtype`, with its head and beta. writes: as of
        `save_pretrained`."""
        save_pretrained(self._critic, tokenizer, folder, dtype=dtype, writes=writes)
        save_value_head(self._critic, folder, writes=writes)
        if writes:
            head = getattr(base_model(self._critic), VALUE_HEAD)
            (folder / FILE).write_text(json.dumps({"beta": self.beta, "scored": head.scored}) + "\n")

    @classmethod
    def find(cls, folder: Path, device: str) -> Steering | None:
        """What steers the model in `folder`; None where nothing does. Raises ContentError where it cannot be read."""
        place = folder / STEERING
        if not place.is_dir():
            return None
        try:
            told = json.loads((place / FILE).read_text())
            critic, _ = load_pretrained(str(place))
            weights = load_file(place / f"{VALUE_HEAD}.safetensors")
            scored, heads = told["scored"], told["scored"] + len(weights["states.bias"])
            add_value_head(critic, heads, seed=0, scored=scored)
            getattr(base_model(critic), VALUE_HEAD).load_state_dict(weights)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            problem = f"{place}: the critics cannot be read: {first_line(error)}; remove it to speak without them"
            raise ContentError(problem) from error
        return cls(critic.requires_grad_(False).eval().to(device), beta=told["beta"])
