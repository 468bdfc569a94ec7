"""A tokenizer in llama.cpp's words: tokens with their kinds, merges or scores, who splits the text, what ends it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alignkit.data.chat_template import chat_template
from alignkit.errors import ExportError
from alignkit.models.tokenizer import stop_token_ids
from alignkit.run.export.gguf.families import INSTEAD

if TYPE_CHECKING:
    from gguf import GGUFWriter

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
SPLITS = ("llama-bpe", "qwen2", "tekken", "gpt-4o", "qwen35")
"""llama.cpp's names of regular expressions; transformers knows the expressions."""
ENDS = re.compile(
    r"<\|(eot_id|im_end|end|return|call|flush|calls|endoftext|end_of_text|eom_id)\|>|<(end_of_turn|EOT)>|<\|?e?eos\|?>|_<EOT>"
)
"""Tokens that llama.cpp takes for ends whatever the file says of them."""
SPACE = "▁"


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """model: `gpt2` (byte-level BPE) or `llama` (SentencePiece). pre: who splits the text before. tokens, kinds: by
    id."""

    model: str
    pre: str
    tokens: list[str]
    kinds: list[int]
    merges: list[str] | None
    scores: list[float] | None
    space_prefix: bool


def pre_tokenizers() -> dict[str, Any]:
    """What splits a text before merges are applied, as `tokenizers` writes it, by llama.cpp's name."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    whole = {**BYTES, "use_regex": False}

    def split(expression: str) -> dict[str, Any]:
        pattern = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
        return {"type": "Sequence", "pretokenizers": [pattern, whole]}

    digits = {"type": "Digits", "individual_digits": True}
    return {
        "gpt-2": BYTES,
        "smollm": {"type": "Sequence", "pretokenizers": [digits, BYTES]},
        **{name: split(GGUF_PRE_TOKENIZER_SPLITS[name]) for name in SPLITS},
    }


def vocabulary(tokenizer: Any, size: int) -> Vocabulary:
    """The tokenizer's vocabulary, filled up to the `size` rows of the model's embedding.

    Raises ExportError for a tokenizer that llama.cpp has no words for.
    """
    inner = json.loads(tokenizer.backend_tokenizer.to_str())
    if inner["model"].get("type") != "BPE":
        kind = inner["model"].get("type")
        raise ExportError(f"gguf: llama.cpp has no words for a tokenizer of type {kind}; {INSTEAD}")
    known = tokenizer.get_vocab()
    if max(known.values()) >= size:
        raise ExportError(
            f"gguf: the tokenizer has a token {max(known.values())}, the model an embedding of {size} rows"
        )
    spelled = {index: token for token, index in known.items()}
    tokens = [spelled.get(index, f"[PAD{index}]") for index in range(size)]
    pieces = inner["model"]["byte_fallback"]
    kinds = _kinds(tokens, spelled, inner, tokenizer)
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in inner["model"]["merges"]]
    if not pieces:
        return Vocabulary(
            model="gpt2",
            pre=_pre(inner),
            tokens=tokens,
            kinds=kinds,
            merges=[" ".join(merge) for merge in merges],
            scores=None,
            space_prefix=False,
        )
    return Vocabulary(
        model="llama",
        pre="default",
        tokens=[token.replace(SPACE, " ") if kind == 4 else token for token, kind in zip(tokens, kinds, strict=True)],
        kinds=kinds,
        merges=None,
        scores=_scores(merges, known, size),
        space_prefix=_prefixes(inner),
    )


def write_vocabulary(writer: GGUFWriter, tokenizer: Any, model: Any) -> None:
    """All that a GGUF file says of the tokenizer, with its special tokens and chat template."""
    words = vocabulary(tokenizer, model.config.vocab_size)
    writer.add_tokenizer_model(words.model)
    writer.add_tokenizer_pre(words.pre)
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.kinds)
    if words.merges is not None:
        writer.add_token_merges(words.merges)
    if words.scores is not None:
        writer.add_token_scores(words.scores)
        writer.add_add_space_prefix(words.space_prefix)
    begins = tokenizer.bos_token_id is not None and adds_bos(tokenizer)
    writer.add_add_bos_token(begins)
    for name, token in special_tokens(tokenizer, model).items():
        getattr(writer, f"add_{name}_token_id")(token)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def special_tokens(tokenizer: Any, model: Any) -> Mapping[str, int]:
    """Ids by llama.cpp's names: eos as the tokenizer says, eot the template's end of a turn, eom one more that ends a
    completion. Raises ExportError where more tokens end it than a file can say."""
    turn = chat_template(tokenizer).turn_end_id if tokenizer.chat_template else None
    found = {
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id if tokenizer.eos_token_id is not None else turn,
        "unk": tokenizer.unk_token_id,
        "pad": tokenizer.pad_token_id,
    }
    if turn not in (None, found["eos"]):
        found["eot"] = turn
    said = {found["eos"], found.get("eot")}
    more = [token for token in stop_token_ids(tokenizer, model) if token not in said]
    unsaid = [token for token in more if not ENDS.fullmatch(tokenizer.convert_ids_to_tokens(token))]
    if len(unsaid) > 1:
        raise ExportError(f"gguf: the tokens {unsaid} end a completion too, and a file can say one more; {INSTEAD}")
    if unsaid:
        found["eom"] = unsaid[0]
    return {name: token for name, token in found.items() if token is not None}


def adds_bos(tokenizer: Any) -> bool:
    """Whether it begins every text with BOS by itself."""
    return tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]


def _pre(inner: Mapping[str, Any]) -> str:
    """llama.cpp's name of the pre-tokenizer."""
    normalizer = (inner.get("normalizer") or {}).get("type", "NFC")
    plain = _without_offsets(inner["pre_tokenizer"])
    name = next((name for name, known in pre_tokenizers().items() if _without_offsets(known) == plain), None)
    if name is None or normalizer != "NFC":
        raise ExportError(
            f"gguf: llama.cpp has no name that is known here for how the tokenizer splits text; {INSTEAD}"
        )
    return name


