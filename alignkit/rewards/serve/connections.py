"""A server's connections: headers must arrive in time, and whoever shows no token gives way to who comes after."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

TRUST = "alignkit.trust"
"""Key of a request's `state`: what is called when its token was right."""
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_LATE = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_NO_SOCKETS = b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Connections:
    """The open connections of one server, oldest first.

    most: connections at a time; beyond them the oldest that has shown no token is closed, and where all have, the new
    one is told 503. header_s: seconds from the first byte of a request, or from the connection's start, to the end of
    its headers. Lives in the server's event loop, so that nothing here happens at the same time.
    """

    def __init__(self, *, most: int, header_s: float):
        self.most, self.header_s = most, header_s
        self._strangers: dict[Any, None] = {}
        self._trusted: set[Any] = set()

    def protocol(self, base: type[Any]) -> type[Any]:
        """`base`, one of uvicorn's HTTP protocols, kept by these rules."""
        return type("Guarded", (_Guarded, base), {"kept_by": self})

    def __len__(self) -> int:
        return len(self._strangers) + len(self._trusted)

    def add(self, one: Any) -> None:
        """A new connection, which may cost the oldest stranger its own."""
        self._strangers[one] = None
        if len(self) > self.most:
            oldest = next(iter(self._strangers))
            if oldest is one:
                one.transport.write(_BUSY)
                one.transport.close()
            else:
                oldest.transport.abort()
            self.remove(oldest)

    def trust(self, one: Any) -> None:
        """It showed the token, and stays as long as it likes."""
        if self._strangers.pop(one, one) is None:
            self._trusted.add(one)

    def remove(self, one: Any) -> None:
        self._strangers.pop(one, None)
        self._trusted.discard(one)


class _Guarded:
    """Mixed into uvicorn's protocol, of which it uses transport, loop, cycle and app_state."""

    kept_by: Connections
    transport: Any
    loop: asyncio.AbstractEventLoop
    cycle: Any
    app_state: dict[str, Any]
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        trust: Callable[[], None] = lambda: self.kept_by.trust(self)  # noqa: E731
        self.app_state = {**self.app_state, TRUST: trust}
        super().connection_made(transport)  # ty: ignore[missing-attribute]  # of the base
        self._await_headers()
        self.kept_by.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._have_headers()
        self.kept_by.remove(self)
        super().connection_lost(exc)  # ty: ignore[missing-attribute]

    def data_received(self, data: bytes) -> None:
        super().data_received(data)  # ty: ignore[missing-attribute]
        if self.cycle is None or self.cycle.response_complete:
            self._await_headers()
        else:
            self._have_headers()

    def handle_websocket_upgrade(self, *_: Any) -> None:
        """There is nothing to talk with here."""
        self.transport.write(_NO_SOCKETS)
        self.transport.close()

    def _await_headers(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(self.kept_by.header_s, self._too_late)

    def _have_headers(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _too_late(self) -> None:
        self._late = None
        if not self.transport.is_closing():
            self.transport.write(_LATE)
            self.transport.close()
