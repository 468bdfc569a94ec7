"""The exact, slow rollout engine: transformers' own forward with a key-value cache, sampled by inverse CDF.

It exists to be right: every sample is a function of its request's seed and the weights, whatever else is in the batch
(up to float rounding), and other engines are tested against it.
"""

from __future__ import annotations

import asyncio
import copy
import math
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from alignkit.engines.engine import Part
from alignkit.engines.waiting import Waiting
from alignkit.errors import EngineError
from alignkit.models.merge import merge
from alignkit.models.own_names import own_names
from alignkit.types.rollout import Completion, Request, StopReason

if TYPE_CHECKING:
    from torch.nn import Module

ROWS = 256  # requests sampled at the same time


class HfEngine:
    """Fulfils engines.engine.Engine inside the trainer's process.

    model: a transformers causal language model (or a PeftModel around one).
    dtype: arithmetic, "float32" or "bfloat16"; bfloat16 is autocast over float32 weights, exactly as in the trainer.
    device: of the copy, None: the model's. share: sample from `model` itself instead of from a copy: `update` then
    takes no weights, it only states their version. For one-process runs of small models.
    """

    def __init__(self, model: Module, *, dtype: str, device: str | None = None, share: bool = False, version: int = 0):
        self.policy_version = version
        self._share = share
        self._dtype = getattr(torch, dtype)
        self._waiting = Waiting(self.generate)
        self._model: Any = model if share else _merged_copy(model).to(device or next(model.parameters()).device)

    async def sample(self, request: Request) -> Completion:
        """Those that come while a call runs go together: two calls at once would undo one another's `eval()`."""
        request.check(context=self._context, engine="hf engine")  # one that cannot run must not fail its neighbours
        return await self._waiting.sample(request)

    async def generate(self, requests: Sequence[Request]) -> list[Completion]:
        for request in requests:
            request.check(context=self._context, engine="hf engine")
        return await asyncio.to_thread(self._generate, requests)

    async def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        return await asyncio.to_thread(self._score, sequences)

    def update(self, weights: Iterable[tuple[str, Tensor]], *, version: int) -> None:
        if not self._share:
            _copy_weights(dict(weights), self._model)
        self.policy_version = version

    def sleep(self) -> None:
        """Does nothing: there is no memory that only sampling needs between two calls."""

    def wake(self, part: Part) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Lets go of the model."""
        self._model = None

    @property
    def _context(self) -> int:
        if self._model is None:
            raise EngineError("hf engine: it was closed")
        return self._model.config.max_position_embeddings

    @contextmanager
    def _evaluating(self) -> Generator[None]:
        """No gradients and no dropout; the shared model is left as it was."""
        model = self._model
        training = model.training
        enabled = self._dtype != torch.float32
        model.eval()
        try:
            with torch.inference_mode(), torch.autocast(model.device.type, self._dtype, enabled=enabled):
                yield
        finally:
            model.train(training)

    def _generate(self, requests: Sequence[Request]) -> list[Completion]:
        rows = [_Row(request, self._context) for request in requests]
        with self._evaluating():
            for begin in range(0, len(rows), ROWS):
                self._sample(rows[begin : begin + ROWS])
        return [row.completion(self.policy_version) for row in rows]

    def _sample(self, rows: list[_Row]) -> None:
        """Samples all rows to their ends; each distinct prompt is read once."""
        prompts = {prompt: index for index, prompt in enumerate(dict.fromkeys(row.request.prompt_ids for row in rows))}
        mask, logits, cache = self._read(list(prompts))
        members = torch.tensor([prompts[row.request.prompt_ids] for row in rows], device=logits.device)
        cache.reorder_cache(members)
        mask, logits = mask[members], logits[members]
        live = rows
        while True:
            tokens = _choose(live, logits)
            unfinished = [index for index, row in enumerate(live) if row.stop is None]
            if not unfinished:
                return
            if 2 * len(unfinished) <= len(live):  # dropping finished rows copies the cache: it must halve the work
                members = torch.tensor(unfinished, device=logits.device)
                cache.reorder_cache(members)
                live, tokens, mask = [live[index] for index in unfinished], tokens[members], mask[members]
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
            logits = self._forward(tokens[:, None], mask, mask.sum(-1, keepdim=True) - 1, cache)

    def _read(self, prompts: list[tuple[int, ...]]) -> tuple[Tensor, Tensor, Any]:
        """Attention mask (prompt, length), next-token logits (prompt, vocabulary) and cache, padded on the left."""
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        ids, mask = ids.to(self._model.device), mask.to(self._model.device)
        cache = self._cache()
        return mask, self._forward(ids, mask, (mask.cumsum(-1) - 1).clamp(min=0), cache), cache

    def _cache(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self._model.config)

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Float[Tensor, "row vocabulary"]:
        seen = {"attention_mask": mask, "position_ids": positions, "past_key_values": cache}
        return self._model(input_ids=ids, use_cache=True, logits_to_keep=1, **seen).logits[:, -1].float()

    def _logits(self, ids: Tensor) -> Float[Tensor, "row position vocabulary"]:
        return self._model(input_ids=ids, use_cache=False).logits.float()

    def _score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        scores: list[list[float]] = []
        with self._evaluating():
            for sequence in sequences:
                ids = torch.tensor([list(sequence)], device=self._model.device)
                logprobs = self._logits(ids)[0, :-1].log_softmax(-1)
                scores.append(logprobs.gather(-1, ids[0, 1:, None])[:, 0].tolist())
        return scores


@dataclass(slots=True)
class _Row:
    """One request on its way: what was sampled, the uniform numbers that decide it, and why it ended."""

    request: Request
    context: int
    uniforms: list[float] = field(init=False)
    room: int = field(init=False)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stop: StopReason | None = None

    def __post_init__(self) -> None:
        self.room = min(self.request.max_new_tokens, self.context - len(self.request.prompt_ids))
        self.uniforms = np.random.Generator(np.random.Philox(key=self.request.seed)).random(self.room).tolist()

    def add(self, token: int, logprob: float) -> None:
        if not math.isfinite(logprob):
            raise EngineError("hf engine: the model's logits are not finite; its weights are broken")
        self.token_ids.append(token)
        self.logprobs.append(logprob)
        if token in self.request.stop_token_ids:
            self.stop = StopReason.END_OF_TEXT
        elif len(self.token_ids) == self.request.max_new_tokens:
            self.stop = StopReason.LENGTH
        elif len(self.token_ids) == self.room:
            self.stop = StopReason.CONTEXT_FULL

    def completion(self, version: int) -> Completion:
        return Completion(
            token_ids=tuple(self.token_ids),
            logprobs=tuple(self.logprobs),
            stop=self.stop or StopReason.ERROR,
            versions=((0, version),),
        )


def _choose(rows: list[_Row], logits: Float[Tensor, "row vocabulary"]) -> Int[Tensor, " row"]:
    """Chooses the next token of every row by inverse CDF (temperature 0: the most likely) and records it."""
    temperatures = torch.tensor([row.request.temperature for row in rows], device=logits.device)[:, None]
    greedy = temperatures == 0
    logprobs = (logits / temperatures.masked_fill(greedy, 1.0)).log_softmax(-1)
    cumulative = logprobs.double().exp().cumsum(-1)
    numbers = [row.uniforms[len(row.token_ids)] if row.stop is None else 0.0 for row in rows]
    targets = torch.tensor(numbers, dtype=torch.float64, device=logits.device)[:, None] * cumulative[:, -1:]
    sampled = torch.searchsorted(cumulative, targets, right=True).clamp(max=logits.shape[-1] - 1)
    tokens = torch.where(greedy, logits.argmax(-1, keepdim=True), sampled)
    chosen = logprobs.gather(-1, tokens)[:, 0].tolist()
    for row, token, logprob in zip(rows, tokens[:, 0].tolist(), chosen, strict=True):
        if row.stop is None:
            row.add(token, logprob)
    return tokens[:, 0]


def _merged_copy(model: Module) -> Any:
    """Its parameters go on requiring gradients, though none are taken: autocast keeps its casts of such ones only."""
    return merge(copy.deepcopy(model))


def _copy_weights(weights: dict[str, Tensor], model: Module) -> None:
    """Copies all weights, or raises EngineError before the first one when names or shapes do not fit."""
    targets: dict[str, Tensor] = dict(model.named_parameters())
    targets |= {name: buffer for name, buffer in model.named_buffers() if name in weights}
    if targets.keys() != weights.keys():
        weights = own_names(model, weights)
    wrong = sorted(targets.keys() ^ weights.keys())
    if wrong:
        kind = "misses" if wrong[0] in targets else "does not know"
        raise EngineError(f"hf engine: an update {kind} {wrong[0]} ({len(wrong)} names differ)")
    for name, tensor in weights.items():
        if tensor.shape != targets[name].shape:
            raise EngineError(f"hf engine: {name} has shape {tuple(tensor.shape)}, wanted {tuple(targets[name].shape)}")
    with torch.no_grad():
        for name, tensor in weights.items():
            targets[name].copy_(tensor)
