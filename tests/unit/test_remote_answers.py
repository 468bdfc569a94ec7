"""Whom the client of a served reward asks, and which of its answers it keeps, in memory and in a folder."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from alignkit.errors import RewardError
from alignkit.rewards.serve.cache import AnswerCache
from alignkit.rewards.serve.remote import RemoteReward
from alignkit.types.score import FaultKind
from tests.unit.loopback import Scripted, served
from tests.unit.reward_servers import kinds, lengths, scores, server, values

pytestmark = pytest.mark.usefixtures("reward_client")


def test_faults_that_pass_are_not_remembered_and_lasting_ones_are():
    fault = {"kind": "timeout", "where": "r"}
    app = server(
        lambda body, number: (200, {"reward": "r", "fingerprint": "f", "scores": [[{"value": None, "fault": fault}]]})
    )
    with served(app) as url:
        reward = RemoteReward(url)
        for kind, expected in (("timeout", 2), ("gold", 3)):
            fault["kind"] = kind
            for _ in range(2):
                assert kinds(scores(url, ["a"], reward=reward)) == {FaultKind(kind)}
            assert len(app.asked("/score")) == expected


def test_a_cache_folder_answers_the_next_run_and_a_damaged_file_is_asked_again(tmp_path):
    app = server()
    with served(app) as url:
        for _ in range(2):
            assert values(scores(url, ["a", "bb"], cache_folder=str(tmp_path / "c"))) == [1, 2]
        assert len(app.asked("/score")) == 1
        for count, damage in enumerate(
            (b"{torn", b"7", b'["x"]', b'[{"value": NaN}]', b"[]", b'[{"value": null}]'), start=2
        ):
            next((tmp_path / "c").iterdir()).write_bytes(damage)
            assert values(scores(url, ["a", "bb"], cache_folder=str(tmp_path / "c"))) == [1, 2]
            assert len(app.asked("/score")) == count


def test_an_answer_that_cannot_be_kept_is_an_answer_all_the_same(tmp_path):
    (tmp_path / "file").write_text("no folder")
    cache = AnswerCache(2, tmp_path / "file" / "cache")
    with pytest.warns(UserWarning, match="could not be written .*a file stands where a folder is wanted"):
        cache.put("a", [1])
    cache.put("b", [2])  # said once
    assert [cache.get(key) for key in "ab"] == [[1], [2]]


def test_workers_may_keep_the_same_answers_at_once(tmp_path):
    code = (
        "import sys, warnings; warnings.simplefilter('error'); from alignkit.rewards.serve.cache import AnswerCache\n"
        "for number in range(400): AnswerCache(1, sys.argv[1]).put(str(number % 3), [number % 3])"
    )
    started = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "c")]) for _ in range(3)]
    assert [process.wait(timeout=120) for process in started] == [0, 0, 0]
    assert [AnswerCache(1, tmp_path / "c").get(str(number)) for number in range(3)] == [[0], [1], [2]]
    assert list((tmp_path / "c").glob("*.tmp")) == []


def test_the_cache_forgets_the_longest_unused():
    cache = AnswerCache(2)
    for key in ("a", "b"):
        cache.put(key, [key])
    cache.get("a")
    cache.put("c", ["c"])
    assert [cache.get(key) for key in "abc"] == [["a"], None, ["c"]]


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://host",
        "unix:/tmp/s",
        "host:80",
        "",
        "http://",
        "http://user:pass@127.0.0.1",
        "http://127.0.0.1/?q=1",
        "http://127.0.0.1/#f",
        "http://[::1",
    ],
)
def test_only_plain_http_addresses_are_taken(url):
    with pytest.raises(RewardError, match="url"):
        RemoteReward(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://169.254.169.254", "never ask"),
        ("http://[fe80::1]", "never ask"),
        ("http://[::ffff:169.254.169.254]", "never ask"),
        ("http://0.0.0.0", "never ask"),
        ("http://2852039166", "never ask"),  # 169.254.169.254 as one number
        ("http://0xA9FEA9FE", "never ask"),
        ("http://224.0.0.1", "never ask"),
        ("http://10.0.0.1", "allow_private"),
        ("http://192.168.1.1:8000", "allow_private"),
        ("http://[fd00::1]", "allow_private"),
        ("http://100.64.0.1", "allow_private"),
    ],
)
def test_metadata_and_private_addresses_are_not_asked(url, said, monkeypatch):
    async def never(*_, **__):
        raise AssertionError("asked")

    monkeypatch.setattr("httpx.AsyncClient.send", never)
    found = scores(url, ["a"])
    assert kinds(found) == {FaultKind.CONTRACT}
    assert said in found[0].fault.message


def test_a_name_is_looked_up_once_so_that_it_cannot_change_after_the_check(monkeypatch):
    """DNS rebinding: the second look-up would give the metadata address."""
    app = server()
    with served(app) as url:
        port = int(url.rpartition(":")[2])
        answers = iter(["127.0.0.1", "169.254.169.254"])

        async def lookup(self, host, port, **_):
            assert host == "rewards.example"
            return [(None, None, None, "", (next(answers), port))]

        reward = RemoteReward(f"http://rewards.example:{port}")
        monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", lookup)
        assert values(scores(url, ["abc"], reward=reward)) == [3]
        monkeypatch.undo()
    assert app.requests[0][2]["host"] == f"rewards.example:{port}"


def test_scores_of_a_server_that_now_serves_another_reward_are_not_taken_for_the_old_one():
    now = ["f"]
    app = Scripted(
        lambda path, body, number: (
            (200, {"reward": "lengths", "fingerprint": now[0], "per_rollout": True})
            if path == "/health"
            else (200, {**lengths(body), "fingerprint": now[0]})
        )
    )
    with served(app) as url:
        reward = RemoteReward(url)
        assert values(scores(url, ["a"], reward=reward)) == [1]
        now[0] = "other"
        found = scores(url, ["a", "bb"], reward=reward)
        assert (values(found), "was changed" in found[1].fault.message) == ([1, None], True)
        assert values(scores(url, ["a", "bb"], reward=reward)) == [1, 2]
    assert [len(body["groups"][0]["completions"]) for body in app.asked("/score")] == [1, 1, 2]
