"""The vLLM engines of one host: children of the trainer, all of which must live."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from alignkit.engines.fleet import Replica
from alignkit.engines.vllm.engine import VllmEngine
from alignkit.errors import EngineError


class Host:
    """Fulfils engines.fleet.Replicas: those that it is given, until one fails, which ends all."""

    def __init__(self, replicas: Sequence[Replica]):
        self._all = tuple(replicas)
        self._first: tuple[type[Exception], str] | None = None

    @classmethod
    def start(cls, count: int, begin: Callable[[int], VllmEngine]) -> Host:
        """begin: starts the one of a number, from 0, without waiting for it. Raises EngineError, and ends all others,
        when one does not start."""
        begun: list[VllmEngine] = []
        try:
            for number in range(count):
                begun.append(begin(number))
            for engine in begun:
                engine.ready()
        except EngineError:
            for engine in begun:
                engine.close()
            raise
        return cls(begun)

    def present(self) -> Sequence[Replica]:
        return self._all

    def publish(self, version: int | None) -> None:
        """Does nothing: they are told by the sender's messages, and nobody looks by himself."""

    def lost(self, replica: Replica, error: Exception) -> None:
        self._first = self._first or (type(error), f"{replica.name} of {len(self._all)}: {error}")
        self.close()  # by which the others fail, too; who failed first is to be named
        kind, said = self._first
        raise kind(said) from error

    def close(self) -> None:
        for replica in self._all:
            replica.close()


def devices_of(number: int, *, each: int, after: int) -> tuple[int, ...]:
    """The devices of a replica, as places among those that are visible. each: how many it has. after: those that the
    trainer keeps for itself, on which none is."""
    return tuple(range(after + number * each, after + (number + 1) * each))