def _without_offsets(spec: Any) -> Any:
    """`trim_offsets` changes no token; a sequence of one is that one."""
    if isinstance(spec, list):
        return [_without_offsets(part) for part in spec]
    if not isinstance(spec, dict):
        return spec
    if spec.get("type") == "Sequence" and len(spec["pretokenizers"]) == 1:
        return _without_offsets(spec["pretokenizers"][0])
    return {name: _without_offsets(part) for name, part in spec.items() if name != "trim_offsets"}


def _kinds(tokens: list[str], spelled: Mapping[int, str], inner: Mapping[str, Any], tokenizer: Any) -> list[int]:
    from gguf import TokenType

    added = {token["id"]: token["special"] for token in inner["added_tokens"]}

    def kind(index: int, token: str) -> int:
        if index not in spelled:
            return TokenType.UNUSED
        if inner["model"]["byte_fallback"] and index == tokenizer.unk_token_id:
            return TokenType.UNKNOWN
        if index in added:
            return TokenType.CONTROL if added[index] else TokenType.USER_DEFINED
        byte = inner["model"]["byte_fallback"] and re.fullmatch(r"<0x[0-9A-F]{2}>", token)
        return TokenType.BYTE if byte else TokenType.NORMAL

    return [int(kind(index, token)) for index, token in enumerate(tokens)]


def _scores(merges: list[tuple[str, ...]], known: Mapping[str, int], size: int) -> list[float]:
    """SentencePiece merges the pair whose result has the highest score: minus the place of its first merge."""
    first: dict[int, int] = {}
    for rank, merge in enumerate(merges):
        first.setdefault(known["".join(merge)], rank)
    return [float(-first[index]) if index in first else -1e4 - len(merges) for index in range(size)]


def _prefixes(inner: Mapping[str, Any]) -> bool:
    """Whether a space is put before a text."""
    said = json.dumps([inner.get("normalizer"), inner.get("pre_tokenizer")])
    return '"Prepend"' in said or re.search(r'"prepend_scheme": "(first|always)"', said) is not None
