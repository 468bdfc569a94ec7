"""A rollout engine as a model of lm-eval, so that any of its tasks runs on the engine that trains.

lm = lm_eval_model(engine, tokenizer, context=2048)
lm_eval.simple_evaluate(model=lm, tasks=["arc_easy"])
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any

from alignkit.errors import ContentError, DataError
from alignkit.evaluate.benchmark.answers import AnsweringEngine
from alignkit.evaluate.benchmark.tasks import cut
from alignkit.types.rollout import Request
from alignkit.types.seeds import child

MAX_GEN_TOKENS = 256  # what lm-eval's own models generate where a task does not say
PLAIN: dict[str, tuple[float, ...]] = {
    **dict.fromkeys(("top_p", "typical_p", "num_beams", "num_return_sequences", "repetition_penalty"), (1,)),
    **dict.fromkeys(("min_p", "no_repeat_ngram_size", "presence_penalty", "frequency_penalty", "penalty_alpha"), (0,)),
    "top_k": (0, -1),
}
"""Settings of a task that would change pure temperature sampling, with the values that do not."""
ROOM_TO_SCORE = 1  # vLLM samples a token even where only the prompt is scored
BLOCK = 512  # sequences of one engine call
SURELY_GREEDY = math.log(0.5)  # a token more likely than all others together


def lm_eval_model(
    engine: AnsweringEngine, tokenizer: Any, *, context: int, stop_token_ids: Sequence[int] | None = None, seed: int = 0
) -> Any:
    """An lm_eval.api.model.LM. context: the engine's longest prompt plus completion, in tokens.

    stop_token_ids: what ends a completion; default the tokenizer's end-of-text token. Raises ContentError when lm-eval
    is not installed.
    """
    try:
        from lm_eval.api.model import TemplateLM
    except ImportError as error:
        raise ContentError("lm-eval is not installed; run `pip install lm-eval==0.4.13`") from error
    kind: Any = type("AlignkitLM", (EngineLM, TemplateLM), {})
    stops = tuple(stop_token_ids) if stop_token_ids is not None else (tokenizer.eos_token_id,)
    return kind(engine, tokenizer, context=context, stop_token_ids=stops, seed=seed)


class EngineLM:
    """What lm-eval asks of a model, answered by an engine; mixed with lm-eval's TemplateLM by `lm_eval_model`."""

    def __init__(
        self, engine: AnsweringEngine, tokenizer: Any, *, context: int, stop_token_ids: tuple[int, ...], seed: int
    ):
        super().__init__()
        self.engine, self.tokenizer, self.context = engine, tokenizer, context
        self.stop_token_ids, self.seed = stop_token_ids, seed

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What a text without a context is conditioned on."""
        begin = self.tokenizer.bos_token_id
        return self.tokenizer.eos_token_id if begin is None else begin

    @property
    def tokenizer_name(self) -> str:
        return self.tokenizer.name_or_path.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids as the tokenizer makes them; nothing is added where the text begins with the begin token."""
        if add_special_tokens is None:
            begin = self.tokenizer.bos_token
            add_special_tokens = not (begin and string.startswith(begin))
        return self.tokenizer.encode(string, add_special_tokens=add_special_tokens)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The history as the tokenizer's template writes it; without system messages where it refuses them."""
        from jinja2.exceptions import TemplateError

        told: dict[str, Any] = {
            "tokenize": False,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": not add_generation_prompt,
        }
        try:
            return self.tokenizer.apply_chat_template(chat_history, **told)
        except TemplateError:
            rest = [message for message in chat_history if message["role"] != "system"]
            return self.tokenizer.apply_chat_template(rest, **told)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """One text per request, cut before its first stop text.

        A prompt that leaves no room loses its beginning, as in lm-eval's own models. Raises DataError for sampling
        that the engines do not have (top-p, top-k, beams).
        """
        settings = [_settings(request.args[1]) for request in requests]
        asked = [
            self._request(request, number, *told)
            for number, (request, told) in enumerate(zip(requests, settings, strict=True))
        ]
        completions = asyncio.run(self.engine.generate(asked))
        texts = [self.tokenizer.decode(one.token_ids, skip_special_tokens=True) for one in completions]
        return [cut(text, told[0]) for text, told in zip(texts, settings, strict=True)]

    def _request(
        self, request: Any, number: int, stops: tuple[str, ...], max_new_tokens: int, temperature: float
    ) -> Request:
        room = self.context - max_new_tokens
        if room < 1:
            raise DataError(f"{request.task_name}: {max_new_tokens} new tokens do not fit a context of {self.context}")
        return Request(
            prompt_ids=tuple(self.tok_encode(request.args[0])[-room:]),
            seed=child(self.seed, "lm-eval", str(request.task_name), str(request.doc_id), number),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            stop_token_ids=(*self.stop_token_ids, *self._special_stops(stops)),
        )

    def _special_stops(self, stops: tuple[str, ...]) -> list[int]:
        """Stop texts that are one special token: the completion's text has none, so they must end it as tokens."""
        special = set(getattr(self.tokenizer, "all_special_ids", ()))
        ids = [self.tok_encode(stop, add_special_tokens=False) for stop in stops] if special else []
        return [found[0] for found in ids if len(found) == 1 and found[0] in special]

    def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        """(log-probability of the continuation, whether greedy decoding would give it) per (texts, context, ids)."""
        pairs = [self._fitted(before, after) for _, before, after in requests]
        logprobs = self._scores([before + after for before, after in pairs])
        told = [row[len(row) - len(after) :] if after else [] for row, (_, after) in zip(logprobs, pairs, strict=True)]
        unsure = [pair for pair, row in zip(pairs, told, strict=True) if pair[1] and min(row) <= SURELY_GREEDY]
        greedy = self._greedy(unsure)
        return [
            (math.fsum(row), greedy.get(tuple(before), tuple(after))[: len(after)] == tuple(after))
            for (before, after), row in zip(pairs, told, strict=True)
        ]

    def _fitted(self, before: Sequence[int], after: Sequence[int]) -> tuple[list[int], list[int]]:
        """The pair without what is too long for the engine, from the left."""
        room = self.context - ROOM_TO_SCORE - len(after)
        if room < 1:
            raise DataError(f"a continuation of {len(after)} tokens does not fit a context of {self.context}")
        return list(before)[-room:], list(after)

    def _scores(self, sequences: Sequence[list[int]]) -> list[list[float]]:
        rows: list[list[float]] = []
        for start in range(0, len(sequences), BLOCK):
            rows += asyncio.run(self.engine.score(sequences[start : start + BLOCK]))
        return rows

    def _greedy(self, pairs: Sequence[tuple[list[int], list[int]]]) -> dict[tuple[int, ...], tuple[int, ...]]:
        """What greedy decoding gives after each context; choices that share one are decoded once."""
        longest: dict[tuple[int, ...], int] = {}
        for before, after in pairs:
            longest[tuple(before)] = max(longest.get(tuple(before), 0), len(after))
        asked = [
            Request(prompt_ids=before, seed=0, temperature=0.0, max_new_tokens=min(length, self.context - len(before)))
            for before, length in longest.items()
        ]
        completions = asyncio.run(self.engine.generate(asked)) if asked else []
        return {before: tuple(one.token_ids) for before, one in zip(longest, completions, strict=True)}

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of whole texts, in windows of the engine's context, each token once."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        totals = []
        for request in requests:
            ids = self.tok_encode(request.args[0])
            windows = get_rolling_token_windows(
                token_list=ids,
                prefix_token=self.prefix_token_id,
                max_seq_len=self.context - ROOM_TO_SCORE - 1,
                context_len=1,
            )
            pairs = [make_disjoint_window(window) for window in windows]
            rows = self._scores([list(before) + list(after) for before, after in pairs])
            sums = [math.fsum(row[len(row) - len(after) :]) for row, (_, after) in zip(rows, pairs, strict=True)]
            totals.append(math.fsum(sums))
        return totals


def _settings(told: Mapping[str, Any]) -> tuple[tuple[str, ...], int, float]:
    """(stop texts, most new tokens, temperature) of a request, by lm-eval's own reading."""
    from lm_eval.models.utils import normalize_gen_kwargs

    read: dict[str, Any] = {**normalize_gen_kwargs(dict(told), default_max_gen_toks=MAX_GEN_TOKENS)}
    for name, plain in PLAIN.items():
        if read.get(name) is not None and read[name] not in plain:
            raise DataError(f"{name}: {read[name]} is asked for, and the engines sample by temperature alone")
    return (
        tuple(mark for mark in read["until"] if mark),
        int(read["max_gen_toks"]),
        float(read.get("temperature") or 0.0),
    )
