"""Text that a model reads as material only: nothing in it can be a control token, a fence, or hide from the eye."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

_LT, _GT, _BAR, _SQUARE = (
    "[<\uff1c\ufe64]",
    "[>\uff1e\ufe65]",
    "[|\uff5c\u2223]",
    r"[\[\uff3b]",
)  # and what NFKC makes them
_HTML = (
    "a|abbr|article|b|blockquote|body|br|button|caption|center|code|dd|div|dl|dt|em|footer|form|h[1-6]|head|header|hr|"
    "html|i|input|kbd|label|li|link|main|meta|nav|ol|option|p|pre|script|section|select|small|span|strong|style|sub|sup|"
    "table|tbody|td|textarea|th|thead|title|tr|u|ul"
)
_CONTROL = re.compile(
    "|".join(
        (
            rf"{_LT}(?=/?{_BAR})",  # <|name|>, also one that is not closed
            rf"{_LT}(?=/?(?=[\w:▁])(?!(?i:{_HTML})/?>)[^\s<>\uff1c\uff1e]{{1,64}}{_GT})",  # <s> </s> <turn|> <seed:bos>
            rf"{_SQUARE}(?=/?{_BAR})",  # [|user|]
            rf"{_SQUARE}(?=/?(?:\w*[A-Z]{{2}}\w*|[a-z]+_?\d+|(?i:inst))[\]\uff3d])",  # [INST] [gMASK] [unused1]
            r"\](?=~!?\w{0,16}[\[\]])|\[(?=\w~\[)|\](?=<\])|>(?=>[A-Z]+<<)",  # ]~b] [e~[ ]<] >>TITLE<<
        )
    )
)
_FENCES = re.compile(r"(<{3,}|>{3,})")
_INVISIBLE = re.compile(r"[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")


def defused(text: str, special: Sequence[str] = ()) -> str:
    """The text without invisible characters, its fence look-alikes and control tokens broken by a space.

    A control token is what has the form of one in any family's vocabulary (`<|name|>`, `<name>`, `[NAME]`, ...; tags of
    HTML are left alone, but for those that are tokens somewhere), and each of `special`, the reader's own.
    """
    text = _INVISIBLE.sub("", text.replace("\r\n", "\n"))
    text = text.encode("utf-8", "replace").decode()
    text = _CONTROL.sub(lambda found: f"{found.group()} ", text)
    if special:
        text = _literal(tuple(special)).sub(lambda found: f"{found.group()[0]} {found.group()[1:]}", text)
    return _FENCES.sub(lambda found: " ".join(found.group()), text)


def special_tokens(folder: Path) -> tuple[str, ...]:
    """The control tokens that the tokenizer files of a folder name, sorted; none where there are no such files.

    Left out are words of letters and digits alone, and white space, which ordinary text must be able to say.
    """
    found = {token for name in _FILES for token in _named(_read(folder / name))}
    return tuple(sorted(token for token in found if len(token) > 1 and token.strip() and not token.isalnum()))


_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@lru_cache(maxsize=8)
def _literal(special: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(token) for token in sorted(special, key=len, reverse=True)))


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _named(content: dict[str, Any]) -> Iterator[str]:
    """Tokens marked as special, and those that have a name such as `eos_token`."""
    added = [*(content.get("added_tokens") or []), *(content.get("added_tokens_decoder") or {}).values()]
    yield from (one["content"] for one in added if one.get("special"))
    for name, value in content.items():
        if name.endswith(("_token", "special_tokens")):
            yield from _contents(value)


def _contents(value: Any) -> Iterator[str]:
    """A token may be its text, {"content": text}, or stand in a list or under a name of its own."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        inner = [value["content"]] if "content" in value else value.values()
        yield from (token for one in inner for token in _contents(one))
    elif isinstance(value, list):
        yield from (token for one in value for token in _contents(one))
