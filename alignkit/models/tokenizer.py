"""Tokenizers: the character tokenizer of `model.scratch`, and the ids that end a completion."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from transformers import PreTrainedTokenizerFast

from alignkit.data.chat_template import chat_template
from alignkit.errors import ContentError, DataError

if TYPE_CHECKING:
    from torch.nn import Module

Wrapped = TypeVar("Wrapped", bound=PreTrainedTokenizerFast)
SPECIALS = ("<pad>", "<bos>", "<eos>")
UNKNOWN = "<unknown>"
ENCODER_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message.role }}: {{ message.content }} {{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


class CharacterTokenizer(PreTrainedTokenizerFast):
    """One token per character. Ids 0, 1, 2 are pad, bos, eos; nothing is added to a text."""

    def _encode_plus(self, text: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return super()._encode_plus(text, *args, **kwargs)
        except Exception as error:  # the Rust tokenizer raises bare Exception
            raise DataError(self._explain(text, error)) from error

    def _explain(self, text: Any, error: Exception) -> str:
        texts = [text] if isinstance(text, str) else [one for one in text if isinstance(one, str)]
        known = set(self.get_vocab())
        # the characters inside special tokens ("<pad>") are only looked for when a text cannot be encoded at all
        unknown = sorted({letter for one in texts for letter in one} - known)
        if not unknown:
            return f"character tokenizer: {error}"
        return (
            f"character tokenizer: no token for {unknown} in {texts[0][:60]!r}; "
            "add the characters to model.scratch.characters"
        )

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        """Saves an ordinary tokenizer.json folder, which loads without alignkit."""
        return _wrap(
            PreTrainedTokenizerFast, self._tokenizer, self.model_max_length, self.chat_template
        ).save_pretrained(save_directory, *args, **kwargs)


def character_tokenizer(characters: str, *, context: int) -> CharacterTokenizer:
    """A tokenizer with one token for each of `characters`, pad = 0, bos = 1, eos = 2 (bos is never added to a text).

    Encoding any other character raises DataError. Raises DataError when a character is given twice.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    twice = sorted({letter for letter in characters if characters.count(letter) > 1})
    if twice or not characters:
        problem = f"has {twice} more than once" if twice else "is empty"
        raise DataError(f"model.scratch.characters {problem}; give each character once")
    vocabulary = {token: index for index, token in enumerate([*SPECIALS, *characters])}
    # `unk_token` names no token of the vocabulary, so that an unknown character is an error and is not dropped
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return _wrap(CharacterTokenizer, tokenizer, context)


def recognise(tokenizer: Any) -> Any:
    """A loaded tokenizer; where it is a character tokenizer that was saved, one that explains its errors again.

    That of an encoder gets what data is rendered by: its CLS begins, its SEP ends, and a chat template.
    """
    if tokenizer.cls_token is not None:
        tokenizer.bos_token = tokenizer.bos_token or tokenizer.cls_token
        tokenizer.eos_token = tokenizer.eos_token or tokenizer.sep_token
        tokenizer.chat_template = tokenizer.chat_template or ENCODER_TEMPLATE
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    if getattr(model, "unk_token", None) != UNKNOWN:
        return tokenizer
    return _wrap(CharacterTokenizer, tokenizer.backend_tokenizer, tokenizer.model_max_length, tokenizer.chat_template)


def set_chat_template(tokenizer: Any, given: str | None, beside: Path | None) -> None:
    """Replaces the tokenizer's chat template by `given`, a template or the path of its file; None changes nothing.

    beside: the recipe's folder, in which a file is looked for first. Raises ContentError when what is given is no
    template (it has no Jinja in it) and there is no such file.
    """
    if given is None:
        return
    if re.search(r"{[{%#]", given):
        tokenizer.chat_template = given
        return
    tried = [folder / given for folder in (beside, Path()) if folder is not None]
    file = next((path.expanduser() for path in tried if path.expanduser().is_file()), None)
    if file is None:
        looked = " or ".join(map(str, dict.fromkeys(tried)))
        raise ContentError(
            f"model.chat_template: {given!r} is no Jinja template (it has no {{{{ or {{%), "
            f"and there is no file {looked}"
        )
    try:
        tokenizer.chat_template = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ContentError(f"model.chat_template: {file} cannot be read as text: {error}") from error


@dataclass(frozen=True, kw_only=True)
class StopToken:
    """A token that ends a completion. named_by: tokenizer, generation config, chat template: who says so."""

    id: int
    text: str
    named_by: tuple[str, ...]


def stop_tokens(tokenizer: Any, generation_config: Any) -> list[StopToken]:
    """The tokens that end a completion, by id: the tokenizer's EOS, every EOS of the generation config (None: there is
    none), and the token with which the chat template ends an assistant's turn, together."""
    configured = getattr(generation_config, "eos_token_id", None)
    configured = configured if isinstance(configured, list | tuple) else [configured]
    template = chat_template(tokenizer).turn_end_id if tokenizer.chat_template else None
    named = {"tokenizer": [tokenizer.eos_token_id], "generation config": configured, "chat template": [template]}
    found = sorted({token for tokens in named.values() for token in tokens if token is not None})
    return [
        StopToken(
            id=token,
            text=str(tokenizer.convert_ids_to_tokens(token)),
            named_by=tuple(name for name, tokens in named.items() if token in tokens),
        )
        for token in found
    ]


def stop_token_ids(tokenizer: Any, model: Module) -> tuple[int, ...]:
    """Ids that end a completion of this model, ascending."""
    return tuple(token.id for token in stop_tokens(tokenizer, getattr(model, "generation_config", None)))


def _wrap(kind: type[Wrapped], tokenizer: Any, context: int, template: Any = None) -> Wrapped:
    pad, bos, eos = SPECIALS
    wrapped = kind(
        tokenizer_object=tokenizer,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        clean_up_tokenization_spaces=False,
        model_max_length=context,
    )
    wrapped.chat_template = template
    return wrapped
