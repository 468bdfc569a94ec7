"""JSON lines over a private socket: how a process and its child talk, whatever the child is."""

from __future__ import annotations

import base64
import contextlib
import json
import pickle
import socket
import time
from collections.abc import Iterator
from typing import Any

_encode = json.JSONEncoder().encode  # bound now: code that a child runs may patch the module
_decode = json.JSONDecoder().decode


class Channel:
    """One end. Messages are JSON values, one a line; nothing that arrives is ever executed or unpickled by itself.

    Numbers arrive as they were sent: floats to the last bit, NaN too, and integers of any size. largest: bytes of a
    message; one that is longer raises ValueError before it is held. None: as long as it wants, from whom is trusted.
    """

    def __init__(self, end: socket.socket, *, largest: int | None = None):
        self._socket = end
        self._largest = largest
        self._received = bytearray()
        self._searched = 0

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, *messages: Any, timeout_s: float | None = None) -> None:
        """Sends them together. Raises OSError when the other side is gone, or (TimeoutError) does not read."""
        self._socket.settimeout(timeout_s)
        self._socket.sendall(b"".join(_encode(message).encode() + b"\n" for message in messages))

    def receive(self, *, timeout_s: float | None = None) -> Any:
        """The next message. Raises TimeoutError when none is complete in time, EOFError when the other side is gone,
        ValueError when it is no JSON or too long."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while (line := self._line()) is None:
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                raise TimeoutError
            self._socket.settimeout(remaining)
            self._read()
        return _value(line)

    def arrived(self) -> Iterator[Any]:
        """The messages that are there after one look at the socket, without waiting; raises as `receive` does."""
        with contextlib.suppress(BlockingIOError):
            self._read(socket.MSG_DONTWAIT)
        while (line := self._line()) is not None:
            yield _value(line)

    def close(self) -> None:
        """Ends both directions; a `receive` that waits in another thread raises EOFError. May be called twice."""
        with contextlib.suppress(OSError):  # the other side closed first
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _line(self) -> str | None:
        """The first complete line, taken out; None when there is none."""
        end = self._received.find(b"\n", self._searched)
        length = len(self._received) if end < 0 else end
        if self._largest is not None and length > self._largest:
            raise ValueError(f"a message of more than {self._largest} bytes")
        self._searched = length if end < 0 else 0
        if end < 0:
            return None
        line = self._received[:end].decode()
        del self._received[: end + 1]
        return line

    def _read(self, flags: int = 0) -> None:
        try:
            data = self._socket.recv(1 << 20, flags)
        except (ConnectionError, ValueError) as error:  # ValueError: closed here meanwhile
            raise EOFError from error
        if not data:
            raise EOFError
        self._received += data


def _value(line: str) -> Any:
    try:
        return _decode(line)
    except RecursionError as error:
        raise ValueError("a message is nested too deep") from error


def packed(value: Any) -> str:
    """Any object as text within a message to a child, for what JSON has no word for, such as a row's dates.

    Only a child unpacks: to unpickle what runs foreign code would be to run it.
    """
    return base64.b64encode(pickle.dumps(value)).decode()


def unpacked(text: str) -> Any:
    """What the parent packed."""
    return pickle.loads(base64.b64decode(text))
