"""Replica servers on loopback, in threads: who is let in, what is pulled, what is never sampled from, who goes away."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
from alignkit.engines.fleet import Fleet
from alignkit.engines.hf import HfEngine
from alignkit.engines.servers.app import fleet_app
from alignkit.engines.servers.description import Description, files_of
from alignkit.engines.servers.registry import Changed, Registry
from alignkit.engines.servers.replica import ReplicaServer
from alignkit.engines.vllm.arguments import Settings
from alignkit.errors import EngineError, RecipeError, RewardError
from alignkit.models.save import describe
from alignkit.models.tokenizer import character_tokenizer
from alignkit.models.weights import named_policy_weights
from alignkit.recipe.read import read_recipe
from alignkit.rewards.serve.endpoint import Endpoint, EndpointError
from alignkit.rewards.serve.listener import Address, Listener
from alignkit.run.serve.replica import Machine, serve_replica
from alignkit.run.train.served_fleet import served_fleet
from alignkit.weights.sender import Sender
from tests.contracts.test_engines import CONTEXT, ask, tiny_llama
from tests.unit.loopback import TOKEN, served


class Servers:
    """A trainer's fleet, and replicas that may be started and ended one by one."""

    def __init__(self, folder: Path, resources: ExitStack):
        describe(tiny_llama(0), character_tokenizer("01", context=CONTEXT), folder / "model")
        self.sender = Sender(
            folder / "model", "float32", weights=named_policy_weights(tiny_llama(0)), adapter={}, lends=False
        )
        self.description = Description(
            engine="hf",
            dtype="float32",
            max_model_len=CONTEXT,
            seed=0,
            settings={},
            files=files_of(folder / "model"),
            table=self.sender.told()["table"],
        )
        self.registry = Registry(self.description, self.sender, version=0, token=TOKEN)
        self.fleet = Fleet(self.registry, self.sender, patience_s=60)
        self.resources = resources
        self.url = resources.enter_context(served(fleet_app(self.registry, TOKEN)))
        resources.callback(self.fleet.close)
        self.listeners: list[Listener] = []

    def start(self, count: int = 1, *, token: str = TOKEN) -> list[ReplicaServer]:
        before, begun = len(self.registry.present()), []
        for _ in range(count):
            trainer = Endpoint(self.url, token=token, timeout_s=60, attempts=2)
            begun.append(ReplicaServer(trainer, _started, patience_s=60))
            listener = Listener(Address(port=0))
            listener.bind()
            listener.start(begun[-1].app(TOKEN, listener.url, lambda _: None))
            self.resources.callback(listener.stop)
            self.listeners.append(listener)
        self.registry.wait_for(before + count, 60)
        return begun

    def update(self, seed: int, version: int) -> None:
        self.fleet.update(named_policy_weights(tiny_llama(seed)), version=version)


def _started(description: Description, weights: Any, version: int) -> HfEngine:
    assert description.engine == "hf"
    engine = HfEngine(tiny_llama(7), dtype="float32")
    engine.update(weights, version=version)
    return engine


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    with ExitStack() as resources:
        yield Servers(tmp_path, resources)


REQUESTS = [
    ask(10 * group + member, group=group, prompt_ids=(5 + group, 9, 17)) for group in range(4) for member in range(3)
]


def alone(seed: int, version: int = 0) -> list[Any]:
    return asyncio.run(HfEngine(tiny_llama(seed), dtype="float32", version=version).generate(REQUESTS))


def same(ours: list[Any], theirs: list[Any]) -> bool:
    return [(one.token_ids, one.versions) for one in ours] == [(one.token_ids, one.versions) for one in theirs]


def test_two_servers_sample_as_one_engine_does_before_and_after_an_update(servers: Servers):
    servers.start(2)
    assert same(asyncio.run(servers.fleet.generate(REQUESTS)), alone(0))
    servers.update(1, 1)
    said = asyncio.run(servers.fleet.generate(REQUESTS))
    assert same(said, alone(1, 1))
    for ours, theirs in zip(said, alone(1, 1), strict=True):
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-5)
    assert asyncio.run(servers.fleet.generate(REQUESTS)) == said
    assert asyncio.run(servers.fleet.sample(REQUESTS[4])).token_ids == said[4].token_ids
    sequences = [list(range(3, 20)), [5, 6, 7]]
    exact = asyncio.run(HfEngine(tiny_llama(1), dtype="float32").score(sequences))
    assert asyncio.run(servers.fleet.score(sequences)) == exact


