"""Several engines as one: the same samples on 1, 2 and 4, one that dies, weights that all of them take."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.engines.fleet import Fleet
from alignkit.engines.hf import HfEngine
from alignkit.engines.vllm.host import Host, devices_of
from alignkit.errors import EngineError, SyncError
from alignkit.models.save import describe
from alignkit.models.tokenizer import character_tokenizer
from alignkit.models.weights import named_policy_weights
from alignkit.types.rollout import Completion, Request
from alignkit.weights.sender import Sender
from alignkit.weights.shared_weights import Table, map_tensors
from tests.contracts.test_engines import CONTEXT, ask, tiny_llama

PROMPTS = [tuple(3 + (7 * group + place) % 50 for place in range(5 + group)) for group in range(6)]


class HfReplica(HfEngine):
    """An hf engine that takes its weights out of a sender's memory, and dies or lags when it is told to."""

    def __init__(self, name: str, sender: Sender):
        super().__init__(tiny_llama(0), dtype="float32")
        self.name, self.closed, self.sender = name, False, sender
        self.asked: list[Request] = []
        self.fault: Exception | None = None

    async def generate(self, requests: Sequence[Request]) -> list[Completion]:
        self.asked += requests
        if self.fault is not None:
            self.closed = True
            raise self.fault
        return await super().generate(requests)

    def take(self, message: dict[str, Any]) -> dict[str, Any]:
        if self.fault is not None:
            raise self.fault
        lying = map_tensors(self.sender.descriptor, Table.from_json(self.sender.told()["table"]))
        self.update(lying.items(), version=message["version"])
        return {"unknown": [f"{self.name}'s table"]}

    def close(self) -> None:
        self.closed = True
        super().close()


def fleet_of(count: int, folder: Path) -> tuple[Fleet, list[HfReplica]]:
    model = folder / f"model-{count}"
    describe(tiny_llama(0), character_tokenizer("01", context=CONTEXT), model)
    sender = Sender(model, "float32", weights=named_policy_weights(tiny_llama(0)), adapter={}, lends=False)
    replicas = [HfReplica(f"replica {number + 1}", sender) for number in range(count)]
    return Fleet(Host(replicas), sender), replicas


def groups_of(size: int, **changes: Any) -> list[Request]:
    return [
        ask(100 * group + member, prompt_ids=prompt, group=group, **changes)
        for group, prompt in enumerate(PROMPTS)
        for member in range(size)
    ]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_samples_are_those_of_one_engine_on_1_2_and_4_replicas(tmp_path: Path, temperature: float):
    """Tokens are equal. Log-probs are up to rounding, since other requests share the batch; repeated, to the bit."""
    requests = groups_of(4, temperature=temperature)
    alone = asyncio.run(HfEngine(tiny_llama(0), dtype="float32").generate(requests))
    for count in (1, 2, 4):
        fleet, _ = fleet_of(count, tmp_path)
        said = asyncio.run(fleet.generate(requests))
        assert [completion.token_ids for completion in said] == [completion.token_ids for completion in alone]
        for ours, theirs in zip(said, alone, strict=True):
            assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-5)
        assert asyncio.run(fleet.generate(requests)) == said
        if count == 1:
            assert said == alone
        fleet.close()


def test_a_group_is_sampled_by_one_replica_and_each_has_some(tmp_path: Path):
    fleet, replicas = fleet_of(2, tmp_path)
    asyncio.run(fleet.generate(groups_of(4)))
    seen = [{request.group for request in replica.asked} for replica in replicas]
    assert not seen[0] & seen[1]
    assert [len(replica.asked) for replica in replicas] == [12, 12]


def test_single_requests_of_a_group_stay_together(tmp_path: Path):
    fleet, replicas = fleet_of(2, tmp_path)

    async def all_at_once() -> list[Completion]:
        return await asyncio.gather(*map(fleet.sample, groups_of(3)))

    said = asyncio.run(all_at_once())
    seen = [{request.group for request in replica.asked} for replica in replicas]
    assert min(map(len, seen)) > 0
    assert not seen[0] & seen[1]
    together = asyncio.run(fleet.generate(groups_of(3)))
    assert [completion.token_ids for completion in said] == [completion.token_ids for completion in together]


