"""Chat templates of real model families, and tokenizers that need no download: one token per byte and the family's own.

`tests/data/templates/SOURCES.md` says where each template comes from and what the fields of its JSON mean.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "data" / "templates"
FAMILIES = tuple(sorted(path.stem for path in FOLDER.glob("*.jinja")))


@dataclass(frozen=True, kw_only=True)
class Family:
    """A chat template and what is known of it.

    turn_end: the token that closes what an assistant said, or None. control, added: its other tokens, special or not.
    adds_bos: the tokenizer puts bos before every text by itself.
    system: yes, no (refused), merged (into the first question), last (shown in the last question only and only where no
    answer follows), default (one of the template's own stands where none is given).
    tools: calls and results can be shown. parts: content may be a list of parts.
    alternates: refuses two turns of one role. trims: spaces around content are lost.
    thought: what opens and closes a thought. opens_thought: how the generation prompt begins one.
    drops_thoughts: those of earlier turns are not shown.
    generation_prompt: whether it differs from the rendering without.
    appends: whether a longer conversation always begins with the text of a shorter one. dated: shows today's date.
    """

    name: str
    template: str
    models: tuple[str, ...]
    bos: str | None
    eos: str
    pad: str | None
    turn_end: str | None
    control: tuple[str, ...]
    added: tuple[str, ...]
    adds_bos: bool
    system: str
    tools: bool
    parts: bool
    alternates: bool
    trims: bool
    thought: tuple[str, str] | None
    opens_thought: str | None
    drops_thoughts: bool
    generation_prompt: bool
    appends: bool
    dated: bool

    @property
    def tokens(self) -> tuple[str, ...]:
        """Every token of the family that is no byte, special ones first."""
        named = [self.bos, self.eos, self.pad, self.turn_end, *self.control, *self.added]
        return tuple(dict.fromkeys(token for token in named if token is not None))


@cache
def family(name: str) -> Family:
    """The family of that name; `FAMILIES` lists them."""
    facts = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    lists = {key: tuple(value) for key, value in facts.items() if isinstance(value, list)}
    return Family(name=name, template=(FOLDER / f"{name}.jinja").read_text(encoding="utf-8"), **{**facts, **lists})


@cache
def tokenizer(name: str) -> Any:
    """A fast tokenizer of the family: one token per byte, bos, eos, pad and control tokens besides, and its template.

    It is shared by all who ask: whoever changes it takes a `copy.deepcopy`.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    known = family(name)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(one, normalized=False) for one in known.tokens if one not in known.added])
    inner.add_tokens([AddedToken(one, normalized=False) for one in known.added])
    if known.adds_bos:
        inner.post_processor = processors.TemplateProcessing(
            single=f"{known.bos} $A",
            pair=f"{known.bos} $A {known.bos} $B",
            special_tokens=[(known.bos, inner.token_to_id(known.bos))],
        )
    names = {"bos_token": known.bos, "eos_token": known.eos, "pad_token": known.pad}
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
        additional_special_tokens=[one for one in known.control if one not in names.values()],
        **{key: value for key, value in names.items() if value is not None},
    )
    wrapped.chat_template = known.template
    return wrapped