def test_one_that_comes_late_pulls_the_weights_of_now_and_joins(servers: Servers):
    servers.start(1)
    servers.update(1, 1)
    servers.start(1)
    assert [replica.policy_version for replica in servers.registry.present()] == [1, 1]
    assert same(asyncio.run(servers.fleet.generate(REQUESTS)), alone(1, 1))


def test_what_one_that_goes_away_leaves_undone_another_samples(servers: Servers, caplog: pytest.LogCaptureFixture):
    servers.start(2)
    gone = min(servers.listeners, key=lambda one: one.url)
    name = f"replica {gone.url}"
    gone.stop()
    assert len(servers.registry.present()) == 2, "nobody has noticed"
    assert same(asyncio.run(servers.fleet.generate(REQUESTS)), alone(0))
    assert f"{name} is gone" in caplog.text
    assert "the run goes on with 1" in caplog.text
    servers.update(1, 1)
    assert same(asyncio.run(servers.fleet.generate(REQUESTS)), alone(1, 1))


def test_bytes_that_ranks_wrote_anew_while_they_were_read_are_not_handed_out(servers: Servers, monkeypatch: Any):
    """Ranks write before the fleet is told of the version, so that its number is the old one all the time."""
    read, memory = os.pread, servers.sender.memory
    assert len(servers.registry.read(0, 0, 64)) == 64

    def slow(*place: int) -> bytes:
        memory.begin(["base"])
        memory.done(["base"])
        return read(*place)

    monkeypatch.setattr(os, "pread", slow)
    with pytest.raises(Changed, match="version 0 does not lie ready"):
        servers.registry.read(0, 0, 64)


def test_what_ranks_have_written_is_of_no_version_until_the_fleet_is_told(servers: Servers):
    """Not even of the old one, whose number is the last that was published: who asks waits for the new one."""
    servers.sender.memory.begin(["base"])
    servers.sender.memory.done(["base"])
    assert servers.registry.version is None
    for version in (0, 1):
        with pytest.raises(Changed, match=f"version {version} does not lie ready; None does"):
            servers.registry.read(version, 0, 64)
    servers.fleet.load(version=1)
    assert servers.registry.version == 1
    assert len(servers.registry.read(1, 0, 64)) == 64


def test_one_whose_engine_has_died_while_it_took_weights_ends(servers: Servers, monkeypatch: Any):
    [replica] = servers.start(1)

    def broken(weights: Any, *, version: int) -> None:
        replica._engine.closed = True  # ty: ignore[unresolved-attribute]
        raise EngineError("its process was killed by SIGKILL")

    monkeypatch.setattr(replica._engine, "update", broken)
    servers.registry.publish(1)
    deadline = time.monotonic() + 60
    while replica._ended is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert replica._ended == "its process was killed by SIGKILL"


def test_with_none_left_the_error_comes_after_the_patience_and_says_the_cure(servers: Servers):
    servers.start(1)
    servers.listeners[0].stop()
    servers.fleet._patience_s = 0.5
    with pytest.raises(
        EngineError, match=r"none of 0 replicas held the weights of version 0 .*start `alignkit replica`"
    ):
        asyncio.run(servers.fleet.generate(REQUESTS))


def test_without_the_token_or_with_another_nobody_is_let_in(servers: Servers):
    for path in ("/engine", "/weights/0/digests", "/weights/0/0/64", "/nothing"):
        for token in (None, "another-token-of-them"):
            with pytest.raises(EndpointError, match="answered 401: the token is missing or wrong"):
                asyncio.run(Endpoint(servers.url, token=token).get(path, until=time.monotonic() + 60))
    with pytest.raises(EngineError, match="answered 401: the token is missing or wrong"):
        servers.start(token="another-token-of-them")
    servers.start()
    replica = servers.listeners[-1].url
    for path in ("/sample", "/score", "/update"):
        with pytest.raises(EndpointError, match="answered 401"):
            asyncio.run(Endpoint(replica, token="another-token-of-them").post(path, b"{}", until=time.monotonic() + 60))


