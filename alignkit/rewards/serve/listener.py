"""One port with uvicorn behind it: loopback in the clear, the network under TLS alone."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from alignkit.errors import RewardError
from alignkit.rewards.serve.connections import Connections

TOKEN_VARIABLE = "ALIGNKIT_TOKEN"
HEADER_S = 10.0
"""Seconds in which a request's headers, or a TLS handshake, must be complete."""
MOST_CONNECTIONS, OTHER_FILES = 1000, 256


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where to listen; port 0 takes a free one. certificate and key: PEM files, wanted for all but loopback."""

    host: str = "127.0.0.1"
    port: int = 8900
    certificate: Path | None = None
    key: Path | None = None


class Listener:
    """Listens at an address. Raises RewardError where uvicorn is not installed or the address cannot be used."""

    def __init__(self, address: Address):
        check_address(address)
        try:
            import uvicorn
            from uvicorn.protocols.http.auto import AutoHTTPProtocol
        except ModuleNotFoundError as error:
            raise RewardError(f"serving needs {error.name}: pip install fastapi uvicorn httpx") from error
        self._address, self._uvicorn, self._protocol = address, uvicorn, AutoHTTPProtocol
        self._socket: socket.socket | None = None
        self._server: Any = None
        self._thread: threading.Thread | None = None

    def bind(self) -> None:
        """Takes the port, so that `url` is known. Raises RewardError for one that is taken."""
        self._socket = _listen(self._address)

    @property
    def url(self) -> str:
        assert self._socket is not None, "a listener is bound before it is asked where"
        scheme = "https" if self._address.certificate else "http"
        host = f"[{self._address.host}]" if ":" in self._address.host else self._address.host
        return f"{scheme}://{host}:{self._socket.getsockname()[1]}"

    def run(self, app: Any) -> None:
        """Serves until SIGINT or SIGTERM, or until `leave`."""
        signal.signal(signal.SIGTERM, _leave)  # uvicorn ends in good order, then repeats the signal
        self._server = self._made(app)
        with suppress(KeyboardInterrupt):
            self._server.run(sockets=[self._socket])

    def start(self, app: Any) -> None:
        """Serves from a thread, until `stop`. Raises RewardError when it does not start."""
        self._server = self._made(app)
        self._thread = threading.Thread(target=partial(self._server.run, sockets=[self._socket]), daemon=True)
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.01)
        if not self._server.started:
            raise RewardError(f"the server at {self.url} did not start; what it printed says why")

    def leave(self) -> None:
        """Lets `run` return when what is being answered is answered."""
        if self._server is not None:
            self._server.should_exit = True

    def stop(self) -> None:
        """Lets go of the port. May be called twice."""
        if self._server is not None:
            self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(timeout=10)
        if self._socket is not None:
            self._socket.close()

    def _made(self, app: Any) -> Any:
        config = self._uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            ssl_certfile=self._address.certificate,
            ssl_keyfile=self._address.key,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=10,
            http=Connections(most=_most_connections(), header_s=HEADER_S).protocol(self._protocol),
            ws=asyncio.Protocol,  # never used: such an upgrade is refused
        )
        return _server(self._uvicorn, config)


def _server(uvicorn: Any, config: Any) -> Any:
    """uvicorn's server with a time limit for TLS handshakes, which it has no setting for."""

    class Server(uvicorn.Server):
        async def serve(self, sockets: list[socket.socket] | None = None) -> None:
            if config.is_ssl:
                loop: Any = asyncio.get_running_loop()
                loop.create_server = partial(loop.create_server, ssl_handshake_timeout=HEADER_S)
            await super().serve(sockets)

    return Server(config)


def _most_connections() -> int:
    """MOST_CONNECTIONS, for which the limit of open files is raised as far as it may be; fewer where it may not."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return max(soft - OTHER_FILES, soft // 2)
    return MOST_CONNECTIONS


def _leave(*_: object) -> None:
    sys.exit(0)


def check_address(address: Address) -> None:
    if (address.certificate is None) != (address.key is None):
        raise RewardError("--certificate and --key belong together; give both or neither")
    for file in (address.certificate, address.key):
        if file is not None and not file.is_file():
            raise RewardError(f"there is no file {file}")
    if address.certificate is None and not _is_loopback(address.host):
        raise RewardError(
            f"--host {address.host} is open to the network, where the token would travel in the clear; "
            "give --certificate and --key, or listen on 127.0.0.1 behind an SSH tunnel"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(address: Address) -> socket.socket:
    """A bound socket: a taken port is an error before anything is announced, and port 0 has become a number."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where the protocol is given: it would cost 40 ms per answer
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address.host, address.port))
        listening.listen(512)
    except OSError as error:
        listening.close()
        raise RewardError(f"cannot listen on {address.host}:{address.port}: {error.strerror}") from error
    return listening
