"""What a completion tells its reader: thought blocks of the public model families, and `<answer>` tags. Linear time."""

from __future__ import annotations

import re

_NAMED = r"(?:(?:seed|mm):)?think(?:ing)?|thoughts?|reasoning|reflection|scratchpad|longcat_think"
_MARK = re.compile(
    rf"""
    <(?P<end_tag>/)?(?P<tag>{_NAMED})>                              # <think>, <thinking>, <seed:think>, <reasoning>
  | \[(?P<end_bracket>/)?(?P<bracket>THINK)\]                       # Magistral
  | ◁(?P<end_triangle>/)?(?P<triangle>think)▷                       # Kimi
  | <\|(?:begin|(?P<end_of>end))_of_(?P<of>thought)\|>              # Sky-T1, OpenThinker
  | <\|(?:START|(?P<end_upper>END))_(?P<upper>THINKING)\|>          # Command A
  | <\|channel>(?P<narrow>\w*)\s | (?P<end_narrow><channel\|>)      # Gemma
    """,
    re.VERBOSE | re.IGNORECASE,
)
_FAMILIES = ("tag", "bracket", "triangle", "of", "upper", "narrow")
_CHANNEL = re.compile(r"<\|channel\|>\s*(?P<name>[a-z]++)[^<]{0,200}+(?:<\|constrain\|>[^<]{0,200}+)?<\|message\|>")
_CHANNEL_END = re.compile(r"<\|(?:end|return|call|start|channel)\|>")


def spoken(completion: str) -> str:
    """What a reader is told: what stands behind the last closed thought block; nothing while one is still open.

    A closing mark without an opening one closes what the prompt opened. Where nothing stands behind the last block, the
    text in front of it is what was told. Of messages in channels (`<|channel|>final<|message|>`) the last final one is.
    """
    if "<|channel|>" in completion:
        return _final_message(completion)
    told, start, inside = "", 0, None
    for mark in _MARK.finditer(completion):
        family = next(name for name in _FAMILIES if mark[name] is not None or mark[f"end_{name}"])
        kind = (family, (mark[family] or "").lower() if family == "tag" else "")
        if not mark[f"end_{family}"]:
            if inside is None:
                inside, told = kind, completion[start : mark.start()].strip() or told
        elif inside in (None, kind):
            told = "" if inside is None else told
            inside, start = None, mark.end()
    if inside is not None:
        return ""
    tail = completion[start:]
    return tail if tail.strip() or not start else told


THINK_ANSWER_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def tagged_answer(text: str) -> str | None:
    """What stands in the last `<answer>...</answer>`; None when there is none or it is not closed."""
    before, closed, _ = text.rpartition("</answer>")
    _, opened, answer = before.rpartition("<answer>")
    return answer.strip() if closed and opened else None


def think_answer(completion: str, style: str = "strict") -> str | None:
    """The answer of a completion in the form `<think>...</think><answer>...</answer>`, None when it is not.

    style: `strict` is exactly that, each tag once, an answer inside and nothing around (Med-RLVR's rules); `mm_eureka`
    allows text after it; `r1_omni` is R1-Omni's expression, in which tags may come again and the answer be empty.
    """
    text = completion.strip()
    starts = text.startswith("<think>")
    _, closed, rest = text.removeprefix("<think>").partition("</think>")
    rest = rest.lstrip()
    if not (starts and closed and rest.startswith("<answer>")):
        return None
    if style == "r1_omni":
        return tagged_answer(rest) if rest.endswith("</answer>") else None
    if any(completion.count(tag) != 1 for tag in THINK_ANSWER_TAGS):
        return None
    answer, ended, after = rest.removeprefix("<answer>").partition("</answer>")
    if not (ended and answer.strip()) or (after and style == "strict"):
        return None
    return answer.strip()


def _final_message(completion: str) -> str:
    """The text of the last channel when that is `final`; what was said in the others is thought or a call of a tool."""
    opened = list(_CHANNEL.finditer(completion))
    if not opened or opened[-1]["name"] != "final":
        return ""
    start = opened[-1].end()
    ended = _CHANNEL_END.search(completion, start)
    if ended and ended.group() in ("<|start|>", "<|channel|>"):
        return ""
    return completion[start : ended.start() if ended else len(completion)]
