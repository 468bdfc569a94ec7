"""The client of a served reward against real servers on loopback that are slow, failing, gone, or lie."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from random import Random

import pytest

from alignkit.recipe.schema import RewardSpec
from alignkit.rewards.pool.lift import find_reward
from alignkit.rewards.pool.pool import RewardPool
from alignkit.rewards.serve import endpoint
from alignkit.rewards.serve.endpoint import Endpoint
from alignkit.rewards.serve.remote import RemoteReward
from alignkit.types.score import FaultKind
from tests.unit.loopback import TOKEN, served
from tests.unit.reward_rollouts import question, rollouts
from tests.unit.reward_servers import kinds, lengths, raw_server, scores, server, values

pytestmark = pytest.mark.usefixtures("reward_client")


def test_each_different_completion_is_asked_once_and_answers_come_back_in_order():
    app = server()
    with served(app) as url:
        reward = RemoteReward(url)
        assert values(scores(url, ["aaa", "b", "aaa", "", "b"], reward=reward)) == [3, 1, 3, 0, 1]
        assert values(scores(url, ["b", "cc"], reward=reward)) == [1, 2]
    asked = [[turns[0]["text"] for turns in body["groups"][0]["completions"]] for body in app.asked("/score")]
    assert asked == [["aaa", "b", ""], ["cc"]]
    assert len(app.asked("/health")) == 1
    assert {headers["authorization"] for _, _, headers in app.requests} == {f"Bearer {TOKEN}"}


def test_a_reward_that_compares_completions_gets_the_whole_group_again_when_one_changes():
    app = server(per_rollout=False)
    with served(app) as url:
        reward = RemoteReward(url, chunk=2)
        assert values(scores(url, ["aaa", "b", "aaa"], reward=reward)) == [3, 1, 3]
        assert values(scores(url, ["aaa", "b", "aaa"], reward=reward)) == [3, 1, 3]
        assert values(scores(url, ["aaa", "b", "c"], reward=reward)) == [3, 1, 1]
    assert [len(body["groups"][0]["completions"]) for body in app.asked("/score")] == [3, 3]


def test_everything_but_the_completion_is_part_of_the_question():
    app = server()
    with served(app) as url:
        reward = RemoteReward(url)
        for task in (question("1"), question("2"), question("1", extra=3), question("1")):
            asyncio.run(reward.score(task, rollouts(task, "a")))
        task = question("1")
        asyncio.run(reward.score(task, rollouts(task, "a", tokens=9)))
    assert len(app.asked("/score")) == 4


def test_a_server_that_fails_30_percent_of_the_calls_costs_nothing_but_time():
    seen = Counter()

    def flaky(body, number):
        first = len(body["groups"][0]["completions"][0][-1]["text"])
        seen[first] += 1
        if Random(1001 * first + seen[first]).random() < 0.3:
            return 500, {"error": "try again"}
        return 200, lengths(body)

    app = server(flaky)
    texts = ["x" * number for number in range(200)]
    with served(app) as url:
        assert values(scores(url, texts, chunk=4, deadline_s=60)) == list(map(float, range(200)))
    assert len(app.asked("/score")) > 60


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (lambda body, number: (500, {"error": "down"}), FaultKind.UNREACHABLE, "answered 500"),
        (lambda body, number: (401, {}), FaultKind.UNREACHABLE, "the token is missing or wrong"),
        (lambda body, number: (422, {"error": "no"}), FaultKind.CONTRACT, "answered 422"),
        (lambda body, number: (302, {}, {"location": "/health"}), FaultKind.CONTRACT, "answered 302"),
        (lambda body, number: (200, b"<html>"), FaultKind.CONTRACT, "not JSON"),
        (lambda body, number: (200, b"[" * 100_000), FaultKind.CONTRACT, "not JSON"),
        (
            lambda body, number: (200, {"reward": "r", "fingerprint": "f", "scores": [[{"value": 1}]]}),
            FaultKind.CONTRACT,
            "1 scores for 3",
        ),
        (
            lambda body, number: (200, {"reward": "r", "fingerprint": "f", "scores": []}),
            FaultKind.CONTRACT,
            "0 scores for 3",
        ),
        (
            lambda body, number: (200, b'{"reward": "r", "fingerprint": "f", "scores": [[{"value": NaN}]]}'),
            FaultKind.CONTRACT,
            "finite",
        ),
        (
            lambda body, number: (200, {"fingerprint": "f", "scores": [[{"value": "1"}]]}),
            FaultKind.CONTRACT,
            "reward: Field required",
        ),
        (
            lambda body, number: (200, {"reward": "r", "fingerprint": "f", "scores": [[{"value": None}] * 3]}),
            FaultKind.CONTRACT,
            "needs a Fault",
        ),
    ],
)
def test_a_bad_answer_is_a_named_fault_and_no_score(answer, kind, said):
    with served(server(answer)) as url:
        found = scores(url, ["a", "b", "c"], attempts=2)
    assert kinds(found) == {kind}
    assert all(said in score.fault.message for score in found)
    assert all(TOKEN not in score.fault.message for score in found)


def test_an_answer_larger_than_the_limit_is_not_read_to_its_end(monkeypatch):
    monkeypatch.setattr(endpoint, "LARGEST_ANSWER", 1000)
    with served(server(lambda body, number: (200, b"x" * 100_000))) as url:
        found = scores(url, ["a"])
    assert "larger than 1000 bytes" in found[0].fault.message


def test_refusals_are_not_repeated_and_passing_failures_are():
    for status, expected in ((401, 1), (422, 1), (500, 3), (429, 3)):
        app = server(lambda body, number, status=status: (status, {}))
        with served(app) as url:
            scores(url, ["a"], attempts=3)
        assert len(app.asked("/score")) == expected, status


def test_retry_after_is_obeyed():
    app = server(lambda body, number: (503, {}, {"retry-after": "0.4"}) if number == 1 else (200, lengths(body)))
    with served(app) as url:
        start = time.monotonic()
        assert values(scores(url, ["abc"])) == [3]
    assert time.monotonic() - start >= 0.4


async def _sleep_forever():
    await asyncio.sleep(30)
    return 200, {}


def test_a_slow_server_costs_no_more_than_the_deadline():
    with served(server(lambda body, number: _sleep_forever())) as url:
        found = scores(url, ["a", "b"], deadline_s=0.2, timeout_s=0.15)  # that it returns at all is the proof
    assert kinds(found) == {FaultKind.TIMEOUT}


def test_dropped_connections_are_tried_again_and_then_named():
    with raw_server(lambda connection, number: connection.recv(10)) as url:
        found = scores(url, ["a"], attempts=3)
    assert kinds(found) == {FaultKind.UNREACHABLE}

    def once_dropped(connection, number):
        head = connection.recv(65536)
        if number == 0:
            return
        answer = json.dumps({"reward": "r", "fingerprint": "f", "per_rollout": True} if b"/health" in head else SCORE)
        connection.sendall(
            f"HTTP/1.1 200 OK\r\ncontent-length: {len(answer)}\r\nconnection: close\r\n\r\n{answer}".encode()
        )

    SCORE = {"reward": "r", "fingerprint": "f", "scores": [[{"value": 7}]]}
    with raw_server(once_dropped) as url:
        assert values(scores(url, ["a"])) == [7]


def test_a_body_that_drips_for_ever_ends_at_the_deadline():
    def drip(connection, number):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        while True:
            connection.sendall(b" ")
            time.sleep(0.02)

    with raw_server(drip) as url:
        found = scores(url, ["a"], deadline_s=0.4, timeout_s=0.3)
    assert kinds(found) == {FaultKind.TIMEOUT}


def test_nobody_there_is_a_fault():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    assert kinds(scores(url, ["a"])) == {FaultKind.UNREACHABLE}


def test_the_breaker_stops_asking_and_lets_one_trial_through(monkeypatch):
    def time_is_up():
        reward._endpoint._breaker.retry_at = time.monotonic()

    monkeypatch.setattr(endpoint, "OPEN_S", 60.0)
    up = threading.Event()
    app = server(lambda body, number: (200, lengths(body)) if up.is_set() else (500, {}))
    with served(app) as url:
        reward = RemoteReward(url, concurrency=1, attempts=3)
        for number in range(20):
            found = scores(url, [f"{number}"], reward=reward)
            assert kinds(found) == {FaultKind.UNREACHABLE}
        assert len(app.asked("/score")) == endpoint.FAILURES_TO_OPEN
        assert "after 8 failures in a row (answered 500" in found[0].fault.message
        time_is_up()
        scores(url, ["trial"], reward=reward)
        assert len(app.asked("/score")) == endpoint.FAILURES_TO_OPEN + 1
        up.set()
        time_is_up()
        assert values(scores(url, ["abcd", "e"], reward=reward)) == [4, 1]


def test_no_more_requests_are_in_flight_than_allowed():
    async def slowly(body):
        await asyncio.sleep(0.02)
        return 200, lengths(body)

    app = server(lambda body, number: slowly(body))
    with served(app) as url:
        texts = ["x" * number for number in range(40)]
        assert values(scores(url, texts, chunk=1, concurrency=3)) == list(map(float, range(40)))
    assert app.most_in_flight == 3


def test_a_recipe_names_it_like_any_other_reward():
    app = server()
    with served(app) as url:
        assert find_reward("remote", {"url": url}).name == "remote"
        spec = RewardSpec(name="remote", options={"url": url, "deadline_s": 2})
        task = question()
        with closing(RewardPool([spec], workers=2)) as pool:
            [group] = asyncio.run(pool.score([(task, rollouts(task, "abc", "", "abc"))]))
    assert values(group) == [3, 0, 3]
    assert group[0].parts == {"remote": 3}


def test_the_whole_path_gives_the_numbers_of_the_reward_itself():
    pytest.importorskip("fastapi")
    from alignkit.rewards.serve.server import build_app

    task = question(reference="72")
    texts = ["#### 72", "#### 71", "no", "so #### 72.0"]
    with closing(RewardPool([RewardSpec(name="gsm8k_answer")], workers=1)) as pool:
        [local] = asyncio.run(pool.score([(task, rollouts(task, *texts))]))
        with served(build_app(pool, reward="gsm8k_answer", token=TOKEN)) as url:
            assert scores(url, []) == []
            remote = asyncio.run(RemoteReward(url).score(task, rollouts(task, *texts)))
            wrong = asyncio.run(RemoteReward(url, token_env="NO_SUCH_VARIABLE").score(task, rollouts(task, "a")))
    assert [(score.value, score.fault) for score in remote] == [(score.value, score.fault) for score in local]
    assert "token" in wrong[0].fault.message


def test_an_endpoint_survives_a_change_of_event_loop():
    with served(server()) as url:
        one = Endpoint(url, token=TOKEN)
        for _ in range(2):
            assert asyncio.run(one.get("/health", until=time.monotonic() + 5))["per_rollout"] is True


def test_a_trial_that_is_cancelled_does_not_keep_the_breaker_open_for_ever(monkeypatch):
    monkeypatch.setattr(endpoint, "OPEN_S", 0.0)
    slow = threading.Event()
    app = server(lambda body, number: _sleep_forever() if slow.is_set() else (500, {}))
    with served(app) as url:
        reward = RemoteReward(url, attempts=endpoint.FAILURES_TO_OPEN, deadline_s=60)
        scores(url, ["a"], reward=reward)
        slow.set()

        async def cancelled():
            with suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await reward.score(question(), rollouts(question(), "b"))

        asyncio.run(cancelled())
        assert reward._endpoint._breaker.failures == endpoint.FAILURES_TO_OPEN
        assert reward._endpoint._breaker.trial is False


def test_what_a_server_says_cannot_reach_the_terminal_or_the_metric_names():
    fault = {"kind": "crash", "where": "a\x1b[2J", "message": "\x1b]0;title\x07\n" + "x" * 5000}
    answers = iter([{"value": None, "fault": fault}, *({"value": 1, "parts": {name: 1}} for name in ("a/b", "\n", ""))])
    app = server(lambda body, number: (200, {"reward": "r", "fingerprint": "f", "scores": [[next(answers)]]}))
    with served(app) as url:
        reward = RemoteReward(url)
        [score] = scores(url, ["a"], reward=reward)
        assert score.fault.kind is FaultKind.CRASH
        assert (score.fault.message + score.fault.where).isprintable()
        assert len(score.fault.message) <= 300
        for text in "bcd":
            assert kinds(scores(url, [text], reward=reward)) == {FaultKind.CONTRACT}
