"""A reward by name, behind uvicorn on one port, until it is stopped."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignkit.errors import RewardError
from alignkit.rewards.serve.listener import TOKEN_VARIABLE, Address, Listener


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How rewards are run: in `workers` processes with `deadline_s` for a completion; a reward that holds a model
    (rewards/serve/batcher.py) instead in this process, in batches of `batch` completions that wait at most `wait_s`."""

    workers: int = 2
    deadline_s: float = 5.0
    batch: int = 64
    wait_s: float = 0.005


def serve_reward(
    name: str,
    options: Mapping[str, Any],
    *,
    address: Address,
    scoring: Scoring,
    ready: Callable[[dict[str, Any]], None],
) -> None:
    """Serves the reward `name` until SIGINT or SIGTERM.

    ready: told url, reward, how it is scored, and the token if it had to be made up (it is in $ALIGNKIT_TOKEN
    otherwise). Raises RewardError where the reward, the address or the token cannot be used.
    """
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    made_up = not token
    token = token or secrets.token_urlsafe(24)
    listener, build_app = _libraries(address)
    scorer, how = _scorer(name, options, scoring)
    try:
        app = build_app(scorer, reward=name, token=token, fingerprint=_fingerprint(name, options))
        listener.bind()
        told = {"url": listener.url, "reward": name, "scored": how}
        ready({**told, "token": token} if made_up else told)
        listener.run(app)
    finally:
        scorer.close()


def _fingerprint(name: str, options: Mapping[str, Any]) -> str:
    """Changes when the reward, its options, its file, the models that its options name or alignkit's version do."""
    from importlib.metadata import version

    from alignkit.recipe.lookup.find import find
    from alignkit.rewards.serve.cache import AnswerCache

    path = find("rewards", name).path
    code = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    return AnswerCache.key(name, dict(options), code, version("alignkit"), _models(options))


def _models(options: Mapping[str, Any]) -> list[str]:
    """Hashes of the files of every model folder among the options: a model may be trained anew in its place."""
    given = [one for value in options.values() for one in (value if isinstance(value, list) else [value])]
    folders = [os.path.expanduser(one) for one in given if isinstance(one, str)]
    files = [
        file
        for folder in folders
        if os.path.isfile(os.path.join(folder, "config.json"))
        for file in sorted(Path(folder).iterdir())
        if file.is_file()
    ]
    hashes = []
    for file in files:
        with file.open("rb") as content:
            hashes.append(hashlib.file_digest(content, "sha256").hexdigest())
    return hashes


def _libraries(address: Address) -> tuple[Listener, Any]:
    listener = Listener(address)
    try:
        from alignkit.rewards.serve.server import build_app
    except ModuleNotFoundError as error:
        raise RewardError(f"serving needs {error.name}: pip install fastapi uvicorn httpx") from error
    return listener, build_app


def _scorer(name: str, options: Mapping[str, Any], scoring: Scoring) -> tuple[Any, str]:
    from alignkit.recipe.schema import RewardSpec
    from alignkit.rewards.pool.lift import find_reward
    from alignkit.rewards.pool.pool import RewardPool
    from alignkit.rewards.serve.batcher import Batcher, BatchReward

    reward = find_reward(name, options)
    if isinstance(reward, BatchReward):
        how = f"in this process, in batches of up to {scoring.batch}"
        return Batcher(reward, batch=scoring.batch, wait_s=scoring.wait_s), how
    spec = RewardSpec(name=name, options=dict(options), deadline_s=scoring.deadline_s)
    return RewardPool([spec], workers=scoring.workers), f"in {scoring.workers} processes"
