"""The policy as an OpenAI-compatible server on loopback, one key per program, until it is closed."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from alignkit.errors import EngineError, RewardError
from alignkit.rollout.gateway.session import Session
from alignkit.rollout.gateway.wire import MODEL, Refusal


@dataclass(frozen=True, kw_only=True)
class Access:
    """What a program needs to speak to the policy, as OpenAI's clients take it."""

    base_url: str
    api_key: str
    model: str = MODEL


@dataclass(kw_only=True)
class Gateway:
    """Serves sessions from a thread of its own; what they ask is sampled in the event loop that opened them.

    Whoever starts one closes it: the port and the thread live until then.
    """

    _sessions: dict[str, tuple[Session, asyncio.AbstractEventLoop]] = field(default_factory=dict, init=False)
    _listener: Any = field(default=None, init=False)

    def start(self) -> None:
        """Takes a port and answers there. Raises EngineError where no server starts."""
        from alignkit.rewards.serve.listener import Address, Listener

        try:
            self._listener = Listener(Address(port=0))
            from alignkit.rollout.gateway.app import build_app  # the listener said by now if it is not installed

            self._listener.bind()
            self._listener.start(build_app(self.find))
        except RewardError as error:
            raise EngineError(f"gateway: {error}") from error

    def close(self) -> None:
        """Lets go of the port and of the thread. May be called twice."""
        if self._listener is not None:
            self._listener.stop()
            self._listener = None

    @contextmanager
    def open(self, session: Session) -> Generator[Access]:
        """Lets a program ask a session as long as the block lasts, from a running event loop. Started before."""
        key = secrets.token_urlsafe(24)
        self._sessions[key] = (session, asyncio.get_running_loop())
        try:
            yield Access(base_url=f"{self._listener.url}/v1", api_key=key)
        finally:
            del self._sessions[key]

    def find(self, authorization: str) -> tuple[Session, asyncio.AbstractEventLoop]:
        """The session of a request's key. Raises Refusal for one that is unknown, or whose program is over."""
        scheme, _, key = authorization.partition(" ")
        found = self._sessions.get(key.strip()) if scheme.lower() == "bearer" else None
        if found is None:
            raise Refusal(401, "invalid_api_key", "the key is missing, wrong, or its episode is over")
        return found
