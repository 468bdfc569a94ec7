"""JSON over HTTP to a server that may be slow, failing, gone or hostile: bounded time and bytes, named faults."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alignkit.errors import RewardError
from alignkit.rewards.serve.wire import printable
from alignkit.types.score import FaultKind
from alignkit.types.seeds import child

if TYPE_CHECKING:
    import httpx

LARGEST_ANSWER = 64 * 2**20
FAILURES_TO_OPEN = 8
OPEN_S = 5.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0
PASSING = {408, 425, 429, 500, 502, 503, 504}  # a later attempt may succeed


class EndpointError(Exception):
    """A request without a usable answer; `kind` says whether the server was late, gone, or refused it."""

    def __init__(self, kind: FaultKind, message: str):
        self.kind = kind
        super().__init__(message)


@dataclass
class Breaker:
    """Stops asking a server that fails: open after FAILURES_TO_OPEN failures in a row, for OPEN_S; then one trial."""

    failures: int = 0
    retry_at: float = 0.0
    trial: bool = False
    last: str = ""

    def check(self, now: float) -> None:
        """Raises EndpointError while open; lets one caller through when the time is up."""
        if self.failures < FAILURES_TO_OPEN:
            return
        if now < self.retry_at or self.trial:
            wait = max(self.retry_at - now, 0)
            message = f"not asked after {self.failures} failures in a row ({self.last}); next trial in {wait:.1f} s"
            raise EndpointError(FaultKind.UNREACHABLE, message)
        self.trial = True

    def succeeded(self) -> None:
        self.failures = 0

    def failed(self, now: float, message: str) -> None:
        self.failures += 1
        self.last = message
        if self.failures >= FAILURES_TO_OPEN:
            self.retry_at = now + OPEN_S


class Endpoint:
    """One server's address with a token, a limit on requests in flight, retries and a circuit breaker.

    url: http or https, from the recipe and never from data. token: sent as a bearer token. timeout_s: for one attempt.
    attempts: at most this many per request. concurrency: requests in flight at a time.
    allow_private: without it only loopback and public addresses are asked; link-local ones (cloud metadata) never are.
    ca_file: PEM file of the certificate to trust, for servers with one of their own. largest: bytes of an answer,
    None: LARGEST_ANSWER.
    Raises RewardError for a URL that is not plain http(s) or holds a password, and for a ca_file that cannot be read.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout_s: float = 10.0,
        attempts: int = 6,
        concurrency: int = 8,
        allow_private: bool = False,
        ca_file: str | None = None,
        largest: int | None = None,
    ):
        self.url = url
        self._parsed = _checked(url)
        self._token, self._timeout_s, self._attempts = token, timeout_s, attempts
        self._concurrency, self._allow_private = concurrency, allow_private
        self._largest = largest or LARGEST_ANSWER
        self._trusted = _trusted(ca_file)
        self._breaker = Breaker()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._address = ""

    async def get(self, path: str, *, until: float) -> Any:
        """The JSON that GET answers; `until` (time.monotonic) ends all attempts. Raises EndpointError."""
        return _json(await self._ask("GET", path, b"", until))

    async def fetch(self, path: str, *, until: float) -> bytes:
        """The bytes that GET answers; `until` as for `get`. Raises EndpointError."""
        return await self._ask("GET", path, b"", until)

    async def post(self, path: str, body: bytes, *, until: float) -> Any:
        """The JSON that POST of a JSON body answers; `until` as for `get`. Raises EndpointError."""
        return _json(await self._ask("POST", path, body, until))

    async def _ask(self, method: str, path: str, body: bytes, until: float) -> bytes:
        self._open()
        last = EndpointError(FaultKind.TIMEOUT, "no time was left to ask")
        for attempt in range(self._attempts):
            try:
                async with asyncio.timeout(max(until - time.monotonic(), 0)):
                    await self._slots.acquire()
            except TimeoutError:
                break
            try:
                self._breaker.check(time.monotonic())
                try:
                    return await self._attempt(method, path, body, until)
                finally:
                    self._breaker.trial = False  # however it ended, also by being cancelled
            except _Passing as passing:
                last, pause = passing.error, passing.pause_s or _pause(attempt, body)
            finally:
                self._slots.release()
            if attempt + 1 < self._attempts:
                await asyncio.sleep(min(pause, max(until - time.monotonic(), 0)))
        raise last

    async def _attempt(self, method: str, path: str, body: bytes, until: float) -> bytes:
        """One request. Raises _Passing where another attempt may help, EndpointError where none will."""
        import httpx

        limit = min(self._timeout_s, until - time.monotonic())
        try:
            async with asyncio.timeout(limit):
                status, headers, content = await self._exchange(method, path, body)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise self._passing(FaultKind.TIMEOUT, f"no answer within {limit:.3g} s") from error
        except (httpx.HTTPError, OSError) as error:
            raise self._passing(FaultKind.UNREACHABLE, f"{type(error).__name__}: {error}") from error
        if status in PASSING:
            pause_s = _retry_after(headers.get("retry-after"))
            raise self._passing(FaultKind.UNREACHABLE, f"answered {status}: {_told(content)}", pause_s)
        self._breaker.succeeded()
        if status in (401, 403):
            raise EndpointError(FaultKind.UNREACHABLE, f"answered {status}: the token is missing or wrong")
        if status != 200:
            raise EndpointError(FaultKind.CONTRACT, f"answered {status}: {_told(content)}")
        return content

    async def _exchange(self, method: str, path: str, body: bytes) -> tuple[int, httpx.Headers, bytes]:
        address = self._address or await self._resolve()
        url = self._parsed.copy_with(host=address, path=self._parsed.path.rstrip("/") + path)
        headers = {"Host": self._parsed.netloc.decode(), "Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        extensions = {"sni_hostname": self._parsed.host}
        request = self._client.build_request(method, url, content=body, headers=headers, extensions=extensions)
        response = await self._client.send(request, stream=True)
        content = bytearray()
        try:
            async for piece in response.aiter_bytes():
                content += piece
                if len(content) > self._largest:
                    raise EndpointError(FaultKind.CONTRACT, f"the answer is larger than {self._largest} bytes")
        finally:
            await response.aclose()
        return response.status_code, response.headers, bytes(content)

    async def _resolve(self) -> str:
        """The server's address, looked up once and then kept, so that what was checked is what is asked."""
        host, port = self._parsed.host, self._parsed.port
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=1)  # SOCK_STREAM
        addresses = [str(entry[4][0]) for entry in found]
        for address in addresses:
            _check_address(address, host, self._allow_private)
        self._address = addresses[0]
        return self._address

    def _passing(self, kind: FaultKind, message: str, pause_s: float | None = None) -> _Passing:
        self._breaker.failed(time.monotonic(), message)
        return _Passing(EndpointError(kind, message), pause_s)

    def _open(self) -> None:
        """Connections belong to an event loop; a new loop gets new ones."""
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        import httpx

        self._loop = loop
        self._slots = asyncio.Semaphore(self._concurrency)
        limits = httpx.Limits(max_connections=self._concurrency, max_keepalive_connections=self._concurrency)
        # no proxies from the environment and no redirects: the request goes where the recipe says or nowhere
        self._client = httpx.AsyncClient(
            timeout=self._timeout_s, limits=limits, trust_env=False, verify=self._trusted or True
        )


