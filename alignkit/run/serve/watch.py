"""The report of a run that goes on, made anew as its records grow: one page on loopback that is read and no more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from alignkit.errors import ContentError
from alignkit.report.html import render
from alignkit.report.run_data import read_run
from alignkit.rewards.serve.listener import Address, Listener
from alignkit.run_folder.run_folder import RECIPE

RECORDS = ("metrics.jsonl", "events.jsonl", RECIPE, "evaluations", "rollouts")
LOOPBACK = ["127.0.0.1", "localhost", "[::1]"]


def watch_run(run: Path, *, port: int, every_s: int, ready: Callable[[str], None]) -> None:
    """Serves the page until SIGINT or SIGTERM; browsers ask for it again every `every_s` seconds. ready: told the url.

    Raises ContentError where there is no run, RewardError for a port that is taken.
    """
    if not any((run / name).exists() for name in RECORDS):
        raise ContentError(f"{run} is no run folder: it holds none of {', '.join(RECORDS)}")
    listener = Listener(Address(port=port))
    listener.bind()
    ready(listener.url)
    listener.run(watch_app(run, every_s=every_s))


def watch_app(run: Path, *, every_s: int) -> Any:
    """An application with the page as its only route. A page of another site cannot read it under a name of its own."""
    from fastapi import FastAPI
    from fastapi.responses import HTMLResponse
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK, www_redirect=False)
    page = Page(run)

    @app.get("/", response_class=HTMLResponse)
    def read() -> Any:
        return HTMLResponse(
            page.text(), headers={"Refresh": str(every_s), "Cache-Control": "no-store", "X-Frame-Options": "DENY"}
        )

    return app


class Page:
    """The report, rendered when something was written since."""

    def __init__(self, run: Path):
        self._run, self._seen, self._text = run, (), ""

    def text(self) -> str:
        seen = tuple(_changed(self._run / name) for name in RECORDS)
        if seen != self._seen:
            self._text, self._seen = render(read_run(self._run)), seen
        return self._text


def _changed(path: Path) -> tuple[int, int]:
    """When it was written last, and its size; of a file that is not there yet (0, 0)."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return 0, 0
    return stat.st_mtime_ns, stat.st_size
