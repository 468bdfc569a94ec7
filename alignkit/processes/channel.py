"""JSON lines over a private socket between the trainer and its engine process."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from typing import Any


class Channel:
    """One end. Messages are JSON objects, one a line; nothing that arrives is ever executed or unpickled."""

    def __init__(self, end: socket.socket):
        self._socket = end
        self._received = bytearray()

    def send(self, message: dict[str, Any]) -> None:
        """Raises OSError when the other side is gone."""
        self._socket.settimeout(None)
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, *, timeout_s: float | None = None) -> dict[str, Any]:
        """The next message. Raises TimeoutError when none is complete in time, EOFError when the other side is gone."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        searched = 0
        while (end := self._received.find(b"\n", searched)) < 0:
            searched = len(self._received)
            self._received += self._read(deadline)
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return json.loads(line)

    def close(self) -> None:
        """Ends both directions; a `receive` that waits in another thread raises EOFError. May be called twice."""
        with contextlib.suppress(OSError):  # the other side closed first
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _read(self, deadline: float | None) -> bytes:
        remaining = None if deadline is None else deadline - time.monotonic()
        if remaining is not None and remaining <= 0:
            raise TimeoutError
        self._socket.settimeout(remaining)
        try:
            data = self._socket.recv(1 << 20)
        except (ConnectionError, ValueError) as error:  # ValueError: closed here meanwhile
            raise EOFError from error
        if not data:
            raise EOFError
        return data
