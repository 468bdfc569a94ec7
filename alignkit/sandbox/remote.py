"""A sandbox on another machine, over HTTP: `python -m alignkit.sandbox.server` there, a RemoteSandbox here."""

from __future__ import annotations

import base64
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import asdict, dataclass
from typing import Any

from alignkit.errors import SandboxError
from alignkit.sandbox.limits import Limits
from alignkit.sandbox.process import MOST_GRACE, START_DEADLINE_S, ScriptRun, Suite, Verdict

TOKEN_VARIABLE = "ALIGNKIT_SANDBOX_TOKEN"
LARGEST_REPLY = 16 << 20
ATTEMPTS = 3
FIRST_PAUSE_S = 0.2


@dataclass(frozen=True, slots=True)
class RemoteSandbox:
    """Sends programs to `url` (http or https, from the recipe) with a bearer token. Redirects are not followed.

    A server that does not answer is asked three times in all; then SandboxError, which says nothing about the program.
    """

    url: str
    token: str | None = None

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SandboxError(f"remote is {self.url!r}; wanted http://HOST:PORT or https://HOST")

    def run_script(self, source: str, stdin: str, limits: Limits) -> ScriptRun:
        said = self._post("/script", {"source": source, "stdin": stdin, "limits": asdict(limits)}, limits)
        texts = {name: base64.b64decode(said.pop(name)) for name in ("output", "errors")}
        return ScriptRun(**said, **texts)

    def run_tests(self, program: str, suite: Suite, limits: Limits) -> Verdict:
        job = {"program": program, "suite": asdict(suite), "limits": asdict(limits)}
        return Verdict(**self._post("/tests", job, limits))

    def _post(self, path: str, job: dict[str, Any], limits: Limits) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        url = self.url.rstrip("/") + path
        request = urllib.request.Request(url, data=json.dumps(job).encode(), headers=headers, method="POST")
        problem = ""
        for attempt in range(ATTEMPTS):
            time.sleep(FIRST_PAUSE_S * (2**attempt - 1))
            try:
                return _reply(request, (1 + MOST_GRACE) * limits.wall_s + START_DEADLINE_S)
            except urllib.error.HTTPError as error:
                problem = f"{error.code} {error.read(300).decode(errors='replace').strip()}"
                if error.code < 500:
                    break
            except (OSError, ValueError, TypeError) as error:
                problem = str(getattr(error, "reason", error))
        raise SandboxError(f"the sandbox at {self.url} did not do its work: {problem}")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        return None


def _reply(request: urllib.request.Request, timeout_s: float) -> dict[str, Any]:
    opener = urllib.request.build_opener(_NoRedirects, urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=timeout_s) as response:
        data = response.read(LARGEST_REPLY + 1)
    if len(data) > LARGEST_REPLY:
        raise ValueError(f"a reply of more than {LARGEST_REPLY} bytes")
    said = json.loads(data)
    if not isinstance(said, dict):
        raise ValueError("the reply is no JSON object")
    return said
