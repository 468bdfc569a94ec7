"""A saved model that answers messages word by word, by transformers alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from alignkit.data.prompts import render
from alignkit.data.tokens import said_text
from alignkit.errors import DataError
from alignkit.models.device_type import default_device
from alignkit.models.lora import seeded
from alignkit.models.steering import Steering
from alignkit.run.evaluate.evaluated_model import load_parts
from alignkit.run.talk.trained import Trained
from alignkit.types.task import Message, Task

UNFINISHED = "\ufffd"  # what a decoder writes for the first bytes of a letter


class Talker:
    """Reads the model once, in the dtype that it was saved in. Raises ContentError when it cannot be read."""

    def __init__(self, trained: Trained):
        from transformers import AutoModelForCausalLM

        self.trained = trained
        self._tokenizer, config, self._stop = load_parts(trained.folder, trained.name)
        self._context: int = config.max_position_embeddings
        model: Any = AutoModelForCausalLM.from_pretrained(trained.folder, dtype="auto", trust_remote_code=False)
        self._model = model.to(default_device()).eval()
        self._steering = Steering.find(trained.folder, default_device())

    def prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The token ids that the policy was asked with in training; without a chat template what was said last."""
        task = Task(id="chat", messages=tuple(messages))
        if not self.trained.data.chat or not self._tokenizer.chat_template:
            task = replace(task, messages=None, text=messages[-1]["content"])
        return tuple(render(self._tokenizer, task, self.trained.data))

    def say(
        self,
        messages: Sequence[Message],
        *,
        temperature: float,
        max_new_tokens: int,
        seed: int,
        told: Callable[[str], None],
    ) -> str:
        """The answer; told: each piece of it as it comes. Raises DataError when the conversation fills the context."""
        from transformers import GenerationConfig

        ids = self.prompt(messages)
        room = self._context - len(ids)
        if room < 1:
            raise DataError(
                f"chat: {len(ids)} tokens fill the model's context of {self._context}; begin anew with /new"
            )
        sampling: dict[str, Any] = {"do_sample": False}
        if temperature > 0:
            sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        settings = GenerationConfig(
            max_new_tokens=min(max_new_tokens, room),
            eos_token_id=list(self._stop),
            pad_token_id=self._tokenizer.pad_token_id or self._stop[0],
            **sampling,
        )
        given = torch.tensor([ids], device=self._model.device)
        text = _Text(lambda said: said_text(self._tokenizer, said, self._stop), told, skipped=len(ids))
        with seeded(seed, "chat"), torch.inference_mode():
            self._model.generate(
                given,
                attention_mask=torch.ones_like(given),
                generation_config=settings,
                streamer=text,
                logits_processor=[self._steering.processor()] if self._steering else [],
            )
        return text.text


class _Text:
    """A streamer of transformers: gets token ids, tells whole letters."""

    def __init__(self, decode: Callable[[list[int]], str], told: Callable[[str], None], *, skipped: int):
        self._decode, self._told, self._skipped, self._ids = decode, told, skipped, list[int]()
        self.text = ""

    def put(self, ids: torch.Tensor) -> None:
        new = ids.flatten().tolist()
        own = new[self._skipped :]
        self._skipped = max(self._skipped - len(new), 0)
        self._ids += own
        text = self._decode(self._ids)
        if not text.endswith(UNFINISHED):
            self._tell(text)

    def end(self) -> None:
        self._tell(self._decode(self._ids))

    def _tell(self, text: str) -> None:
        if len(text) > len(self.text):
            self._told(text[len(self.text) :])
            self.text = text
