"""The formats in which model families write tool calls, and what was said as a message with its calls."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alignkit.data.chat_template import chat_template
from alignkit.errors import DataError
from alignkit.types.task import Message
from alignkit.types.tool_calls import MALFORMED, read_tool_calls

CALL = {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}}
NAMED = {"type": "function", "function": "{content}"}
THOUGHTS = {"open": "<think>", "close_pattern": r"</think>\s*", "content": "text"}
VALUE = r"(?:[^\s<]|\s++(?!</parameter>)|<(?!/parameter>))*+"  # `.*?` would take hours over an open one and blank lines
LITERAL = r"[^\[\]{}'\"]|'[^']*'|\"[^\"]*\""
NESTED = rf"{LITERAL}|[\[{{](?:{LITERAL}|[\[{{](?:{LITERAL})*[\]}}])*[\]}}]"


@dataclass(frozen=True, kw_only=True)
class ToolFormat:
    """marks: what the chat templates that teach it all contain. calls: how transformers' response parser reads one
    (`transformers.utils.chat_parsing`). thoughts: the same of what is thought."""

    name: str
    marks: tuple[str, ...]
    calls: Mapping[str, Any]
    thoughts: Mapping[str, Any] | None = None

    @property
    def template(self) -> dict[str, Any]:
        """The whole as transformers' `response_template`."""
        fields: dict[str, Any] = {"reasoning_content": dict(self.thoughts or THOUGHTS)}
        fields["tool_calls"] = {"repeats": "transform_each" not in self.calls, "content": "json", **self.calls}
        fields["content"] = {"content": "text"}
        return {"defaults": {"role": "assistant"}, "start_anchor": "\x00", "fields": fields}


FORMATS = (
    ToolFormat(
        name="xml",  # Qwen3-Coder, Qwen3.5, Nemotron 3
        marks=("<tool_call>", "<function=", "<parameter="),
        calls={
            "open_pattern": r"(?:<tool_call>\s*)?<function=(?P<name>[^\n>]+)>",
            "close_pattern": r"</function>\s*(?:</tool_call>\s*)?",
            "content": "xml-inline",
            "content_args": {"tag_pattern": rf"<parameter=(?P<key>[^>\n]+)>\s*+(?P<value>{VALUE})\s*+</parameter>"},
            "transform": CALL,
        },
    ),
    ToolFormat(
        name="glm",  # GLM-4.5 and later
        marks=("<tool_call>", "<arg_key>"),
        calls={
            "open_pattern": r"<tool_call>\s*(?P<name>[^\s<]+)\s*",
            "close_pattern": r"</tool_call>\s*",
            "content": "xml-inline",
            "content_args": {
                "tag_pattern": r"<arg_key>(?P<key>[^<]+)</arg_key>\s*<arg_value>(?P<value>.*?)</arg_value>"
            },
            "transform": CALL,
        },
    ),
    ToolFormat(
        name="hermes",  # Hermes, Qwen2.5, Qwen3, SmolLM3, Granite 4
        marks=("<tool_call>",),
        calls={"open": "<tool_call>", "close_pattern": r"</tool_call>\s*", "transform": NAMED},
    ),
    ToolFormat(
        name="mistral",  # from Mistral Small 3.2 on
        marks=("[TOOL_CALLS]", "[ARGS]"),
        calls={
            "open_pattern": r"\[TOOL_CALLS\](?P<name>[^\[{]+)(?:\[CALL_ID\][^\[]*)?(?:\[ARGS\])?",
            "close_pattern": r"(?=\[TOOL_CALLS\])",
            "transform": CALL,
        },
    ),
    ToolFormat(
        name="mistral_list",  # Mistral before
        marks=("[TOOL_CALLS]",),
        calls={
            "open": "[TOOL_CALLS]",
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{arguments}"}},
            "transform_each": True,
        },
    ),
    ToolFormat(
        name="harmony",  # gpt-oss
        marks=("<|channel|>", "functions."),
        calls={
            "open_pattern": r"(?:<\|start\|>assistant)?(?:<\|channel\|>commentary)? ?to=functions\.(?P<name>[^\s<]+)"
            r"(?:<\|channel\|>commentary)?\s*(?:<\|constrain\|>)?(?:json)?<\|message\|>",
            "close_pattern": r"(?:<\|call\|>|<\|end\|>)\s*",
            "transform": CALL,
        },
        thoughts={
            "open_pattern": r"(?:<\|start\|>assistant)?<\|channel\|>analysis<\|message\|>",
            "close_pattern": r"<\|end\|>\s*",
            "content": "text",
        },
    ),
    ToolFormat(
        name="gemma",  # Gemma 4
        marks=("<|tool_call>",),
        calls={
            "open_pattern": r"<\|tool_call>call:(?P<name>\w+)",
            "close_pattern": r"<tool_call\|>\s*",
            "content_args": {"string_delims": [['<|"|>', '<|"|>']], "unquoted_keys": True},
            "transform": CALL,
        },
        thoughts={"open": "<|channel>thought\n", "close_pattern": r"<channel\|>\s*", "content": "text"},
    ),
    ToolFormat(
        name="lfm",  # LFM2
        marks=("<|tool_call_start|>",),
        calls={
            "open_pattern": r"(?:<\|tool_call_start\|>\[|,\s*)(?P<name>\w+)\(",
            "close_pattern": r"\)(?:\]<\|tool_call_end\|>)?\s*",
            "content": "xml-inline",
            "content_args": {
                "tag_pattern": rf"(?P<key>\w+)=(?P<value>'[^']*'|\"[^\"]*\"|[\[{{](?:{NESTED})*[\]}}]|[^,)]*)",
                "value_parser": {"name": "json", "args": {"string_delims": [["'", "'"]], "allow_non_json": True}},
            },
            "transform": CALL,
        },
    ),
    ToolFormat(
        name="phi",  # Phi-4-mini
        marks=("<|tool_call|>",),
        calls={
            "open": "<|tool_call|>",
            "close_pattern": r"<\|/tool_call\|>\s*",
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{arguments}"}},
            "transform_each": True,
        },
    ),
    ToolFormat(
        name="deepseek",  # DeepSeek-V3
        marks=("<｜tool▁call▁begin｜>",),
        calls={
            "open_pattern": r"(?:<｜tool▁calls▁begin｜>)?\s*<｜tool▁call▁begin｜>function<｜tool▁sep｜>"
            r"(?P<name>[^\n]+)\n```json\n",
            "close_pattern": r"\n```<｜tool▁call▁end｜>\s*(?:<｜tool▁calls▁end｜>)?",
            "transform": CALL,
        },
    ),
    ToolFormat(
        name="llama",  # Llama 3.1 to 3.3
        marks=('"parameters": ', "ipython"),
        calls={
            "open_pattern": r'(?:<\|python_tag\|>)?\{"(?:type": ?"function", ?")?name": ?"(?P<name>[^"]+)", ?'
            r'"parameters": ?',
            "close_pattern": r"\}\s*(?:;\s*(?=\{)|(?=\Z))",
            "transform": CALL,
        },
    ),
)


