"""The control tokens of public model families, by their form: where a completion ends or begins, and what pads it."""

from __future__ import annotations

import re
from typing import NamedTuple

_OPEN, _SHUT, _BAR = r"[<\uff1c]", r"[>\uff1e]", r"[|\uff5c]"
_GAP = r"[_▁ ]?"
_STOP_NAMES = (
    rf"im_end|end{_GAP}of{_GAP}(?:text|turn|sentence|utterance|message|document)(?:_token)?|eot|eom|eos|eod|eot_id|eom_id|"
    r"eos_token|end|return|call|role_end|turn_end|assistant_end|user|observation"
)
_PAD_NAMES = r"▁?pad▁?|\w{1,30}_pad(?:_id|_token)?|pad_token|dummy_\d+"
_BOS_NAMES = rf"begin{_GAP}of{_GAP}(?:text|sentence)|startoftext|bos|bos_token"
_MARKED = rf"{_OPEN}{_BAR}(?:%s){_BAR}{_SHUT}"  # <|name|>

_STOP = "|".join(
    (
        _MARKED % _STOP_NAMES,
        r"</s>|<(?:eos|eod|eot|EOS_TOKEN|end_of_turn|end_of_utterance|end_of_text|turn\||seed:eos)>|<extra_id_1>",
        r"\[(?:EOS|EOT|SEP|\|endofturn\|)\]|\[e~\[",
    )
)
_PAD = "|".join((_MARKED % _PAD_NAMES, r"<(?:pad|unk|seed:pad)>|\[PAD\]"))
_BOS = "|".join((_MARKED % _BOS_NAMES, r"<(?:s|bos|BOS_TOKEN|seed:bos)>|\[(?:BOS|CLS)\]|\[gMASK\]|<sop>"))

_LAST = re.compile(rf"(?:(?P<stop>{_STOP})|{_PAD})\s*$", re.I)
_HEAD = re.compile(rf"(?:(?:{_STOP}|{_PAD}|{_BOS})\s*)+", re.I)
_WINDOW = 64  # longer than any such token

_ROLE = r"(?:assistant|model|chatbot|bot)"
_TOKEN = rf"{_OPEN}{_BAR}[^\s<>|\uff5c]{{1,40}}{_BAR}?{_SHUT}"
_NAMED = rf"[<\uff1c\[]{_BAR}(?:im_)?{_ROLE}(?:_token|_start)?{_BAR}[>\uff1e\]]|<AI>|<reserved_107>"
_BEFORE_ROLE = rf"(?:{_TOKEN}|<start_of_turn>|<seed:bos>)"
_AFTER_ROLE = rf"(?:(?=<\|channel)|{_TOKEN}|(?=\n))"
_ANSWER = re.compile(
    rf"(?:\[/INST\]|(?:{_NAMED})(?:{_ROLE}{_TOKEN})?|{_BEFORE_ROLE}{_ROLE}{_AFTER_ROLE})\n{{0,2}}", re.I
)
_THOUGHT = re.compile(r"(?:<(?:\w+:)?think(?:ing)?>|\[THINK\])\s*$", re.I)


class Completion(NamedTuple):
    """What a model said, without what ended it. ended: whether a token of that kind stood there."""

    text: str
    ended: bool


def without_stop(text: str) -> Completion:
    """The text without the stop and pad tokens at its end; what stands before them stays as it is."""
    ended, end = False, len(text)
    while last := _LAST.search(text, max(0, end - _WINDOW), end):
        ended, end = ended or last["stop"] is not None, last.start()
    return Completion(text[:end], ended)


def padding_end(text: str) -> int:
    """Number of characters of pad, stop and begin tokens that a text begins with."""
    head = _HEAD.match(text)
    return head.end() if head else 0


def answer_start(text: str) -> int:
    """Where the last answer begins in a conversation written by a chat template; 0 where none can be told."""
    found = [match.end() for match in _ANSWER.finditer(text)]
    return found[-1] if found else 0


def thought_start(prompt: str) -> int:
    """Where a thought begins that the template opened at the prompt's end; the prompt's length where there is none."""
    opened = _THOUGHT.search(prompt, max(0, len(prompt) - _WINDOW))
    return opened.start() if opened else len(prompt)
