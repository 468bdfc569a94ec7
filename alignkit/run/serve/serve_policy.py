"""A trained model behind vLLM's own OpenAI-compatible server."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from alignkit.engines.vllm.process import environment
from alignkit.errors import EngineError
from alignkit.models.device_type import has_gpu
from alignkit.rewards.serve.listener import Address, check_address
from alignkit.run.serve.serve import TOKEN_VARIABLE

MODULE = "vllm.entrypoints.openai.api_server"
KEY_VARIABLE = "VLLM_API_KEY"
MEMORY_GIB = 2  # key-value cache on a CPU


def serve_policy(
    folder: Path, *, name: str, address: Address, context: int | None, ready: Callable[[dict[str, Any]], None]
) -> NoReturn:
    """Becomes vLLM's server of the model in `folder`, which answers under `name` with the folder's own template and
    stop tokens.

    The token is $ALIGNKIT_TOKEN, or made up; vLLM reads it from its environment. context: longest prompt and answer.
    ready: told url, name and a token that was made up, before the server has loaded. Raises EngineError without vLLM.
    """
    from importlib.util import find_spec

    if find_spec("vllm") is None:
        raise EngineError("serve: vLLM is not installed; run: make setup (CPU), or make setup-gpu (GPU)")
    check_address(address)
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    told = {"url": f"http://{address.host}:{address.port}/v1", "model": name}
    made_up = {} if token else {"token": secrets.token_urlsafe(24)}
    own = environment(None, MEMORY_GIB) | {KEY_VARIABLE: token or made_up["token"]}
    own.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)  # a server's engine has a process of its own
    ready({**told, **made_up})
    command = [sys.executable, "-m", MODULE, *arguments(folder, name=name, address=address, context=context)]
    os.execve(sys.executable, command, own)


def arguments(folder: Path, *, name: str, address: Address, context: int | None) -> list[str]:
    """vLLM's own. The token is none of them: it would stand in every list of processes.

    The dtype is the folder's, since vLLM makes 16 bits of float32 by itself; on a CPU nothing is compiled, which takes
    longer there than the first answers.
    """
    given = ["--dtype", _dtype(folder), *([] if has_gpu() else ["--enforce-eager"])]
    given += ["--model", str(folder), "--served-model-name", name, "--host", address.host, "--port", str(address.port)]
    if address.certificate and address.key:
        given += ["--ssl-certfile", str(address.certificate), "--ssl-keyfile", str(address.key)]
    return given + (["--max-model-len", str(context)] if context else [])


def _dtype(folder: Path) -> str:
    """What the model's config says; vLLM's choice where it says nothing."""
    config = folder / "config.json"
    told = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    return told.get("dtype") or told.get("torch_dtype") or "auto"
