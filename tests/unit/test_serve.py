"""A reward over HTTP: the token on every route, answers equal to those of the pool, bad requests, batching."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from alignkit.errors import RewardError
from alignkit.recipe.schema import RewardSpec
from alignkit.rewards.base import unscorable
from alignkit.rewards.pool.pool import RewardPool
from alignkit.rewards.pool.worker import decode, encode
from alignkit.rewards.serve.batcher import Batcher, BatchReward
from alignkit.rewards.serve.remote import RemoteReward
from alignkit.rewards.serve.wire import WireScore, group_to_wire, score_from_wire, score_to_wire
from alignkit.run.serve.serve import Address, Scoring, serve_reward
from alignkit.types.score import FaultKind, Score, StepScore
from alignkit.types.task import Task
from tests.unit.loopback import TOKEN, served
from tests.unit.reward_rollouts import question, rollouts

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")
from alignkit.rewards.serve.server import ServerLimits, build_app  # noqa: E402  # fastapi is optional

BEARER = {"Authorization": f"Bearer {TOKEN}"}
REWARDS = """
import os, time

def slow_or_dead(completion, task):
    if completion == "hang": time.sleep(60)
    if completion == "die": os._exit(3)
    if completion == "nan": return float("nan")
    return len(completion)

class Longest:
    name = "Longest"
    async def score(self, task, rollouts):
        from alignkit.types.score import Score
        longest = max(len(r.text) for r in rollouts)
        return [Score(value=float(len(r.text) == longest)) for r in rollouts]

class Batched:
    name = "Batched"
    per_rollout = True
    async def score(self, task, rollouts):
        return self.score_groups([(task, rollouts)])[0]
    def score_groups(self, groups):
        from alignkit.types.score import Score
        size = sum(len(rollouts) for _, rollouts in groups)
        return [[Score(value=float(len(r.text)), parts={"batch": float(size)}) for r in rs] for _, rs in groups]
