"""A stand-in for the Hugging Face hub on the loopback: the routes by which a folder is uploaded, kept in memory."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ruamel.yaml import YAML

TOKEN = "hf_oneForTheTests"


@dataclass
class Hub:
    """files: by repository and name. cuts: bytes that it loses of each file. seen: (method, path) of each request."""

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    cuts: int = 0
    seen: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""

    def answer(self, path: str, body: bytes) -> tuple[int, Any]:
        """Status and JSON of a request to a path."""
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.files.setdefault(name, {})
            self.private[name] = bool(asked.get("private") or asked.get("visibility") == "private")
            return 200, {"url": f"{self.url}/{name}"}
        if path == "/api/validate-yaml":
            front = re.match(r"---\n(.*?)---\n", json.loads(body)["content"], re.DOTALL)
            YAML(typ="safe").load(front[1] if front else "")
            return 200, {"errors": [], "warnings": []}
        found = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(/preupload/main|/commit/main|/revision/main)?", path)
        if found is None or found[1] not in self.files:
            return 404, {"error": "nothing there"}
        name, verb = found[1], found[2] or ""
        if verb == "/preupload/main":
            names = [file["path"] for file in json.loads(body)["files"]]
            return 200, {"files": [{"path": one, "uploadMode": "regular", "shouldIgnore": False} for one in names]}
        if verb == "/commit/main":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.files[name][line["value"]["path"]] = content[: len(content) - self.cuts]
            return 200, {"commitUrl": f"{self.url}/{name}/commit/1", "commitOid": "1" * 40}
        siblings = [{"rfilename": one, "size": len(content)} for one, content in self.files[name].items()]
        return 200, {"id": name, "_id": "1", "siblings": siblings, "sha": "0" * 40, "private": self.private[name]}


@contextmanager
def hub() -> Iterator[Hub]:
    """The hub while the block lasts; every request needs TOKEN."""
    held = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            path = self.path.partition("?")[0]
            held.seen.append((self.command, path))
            allowed = self.headers.get("authorization") == f"Bearer {TOKEN}"
            status, said = held.answer(path, body) if allowed else (401, {"error": "Invalid credentials"})
            data = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _reply

        def log_message(self, *arguments: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    held.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield held
    finally:
        server.shutdown()
        server.server_close()
