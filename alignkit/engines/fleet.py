"""Several engines as one: replicas that hold the same weights and share the requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from alignkit.engines.balance import Outstanding, shares
from alignkit.engines.engine import Part, Sampler
from alignkit.errors import EngineError

if TYPE_CHECKING:
    from torch import Tensor

    from alignkit.types.rollout import Completion, Request
    from alignkit.weights.host_memory import HostMemory
    from alignkit.weights.sender import Sender

Asked = TypeVar("Asked")
Said = TypeVar("Said")
LOOK_S = 0.2  # between two looks for a replica that has come


class Replica(Sampler, Protocol):
    """An engine that takes its weights from where a sender has laid them."""

    name: str
    """What errors call it; no two of a fleet have the same."""
    closed: bool
    """Whether it has failed, or was closed; an EngineError of one that is not is about what it was asked."""

    def take(self, message: dict[str, Any]) -> dict[str, Any]:
        """Takes the weights of a sender's message, which says their `version`.

        `unknown` of the answer: parameters that it could not prove. Raises EngineError or SyncError.
        """
        ...

    def sleep(self) -> None: ...

    def wake(self, part: Part) -> None: ...

    def close(self) -> None: ...


class Replicas(Protocol):
    """Who belongs to a fleet."""

    def present(self) -> Sequence[Replica]:
        """Those there are, in a fixed order."""
        ...

    def publish(self, version: int | None) -> None:
        """What lies with the sender is of this version; None: it is being changed."""
        ...

    def lost(self, replica: Replica, error: Exception) -> None:
        """One failed and is present no longer; raises EngineError where nothing goes on without it."""
        ...

    def close(self) -> None: ...


class Fleet:
    """Fulfils engines.engine.Engine over replicas, whose weights lie with one sender. It closes all of them.

    version: of the weights that they begin with. patience_s: seconds without any replica that holds the weights.

    A sample depends on its request and the weights, and up to rounding on nothing else: not on how many replicas there
    are, nor which of them sampled it. With the same replicas a call in lockstep repeats its bits.
    """

    def __init__(self, replicas: Replicas, sender: Sender, *, version: int = 0, patience_s: float = 900.0):
        self.policy_version = version
        self.unverified: tuple[str, ...] = ()
        """After an update: parameters that some replica could not read back."""
        self._replicas, self._sender, self._patience_s = replicas, sender, patience_s
        self._outstanding = Outstanding()

    async def sample(self, request: Request) -> Completion:
        while True:
            able = {replica.name: replica for replica in await self._able()}
            chosen = self._outstanding.choose(request, list(able))
            try:
                said = await self._ask(able[chosen], lambda replica: replica.sample(request))
            finally:
                self._outstanding.done(request, chosen)
            if said is not None:
                return said

    async def generate(self, requests: Sequence[Request]) -> list[Completion]:
        return await self._shared(requests, shares, lambda replica, share: replica.generate(share))

    async def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """In turns, so that of the canary's four sequences each of up to four replicas scores some."""
        return await self._shared(sequences, _turns, lambda replica, share: replica.score(share))

    def update(self, weights: Iterable[tuple[str, Tensor]], *, version: int) -> None:
        self._replicas.publish(None)
        self._sender.send(weights, version, self._told)

    @property
    def memory(self) -> HostMemory:
        """Where the ranks of its host may write their pieces of an update for `load`."""
        return self._sender.memory

    def load(self, *, version: int) -> None:
        """Takes the update that lies in `memory`; as `update`, but EngineError unless it has been written whole."""
        self._replicas.publish(None)
        self._sender.announce(version, self._told)

    def sleep(self) -> None:
        self._sender.lost()
        self._each(lambda replica: replica.sleep())

    def wake(self, part: Part) -> None:
        self._each(lambda replica: replica.wake(part))

    def close(self) -> None:
        self._replicas.close()
        self._sender.close()

    def _told(self, message: dict[str, Any]) -> dict[str, Any]:
        """Tells all replicas, at the same time, of weights that lie ready."""
        self.policy_version = message["version"]
        self._outstanding.forget()
        self._replicas.publish(self.policy_version)
        answers = self._each(lambda replica: replica.take(message))
        self.unverified = tuple(sorted({name for answer in answers for name in answer["unknown"]}))
        return {"unknown": self.unverified}

    def _each(self, do: Callable[[Replica], Said]) -> list[Said]:
        """What all replicas answer, without those that failed."""
        present = self._replicas.present()

        def done(replica: Replica) -> list[Said]:
            try:
                return [do(replica)]
            except EngineError as error:
                self._replicas.lost(replica, error)
                return []

        with ThreadPoolExecutor(max(1, len(present))) as pool:
            return [answer for answers in pool.map(done, present) for answer in answers]

    async def _able(self) -> list[Replica]:
        """The replicas that hold the present weights, once there is one. Raises EngineError after the patience."""
        until = time.monotonic() + self._patience_s
        while True:
            present = self._replicas.present()
            able = [replica for replica in present if replica.policy_version == self.policy_version]
            if able:
                return able
            if time.monotonic() > until:
                raise EngineError(
                    f"fleet: none of {len(present)} replicas held the weights of version {self.policy_version} within "
                    f"{self._patience_s:g} s; start `alignkit replica`, or raise engine.startup_s"
                )
            await asyncio.sleep(LOOK_S)

    async def _shared(
        self,
        asked: Sequence[Asked],
        share_out: Callable[[Sequence[Asked], int], list[list[int]]],
        ask: Callable[[Replica, list[Asked]], Awaitable[list[Said]]],
    ) -> list[Said]:
        """What is said to all that is asked, in order; what a replica leaves unsaid as it fails, others are asked."""
        said: dict[int, Said] = {}
        while left := [place for place in range(len(asked)) if place not in said]:
            able = await self._able()
            parts = [[left[i] for i in part] for part in share_out([asked[place] for place in left], len(able))]

            async def answer(replica: Replica, part: list[int]) -> None:
                told = await self._ask(replica, lambda one: ask(one, [asked[place] for place in part]))
                said.update(zip(part, told or [], strict=told is not None))

            await asyncio.gather(*(answer(*pair) for pair in zip(able, parts, strict=True) if pair[1]))
        return [said[place] for place in range(len(asked))]

    async def _ask(self, replica: Replica, question: Callable[[Replica], Awaitable[Said]]) -> Said | None:
        """Its answer; None where it has failed and the run goes on."""
        try:
            return await question(replica)
        except EngineError as error:
            if not replica.closed:
                raise
            self._replicas.lost(replica, error)
            return None


def _turns(sequences: Sequence[Any], replicas: int) -> list[list[int]]:
    return [list(range(first, len(sequences), replicas)) for first in range(replicas)]