def tool_format(tokenizer: Any, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """How calls of the tokenizer's model are read: its own `response_template`, else that of the format its chat
    template teaches; arguments: of the chat template.

    Raises DataError when there is none, or when the template shows no tools.
    """
    own = getattr(tokenizer, "response_template", None)
    text = str(tokenizer.chat_template or "")
    known = next((one for one in FORMATS if all(mark in text for mark in one.marks)), None)
    format = own if own is not None or known is None else known.template
    if format is None:
        names = ", ".join(one.name for one in FORMATS)
        raise DataError(
            f"tools: the chat template teaches no format of tool calls that is known ({names}); set "
            "model.chat_template to one that does"
        )
    probe: dict[str, Any] = {"name": MALFORMED, "description": "x", "parameters": {"type": "object", "properties": {}}}
    asked: list[Message] = [{"role": "user", "content": "x"}]
    shown = chat_template(tokenizer, arguments).text(
        asked, where="tools", generation_prompt=True, tools=[{"type": "function", "function": probe}]
    )
    if MALFORMED not in shown:
        raise DataError("tools: the chat template does not show them; set model.chat_template to one that does")
    return format


def read_calls(text: str, format: Mapping[str, Any], tools: Sequence[Mapping[str, Any]]) -> Message:
    """What the policy said, as a message: its words, thoughts and calls, arguments as the tools' schemas type them.

    text: with special tokens, from where the assistant's message begins. format: of `tool_format`. When a call cannot
    be read the message has one of type `malformed` instead of all, whose argument `problem` says why.
    """
    from transformers.utils.chat_parsing import parse_response

    try:
        parsed = parse_response(text, dict(format), prefix="", tools=[dict(tool) for tool in tools])
        calls = read_tool_calls(parsed.get("tool_calls", []), where="calls")
        json.dumps(calls, ensure_ascii=False, default=str).encode()  # raises for half a surrogate pair: nobody reads it
    except (ValueError, TypeError, LookupError, RecursionError, DataError) as error:
        problem = " ".join(str(error).rpartition("Error: ")[2].split())[:200]  # without the text that it is about
        call: Any = {"type": MALFORMED, "function": {"name": MALFORMED, "arguments": {"problem": problem}}}
        return {"role": "assistant", "content": text, "tool_calls": [call]}
    message: Message = {"role": "assistant", "content": str(parsed.get("content", ""))}
    thoughts = parsed.get("reasoning_content") or parsed.get("thinking")
    if thoughts:
        message["reasoning_content"] = str(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message
