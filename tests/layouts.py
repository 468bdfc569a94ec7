"""One row of every layout that is known, and the task that it becomes: the tests and docs/data.md are made of these."""

import json
from dataclasses import dataclass, field
from typing import Any

USER = {"role": "user", "content": "What is 2+2?"}
GOOD = {"role": "assistant", "content": "4"}
BAD = {"role": "assistant", "content": "5"}
BRIEF = {"role": "system", "content": "Be brief."}
EARLIER = [{"role": "user", "content": "What is 1+1?"}, {"role": "assistant", "content": "2"}]
SUM = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
CALLED = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "4"}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """name: heading. row: as it stands in a file. settings: of the recipe's `data`, besides source.

    messages or text, columns, reference, conversation: of the task. note: a sentence for the page.
    """

    name: str
    row: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    messages: list[Any] | None = None
    text: str | None = None
    columns: dict[str, Any] = field(default_factory=dict)
    reference: Any = None
    conversation: bool = False
    note: str = ""


LAYOUTS = {
    "TRL": (
        Layout(
            name="language modelling",
            row={"text": "2+2=4 and 3+3=6"},
            text="",
            columns={"completion": "2+2=4 and 3+3=6", "text": "2+2=4 and 3+3=6"},
            note="The whole text is learnt as it is, without the chat template.",
        ),
        Layout(
            name="conversation",
            row={"messages": [USER, GOOD]},
            messages=[USER],
            columns={"completion": [GOOD]},
            conversation=True,
        ),
        Layout(name="prompt only", row={"prompt": "What is 2+2?"}, messages=[USER]),
        Layout(
            name="prompt and completion",
            row={"prompt": "What is 2+2?", "completion": "4"},
            messages=[USER],
            columns={"completion": "4"},
        ),
        Layout(
            name="prompt and completion of messages",
            row={"prompt": [USER], "completion": [GOOD]},
            messages=[USER],
            columns={"completion": [GOOD]},
        ),
        Layout(
            name="preference",
            row={"prompt": "What is 2+2?", "chosen": "4", "rejected": "5"},
            messages=[USER],
            columns={"chosen": "4", "rejected": "5"},
        ),
        Layout(
            name="preference with an implicit prompt",
            row={"chosen": [USER, GOOD], "rejected": [USER, BAD]},
            messages=[USER],
            columns={"chosen": [GOOD], "rejected": [BAD]},
            note="What both begin with is the prompt; so it is in texts.",
        ),
        Layout(
            name="judged answers",
            row={"prompt": "What is 2+2?", "completion": "4", "label": True},
            messages=[USER],
            columns={"completion": "4", "label": True},
        ),
        Layout(
            name="steps",
            row={"prompt": "What is 2+2+2?", "completions": ["2+2=4. ", "4+2=7."], "labels": [True, False]},
            messages=[{"role": "user", "content": "What is 2+2+2?"}],
            columns={
                "completions": ["2+2=4. ", "4+2=7."],
                "steps": ["2+2=4. ", "4+2=7."],
                "labels": [True, False],
            },
        ),
    ),
    "OpenAI": (
        Layout(
            name="fine-tuning with tools",
            row={
                "messages": [
                    USER,
                    {
                        "role": "assistant",
                        "weight": 0,
                        "tool_calls": [
                            {
                                "id": "call_1",
                                "type": "function",
                                "function": {"name": "add", "arguments": '{"a": 2}'},
                            }
                        ],
                    },
                    {"role": "tool", "tool_call_id": "call_1", "content": "4"},
                    GOOD,
                ],
                "tools": [SUM],
            },
            messages=[
                USER,
                {**CALLED, "tool_calls": [{**CALL, "id": "call_1"}], "learnt": False},
                {**RESULT, "tool_call_id": "call_1"},
            ],
            columns={"completion": [GOOD], "tools": [SUM]},
            conversation=True,
        ),
        Layout(
            name="preference",
            row={
                "input": {"messages": [USER], "tools": [SUM], "parallel_tool_calls": True},
                "preferred_output": [GOOD],
                "non_preferred_output": [BAD],
            },
            messages=[USER],
            columns={"chosen": [GOOD], "rejected": [BAD], "tools": [SUM]},
        ),
        Layout(
            name="content in parts",
            row={
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "2+2?"}],
                    },
                    {"role": "assistant", "content": [{"type": "text", "text": "4"}]},
                ]
            },
            messages=[USER],
            columns={"completion": [GOOD]},
            conversation=True,
            note="Parts of text are joined; images, audio and files are refused, by row.",
        ),
    ),
    "ShareGPT and LLaMA-Factory": (
        Layout(
            name="conversation",
            row={
                "conversations": [
                    {"from": "human", "value": "What is 2+2?"},
                    {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2}}'},
                    {"from": "observation", "value": "4"},
                    {"from": "gpt", "value": "4"},
                ],
                "system": "Be brief.",
                "tools": f"[{json.dumps(SUM['function'])}]",
            },
            messages=[BRIEF, USER, CALLED, RESULT],
            columns={"completion": [GOOD], "tools": [SUM]},
            conversation=True,
        ),
        Layout(
            name="preference",
            row={
                "conversations": [{"from": "human", "value": "What is 2+2?"}],
                "chosen": {"from": "gpt", "value": "4"},
                "rejected": {"from": "gpt", "value": "5"},
            },
            messages=[USER],
            columns={"chosen": [GOOD], "rejected": [BAD]},
        ),
        Layout(
            name="judged conversation",
            row={"messages": [USER, GOOD], "kto_tag": False},
            messages=[USER],
            columns={"completion": [GOOD], "label": False, "kto_tag": False},
            conversation=True,
        ),
        Layout(
            name="Alpaca",
            row={
                "instruction": "Add.",
                "input": "2+2",
                "output": "4",
                "system": "Be brief.",
                "history": [["What is 1+1?", "2"]],
            },
            messages=[BRIEF, *EARLIER, {"role": "user", "content": "Add.\n2+2"}],
            columns={"completion": [GOOD], "instruction": "Add.", "input": "2+2", "output": "4"},
            conversation=True,
            note="`history` and `system` may be left out; with a history it is a whole conversation.",
        ),
    ),
    "ms-swift": (
        Layout(
            name="query and response",
            row={
                "system": "Be brief.",
                "query": "What is 2+2?",
                "response": "4",
                "history": [["What is 1+1?", "2"]],
            },
            messages=[BRIEF, *EARLIER, USER],
            columns={"completion": [GOOD], "query": "What is 2+2?", "response": "4"},
            conversation=True,
        ),
        Layout(
            name="rejected response",
            row={"messages": [USER, GOOD], "rejected_response": "5"},
            messages=[USER],
            columns={"chosen": [GOOD], "rejected": "5", "rejected_response": "5"},
        ),
        Layout(
            name="rejected messages",
            row={"messages": [USER, GOOD], "rejected_messages": [USER, BAD]},
            messages=[USER],
            columns={"chosen": [GOOD], "rejected": [BAD]},
        ),
    ),
    "verl": (
        Layout(
            name="prompt and ground truth",
            row={
                "data_source": "sums",
                "prompt": [USER],
                "ability": "math",
                "reward_model": {"style": "rule", "ground_truth": "4"},
                "extra_info": {"index": 7, "split": "train"},
            },
            settings={"columns": {"reference": "reward_model.ground_truth", "id": "extra_info.index"}},
            messages=[USER],
            columns={
                "data_source": "sums",
                "ability": "math",
                "reward_model": {"style": "rule", "ground_truth": "4"},
                "extra_info": {"index": 7, "split": "train"},
                "id": 7,
            },
            reference="4",
        ),
    ),
    "OpenRLHF": (
        Layout(
            name="input and output",
            row={"input": "What is 2+2?", "output": "4"},
            messages=[USER],
            columns={"completion": "4", "input": "What is 2+2?", "output": "4"},
        ),
        Layout(
            name="context messages",
            row={"context_messages": [USER], "chosen": "4", "rejected": "5"},
            messages=[USER],
            columns={"chosen": "4", "rejected": "5"},
        ),
    ),
    "Other public sets": (
        Layout(
            name="whole conversations beside a prompt (UltraFeedback-binarized)",
            row={
                "prompt": "What is 2+2?",
                "chosen": [BRIEF, USER, GOOD],
                "rejected": [BRIEF, USER, BAD],
                "messages": [BRIEF, USER, GOOD],
                "score_chosen": 9.0,
                "score_rejected": 1.0,
            },
            messages=[BRIEF, USER],
            columns={"chosen": [GOOD], "rejected": [BAD], "score_chosen": 9.0, "score_rejected": 1.0},
            note="The messages that both sides share are the prompt.",
        ),
        Layout(
            name="a prompt that its conversation begins with (UltraChat)",
            row={"prompt": "What is 1+1?", "messages": [*EARLIER, USER, GOOD]},
            messages=[EARLIER[0]],
            columns={"completion": [EARLIER[1], USER, GOOD]},
            conversation=True,
            note="The prompt is asked; what follows it is learnt.",
        ),
        Layout(
            name="dialogues in one text (HH-RLHF)",
            row={
                "chosen": "\n\nHuman: What is 2+2?\n\nAssistant: 4",
                "rejected": "\n\nHuman: What is 2+2?\n\nAssistant: 5",
            },
            messages=[USER],
            columns={"chosen": [GOOD], "rejected": [BAD]},
            note="With `chat: false` they stay text.",
        ),
    ),
    "Questions with answers": (
        Layout(
            name="for rewards",
            row={"question": "What is 2+2?", "answer": "4"},
            settings={"columns": {"prompt": "question", "reference": "answer"}},
            messages=[USER],
            columns={"question": "What is 2+2?", "answer": "4"},
            reference="4",
            note="No column is taken for the gold answer unless the recipe says so.",
        ),
        Layout(
            name="with an instruction",
            row={"problem": "What is 2+2?", "solutions": [{"text": "It is 4.", "final": 4}]},
            settings={
                "template": "{problem}\nPut the answer in \\boxed{}.",
                "columns": {"completion": "solutions[0].text", "reference": "solutions[0].final"},
            },
            messages=[{"role": "user", "content": "What is 2+2?\nPut the answer in \\boxed{}."}],
            columns={
                "problem": "What is 2+2?",
                "solutions": [{"text": "It is 4.", "final": 4}],
                "completion": "It is 4.",
            },
            reference=4,
        ),
    ),
}
