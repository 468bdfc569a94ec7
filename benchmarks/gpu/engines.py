"""What vLLM on the trainer's card costs: memory that it gives back asleep, seconds of a weight sync."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alignkit.run.check.row import Row
from alignkit.run.check.timed import timed
from benchmarks.gpu.sizes import Sizes

SHARE, CONTEXT, NEW_TOKENS = 0.4, 512, 16


def sleep(sizes: Sizes, device: str) -> list[Row]:
    """vLLM sleeps and wakes as in a step: what it leaves of the card, how long it takes, what it samples then."""
    import torch

    from benchmarks.gpu.speed import _model

    model = _model(sizes, device)
    torch.cuda.empty_cache()
    before = _in_use()
    with _vllm(model, sizes, sleeps=True, lends=True) as engine:
        return slept(engine, model, lambda: _in_use() - before)


def slept(engine: Any, model: Any, held: Callable[[], int]) -> list[Row]:
    """held: bytes of the card that the engine has now. Wrong where it samples otherwise after it has slept; a note
    where it keeps more than `check --device` assumes."""
    from alignkit.models.weights import named_policy_weights
    from alignkit.parallel.memory.rollout_engine import ASLEEP

    engine.update(named_policy_weights(model), version=1)
    said, awake = _sampled(engine), held()
    with timed() as lying_down:
        engine.sleep()
    asleep = held()
    with timed() as waking:
        engine.wake("weights")
        engine.update(named_policy_weights(model), version=2)
        engine.wake("cache")
    again = held()
    return [
        Row(
            name="memory of a sleeping engine",
            value=f"{asleep / 1e9:.2f} GB of {awake / 1e9:.2f}, {ASLEEP / 1e9:.0f} assumed; {again / 1e9:.2f} awake",
            level="note" if asleep > ASLEEP else "ok",
            numbers={"awake": awake, "asleep": asleep, "again": again},
        ),
        Row(
            name="sleep, and wake with the weights pushed",
            value=f"{lying_down[0]:.2f} s and {waking[0]:.2f} s",
            numbers={"sleep_s": lying_down[0], "wake_s": waking[0]},
        ),
        Row(
            name="samples after sleep",
            value="the same tokens" if (same := _sampled(engine) == said) else "other tokens for the same seeds",
            level="ok" if same else "wrong",
        ),
    ]


def sync(sizes: Sizes, device: str) -> list[Row]:
    """Seconds of a push with proof, in turn through each way that there is: lent on a card, copied through the host."""
    from benchmarks.gpu.speed import _model

    model, rows = _model(sizes, device), []
    for lends in (True, False) if device == "cuda" else (False,):
        with _vllm(model, sizes, sleeps=False, lends=lends) as engine:
            rows.append(pushed(engine, model, sizes, "lent by CUDA IPC" if lends else "through the host"))
    return rows


def pushed(engine: Any, model: Any, sizes: Sizes, way: str) -> Row:
    """Weights that have moved are pushed a few times; the first, which maps and pins memory, is told apart."""
    import torch

    from alignkit.models.weights import named_policy_weights

    times: list[float] = []
    for version in range(1, 2 + sizes.updates):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.001)
        with timed() as one:
            engine.update(named_policy_weights(model), version=version)
        times += one
    size, later = sum(2 * p.numel() for p in model.parameters()), sorted(times[1:])[len(times[1:]) // 2]
    unproven, rate = len(engine.unverified), size / later / 1e9
    return Row(
        name=f"sync {way}",
        value=f"{later:.2f} s ({times[0]:.2f} the first), {rate:.2f} GB/s, {unproven} parameters not read back",
        level="note" if unproven else "ok",
        numbers={"seconds": later, "first": times[0], "bytes": size, "unverified": unproven},
    )


def _sampled(engine: Any) -> list[tuple[int, ...]]:
    from alignkit.types.rollout import Request

    requests = [Request(prompt_ids=(5, 6, 7, n), seed=n, max_new_tokens=NEW_TOKENS) for n in range(4)]
    return [completion.token_ids for completion in asyncio.run(engine.generate(requests))]


@contextmanager
def _vllm(model: Any, sizes: Sizes, *, sleeps: bool, lends: bool) -> Generator[Any]:
    """vLLM in bfloat16 on the model; closed at the end."""
    from alignkit.engines.vllm.arguments import Settings
    from alignkit.engines.vllm.engine import VllmEngine

    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder, "model")
        model.save_pretrained(saved)
        settings = Settings(memory_fraction=SHARE, sleeps=sleeps, lends=lends)
        engine = VllmEngine(
            saved,
            dtype="bfloat16",
            max_model_len=CONTEXT,
            log_file=Path(folder, "log"),
            memory_gib=1,
            settings=settings,
        )
        try:
            yield engine
        finally:
            engine.close()


def _in_use() -> int:
    """Bytes of the first card that anybody has."""
    import torch

    free, whole = torch.cuda.mem_get_info(0)
    return whole - free
