"""Continuous batching in the engine process: requests join those that run, completions are told as they end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from alignkit.engines.wire import IDS, LOGPROBS, from_text, to_text


class Sampling:
    """What vLLM's LLM has been asked to sample. adapter: what vLLM is told of the LoRA adapter that it holds, or None.

    keeps_prefixes: whether what was read before may serve a call in lockstep.
    """

    def __init__(self, llm: Any, *, adapter: Callable[[], Any], keeps_prefixes: bool):
        self._llm, self._adapter, self._keeps_prefixes = llm, adapter, keeps_prefixes
        self._numbers: dict[str, int] = {}

    @property
    def busy(self) -> bool:
        """Whether a completion is outstanding."""
        return bool(self._numbers)

    def add(self, requests: Sequence[Mapping[str, Any]], *, lockstep: bool) -> None:
        """Queues requests (engines/wire.py, each with its `number`). lockstep: only while nothing is outstanding."""
        from vllm import SamplingParams

        if lockstep:
            self._forget()
        settings = [
            SamplingParams(
                max_tokens=request["max_new_tokens"],
                temperature=request["temperature"],
                seed=request["seed"],
                stop_token_ids=request["stop_token_ids"],
                ignore_eos=True,  # stop_token_ids are the whole truth; the generation config adds none
                logprobs=0,
                flat_logprobs=True,  # one list, not a dictionary for every token
                detokenize=False,
            )
            for request in requests
        ]
        prompts = [{"prompt_token_ids": from_text(request["prompt_ids"], IDS).tolist()} for request in requests]
        names = self._llm.enqueue(prompts, settings, lora_request=self._adapter(), use_tqdm=False)
        for name, request in zip(names, requests, strict=True):
            self._numbers[name.partition("-")[0]] = request["number"]  # as outputs name it: without a random end

    def step(self) -> list[tuple[int, dict[str, Any]]]:
        """Lets vLLM compute one token of each that runs; the number and the completion of those that ended by it."""
        ended = [result for result in self._llm.llm_engine.step() if result.finished]
        return [(self._numbers.pop(result.request_id), _completion(result.outputs[0])) for result in ended]

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probs of every token after the first, at temperature 1; only while nothing is outstanding."""
        from vllm import SamplingParams

        self._forget()
        settings = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False, ignore_eos=True)
        prompts = [{"prompt_token_ids": list(sequence)} for sequence in sequences]
        results = self._llm.generate(prompts, settings, use_tqdm=False, lora_request=self._adapter())
        return [
            [ranks[token].logprob for token, ranks in zip(sequence[1:], result.prompt_logprobs[1:], strict=True)]
            for sequence, result in zip(sequences, results, strict=True)
        ]

    def _forget(self) -> None:
        if not self._keeps_prefixes:
            self._llm.reset_prefix_cache()


def _completion(output: Any) -> dict[str, Any]:
    chosen = np.asarray(output.logprobs.logprobs, LOGPROBS)[output.logprobs.start_indices]
    return {
        "token_ids": to_text(output.token_ids, IDS),
        "logprobs": to_text(chosen, LOGPROBS),
        "finish": output.finish_reason,
    }
