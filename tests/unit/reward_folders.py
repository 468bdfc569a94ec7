"""Folders of small reward models with random weights, and a way to score with them that is the plainest there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from alignkit.models.adapted import base_model
from alignkit.models.critic import add_value_head
from alignkit.models.load import VALUE_HEAD, load_policy
from alignkit.recipe.schema import Lora, Model, Scratch
from alignkit.rewards.learned.reward_model import Reading, save_reward_model
from alignkit.types.rollout import Rollout, StopReason, Turn
from alignkit.types.score import Score
from alignkit.types.task import Task

CHARACTERS = "0123456789+=?abcdefghijklmnopqrstuvwxyz: "
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "is", "the", "sum", "of", "one", "two", "three", "and"]
WORDS += ["?", ":", "user", "assistant", "a", "b", "c"]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message.role }}: {{ message.content }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def reading(**changes: Any) -> Reading:
    settings = {"chat": False, "system": None, "cut": False, "longest": None, "reference": None, "dtype": "float32"}
    return Reading(**{"algorithm": {"type": "bradley_terry"}, **settings, **changes})


def character_model(
    *, seed: int = 0, context: int = 96, template: str | None = None, lora: bool = False, characters: str = CHARACTERS
):
    """(model with a value head of visible size, tokenizer), not saved."""
    section = Model(
        scratch=Scratch(characters=characters, layers=2, hidden=32, heads=4, context=context),
        chat_template=template,
        lora=Lora(rank=4) if lora else None,
    )
    model, tokenizer = load_policy(section, seed=seed)
    return with_head(model, seed=seed), tokenizer


def bert(folder: Path, *, seed: int = 0):
    """(a BERT of two layers behind `Encoder`, with a head, its WordPiece tokenizer), read from a folder made here."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=len(WORDS),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            max_position_embeddings=48,
            initializer_range=0.15,
        )
        BertModel(config).save_pretrained(folder)
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    model, tokenizer = load_policy(Model(path=str(folder)), seed=seed)
    return with_head(model, seed=seed), tokenizer


def with_head(model: nn.Module, *, seed: int, heads: int = 1) -> nn.Module:
    add_value_head(model, heads, seed=seed)
    head = getattr(base_model(model), VALUE_HEAD)
    with torch.no_grad():
        head.weight.mul_(15)  # scores of about 0.5, where a difference of 1e-6 means something
        head.bias.fill_(0.3)
    return model.eval()


def saved(model: nn.Module, tokenizer: Any, folder: Path, **changes: Any) -> Path:
    save_reward_model(model, tokenizer, folder, reading(**changes))
    return folder


def text_task(prompt: str, *, number: int = 0) -> Task:
    return Task(id=f"t/{number}", text=prompt)


def answered(
    task: Task, *texts: str, ids: tuple[int, ...] = (1, 2), observations: tuple[str, ...] = ()
) -> list[Rollout]:
    """One rollout per text; with observations each is the last utterance after one "before" per observation."""
    before = [turn("before", ids, observation) for observation in observations]
    return [
        Rollout(task=task, group=0, member=member, turns=(*before, turn(text, ids)), policy_version=0)
        for member, text in enumerate(texts)
    ]


def turn(text: str, ids: tuple[int, ...], observation: str | None = None) -> Turn:
    return Turn(
        prompt_ids=ids,
        completion_ids=ids,
        sampler_logprobs=(0.0,) * len(ids),
        stop=StopReason.END_OF_TEXT,
        text=text,
        observation=observation,
    )


def values(scores: list[list[Score]]) -> list[float | None]:
    return [score.value for group in scores for score in group]


@torch.no_grad()
def by_the_book(model: nn.Module, ids: list[int]) -> float:
    """The head on the last hidden state of one sequence alone; of an encoder plus the mean of all."""
    causal: Any = base_model(model)
    if hasattr(causal, "encoder"):
        states = causal.encoder(input_ids=torch.tensor([ids])).last_hidden_state[0]
        state = states[-1] + states.mean(0)
    else:
        state = causal(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0, -1]
    return float(getattr(causal, VALUE_HEAD)(state))
