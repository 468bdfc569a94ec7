"""From a model's text to the program in it: a fenced block, a whole file, or the continuation of a started function."""

from __future__ import annotations

import re

from alignkit.types.syntax import parsed

MOST_CHARACTERS = 100_000

FENCE = re.compile(
    r"^[ \t]*(?:```|~~~)[ \t]*(?P<language>[\w+-]*)[^\n]*\n(?P<code>.*?)(?:^[ \t]*(?:```|~~~)|\Z)", re.M | re.S
)
PYTHON = ("", "python", "python3", "py", "py3")
STARTS_CODE = re.compile(r"^(?:import |from \w|def |class |@|async def )", re.M)
GOES_ON = re.compile(r"[ \t\r\n#)\]}@]|(?:async )?def |class |import |from |(?:else|elif|except|finally)\b")


def prompt_code(prompt: str, name: str | None) -> str:
    """The unfinished function `name` in a prompt, from its imports to its docstring; empty when there is none.

    The prompt is the function itself (HumanEval), or holds it in a fenced block or after some words.
    """
    if name is None or not re.search(rf"^[ \t]*(?:async )?def {re.escape(name)}\b", prompt, re.M):
        return ""
    blocks = [block for block in fenced_blocks(prompt) if re.search(rf"def {re.escape(name)}\b", block)]
    start = STARTS_CODE.search(prompt)
    code = blocks[-1] if blocks else prompt[start.start() :] if start else ""
    return code if code and _loads(finished(code)) else ""


def finished(code: str) -> str:
    """An unfinished function with an empty body, so that what stands before it can be run."""
    return f"{code.rstrip()}\n    pass\n"


def find_program(text: str, name: str | None, prompt: str) -> str | None:
    """The program in an answer, or None when there is none or it is too long.

    text: what the model says, thoughts removed. name: the function that is wanted, if known. prompt: the unfinished
    function that the model was given, or empty. Of several fenced blocks the last one that defines `name` counts,
    else the last one. Text without a fence is a file if it defines `name`, else the rest of the prompt's function.
    """
    if not text.strip() or len(text) > MOST_CHARACTERS:
        return None
    wanted = re.compile(rf"^(?:async )?(?:def|class) {re.escape(name)}\b" if name else r"^(?:async )?def ", re.M)
    before = f"{finished(prompt)}\n" if prompt else ""
    blocks = fenced_blocks(text)
    if blocks:
        chosen = [block for block in blocks if wanted.search(block)]
        if chosen or not (prompt and blocks[-1][:1].isspace()):
            return before + (chosen or blocks)[-1]
        return prompt + blocks[-1]
    if prompt and not wanted.search(text):
        return prompt + _body(text)
    return before + text if STARTS_CODE.search(text) else None


def fenced_blocks(text: str) -> list[str]:
    """What stands in the text's fenced code blocks of Python or no named language; the last may be unclosed."""
    blocks = [match for match in FENCE.finditer(text) if match["language"].lower() in PYTHON]
    return [block["code"] for block in blocks if block["code"].strip()]


def _body(text: str) -> str:
    """A continuation up to the first line at the margin that starts neither a definition nor a comment."""
    lines = text.split("\n")
    for number, line in enumerate(lines[1:], start=1):
        if line and not GOES_ON.match(line):
            return "\n".join(lines[:number]) + "\n"
    return text


def _loads(code: str) -> bool:
    try:
        parsed(code)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return True
