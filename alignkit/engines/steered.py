"""The exact engine with a critic beside the policy, which changes what is said as it is said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from alignkit.engines.hf import HfEngine

if TYPE_CHECKING:
    from alignkit.models.steering import Steering
    from alignkit.types.rollout import Completion, Request


class _Read(NamedTuple):
    """What both models have read, a row each."""

    policy: Any
    critic: Any

    def reorder_cache(self, members: Tensor) -> None:
        for cache in self:
            cache.reorder_cache(members)


class SteeredEngine(HfEngine):
    """Samples from softmax((log pi + beta min Q) / temperature), of which its log-probs are; `score` is of it, too.

    engine: holds the policy, is given its weights, and goes on sampling without the critic. steering: of what is said
    here.
    """

    def __init__(self, engine: HfEngine, steering: Steering):
        super().__init__(engine._model, dtype=str(engine._dtype).removeprefix("torch."), share=True)
        self._engine, self._steering = engine, steering

    @property
    def _context(self) -> int:
        return min(super()._context, self._steering.context)

    def _generate(self, requests: Sequence[Request]) -> list[Completion]:
        self.policy_version = self._engine.policy_version
        return super()._generate(requests)

    def _cache(self) -> Any:
        return _Read(super()._cache(), self._steering.cache())

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: _Read) -> Float[Tensor, "row vocabulary"]:
        logits = super()._forward(ids, mask, positions, cache.policy)
        seen = {"attention_mask": mask, "position_ids": positions}
        return logits + self._steering(ids, cache.critic, last=True, **seen)[:, 0]

    def _logits(self, ids: Tensor) -> Float[Tensor, "row position vocabulary"]:
        return super()._logits(ids) + self._steering(ids)
