"""Which replica samples what: groups stay together, and nobody gets more tokens than need be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from alignkit.types.rollout import Request


def shares(requests: Sequence[Request], replicas: int) -> list[list[int]]:
    """The places of the requests of a call in lockstep, by replica.

    It follows from the requests alone, so a call that is repeated is shared out alike: the groups, those with the most
    tokens first, each to the replica that has the fewest so far.
    """
    groups: dict[tuple[str, int], list[int]] = {}
    for place, request in enumerate(requests):
        key = ("alone", place) if request.group is None else ("group", request.group)
        groups.setdefault(key, []).append(place)
    most = sorted(groups.values(), key=lambda places: -_tokens([requests[place] for place in places]))
    result: list[list[int]] = [[] for _ in range(replicas)]
    load = [0] * replicas
    for places in most:
        replica = load.index(min(load))
        result[replica] += places
        load[replica] += _tokens([requests[place] for place in places])
    return [sorted(places) for places in result]


class Outstanding:
    """The tokens that single requests still want of each replica, and where each group's prompt lies."""

    def __init__(self) -> None:
        self._tokens: Counter[str] = Counter()
        self._homes: dict[int, str] = {}

    def choose(self, request: Request, replicas: Sequence[str]) -> str:
        """The name, of these, of the replica that shall sample it: its group's, else the first with the least."""
        chosen = None if request.group is None else self._homes.get(request.group)
        if chosen is None or chosen not in replicas:
            chosen = min(replicas, key=lambda name: self._tokens[name])
        if request.group is not None:
            self._homes[request.group] = chosen
        self._tokens[chosen] += _tokens([request])
        return chosen

    def done(self, request: Request, replica: str) -> None:
        self._tokens[replica] -= _tokens([request])

    def forget(self) -> None:
        """No prompt lies anywhere any more: the weights are others."""
        self._homes.clear()


def _tokens(requests: Sequence[Request]) -> int:
    """At most so many are read and sampled for requests of one group, whose prompt is read once."""
    return max(len(request.prompt_ids) for request in requests) + sum(r.max_new_tokens for r in requests)