"""


@pytest.fixture
def shelf(tmp_path):
    (tmp_path / "mine.py").write_text(REWARDS)
    return tmp_path


@pytest.fixture
def pool(shelf):
    spec = RewardSpec(name="./mine.py:slow_or_dead", deadline_s=0.5)
    with closing(RewardPool([spec], workers=2, beside=shelf)) as made:
        yield made


def ask(url, *texts, reference=None, path="/score", **options):
    body = {"groups": [{"prompt": "?", "completions": list(texts), "reference": reference}]}
    return httpx.post(url + path, json=body, headers=BEARER, timeout=30, **options)


def test_every_route_wants_the_token_known_or_not(pool):
    app = build_app(pool, reward="r", token=TOKEN)
    routes = [(method, route.path) for route in app.routes for method in route.methods]
    assert {path for _, path in routes} == {"/health", "/score", "/get_reward"}
    body = {"query": ["ab"], "prompts": ["a"], "groups": [{"prompt": "?", "completions": ["x"]}]}
    basic = base64.b64encode(f"any:{TOKEN}".encode()).decode()
    with served(app) as url, httpx.Client() as client:
        for method, path in [*routes, ("GET", "/"), ("POST", "/nothing"), ("GET", "/docs"), ("GET", "/openapi.json")]:
            for header in (
                "",
                "Bearer",
                "Bearer wrong",
                f"bearer {TOKEN}x",
                "Basic !!",
                "Basic YTpi",
                f"Token {TOKEN}",
            ):
                answer = client.request(
                    method, url + path, headers={"Authorization": header} if header else {}, json=body
                )
                assert (answer.status_code, answer.json()) == (401, {"error": "the token is missing or wrong"})
            for header in (f"Bearer {TOKEN}", f"Basic {basic}"):
                keys = ["query", "prompts"] if path == "/get_reward" else ["groups"]
                answer = client.request(
                    method, url + path, headers={"Authorization": header}, json={key: body[key] for key in keys}
                )
                assert answer.status_code == (200 if (method, path) in routes else 404)


def test_answers_are_those_of_the_pool_faults_included(pool):
    texts = ["a", "four", "", "hang", "nan", "die", "two words 😀"]
    task = Task(id="t", text="?")
    expected = asyncio.run(pool.score([(task, rollouts(task, *texts))]))[0]
    assert [score.fault and score.fault.kind for score in expected][3:6] == [
        FaultKind.TIMEOUT,
        FaultKind.NOT_A_NUMBER,
        FaultKind.CRASH,
    ]
    with served(build_app(pool, reward="r", token=TOKEN)) as url:
        [got] = ask(url, *texts).json()["scores"]
        health = httpx.get(url + "/health", headers=BEARER).json()
    assert got == [score_to_wire(score, "r") for score in expected]
    assert health == {
        "status": "ok",
        "reward": "r",
        "fingerprint": "",
        "per_rollout": True,
        "waiting": 0,
        "scored": 7,
        "unscorable": 3,
    }


def test_turns_carry_token_ids_and_stop_reasons():
    task = question(reference="1", extra=[1, 2])
    spec = RewardSpec(name="length_penalty", options={"max_tokens": 4, "buffer": 2})
    with closing(RewardPool([spec], workers=1)) as pool, served(build_app(pool, reward="r", token=TOKEN)) as url:
        body = {"groups": [group_to_wire(task, rollouts(task, "a long text of three tokens", tokens=3))]}
        assert httpx.post(url + "/score", json=body, headers=BEARER).json()["scores"][0][0]["value"] == -0.5


def test_openrlhf_clients_are_understood():
    """The body that its `remote_rm_fn` sends; the answer holds numbers or is an error, never a made-up number."""
    query = {"query": ["What? #### 4", "What? five"], "prompts": ["What? ", "What? "], "labels": ["4", "5"]}
    with closing(RewardPool([RewardSpec(name="gsm8k_answer")], workers=1)) as pool:
        app = build_app(pool, reward="gsm8k_answer", token=TOKEN)
        with served(app) as url:
            with_password = url.replace("://", f"://openrlhf:{TOKEN}@") + "/get_reward"
            answer = httpx.post(with_password, json=query)
            assert answer.json()["rewards"] == answer.json()["scores"] == [1.0, 0.0]
            no_gold = httpx.post(with_password, json={**query, "labels": ["4", None]})
            assert no_gold.status_code == 502
            assert "1 of 2 completions could not be scored" in no_gold.json()["error"]
            other = httpx.post(with_password, json={**query, "prompts": ["What? ", "Who?"]})
            assert (other.status_code, "query[1] does not begin" in other.json()["error"]) == (422, True)
            uneven = httpx.post(with_password, json={**query, "labels": ["4"]})
            assert (uneven.status_code, "2, 2 and 1 entries" in uneven.json()["error"]) == (422, True)


def test_malformed_requests_are_refused_in_one_line_and_the_server_goes_on(pool):
    random_ = random.Random(0)
    good = json.dumps({"groups": [{"prompt": "?", "completions": ["x"], "columns": {"a": [1, None]}}]})
    bodies = [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b'{"groups": []}',
        b"[" * 100_000,
        b'{"groups": [{"prompt": "\\ud800"}]}',
    ]
    for _ in range(300):
        characters = list(good)
        for _ in range(random_.randint(1, 6)):
            characters[random_.randrange(len(characters))] = random_.choice('{}[]",:0x\\\0é')
        bodies.append("".join(characters).encode())
    with served(build_app(pool, reward="r", token=TOKEN)) as url, httpx.Client(headers=BEARER, timeout=20) as client:
        for body in bodies:
            answer = client.post(url + "/score", content=body)
            assert answer.status_code in (200, 422), body
            if answer.status_code == 422:
                assert "\n" not in answer.json()["error"]
                assert len(answer.json()["error"]) < 400
        assert ask(url, "abc").json()["scores"][0][0]["value"] == 3


def test_a_large_a_slow_and_one_request_too_many_are_turned_away(pool):
    limits = ServerLimits(body_bytes=2000, body_s=1.5, queue=2)

    def slowly():
        yield b'{"groups": '
        time.sleep(3)
        yield b"[]}"

    with served(build_app(pool, reward="r", token=TOKEN, limits=limits)) as url:
        assert ask(url, "x" * 3000).status_code == 413
        assert httpx.post(url + "/score", content=slowly(), headers=BEARER).status_code == 408
        full = ask(url, "a", "b", "c")
        assert (full.status_code, full.headers["retry-after"]) == (503, "1")
        assert ask(url, "a", "b").status_code == 200


def test_a_failing_scorer_is_named_by_a_number_that_the_log_knows(caplog):
    class Broken:
        per_rollout = True

        async def score(self, groups):
            raise ZeroDivisionError("secret detail")

    with served(build_app(Broken(), reward="r", token=TOKEN)) as url:
        answer = ask(url, "a")
    assert answer.status_code == 500
    number = answer.json()["error"].split()[-1]
    assert "secret" not in answer.text
    assert any(number in record.message and "secret detail" in record.message for record in caplog.records)


class Counting:
    """A model in place of which lengths are scored; notes the size of each batch."""

    name, per_rollout = "Counting", True

    def __init__(self):
        self.batches = []

    async def score(self, task, rollouts):
        return self.score_groups([(task, rollouts)])[0]

    def score_groups(self, groups):
        texts = [[rollout.text for rollout in rollouts] for _, rollouts in groups]
        self.batches.append(sum(map(len, texts)))
        time.sleep(0.02)
        if any("poison" in text for group in texts for text in group):
            raise RuntimeError("boom")
        if any("short" in text for group in texts for text in group):
            return [[Score(value=1.0)]] * (len(groups) + 1)
        return [[Score(value=float(len(t)) if t != "nan" else float("nan")) for t in group] for group in texts]


def batched(calls, *, batch=64, wait_s=0.01):
    """Scores of each call's texts, asked at the same time, and the sizes of the batches they became."""
    reward = Counting()
    assert isinstance(reward, BatchReward)

    async def run():
        batcher = Batcher(reward, batch=batch, wait_s=wait_s)
        task = question()
        results = await asyncio.gather(*(batcher.score([(task, rollouts(task, *texts))]) for texts in calls))
        batcher.close()
        return results

    results = [scores[0] for scores in asyncio.run(run())]
    return [[score.value if score.value is not None else score.fault.kind for score in r] for r in results], reward


