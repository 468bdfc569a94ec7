"""Tokenizers: the character tokenizer of `model.scratch`, and the ids that end a completion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from transformers import PreTrainedTokenizerFast

from alignkit.errors import DataError

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


def stop_token_ids(tokenizer: Any, model: Module) -> tuple[int, ...]:
    """Ids that end a completion: the tokenizer's eos and every eos of the model's generation config, ascending."""
    found: set[int] = set()
    if tokenizer.eos_token_id is not None:
        found.add(tokenizer.eos_token_id)
    configured: int | Sequence[int] | None = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if configured is not None:
        found.update([configured] if isinstance(configured, int) else configured)
    return tuple(sorted(found))


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