def test_all_replicas_take_an_update_out_of_one_memory(tmp_path: Path):
    fleet, replicas = fleet_of(2, tmp_path)
    fleet.update(named_policy_weights(tiny_llama(1)), version=3)
    assert [replica.policy_version for replica in replicas] == [3, 3] == [fleet.policy_version] * 2
    assert fleet.unverified == ("replica 1's table", "replica 2's table")
    requests = groups_of(2)
    fresh = asyncio.run(HfEngine(tiny_llama(1), dtype="float32", version=3).generate(requests))
    said = asyncio.run(fleet.generate(requests))
    assert [(one.token_ids, one.versions) for one in said] == [(one.token_ids, ((0, 3),)) for one in fresh]


def test_each_of_four_replicas_scores_one_of_the_canarys_four_sequences(tmp_path: Path):
    fleet, replicas = fleet_of(4, tmp_path)
    sequences = [list(range(3, 20 + number)) for number in range(4)]
    right = asyncio.run(fleet.score(sequences))
    assert right == asyncio.run(HfEngine(tiny_llama(0), dtype="float32").score(sequences))
    with torch.no_grad():
        replicas[2]._model.model.norm.weight.mul_(2)  # ty: ignore[unresolved-attribute]
    wrong = asyncio.run(fleet.score(sequences))
    assert [ours == theirs for ours, theirs in zip(wrong, right, strict=True)] == [True, True, False, True]


def test_one_that_dies_is_named_and_ends_all(tmp_path: Path):
    fleet, replicas = fleet_of(2, tmp_path)
    replicas[1].fault = EngineError("vllm engine: its process was killed by SIGKILL")
    with pytest.raises(EngineError, match=r"^replica 2 of 2: vllm engine: its process was killed by SIGKILL$"):
        asyncio.run(fleet.generate(groups_of(2)))
    assert [replica.closed for replica in replicas] == [True, True]
    fleet.close()


def test_of_replicas_that_fail_because_one_did_the_first_is_named(tmp_path: Path):
    """The first has not answered yet when the second dies, and is closed with it."""
    fleet, replicas = fleet_of(2, tmp_path)
    replicas[1].fault = EngineError("its process was killed by SIGKILL")

    def take(message: dict[str, Any]) -> dict[str, Any]:
        while not replicas[0].closed:
            time.sleep(0.01)
        raise EngineError("it was closed while it worked")

    replicas[0].take = take
    with pytest.raises(EngineError, match=r"^replica 2 of 2: its process was killed by SIGKILL$"):
        fleet.update(named_policy_weights(tiny_llama(1)), version=1)


def test_one_whose_weights_are_stale_is_named(tmp_path: Path):
    fleet, replicas = fleet_of(2, tmp_path)
    replicas[0].fault = SyncError("vllm engine: after the update to version 1, 2 parameters still compute")
    with pytest.raises(SyncError, match=r"^replica 1 of 2: .* 2 parameters still compute"):
        fleet.update(named_policy_weights(tiny_llama(1)), version=1)
    assert all(replica.closed for replica in replicas)


def test_a_request_that_no_engine_takes_costs_no_replica(tmp_path: Path):
    fleet, replicas = fleet_of(2, tmp_path)
    with pytest.raises(EngineError, match=r"a prompt has 128 tokens, wanted 1 to 127"):
        asyncio.run(fleet.generate([*groups_of(1), replace(ask(), prompt_ids=(3,) * CONTEXT)]))
    assert not any(replica.closed for replica in replicas)
    assert len(asyncio.run(fleet.generate(groups_of(1)))) == 6


def test_devices_follow_one_another_and_begin_after_the_trainers_where_they_are_their_own():
    assert [devices_of(number, each=2, after=0) for number in range(2)] == [(0, 1), (2, 3)]
    assert [devices_of(number, each=1, after=4) for number in range(2)] == [(4,), (5,)]