def test_requests_at_the_same_time_become_few_batches():
    values, reward = batched([["x" * number, "y"] for number in range(50)], batch=40)
    assert values == [[number, 1] for number in range(50)]
    assert reward.batches == [40, 40, 20]


def test_one_request_alone_waits_no_longer_than_the_limit_and_a_large_one_is_not_split():
    values, reward = batched([["a"] * 200], batch=64, wait_s=5)
    assert (len(values[0]), reward.batches) == (200, [200])


def test_poison_costs_only_its_own_request():
    values, _ = batched([["ab"], ["c", "poison"], ["nan"], ["d"]])
    assert values == [[2], [FaultKind.CRASH] * 2, [FaultKind.NOT_A_NUMBER], [1]]
    values, _ = batched([["ab"], ["short"]])
    assert values == [[2], [FaultKind.CONTRACT]]


def test_an_address_open_to_the_network_needs_a_certificate_and_a_token_is_long(monkeypatch, pool):
    def never(told):
        raise AssertionError

    with pytest.raises(RewardError, match="open to the network"):
        serve_reward("gsm8k_answer", {}, address=Address(host="0.0.0.0"), scoring=Scoring(), ready=never)
    with pytest.raises(RewardError, match="belong together"):
        serve_reward("gsm8k_answer", {}, address=Address(key=Path("k")), scoring=Scoring(), ready=never)
    monkeypatch.setenv("ALIGNKIT_TOKEN", "short")
    with pytest.raises(RewardError, match="5 characters"):
        serve_reward("gsm8k_answer", {}, address=Address(port=0), scoring=Scoring(workers=1), ready=never)


