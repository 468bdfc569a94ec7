"""What every engine refuses to sample from."""

from __future__ import annotations

from collections.abc import Sequence

from alignkit.errors import EngineError
from alignkit.types.rollout import Request


def check_requests(requests: Sequence[Request], *, context: int, engine: str) -> None:
    """Raises EngineError for a prompt that is empty or leaves no room for a completion within `context` tokens."""
    for number, request in enumerate(requests):
        length = len(request.prompt_ids)
        if not 0 < length < context:
            raise EngineError(
                f"{engine}: prompt {number} has {length} tokens, wanted 1 to {context - 1} (the context is {context}); "
                "set data.max_prompt_tokens and data.long_prompts"
            )
        if request.max_new_tokens < 1:
            raise EngineError(f"{engine}: request {number} asks for {request.max_new_tokens} tokens, wanted 1 or more")
