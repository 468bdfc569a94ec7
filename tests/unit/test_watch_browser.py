"""`alignkit watch` in a real browser: the page of a run that goes on loads nothing, and no text in it does anything."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from alignkit.run_folder.light import Light
from alignkit.run_folder.run_folder import RunFolder
from alignkit.run_folder.turn_value import TurnValue
from alignkit.types.rollout import EpisodeEnd, Rollout, StopReason, Turn
from alignkit.types.score import Score
from alignkit.types.task import Task

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = (
    "<script>document.title='taken'</script></textarea></pre></table><img src=http://127.0.0.1:9/x onerror=\"document."
    "title='taken'\"><iframe src=http://127.0.0.1:9/y></iframe><a href=javascript:1 autofocus onfocus=alert(1)>\x1b[31m"
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium"),
]


def turn(text: str, observation: str) -> Turn:
    return Turn(
        prompt_ids=(1,),
        completion_ids=(2,),
        sampler_logprobs=(-0.5,),
        stop=StopReason.END_OF_TEXT,
        text=text,
        reward=-0.125,
        observation=observation,
    )


def episode(member: int) -> Rollout:
    turns = (turn(HOSTILE, "warmer"), turn(f"guess {member}", HOSTILE))
    score = Score(value=member / 8, parts={"won": member / 8})
    task = Task(id="games/0", text="find the number")
    return Rollout(task=task, group=0, member=member, turns=turns, policy_version=0, score=score, end=EpisodeEnd.DONE)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "going-on")
    folder.recipe({"model": {"path": HOSTILE}, "stages": [{"train": {"steps": 9}}]})
    folder.started()
    for step in range(2):
        folder.metrics(step, {"reward/mean": 0.25 + step, "rollout/turns_mean": 2.0, "time/step_s": 1.0})
    folder.lights(1, [Light(name="entropy", level="warn", sentence="entropy fell to 0.2", advice="more heat")])
    values = {0: [TurnValue(q=1.125, v=0.375, advantage=0.75), TurnValue(q=-2.5, v=1.5, advantage=-4.0)]}
    folder.rollouts(1, [episode(member) for member in range(3)], turn_values=values)
    return folder


@contextlib.contextmanager
def watched(run: RunFolder, *, every_s: int) -> Iterator[str]:
    """The address of `alignkit watch`, in a process of its own."""
    command = [sys.executable, "-m", "alignkit", "watch", str(run.path), "--port", "0", "--every", str(every_s)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert server.stdout
        found = re.search(r"http://[^/]+/", server.stdout.readline())
        assert found
        yield found.group()
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=30)


class Browser:
    """Chromium without a window, spoken to over its pipe (DevTools protocol): file 3 is read by it, file 4 written."""

    def __init__(self, profile: Path):
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"]
        flags += ["--disable-background-networking", "--remote-debugging-pipe", f"--user-data-dir={profile}"]

        def hand_over() -> None:
            read, write = os.dup(to_browser), os.dup(from_browser)
            os.dup2(read, 3)
            os.dup2(write, 4)

        self.process = subprocess.Popen(
            [str(CHROMIUM), *flags, "about:blank"],
            preexec_fn=hand_over,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._number, self._left = 0, b""
        self.events: list[dict[str, Any]] = []
        target = next(one for one in self.call("Target.getTargets")["targetInfos"] if one["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self.call(f"{domain}.enable")

    session: str | None = None

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        os.write(
            self._write, json.dumps(message | ({"sessionId": self.session} if self.session else {})).encode() + b"\0"
        )
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            piece = os.read(self._read, 1 << 16)
            assert piece, "the browser has ended"
            self._left += piece
        line, _, self._left = self._left.partition(b"\0")
        return json.loads(line)

    def value(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def waits_for(self, holds: Callable[[str], bool], *, seconds: float = 60.0) -> str:
        """The page's text once it fulfils a condition."""
        end, text = time.monotonic() + seconds, ""
        while time.monotonic() < end:
            text = self.value("document.body ? document.body.innerText : ''") or ""
            if holds(text):
                return text
            time.sleep(0.2)
        raise AssertionError(f"after {seconds} s the page still says {text[:2000]!r}")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._write)
        os.close(self._read)


def test_a_browser_sees_the_run_grow_and_asks_nobody_else(run, tmp_path):
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with watched(run, every_s=1) as address, contextlib.closing(Browser(tmp_path / "profile")) as browser:
        browser.call("Page.navigate", url=address)
        text = browser.waits_for(lambda text: "2 of 9" in text)
        # curves, health, when it was written, completions with rewards
        assert "reward/mean: 0.25 → 1.25" in text
        assert "has not ended: still running, or killed" in text
        assert "entropy fell to 0.2" in text
        assert re.search(r"last step written\s+20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC", text)
        assert browser.value("document.querySelectorAll('svg polyline').length") >= 2
        assert "reward 0.25 · task games/0" in text
        # conversations with what critic and algorithm made of each turn
        rows = browser.value(
            "[...document.querySelectorAll('table.turns')].map(t => [...t.rows].map(r => [...r.cells].map("
            "c => c.innerText.trim())))"
        )
        [told] = [table for table in rows if table[0][:5] == ["turn", "reward", "Q", "V", "advantage"]]
        assert told[1][:5] == ["1", "-0.125", "1.125", "0.375", "0.750"]
        assert told[2][:5] == ["2", "-0.125", "-2.500", "1.500", "-4.000"]
        assert "warmer" in told[1][5]
        # a hostile completion is text
        assert HOSTILE.replace("\x1b", "\ufffd") in text
        assert browser.value("document.querySelectorAll('script, img, iframe, a, textarea').length") == 0
        assert browser.value("document.title").startswith("going-on")
        assert before == {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
        # it grows by itself
        run.metrics(2, {"reward/mean": 0.875, "rollout/turns_mean": 2.0, "time/step_s": 1.0})
        run.event("end", reason="stopped on request")
        text = browser.waits_for(lambda text: "3 of 9" in text)
        assert "0.250 → 0.875" in text
        assert "stopped on request" in text
    sent = [one["params"]["request"] for one in browser.events if one.get("method") == "Network.requestWillBeSent"]
    assert [request["url"] for request in sent].count(address) >= 2
    assert {request["url"] for request in sent} <= {address, f"{address}favicon.ico"}
    assert {request["method"] for request in sent} == {"GET"}
    assert not [event for event in browser.events if event.get("method") == "Page.javascriptDialogOpening"]
