"""The two protocols that every rollout engine fulfils: it samples, and it takes weights.

tests/contracts/test_engines.py checks all engines by them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from alignkit.types.rollout import Completion, Request
    from alignkit.weights.host_memory import HostMemory


Part = Literal["weights", "cache"]


class Sampler(Protocol):
    """Samples completions from a copy of the policy's weights."""

    @property
    def policy_version(self) -> int:
        """Number of updates behind the weights it holds now; stamped on every Completion."""
        ...

    async def sample(self, request: Request) -> Completion:
        """The Completion of one Request, which runs beside whatever else was asked for (continuous batching).

        Its tokens are those that `generate` would give, but for rounding: which requests share a batch is chance.
        Raises EngineError when the engine died.
        """
        ...

    async def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """One Completion per Request, in order, in lockstep: all are queued before the first runs.

        The same call on the same weights gives the same tokens and log-probs. Log-probs are those of
        softmax(logits / temperature) (for temperature 0: of softmax(logits)).
        Raises EngineError when the engine died; it never returns fewer completions.
        """
        ...

    async def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-prob (temperature 1) of every token after the first, per sequence; the canary compares these."""
        ...


class WeightSink(Protocol):
    """Takes the trainer's weights, and makes room for it."""

    def update(self, weights: Iterable[tuple[str, Tensor]], *, version: int) -> None:
        """Replaces all weights (checkpoint names, full tensors, tied weights once) and drops cached prefixes.

        Either all weights are of `version` afterwards or EngineError is raised.
        """
        ...

    def sleep(self) -> None:
        """Gives back its memory, the weights with it; nothing but `wake` may follow. A no-op where it cannot."""
        ...

    def wake(self, part: Part) -> None:
        """Takes back the memory of a part: of the weights, which `update` must then bring, and after that the cache."""
        ...

    def close(self) -> None:
        """Ends every process and frees everything it holds. May be called twice."""
        ...


class Engine(Sampler, WeightSink, Protocol):
    """What a run has: it samples what it is given weights for."""


@runtime_checkable
class TakesPieces(Engine, Protocol):
    """An engine for which several ranks may write an update together, each what it has of the weights."""

    @property
    def memory(self) -> HostMemory | None:
        """Where the ranks of its host write; None: `update` takes whole tensors, from one rank."""
        ...

    def load(self, *, version: int) -> None:
        """Takes the update that lies in `memory`, whole; else as `update`."""
        ...