def test_a_score_that_json_cannot_hold_is_a_contract_fault():
    assert score_to_wire(Score(value=float("inf")), "r")["fault"]["kind"] == "contract"
    assert score_to_wire(Score(value=1.0, spread=(0.0, float("nan"))), "r")["value"] is None
    assert score_to_wire(Score(value=1.0, steps=(StepScore(-3, 0.5),)), "r")["fault"]["kind"] == "contract"
    kept = unscorable(FaultKind.GOLD, "g", "why")
    assert score_to_wire(kept, "r")["fault"] == {"kind": "gold", "where": "g", "message": "why"}


@pytest.mark.parametrize(
    "score",
    [
        Score(value=0.5, parts={"r": 0.5, "r.tone": None}, steps=(StepScore(3, 0.5), StepScore(7, -1.0, turn=2))),
        Score(value=0.5, steps=(), spread=(0.0, 1.0), members=(0.25, 0.75)),
        unscorable(FaultKind.PARSE, "r", "why"),
    ],
)
def test_a_score_travels_whole_over_the_wire_and_between_processes(score):
    over_http = json.loads(json.dumps(score_to_wire(score, "r")))
    assert score_from_wire(WireScore.model_validate(over_http)) == score
    assert decode(json.loads(json.dumps(encode(score, "r")))) == score


@pytest.mark.parametrize(
    ("name", "how", "value"),
    [("slow_or_dead", "in 1 processes", 3), ("Longest", "in 1 processes", 1), ("Batched", "in this process", 3)],
)
def test_the_command_serves_until_it_is_told_to_stop(shelf, name, how, value):
    environment = {**{k: v for k, v in os.environ.items() if k != "ALIGNKIT_TOKEN"}, "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "alignkit",
        "serve",
        f"./mine.py:{name}",
        "--port",
        "0",
        "--workers",
        "1",
        "--json",
    ]
    process = subprocess.Popen(command, cwd=shelf, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        told = json.loads(process.stdout.readline())
        assert how in told["scored"]
        assert len(told["token"]) >= 32
        body = {"groups": [{"prompt": "?", "completions": ["abc", "x"]}]}
        headers = {"Authorization": f"Bearer {told['token']}"}
        answer = httpx.post(told["url"] + "/score", json=body, headers=headers, timeout=20).json()
        assert answer["scores"][0][0]["value"] == value
        assert httpx.get(told["url"] + "/health").status_code == 401
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.stdout.close()


def test_a_server_with_its_own_certificate_is_reached_by_clients_that_trust_it(tmp_path, monkeypatch):
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    subprocess.run([*make.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    monkeypatch.setenv("ALIGNKIT_TOKEN", TOKEN)
    command = [sys.executable, "-m", "alignkit", "serve", "gsm8k_answer", "--port", "0", "--workers", "1", "--json"]
    process = subprocess.Popen(
        [*command, "--certificate", certificate, "--key", key], stdout=subprocess.PIPE, text=True
    )
    try:
        url = json.loads(process.stdout.readline())["url"].replace("127.0.0.1", "localhost")
        assert url.startswith("https://localhost:")
        task = question("4")
        trusting = RemoteReward(url, ca_file=str(certificate), deadline_s=10)
        assert [s.value for s in asyncio.run(trusting.score(task, rollouts(task, "#### 4")))] == [1]
        [score] = asyncio.run(RemoteReward(url, attempts=1).score(task, rollouts(task, "#### 4")))
        assert "certificate" in score.fault.message.lower()
        by_address = RemoteReward(url.replace("localhost", "127.0.0.1"), ca_file=str(certificate), attempts=1)
        [score] = asyncio.run(by_address.score(task, rollouts(task, "#### 4")))
        assert score.fault.kind is FaultKind.UNREACHABLE, "the certificate is for another name"
    finally:
        process.kill()
        process.wait(timeout=20)
        process.stdout.close()
    with pytest.raises(RewardError, match="no readable PEM"):
        RemoteReward(url, ca_file=str(tmp_path / "none.pem"))


def test_ipv6_loopback_works_end_to_end(pool):
    listening = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    with served(build_app(pool, reward="r", token=TOKEN), listening=listening) as url:
        reward = RemoteReward(url, token_env="NO_SUCH_VARIABLE")
        [score] = asyncio.run(reward.score(question(), rollouts(question(), "abc")))
        assert "token" in score.fault.message
