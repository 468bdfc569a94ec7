"""A reward by name, behind uvicorn on one port, until it is stopped."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Mapping
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


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How rewards are run: in `workers` processes with `deadline_s` for a completion; a reward that holds a model
    (rewards/serve/batcher.py) instead in this process, in batches of `batch` completions that wait at most `wait_s`."""

    workers: int = 2
    deadline_s: float = 5.0
    batch: int = 64
    wait_s: float = 0.005


def serve_reward(
    name: str,
    options: Mapping[str, Any],
    *,
    address: Address,
    scoring: Scoring,
    ready: Callable[[dict[str, Any]], None],
) -> None:
    """Serves the reward `name` until SIGINT or SIGTERM.

    ready: told url, reward, how it is scored, and the token if it had to be made up (it is in $ALIGNKIT_TOKEN
    otherwise). Raises RewardError where the reward, the address or the token cannot be used.
    """
    check_address(address)
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    made_up = not token
    token = token or secrets.token_urlsafe(24)
    uvicorn, build_app = _libraries()
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    scorer, how = _scorer(name, options, scoring)
    try:
        app = build_app(scorer, reward=name, token=token, fingerprint=_fingerprint(name, options))
        listening = _listen(address)
        scheme = "https" if address.certificate else "http"
        host = f"[{address.host}]" if ":" in address.host else address.host
        told = {"url": f"{scheme}://{host}:{listening.getsockname()[1]}", "reward": name, "scored": how}
        ready({**told, "token": token} if made_up else told)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            ssl_certfile=address.certificate,
            ssl_keyfile=address.key,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=10,
            http=Connections(most=_most_connections(), header_s=HEADER_S).protocol(AutoHTTPProtocol),
            ws=asyncio.Protocol,  # never used: such an upgrade is refused
        )
        signal.signal(signal.SIGTERM, _leave)  # uvicorn ends in good order, then repeats the signal
        with suppress(KeyboardInterrupt):
            _server(uvicorn, config).run(sockets=[listening])
    finally:
        scorer.close()


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


def _fingerprint(name: str, options: Mapping[str, Any]) -> str:
    """Changes when the reward, its options, its file, the models that its options name or alignkit's version do."""
    from importlib.metadata import version

    from alignkit.recipe.lookup.find import find
    from alignkit.rewards.serve.cache import AnswerCache

    path = find("rewards", name).path
    code = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    return AnswerCache.key(name, dict(options), code, version("alignkit"), _models(options))


def _models(options: Mapping[str, Any]) -> list[str]:
    """Hashes of the files of every model folder among the options: a model may be trained anew in its place."""
    given = [one for value in options.values() for one in (value if isinstance(value, list) else [value])]
    folders = [os.path.expanduser(one) for one in given if isinstance(one, str)]
    files = [
        file
        for folder in folders
        if os.path.isfile(os.path.join(folder, "config.json"))
        for file in sorted(Path(folder).iterdir())
        if file.is_file()
    ]
    hashes = []
    for file in files:
        with file.open("rb") as content:
            hashes.append(hashlib.file_digest(content, "sha256").hexdigest())
    return hashes


def _libraries() -> tuple[Any, Any]:
    try:
        import uvicorn

        from alignkit.rewards.serve.server import build_app
    except ModuleNotFoundError as error:
        raise RewardError(f"serving needs {error.name}: pip install fastapi uvicorn httpx") from error
    return uvicorn, build_app


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


def _scorer(name: str, options: Mapping[str, Any], scoring: Scoring) -> tuple[Any, str]:
    from alignkit.recipe.schema import RewardSpec
    from alignkit.rewards.pool.lift import find_reward
    from alignkit.rewards.pool.pool import RewardPool
    from alignkit.rewards.serve.batcher import Batcher, BatchReward

    reward = find_reward(name, options)
    if isinstance(reward, BatchReward):
        how = f"in this process, in batches of up to {scoring.batch}"
        return Batcher(reward, batch=scoring.batch, wait_s=scoring.wait_s), how
    spec = RewardSpec(name=name, options=dict(options), deadline_s=scoring.deadline_s)
    return RewardPool([spec], workers=scoring.workers), f"in {scoring.workers} processes"