def test_a_replica_or_a_run_without_a_token_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("ALIGNKIT_TOKEN", raising=False)
    with pytest.raises(RewardError, match="a replica needs the trainer's token: set ALIGNKIT_TOKEN"):
        serve_replica("http://127.0.0.1:9", address=Address(), ca_file=None, machine=Machine(), ready=lambda _: None)
    recipe = read_recipe("smoke/grpo", ["engine.placement=servers"])
    with pytest.raises(RecipeError, match=r"servers need a token of 16 characters or more: set ALIGNKIT_TOKEN"):
        served_fleet(recipe, tmp_path, None, max_model_len=8, settings=Settings())  # ty: ignore[invalid-argument-type]
    monkeypatch.setenv("ALIGNKIT_TOKEN", "a-token-for-the-tests")
    given = {"address": Address(host="10.0.0.1"), "ca_file": None, "machine": Machine(), "ready": lambda _: None}
    with pytest.raises(RewardError, match="open to the network, where the token would travel in the clear"):
        serve_replica("http://127.0.0.1:9", **given)


def test_weights_of_another_version_or_run_are_never_sampled_from(servers: Servers):
    servers.start()
    endpoint = Endpoint(servers.listeners[0].url, token=TOKEN)

    def post(**changes: Any) -> Any:
        body = {"run": servers.registry.run, "version": 0, "lockstep": True, "requests": []} | changes
        return asyncio.run(endpoint.post("/sample", json.dumps(body).encode(), until=time.monotonic() + 60))

    assert post() == {"completions": []}
    with pytest.raises(EndpointError, match=r"409: .*it holds version 0 of run"):
        post(version=1)
    with pytest.raises(EndpointError, match=r"409: .*it holds version 0 of run"):
        post(run="another")


def test_weights_are_not_told_while_they_change_nor_of_another_version(servers: Servers):
    trainer = Endpoint(servers.url, token=TOKEN)
    servers.registry.publish(None)
    for path in ("/weights/0/digests", "/weights/0/0/64", "/weights/1/0/64"):
        with pytest.raises(EndpointError, match=r"409: .*version \d does not lie ready; None does"):
            asyncio.run(trainer.get(path, until=time.monotonic() + 60))


def test_a_tensor_that_is_damaged_on_its_way_is_named_and_nothing_is_loaded(servers: Servers, monkeypatch: Any):
    read = servers.registry.read

    def damaged(version: int, begin: int, end: int) -> bytes:
        content = bytearray(read(version, begin, end))
        content[5] ^= 1
        return bytes(content)

    monkeypatch.setattr(servers.registry, "read", damaged)
    with pytest.raises(EngineError, match=r"lm_head\.weight|model\.\S+ of version 0 was damaged on its way"):
        servers.start()


def test_one_whose_weights_moved_on_while_it_pulled_begins_again(servers: Servers, monkeypatch: Any):
    read, moved = servers.registry.read, threading.Event()

    def moving(version: int, begin: int, end: int) -> bytes:
        if not moved.is_set():
            moved.set()
            servers.update(1, 1)
        return read(version, begin, end)

    monkeypatch.setattr(servers.registry, "read", moving)
    servers.start()
    assert same(asyncio.run(servers.fleet.generate(REQUESTS)), alone(1, 1))


def test_a_request_that_no_engine_takes_costs_no_server(servers: Servers):
    servers.start()
    with pytest.raises(EngineError, match=r"a prompt has 128 tokens, wanted 1 to 127"):
        asyncio.run(servers.fleet.generate([replace(ask(), prompt_ids=(3,) * CONTEXT)]))
    assert same(asyncio.run(servers.fleet.generate(REQUESTS)), alone(0))


def test_one_that_was_started_for_another_model_is_refused(servers: Servers):
    with pytest.raises(EngineError, match="trains another model, or with other settings: start the replica anew"):
        servers.registry.register("http://127.0.0.1:1", instance="a", fingerprint="other", run="", version=0)
    assert servers.registry.present() == []
