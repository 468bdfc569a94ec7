"""The model of an evaluation behind a rollout engine, with its tokenizer and the hash that names its results."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

from alignkit.data.opened import opened
from alignkit.data.prompts import render
from alignkit.data.tokens import said_text
from alignkit.engines.vllm.arguments import Settings
from alignkit.errors import AlignkitError, ContentError
from alignkit.evaluate.benchmark.answers import Model
from alignkit.evaluate.benchmark.grade import scorer_hash
from alignkit.evaluate.benchmark.protocol import MetricSpec
from alignkit.evaluate.benchmark.runner import BenchmarkJob
from alignkit.models.device_type import default_device
from alignkit.models.load import load_policy, model_folder
from alignkit.models.save import STEERING
from alignkit.models.tokenizer import recognise, stop_tokens
from alignkit.recipe.lookup.find import find
from alignkit.recipe.schema import Data, RewardSpec
from alignkit.recipe.schema import Model as ModelSection
from alignkit.types.rollout import Completion, Request
from alignkit.types.scratch import scratch
from alignkit.types.task import Task

TOKEN_VARIABLE = "ALIGNKIT_TOKEN"  # the key of an external server, as for rewards
HASHED = ("*.safetensors", "*.json", "*.jinja", "*.model", "tokenizer*", f"{STEERING}/*.[sj]*")
REWARD_DEADLINE_S = 30.0  # a reward model on a CPU may take seconds for its first pair
MEMORY_FRACTION = 0.9  # of a GPU: nothing trains beside it
CHOICE_TOKENS = 256  # room for the longest choice of a multiple-choice question


@contextlib.contextmanager
def open_model(
    name: str, jobs: Sequence[BenchmarkJob], *, engine: str, seed: int, memory_fraction: float = MEMORY_FRACTION
) -> Generator[Model]:
    """A model whose engine has room for the longest prompt and completion of `jobs`; it ends with the context.

    name: a folder, a hub id, or smollm2-135m-instruct. engine: vllm, hf, or the address of a vLLM server that serves
    this model. memory_fraction: vLLM's share of a GPU. Raises ContentError when it cannot be loaded, or lacks a chat
    template that a job needs; EngineError when the engine does not start.
    """
    folder = model_folder(name)
    tokenizer, config, stops = load_parts(folder, name)
    chats = [job.named.name for job in jobs if job.named.protocol.prompt and job.named.protocol.prompt.chat]
    if chats and not tokenizer.chat_template:
        raise ContentError(
            f"{name} has no chat template, which {', '.join(chats[:3])} need; choose protocols with `chat: false` "
            "(`alignkit ls evals`), or add a template to its tokenizer"
        )

    def encode(task: Task) -> tuple[int, ...]:
        return tuple(render(tokenizer, task, Data(source=task.id)))

    longest = min(config.max_position_embeddings, max(_longest(job, encode) for job in jobs))
    with contextlib.ExitStack() as resources:
        started, kind, context = start_engine(engine, folder, longest, seed, resources, memory_fraction=memory_fraction)
        yield Model(
            name=name,
            hash=folder_hash(folder),
            engine=started,
            kind=kind,
            context=min(longest, context),
            stop_token_ids=stops,
            encode=encode,
            decode=lambda ids: said_text(tokenizer, ids, stops),
            opened=lambda task: opened(tokenizer, task, Data(source=task.id)),
        )


def reward_to_measure(name: str, jobs: Sequence[BenchmarkJob]) -> RewardSpec | None:
    """The reward called `name` when the jobs are pairs, which measure rewards; None when they measure a model.

    Raises AlignkitError when there are both kinds, ContentError when there is no such reward.
    """
    pairs = [job.named.name for job in jobs if job.named.protocol.measure == "pairs"]
    if not pairs:
        return None
    if len(pairs) < len(jobs):
        other = next(job.named.name for job in jobs if job.named.name not in pairs)
        raise AlignkitError(f"{pairs[0]} measures a reward and {other} a model: evaluate them one after the other")
    find("rewards", name)
    return RewardSpec(name=name, deadline_s=REWARD_DEADLINE_S)


def named_reward(reward: RewardSpec) -> Model:
    """A reward in the place of a model: its name and hash; it answers nothing."""
    digest = scorer_hash(MetricSpec(reward=reward.name))

    def nothing(*_: Any) -> Any:
        raise AlignkitError(f"{reward.name} is a reward and answers nothing")

    return Model(
        name=reward.name,
        hash=digest,
        engine=None,
        kind="reward",
        context=0,
        stop_token_ids=(),
        encode=nothing,
        decode=nothing,
    )


def folder_hash(folder: Path) -> str:
    """Hex digest of the weights, the configuration and the tokenizer of a model's folder."""
    files = sorted({file for pattern in HASHED for file in folder.glob(pattern) if file.is_file()})
    if not any(file.suffix == ".safetensors" for file in files):
        raise ContentError(f"{folder} holds no model: there is no .safetensors file in it")
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            digest.update(f"{file.name} {hashlib.file_digest(handle, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def load_parts(folder: Path, name: str) -> tuple[Any, Any, tuple[int, ...]]:
    """Tokenizer, configuration, and the ids that end a completion."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig
    from transformers.utils import logging

    logging.disable_progress_bar()  # the evaluation has its own
    try:
        config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        tokenizer: Any = recognise(AutoTokenizer.from_pretrained(folder, trust_remote_code=False))
    except (OSError, ValueError, ImportError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ContentError(f"model {name}: cannot load {folder}: {line}; check the folder") from error
    settings = None
    with contextlib.suppress(OSError):  # not every model has generation settings
        settings = GenerationConfig.from_pretrained(folder)
    return tokenizer, config, tuple(token.id for token in stop_tokens(tokenizer, settings))


class LateEngine:
    """Starts an engine when something is first asked of it: results that are on the disk need none."""

    def __init__(self, start: Callable[[], Any]):
        self._start, self._engine = start, None

    async def generate(self, requests: Sequence[Request]) -> list[Completion]:
        return await self._started().generate(requests)

    async def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        return await self._started().score(sequences)

    def _started(self) -> Any:
        if self._engine is None:
            self._engine = self._start()
        return self._engine


def start_engine(
    engine: str,
    folder: Path,
    longest: int,
    seed: int,
    resources: contextlib.ExitStack,
    *,
    memory_fraction: float = MEMORY_FRACTION,
) -> tuple[Any, str, int]:
    """(the engine, its kind with its arithmetic, its context in tokens). Ours start late, a server is asked at once.

    Raises ContentError for a model with critics that steer it, where the engine is not the one that can do that.
    """
    if engine != "hf" and (folder / STEERING).is_dir():
        raise ContentError(
            f"{folder} speaks with the critics in its folder {STEERING}, which the hf engine alone can do: say "
            "--engine hf, or `alignkit export` the policy without them"
        )
    if engine.startswith(("http://", "https://")):
        from alignkit.engines.server import ServerEngine
        from alignkit.rewards.serve.endpoint import token_from

        served = ServerEngine(engine, token=token_from(TOKEN_VARIABLE))
        return served, f"server {served.model}", served.context

    def start() -> Any:
        if engine == "hf":
            started = _hf(folder, seed)
        else:
            started = _vllm(folder, longest, seed, resources, Settings(memory_fraction=memory_fraction))
        resources.callback(started.close)
        return started

    return LateEngine(start), "hf float32" if engine == "hf" else "vllm bfloat16", longest


def _hf(folder: Path, seed: int) -> Any:
    from alignkit.engines.hf import HfEngine
    from alignkit.engines.steered import SteeredEngine
    from alignkit.models.steering import Steering

    policy, _ = load_policy(ModelSection(path=str(folder)), seed=seed)
    engine = HfEngine(policy.to(default_device()), dtype="float32", share=True)
    steering = Steering.find(folder, default_device())
    return SteeredEngine(engine, steering) if steering else engine


def _vllm(folder: Path, longest: int, seed: int, resources: contextlib.ExitStack, settings: Settings) -> Any:
    from alignkit.engines.vllm.engine import VllmEngine

    logs = resources.enter_context(scratch())
    threads = int(os.environ.get("OMP_NUM_THREADS", 0)) or None
    log_file = logs / "engine.log"
    return VllmEngine(
        folder,
        dtype="bfloat16",
        max_model_len=longest,
        log_file=log_file,
        seed=seed,
        threads=threads,
        settings=settings,
    )


def _longest(job: BenchmarkJob, encode: Callable[[Task], tuple[int, ...]]) -> int:
    """Tokens of the job's longest prompt with its longest completion (or choice)."""
    sampling = job.named.protocol.sampling
    return max(len(encode(task)) for task in job.tasks) + (sampling.max_new_tokens if sampling else CHOICE_TOKENS)
