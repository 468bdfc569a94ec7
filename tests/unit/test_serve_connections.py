"""Connections without a token: late headers, more of them than there is room for, upgrades to WebSockets."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager

import pytest

from alignkit.rewards.serve.connections import Connections
from tests.unit.loopback import TOKEN

pytest.importorskip("fastapi")
uvicorn = pytest.importorskip("uvicorn")
from alignkit.rewards.serve.server import build_app  # noqa: E402  # fastapi is optional

BEARER = f"Authorization: Bearer {TOKEN}\r\n"
HEALTH = f"GET /health HTTP/1.1\r\nHost: x\r\n{BEARER}\r\n".encode()
UPGRADE = (
    "GET /health HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)


class Nobody:
    """Scores nothing."""

    per_rollout = True

    async def score(self, groups):
        return []


def protocols():
    from uvicorn.protocols.http.h11_impl import H11Protocol

    yield pytest.param(H11Protocol, id="h11")
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    except ImportError:
        return
    yield pytest.param(HttpToolsProtocol, id="httptools")


@pytest.fixture(params=protocols())
def base(request):
    return request.param


@contextmanager
def guarded(base, *, most=4, header_s=30.0):
    """(port, the server's connections)."""
    connections = Connections(most=most, header_s=header_s)
    app = build_app(Nobody(), reward="r", token=TOKEN)
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, http=connections.protocol(base), ws=asyncio.Protocol, log_level="critical", lifespan="off"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield listening.getsockname()[1], connections
    finally:
        server.should_exit = server.force_exit = True
        thread.join(timeout=10)


def connect(port, said=b""):
    one = socket.create_connection(("127.0.0.1", port), timeout=20)
    one.sendall(said)
    return one


def status(one):
    """The status of one whole answer, 0 when the connection was closed or reset without one."""
    said = b""
    try:
        while b"\r\n\r\n" not in said:
            got = one.recv(4096)
            if not got:
                return 0
            said += got
        head, _, body = said.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.I)
        while length and len(body) < int(length[1]):
            body += one.recv(4096)
    except ConnectionError:
        return 0
    return int(head.split()[1])


def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_the_oldest_stranger_gives_way_and_whoever_shows_the_token_stays(base):
    with guarded(base, most=4) as (port, connections), closing(connect(port, HEALTH)) as trusted:
        assert status(trusted) == 200
        strangers = []
        for _ in range(9):
            strangers.append(connect(port, b"GET /health HTTP/1.1\r\nX-a: "))
            until(lambda: len(connections) == min(1 + len(strangers), 4))
        with closing(connect(port, HEALTH)) as late:
            assert status(late) == 200  # 9 strangers lock nobody out
        gone = [status(one) for one in strangers[:6]]
        assert gone == [0] * 6
        trusted.sendall(HEALTH)
        assert status(trusted) == 200
        for one in strangers:
            one.close()


def test_where_everybody_showed_the_token_the_new_one_is_told_so(base):
    with guarded(base, most=2) as (port, _):
        first, second = connect(port, HEALTH), connect(port, HEALTH)
        assert [status(first), status(second)] == [200, 200]
        with closing(connect(port)) as third:
            assert status(third) == 503
        first.close()
        second.sendall(HEALTH)
        assert status(second) == 200
        second.close()


def test_a_wrong_token_makes_nobody_trusted(base):
    with guarded(base, most=2) as (port, connections):
        for _ in range(5):
            one = connect(port, HEALTH.replace(TOKEN.encode(), b"x" * 20))
            assert status(one) == 401
            assert not connections._trusted
        with closing(connect(port, HEALTH)) as good:
            assert status(good) == 200


def test_headers_that_do_not_arrive_in_time_end_the_connection(base):
    with guarded(base, header_s=0.2) as (port, connections):
        with closing(connect(port)) as silent, closing(connect(port, b"GET / HTTP/1.1\r\nX: ")) as slow:
            assert [status(silent), status(slow)] == [408, 408]
        with closing(connect(port, HEALTH)) as again:
            assert status(again) == 200
            again.sendall(b"GET /health HTTP/1.1\r\nX: ")  # the second request of a trusted client counts alike
            assert status(again) == 408
        until(lambda: len(connections) == 0)


def test_a_byte_now_and_then_wins_no_time(base):
    with guarded(base, header_s=0.4) as (port, _), closing(connect(port, b"GET / HTTP/1.1\r\nX: ")) as slow:
        slow.settimeout(0.05)
        answer, sent = b"", 0
        while not answer and sent < 2000:  # a byte takes 0.05 s, so these would win 250 times the time allowed
            sent += 1
            try:
                slow.sendall(b"a")
                answer = slow.recv(100)
            except TimeoutError:
                continue
            except OSError:
                break
        assert sent < 2000


def test_an_answer_may_take_longer_than_headers_may(base):
    class Slow(Nobody):
        async def score(self, groups):
            await asyncio.sleep(0.6)
            return []

    connections = Connections(most=4, header_s=0.2)
    body = b'{"groups": [{"prompt": "?", "completions": []}]}'
    head = f"POST /score HTTP/1.1\r\nHost: x\r\n{BEARER}Content-Length: {len(body)}\r\n\r\n".encode()
    app = build_app(Slow(), reward="r", token=TOKEN)
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=connections.protocol(base), log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    with closing(connect(listening.getsockname()[1], head + body)) as one:
        assert status(one) == 200
    server.should_exit = server.force_exit = True
    thread.join(timeout=10)


@pytest.mark.parametrize("token", ["", BEARER], ids=["no token", "token"])
def test_an_upgrade_to_websockets_is_refused_without_an_error_in_the_log(base, token, caplog):
    with guarded(base) as (port, connections), caplog.at_level("WARNING"):
        with closing(connect(port, f"{UPGRADE}{token}\r\n".encode())) as one:
            assert status(one) == 403
        until(lambda: len(connections) == 0)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_the_application_itself_refuses_websockets_under_any_server():
    sent = []

    async def send(message):
        sent.append(message)

    app = build_app(Nobody(), reward="r", token=TOKEN)
    asyncio.run(app({"type": "websocket", "headers": [], "path": "/health"}, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.slow
def test_a_thousand_unfinished_connections_lock_nobody_out_of_the_served_reward():
    """1,105 connections without a token, more than are kept, and a client with it is answered at once."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, limits[1]), limits[1]))
    command = [sys.executable, "-m", "alignkit", "serve", "gsm8k_answer", "--port", "0", "--workers", "1", "--json"]
    environment = {**os.environ, "ALIGNKIT_TOKEN": TOKEN}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1024, limits[1])),
    )  # fmt: skip
    strangers = []
    try:
        port = int(json.loads(process.stdout.readline())["url"].rsplit(":", 1)[1])
        for _ in range(1105):
            strangers.append(connect(port, b"GET /health HTTP/1.1\r\nHost: x\r\nX-a: "))
            if len(strangers) % 50 == 0:
                with closing(connect(port, HEALTH)) as good:
                    assert status(good) == 200
        with closing(connect(port, HEALTH)) as good:
            assert status(good) == 200
        with closing(connect(port, f"{UPGRADE}\r\n".encode())) as upgrade:
            assert status(upgrade) == 403
        for one in strangers:
            one.settimeout(30)
        assert {status(one) for one in strangers} <= {0, 408}  # given way, or too late
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=20)
        said = process.stderr.read()
        for one in strangers:
            one.close()
        process.stdout.close()
        process.stderr.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert code == 0
    assert "Traceback" not in said
    assert "ERROR" not in said