class _Passing(Exception):
    """A failure that another attempt may not meet."""

    def __init__(self, error: EndpointError, pause_s: float | None = None):
        self.error, self.pause_s = error, pause_s
        super().__init__(str(error))


def token_from(variable: str) -> str | None:
    """A secret from the environment: recipes name the variable, so that no run folder ever holds the secret."""
    return os.environ.get(variable, "").strip() or None


def _checked(url: str) -> httpx.URL:
    import httpx

    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise RewardError(f"url {url!r} is not a URL: {error}; wanted http://HOST:PORT") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise RewardError(f"url {url!r}: wanted http://HOST:PORT or https://HOST")
    if parsed.userinfo:
        raise RewardError("the url holds a user name or password; put the token into an environment variable")
    if parsed.query or parsed.fragment:
        raise RewardError(f"url {url!r} has a query or fragment; wanted the plain address of the server")
    return parsed


def _trusted(ca_file: str | None) -> ssl.SSLContext | None:
    if ca_file is None:
        return None
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise RewardError(f"ca_file {ca_file}: no readable PEM certificate: {error}") from error


def _check_address(address: str, host: str, allow_private: bool) -> None:
    ip: Any = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    if ip.is_loopback:
        return
    if ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip.is_reserved or str(ip) == "fd00:ec2::254":
        raise EndpointError(FaultKind.CONTRACT, f"{host} is {ip}, which rewards never ask")
    if not ip.is_global and not allow_private:
        raise EndpointError(FaultKind.CONTRACT, f"{host} is the private address {ip}; set allow_private: true")


def _pause(attempt: int, body: bytes) -> float:
    """Doubling pauses, spread by the request's content so that many clients do not come back at the same moment."""
    spread = 0.5 + child(attempt, body) / 2**63
    return min(FIRST_PAUSE_S * 2**attempt * spread, LONGEST_PAUSE_S)


def _retry_after(header: str | None) -> float | None:
    try:
        return min(max(float(header or ""), 0.0), LONGEST_PAUSE_S)
    except ValueError:
        return None


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise EndpointError(FaultKind.CONTRACT, f"the answer is not JSON: {_told(content)}") from error


def _told(content: bytes) -> str:
    """The start of an error body on one line, nothing that a terminal would obey."""
    return printable(content[:200].decode("utf-8", "replace"))
