"""How requests and completions travel as JSON, in a channel and over HTTP: ids and log-probs are arrays in base64."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alignkit.types.rollout import Completion, Request, StopReason

IDS, LOGPROBS = "<i4", "<f4"


def to_text(numbers: Sequence[float], kind: str) -> str:
    """Numbers as text. kind: IDS, or LOGPROBS, which float32 holds to the bit."""
    return base64.b64encode(np.asarray(numbers, kind).tobytes()).decode()


def from_text(text: str, kind: str) -> np.ndarray:
    """The numbers again. Raises ValueError for what `to_text` did not write."""
    return np.frombuffer(base64.b64decode(text, validate=True), kind)


def request_to_wire(request: Request) -> dict[str, Any]:
    return {
        "prompt_ids": to_text(request.prompt_ids, IDS),
        "seed": request.seed,
        "max_new_tokens": request.max_new_tokens,
        "temperature": request.temperature,
        "stop_token_ids": list(request.stop_token_ids),
        "group": request.group,
    }


def request_from_wire(wire: Mapping[str, Any]) -> Request:
    """Raises KeyError, TypeError or ValueError for what is no request."""
    return Request(
        prompt_ids=tuple(from_text(wire["prompt_ids"], IDS).tolist()),
        seed=int(wire["seed"]),
        max_new_tokens=int(wire["max_new_tokens"]),
        temperature=float(wire["temperature"]),
        stop_token_ids=tuple(map(int, wire["stop_token_ids"])),
        group=None if wire["group"] is None else int(wire["group"]),
    )


def completion_to_wire(completion: Completion) -> dict[str, Any]:
    return {
        "token_ids": to_text(completion.token_ids, IDS),
        "logprobs": to_text(completion.logprobs, LOGPROBS),
        "stop": completion.stop.value,
        "versions": completion.versions,
    }


def completion_from_wire(wire: Mapping[str, Any]) -> Completion:
    """Raises KeyError, TypeError or ValueError for what is no completion."""
    token_ids, logprobs = from_text(wire["token_ids"], IDS), from_text(wire["logprobs"], LOGPROBS)
    if len(token_ids) != len(logprobs):
        raise ValueError(f"{len(token_ids)} tokens with {len(logprobs)} log-probs")
    return Completion(
        token_ids=tuple(token_ids.tolist()),
        logprobs=tuple(logprobs.tolist()),
        stop=StopReason(wire["stop"]),
        versions=tuple((int(first), int(version)) for first, version in wire["versions"]),
    )
