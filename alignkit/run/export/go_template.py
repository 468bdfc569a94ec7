"""A chat template as Ollama writes one: found by asking the tokenizer's own, and proven by rendering both."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from alignkit.data.chat_template import chat_template
from alignkit.errors import DataError, ExportError
from alignkit.run.export.proof import CONVERSATIONS

MARKS = {"system": "alignkitSaysThisFirst", "user": "alignkitAsksThis", "assistant": "alignkitAnswersThis"}
TALKS = (
    *(talk if talk[-1][0] == "user" else (*talk, ("user", "And on?")) for talk in CONVERSATIONS),
    tuple((("user", "assistant")[turn % 2], f"Turn {turn}.") for turn in range(7)),
)
ACTION = re.compile(r"\{\{-? *(.*?) *-?\}\}", re.DOTALL)
Message = Mapping[str, str]


def go_template(tokenizer: Any, *, bos: str) -> str:
    """The tokenizer's chat template in Go's words: what stands before and after each role's text, and what opens the
    answer.

    bos: what whoever tokenizes puts before every text by itself, which is left out. Raises ExportError where a message
    changes what stands around others, or the template shows today's date.
    """
    if not tokenizer.chat_template:
        raise ExportError("ollama: the model has no chat template; use --to gguf")
    if "strftime_now" in tokenizer.chat_template:
        raise ExportError("ollama: the chat template shows today's date, which Ollama's cannot; use --to gguf")
    found = _derived(tokenizer, bos)
    for talk in TALKS:
        messages = [{"role": role, "content": content} for role, content in talk]
        wanted = _rendered(tokenizer, messages, generation_prompt=True)
        if wanted is not None and bos + render(found, messages) != wanted:
            raise _unfit(f"it shows {len(talk)} messages otherwise")
    return found


def render(template: str, messages: Sequence[Message]) -> str:
    """What Go makes of a template of `go_template` and messages."""
    nodes = _parsed(ACTION.split(template))
    return _run(nodes, {"Messages": messages})


def _derived(tokenizer: Any, bos: str) -> str:
    def around(*roles: str, opens: bool = False) -> list[str] | None:
        """What stands before, between and after the texts of these roles."""
        messages = [{"role": role, "content": MARKS[role]} for role in roles]
        text = _rendered(tokenizer, messages, generation_prompt=opens)
        if text is None or not text.startswith(bos):
            return None
        parts = re.split("|".join(MARKS.values()), text.removeprefix(bos))
        return parts if len(parts) == len(roles) + 1 else None

    if not (_rendered(tokenizer, [{"role": "user", "content": ""}], generation_prompt=True) or bos).startswith(bos):
        raise _unfit(f"Ollama puts {bos} before every text, and the template does not")
    turns, asked, asks = around("user", "assistant", "user"), around("user"), around("user", opens=True)
    if turns is None or asks is None:
        raise _unfit("it does not show the text of every message once")
    first, to_answer, to_question, _ = turns
    before_user = _shared(first[::-1], to_question[::-1])[::-1]
    system = around("system", "user")
    if system is not None:
        before_user = _shared(before_user[::-1], system[1][::-1])[::-1]
    after_user = _shared(to_answer, asks[1])
    if asked is not None and after_user.startswith(asked[1]):  # some templates end with EOS where nothing is asked
        after_user = asked[1]
    pieces = {
        "user": (before_user, after_user),
        "assistant": (to_answer.removeprefix(after_user), to_question.removesuffix(before_user)),
    }
    if system is not None:
        pieces["system"] = (system[0], system[1].removesuffix(before_user))
    return _written(first.removesuffix(before_user), pieces, asks[1].removeprefix(after_user))


def _written(head: str, pieces: Mapping[str, tuple[str, str]], opening: str) -> str:
    said = [
        f'if eq .Role "{role}" }}}}{_text(before)}{{{{ .Content }}}}{_text(after)}'
        for role, (before, after) in pieces.items()
    ]
    start = f'{{{{- if ne (index .Messages 0).Role "system" }}}}{_text(head)}{{{{- end }}}}\n' if head else ""
    return (
        f"{start}{{{{- range .Messages }}}}\n{{{{- "
        + "\n{{- else ".join(said)
        + "\n{{- end }}\n{{- end }}\n{{- /* the answer */ -}}\n"
        + _text(opening)
    )


def _text(text: str) -> str:
    """As an action, so that no space of it is lost."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""


def _shared(one: str, other: str) -> str:
    """What two texts begin with."""
    length = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:length]


def _rendered(tokenizer: Any, messages: Sequence[Message], *, generation_prompt: bool) -> str | None:
    try:
        said: Any = messages
        return chat_template(tokenizer).text(said, where="", generation_prompt=generation_prompt)
    except DataError:
        return None


def _unfit(why: str) -> ExportError:
    return ExportError(f"ollama: the chat template cannot be said in Ollama's words: {why}; use --to gguf")


def _parsed(parts: list[str]) -> list[Any]:
    """Actions by nesting: a text, or (condition, body, else body) of `if`, ("range", body)."""
    root: list[Any] = []
    stack = [root]
    for action in parts[1::2]:  # texts between actions are line ends, which the actions trim
        word, _, rest = action.partition(" ")
        if word in ("if", "range"):
            body: list[Any] = []
            stack[-1].append((word, rest, body, []))
            stack.append(body)
        elif word == "else":
            stack.pop()
            body = []
            stack[-1][-1][3].append(("if", rest.removeprefix("if "), body, []))
            stack.append(body)
        elif word == "end":
            stack.pop()
        elif word != "/*":
            stack[-1].append(action)
    return root


def _run(nodes: Sequence[Any], scope: Mapping[str, Any]) -> str:
    said = []
    for node in nodes:
        if isinstance(node, str):
            said.append(scope["Content"] if node == ".Content" else json.loads(node))
        elif node[0] == "range":
            said += [_run(node[2], {"Role": each["role"], "Content": each["content"]}) for each in scope["Messages"]]
        else:
            chosen = next((branch[2] for branch in (node, *node[3]) if _holds(branch[1], scope)), [])
            said.append(_run(chosen, scope))
    return "".join(said)


def _holds(condition: str, scope: Mapping[str, Any]) -> bool:
    verb, value, wanted = condition.replace("(index .Messages 0).Role", ".First").split(" ")
    role = scope["Role"] if value == ".Role" else scope["Messages"][0]["role"]
    return (role == json.loads(wanted)) is (verb == "eq")
