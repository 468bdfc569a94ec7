"""Real vLLM in a fleet: the same samples on 1, 2 and 4 replicas, one memory of weights, a death that is named."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from alignkit.engines.fleet import Fleet
from alignkit.engines.vllm.host import Host
from alignkit.errors import EngineError
from alignkit.models.weights import named_policy_weights
from alignkit.types.rollout import Request
from alignkit.weights.sender import Sender
from tests.contracts.test_engines import CLOSE, ask, start_vllm, tiny_llama

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (make setup)"),
]


@contextmanager
def fleet_of(count: int, place: Path) -> Iterator[tuple[Fleet, Host]]:
    folder = place / f"tiny-llama-{count}"
    tiny_llama(0).save_pretrained(folder)
    sender = Sender(folder, "float32", weights=named_policy_weights(tiny_llama(0)), adapter={}, lends=False)
    host = Host.start(
        count,
        lambda number: start_vllm(
            folder, place / f"log-{count}-{number}", sender=sender, wait=False, name=f"replica {number + 1}"
        ),
    )
    fleet = Fleet(host, sender)
    try:
        yield fleet, host
    finally:
        fleet.close()


def groups(temperature: float) -> list[Request]:
    return [
        ask(
            10 * group + member,
            prompt_ids=tuple(3 + (7 * group + index) % 50 for index in range(40)),
            temperature=temperature,
            max_new_tokens=40,
            group=group,
        )
        for group in range(8)
        for member in range(4)
    ]


def test_tokens_are_the_same_on_1_2_and_4_replicas_also_after_an_update_and_a_call_repeats_its_bits(tmp_path: Path):
    """Greedy and by seeds. Log-probs agree up to rounding, because other requests share the batch."""
    told = {}
    for count in (1, 2, 4):
        with fleet_of(count, tmp_path) as (fleet, _):
            for version, model in ((0, None), (1, tiny_llama(1))):
                if model is not None:
                    fleet.update(named_policy_weights(model), version=version)
                for temperature in (0.0, 1.0):
                    said = asyncio.run(fleet.generate(groups(temperature)))
                    assert {one.versions for one in said} == {((0, version),)}
                    assert asyncio.run(fleet.generate(groups(temperature))) == said
                    first = told.setdefault((version, temperature), said)
                    assert [one.token_ids for one in said] == [one.token_ids for one in first]
                    for ours, theirs in zip(said, first, strict=True):
                        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=CLOSE)
    assert told[0, 1.0] != told[1, 1.0]


def test_a_replica_that_is_killed_is_named_and_the_other_ends_with_it(tmp_path: Path):
    with fleet_of(2, tmp_path) as (fleet, host):
        first, second = host.present()
        threading.Timer(0.5, os.kill, (second.process_id, signal.SIGKILL)).start()  # ty: ignore[unresolved-attribute]
        begin = time.monotonic()
        with pytest.raises(EngineError, match=r"^replica 2 of 2: vllm engine: .*its process was killed by SIGKILL"):
            asyncio.run(fleet.generate([ask(seed, max_new_tokens=120, group=seed // 8) for seed in range(4000)]))
        assert time.monotonic() - begin < 60
        assert first.closed
        assert not Path(f"/proc/{first.process_id}").exists()  # ty: ignore[unresolved-attribute]
