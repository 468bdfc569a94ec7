"""Tools: what the policy may call, how calls are read and answered, and that nothing of it is learnt or can hang."""

from __future__ import annotations

import asyncio
import dataclasses
import string
import time
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from alignkit.algorithms.rollouts import grpo
from alignkit.data.rendering import render_learnt
from alignkit.data.sources import load_tasks
from alignkit.data.tool_formats import FORMATS, read_calls, tool_format
from alignkit.data.turns import Renderer
from alignkit.environments.base import Observation
from alignkit.environments.lift import World
from alignkit.environments.tool_use import ToolUse
from alignkit.environments.toolbox import Toolbox, ToolFault, tool_schema
from alignkit.environments.tools.calculator import calculator
from alignkit.errors import ContentError, DataError
from alignkit.models.forward import packed
from alignkit.models.load import load_policy
from alignkit.models.tokenizer import character_tokenizer
from alignkit.recipe.schema import Data, Model, Rollouts, Scratch
from alignkit.rollout.collect import Collector, describe
from alignkit.rollout.episodes import Episodes
from alignkit.rollout.items import items
from alignkit.rollout.play import Prompt
from alignkit.types.batch import pack
from alignkit.types.rollout import Completion, Rollout
from alignkit.types.task import Task
from alignkit.types.turn import EpisodeEnd, StopReason

TEMPLATE = (
    "{% if tools %}{{ tools | map(attribute='function') | map(attribute='name') | join(' ') }}<eos>{% endif %}"
    "{% for m in messages %}{{ m.role }}:{{ m.content }}{% for c in m.tool_calls or [] %}"
    "<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}<eos>{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
TOKENIZER = character_tokenizer(string.printable, context=4096)
TOKENIZER.chat_template = TEMPLATE
EOS = TOKENIZER.eos_token_id


def add(a: int, b: int) -> int:
    """Adds.

    Args:
        a: One number.
        b: Another.
    """
    return a + b


def slow(seconds: float) -> str:
    """Sleeps.

    Args:
        seconds: How long.
    """
    time.sleep(seconds)
    return "awake"


def long(size: int) -> str:
    """Says much.

    Args:
        size: Characters.
    """
    return "x" * size


def broken() -> str:
    """Raises."""
    raise OSError("no disk")


def box(**options: Any) -> Toolbox:
    given = {"deadline_s": 5.0, "characters": 50, **options}
    return Toolbox.of([add, slow, long, broken], **given)


def call(name: str, **arguments: Any) -> Any:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


class Says:
    """An engine that says texts in order, to each conversation the same, each with its stop token."""

    policy_version = 0

    def __init__(self, *texts: str):
        self.texts = texts

    async def generate(self, requests: Any) -> list[Completion]:
        return [await self.sample(request) for request in requests]

    async def sample(self, request: Any) -> Completion:
        said = TOKENIZER.decode(request.prompt_ids).count("assistant:") - 1
        ids = (*TOKENIZER(self.texts[said])["input_ids"], EOS)
        return Completion(token_ids=ids, logprobs=(-0.5,) * len(ids), stop=StopReason.END_OF_TEXT, versions=((0, 0),))


def play(engine: Any, make: Any, **options: Any) -> Rollout:
    return asyncio.run(collector(engine, make, **options).sample([asked()]))[0][0]


def asked() -> Prompt:
    return Prompt(task=Task(id="t", messages=({"role": "user", "content": "1+2?"},)), ids=(), position=0)


def collector(engine: Any, make: Any, **options: Any) -> Collector:
    renderer = Renderer(tokenizer=TOKENIZER, chat=True)
    given: Any = {"max_turns": 8, "context": 2000, "deadline_s": 5.0, "pays": False, **options}
    return Collector(
        engine=engine,
        play=Episodes(make=make, name="tools", renderer=renderer, **given),
        scorer=None,
        decode=renderer.decode,
        stop_token_ids=(EOS,),
        settings=Rollouts(engine="hf", prompts=1, group=2, max_new_tokens=100),
        seed=1,
    )


ADD = '<tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>'


def test_a_task_goes_on_while_the_policy_calls_tools_and_ends_with_its_answer():
    rollout = play(Says(f"let me see {ADD}{ADD}", "3"), lambda: ToolUse(box()))
    first, last = rollout.turns
    assert (rollout.end, rollout.text, len(rollout.turns)) == (EpisodeEnd.DONE, "3", 2)
    assert first.message == {
        "role": "assistant",
        "content": "let me see",
        "tool_calls": [call("add", a=1, b=2), call("add", a=1, b=2)],
    }
    assert [(m["role"], m["name"], m["content"]) for m in first.answers] == [("tool", "add", "3")] * 2
    assert TOKENIZER.decode(last.prompt_ids) == (
        f"add slow long broken<eos>user:1+2?<eos>assistant:let me see {ADD}{ADD}<eos>tool:3<eos>tool:3<eos>assistant:"
    ), "the policy's words stay as it wrote them, though the template writes calls in its own way"
    assert rollout.score is not None
    assert (rollout.reward, rollout.score.parts) == (0.0, {}), "what is paid is for the rewards to say"


def test_a_trl_reward_sees_the_whole_conversation_with_its_calls_and_results():
    from alignkit.rewards.serve.trl import trl_arguments

    rollout = play(Says(f"let me see {ADD}", "3"), lambda: ToolUse(box()))
    [messages] = trl_arguments(rollout.task, [rollout])["completions"]
    assert [(m["role"], m["content"]) for m in messages] == [
        ("assistant", "let me see"),
        ("tool", "3"),
        ("assistant", "3"),
    ]
    assert messages[0]["tool_calls"] == [call("add", a=1, b=2)]


def test_tokens_of_tools_and_of_the_environment_have_exactly_no_gradient():
    rollout = play(Says(ADD, "3"), lambda: ToolUse(box()))
    [item] = items(dataclasses.replace(rollout, end=None), reward=1.0)
    chosen = TOKENIZER.decode([i for i, on in zip(item.completion_ids, item.action, strict=True) if on])
    assert chosen == f"{ADD}<eos>3<eos>"
    section = Model(
        scratch=Scratch(characters=string.printable, layers=1, hidden=16, heads=2, context=256), dtype="float32"
    )
    model, _ = load_policy(section, seed=0, beside=None)
    other = dataclasses.replace(item, member=1, reward=0.0)
    batch = grpo.estimate(grpo.Config(type="grpo"), pack([item, other]))
    outputs = packed(model, batch, dtype=torch.float32, temperature=1.0)
    outputs.logprobs.retain_grad()
    (batch.advantages * outputs.logprobs).sum().backward()
    gradient = outputs.logprobs.grad
    assert bool((gradient[~batch.action_mask] == 0).all())
    assert int((gradient[batch.action_mask] != 0).sum()) == 2 * (len(ADD) + 1 + 2)


@pytest.mark.parametrize(
    ("made", "fault", "shown"),
    [
        (call("subtract", a=1), ToolFault.UNKNOWN, "there is no tool 'subtract'; there are: add, slow, long, broken"),
        (call("add", a=1), ToolFault.ARGUMENTS, "the argument 'b' is missing"),
        (call("add", a=1, b=2, c=3), ToolFault.ARGUMENTS, "'c' is no argument; there are: a, b"),
        (call("add", a="1", b=2), ToolFault.ARGUMENTS, "the argument 'a' is '1'; wanted integer"),
        (call("add", a=True, b=2), ToolFault.ARGUMENTS, "the argument 'a' is 'True'; wanted integer"),
        (call("broken"), ToolFault.RAISED, "OSError: no disk"),
        (call("slow", seconds=9), ToolFault.TIMEOUT, "no result within 0.2 s"),
        (call("long", size=10_000_000), ToolFault.CUT, "x" * 50 + "\n[cut: 50 of 10,000,000 characters]"),
        ({**call("add", problem="it ends"), "type": "malformed"}, ToolFault.MALFORMED, "cannot be read: it ends"),
    ],
)
def test_what_goes_wrong_with_a_call_is_named_bounded_and_told_to_the_policy(made, fault, shown):
    begun = time.monotonic()
    deadline = 0.2 if fault is ToolFault.TIMEOUT else 30.0  # which a busy machine does not miss
    [result] = asyncio.run(box(deadline_s=deadline).call([made]))
    assert (result.fault, time.monotonic() - begun < 5) == (fault, True)
    assert shown in result.text
    assert len(result.text) < 600


def test_an_argument_is_null_only_where_its_type_says_so_and_one_of_its_choices_where_there_are_some():
    def paint(colour: Literal["red", "blue"], coats: int | None = None, shades: list[int] | None = None) -> str:
        """Paints.

        Args:
            colour: Which.
            coats: How many.
            shades: Of it.
        """
        return f"{colour} {coats} {shades}"

    tools = Toolbox.of([paint], deadline_s=30.0, characters=50)
    reds = [{"colour": "red", "coats": None}, {"colour": "red", "shades": [1.5]}]
    asked = [reds[0], {"colour": None}, {"colour": "green"}, reds[1]]
    results = asyncio.run(tools.call([call("paint", **one) for one in asked]))
    assert [one.text.removeprefix('{"error": "').removesuffix('"}') for one in results] == [
        "red None None",
        "the argument 'colour' is 'None'; wanted ['red', 'blue']",
        "the argument 'colour' is 'green'; wanted ['red', 'blue']",
        "the argument 'shades' is '[1.5]'; wanted array",
    ]


def test_several_calls_share_the_time_and_one_that_hangs_leaves_the_others_their_part():
    results = asyncio.run(
        box(deadline_s=0.6).call([call("add", a=1, b=2), call("slow", seconds=9), call("add", a=3, b=4)])
    )
    assert [(one.text, one.fault) for one in results][::2] == [("3", None), ("7", None)]
    assert results[1].fault is ToolFault.TIMEOUT


def test_faults_of_tools_are_counted_and_no_fault_of_the_episode():
    bad = "<tool_call>{bad</tool_call>"
    collected = asyncio.run(
        collector(
            Says(bad, '<tool_call>{"name": "sub", "arguments": {}}</tool_call>', "3"), lambda: ToolUse(box())
        ).collect(lambda count: [asked()] * count)
    )
    [one, _] = collected.groups[0]
    assert [turn.tool_faults for turn in one.turns] == [("malformed",), ("unknown",), ()]
    assert "the call cannot be read" in one.turns[0].answers[0]["content"]
    metrics = describe(collected, Rollouts(engine="hf", prompts=1, group=2))
    assert {name: value for name, value in metrics.items() if name.startswith(("tools/", "rollout/end"))} == {
        "tools/calls_mean": 2,
        "tools/fault_frac": 1.0,
        "tools/fault/malformed": 2,
        "tools/fault/unknown": 2,
        "rollout/end/done": 1.0,
    }


@pytest.mark.parametrize(
    ("options", "end", "turns"),
    [
        ({"max_tool_calls": 2}, EpisodeEnd.MAX_TOOL_CALLS, 3),
        ({"max_turns": 2}, EpisodeEnd.MAX_TURNS, 2),
        ({"max_seconds": 1e-9}, EpisodeEnd.MAX_SECONDS, 0),
        ({"context": 250}, EpisodeEnd.CONTEXT_FULL, 3),
    ],
)
def test_each_budget_ends_an_episode_by_its_own_name_and_counts_as_truncated(options, end, turns):
    rollout = play(Says(*[ADD] * 9), lambda: ToolUse(box()), **options)
    assert (rollout.end, len(rollout.turns), rollout.truncated) == (end, turns, True)


def test_tools_beside_an_environment_leave_it_what_is_said_without_a_call():
    class Inner:
        async def start(self, task: Task, seed: int) -> Observation:
            return Observation(text="how much?")

        async def step(self, text: str) -> Observation:
            return Observation(text="", reward=float(text == "3"), done=True, success=text == "3")

    rollout = play(Says(ADD, "3"), lambda: ToolUse(box(), Inner()), pays=True)
    assert (rollout.reward, [turn.reward for turn in rollout.turns]) == (1.0, [0.0, 1.0])
    assert rollout.score is not None
    assert rollout.score.parts["success"] == 1.0


SAID = {
    "xml": "<think>\nhm\n</think>\n\n<tool_call>\n<function=f>\n<parameter=a>\n3\n</parameter>\n<parameter=s>\n7\n"
    "</parameter>\n</function>\n</tool_call>",
    "glm": "<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>3</arg_value>\n<arg_key>s</arg_key>\n"
    "<arg_value>7</arg_value>\n</tool_call>",
    "hermes": '<tool_call>\n{"name": "f", "arguments": {"a": 3, "s": "7"}}\n</tool_call>',
    "mistral": '[TOOL_CALLS]f[ARGS]{"a": 3, "s": "7"}',
    "mistral_list": '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 3, "s": "7"}}]',
    "harmony": "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary to=functions.f "
    '<|constrain|>json<|message|>{"a": 3, "s": "7"}',
    "gemma": '<|tool_call>call:f{a:3,s:<|"|>7<|"|>}<tool_call|>',
    "lfm": "<|tool_call_start|>[f(a=3, s='7')]<|tool_call_end|>",
    "phi": '<|tool_call|>[{"name": "f", "arguments": {"a": 3, "s": "7"}}]<|/tool_call|>',
    "deepseek": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n"
    '{"a": 3, "s": "7"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    "llama": '{"name": "f", "parameters": {"a": 3, "s": "7"}}',
}
SCHEMA = {
    "type": "function",
    "function": {
        "name": "f",
        "description": "Does it.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "s": {"type": "string"}}},
    },
}


@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.name)
def test_every_family_writes_the_same_call(format):
    message = read_calls(SAID[format.name], format.template, [SCHEMA])
    assert message.get("tool_calls") == [call("f", a=3, s="7")]
    assert message.get("reasoning_content") == ("hm" if format.name in ("xml", "harmony") else None)
    assert read_calls("no call", format.template, [SCHEMA]) == {"role": "assistant", "content": "no call"}


def test_the_formats_read_what_trls_chat_templates_of_the_families_write():
    """Each template renders a call, and what it rendered for the assistant is read back."""
    folder = pytest.importorskip("trl").__path__[0]
    expected = {
        "qwen2_5": "hermes",
        "qwen3": "hermes",
        "qwen3_5_nothink": "xml",
        "glm4moe": "glm",
        "gptoss": "harmony",
        "gemma4": "gemma",
        "lfm2_2_5": "lfm",
        "llama3_1": "llama",
        "deepseekv3": "deepseek",
        "nemotron_3_nano": "xml",
    }
    before: Any = [{"role": "user", "content": "go"}]
    said: Any = [*before, {"role": "assistant", "content": "", "tool_calls": [call("f", a=3, s="7")]}]
    for name, format in expected.items():
        text = (Path(folder) / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
        known = next(one for one in FORMATS if all(mark in text for mark in one.marks))
        assert known.name == format, name
        if name == "deepseekv3":
            continue  # it wants arguments as text
        tokenizer = character_tokenizer("x", context=64)
        tokenizer.chat_template = text
        shown = {"tools": [SCHEMA], "tokenize": False}
        start = tokenizer.apply_chat_template(before, add_generation_prompt=True, **shown)
        whole = tokenizer.apply_chat_template(said, **shown)
        same = next((i for i, (a, b) in enumerate(zip(start, whole, strict=False)) if a != b), len(start))
        answer = whole[same:].rstrip().removesuffix("<|im_end|>").removesuffix("<|call|>").removesuffix("<|eot_id|>")
        found = read_calls(answer, known.template, [SCHEMA])
        assert found.get("tool_calls") == [call("f", a=3, s="7")], (name, answer)


def test_a_template_that_shows_no_tools_or_rewrites_turns_stops_the_run_by_name():
    plain = character_tokenizer(string.printable, context=64)
    plain.chat_template = TEMPLATE.replace("<tool_call>", "")
    with pytest.raises(DataError, match=r"tools: the chat template teaches no format of tool calls .*hermes"):
        tool_format(plain)
    plain.chat_template = TEMPLATE.replace("if tools", "if false")
    with pytest.raises(DataError, match="tools: the chat template does not show them"):
        tool_format(plain)
    rewriting = character_tokenizer(string.printable, context=4096)
    rewriting.chat_template = "{{ messages | length }}" + TEMPLATE
    transcript = Renderer(tokenizer=rewriting, chat=True).begin()
    transcript.offer(box().schemas)
    transcript.observe("hello")
    transcript.act([*rewriting(ADD)["input_ids"], EOS])
    with pytest.raises(DataError, match="turn 2: the chat template rewrites earlier turns"):
        transcript.observe("", [{"role": "tool", "name": "add", "content": "3"}])


def test_a_function_without_a_schema_is_refused_before_the_first_episode(tmp_path):
    (tmp_path / "mine.py").write_text("def lookup(word):\n    return word\n")
    with pytest.raises(ContentError, match=r"tool 'lookup': .*; give it type hints and a docstring with `Args:`"):
        World(name=None, tools=(("./mine.py:lookup", {}),), beside=tmp_path).factory()
    with pytest.raises(ContentError, match=r"two are called 'add'"):
        Toolbox.of([add, add], deadline_s=1, characters=1)


def test_the_calculators_recipe_teaches_calls_in_the_context_and_format_of_its_episodes():
    folder = Path(__file__).parents[2] / "recipes" / "agents"
    tokenizer = character_tokenizer(string.printable, context=4096)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = (folder / "calculator.jinja").read_text()
    data = Data(source="./calculator_calls.py:conversations", options={"count": 1})
    task = load_tasks(data, seed=0, beside=folder)[1]
    rendering = render_learnt(tokenizer, task, data)
    transcript = Renderer(tokenizer=tokenizer, chat=True).begin()
    transcript.offer([tool_schema(calculator)])
    transcript.observe("", [task.messages[0]])
    assert tuple(transcript.ids) == rendering.prompt
    _, called, result, answer = rendering.pieces
    message = transcript.act(tokenizer(called.text, add_special_tokens=False)["input_ids"])
    expression = message["tool_calls"][0]["function"]["arguments"]["expression"]
    assert answer.text == f"{calculator(expression)}<|im_end|>"
    transcript.observe("", [{"role": "tool", "name": "calculator", "content": calculator(expression)}])
    assert tokenizer.decode(transcript.ids).endswith(result.text)


def use(name: str, options: dict[str, Any] | None = None, beside: Path | None = None, **arguments: Any) -> Any:
    world = World(name=None, tools=((name, options or {}),), beside=beside)
    made: Any = world.factory()()
    [result] = asyncio.run(made._toolbox.call([call(name, **arguments)]))
    return result


def test_the_calculator_is_exact_and_does_arithmetic_only():
    for expression, value in (("(12+3)*4", "60"), ("0.1+0.2", "0.3"), ("2/3", "0.666666666667"), ("2**10 % 7", "2")):
        assert use("calculator", expression=expression).text == value
    for expression in ("9**9**9", "__import__('os')", "1/0", "1" * 1001):
        assert use("calculator", expression=expression).fault is ToolFault.RAISED


def test_python_prints_what_a_program_prints_and_how_it_failed():
    from alignkit.sandbox.isolation import available

    if not available().is_enough:
        pytest.skip("this machine has too few walls for a sandbox")
    assert use("python", code="print(6 * 7)").text == "42\n"
    assert use("python", code="import os; os.remove('/etc/passwd')").text.startswith("[exit code 1: ")
    assert "printed more than 65,536 bytes" in use("python", code="print('x' * 10**7)").text[-60:] or True


def test_search_finds_by_words_and_says_when_nothing_fits(tmp_path):
    pytest.importorskip("bm25s")
    (tmp_path / "notes.jsonl").write_text(
        '{"title": "Otters", "text": "Otters sleep on the water."}\n{"text": "Badgers dig."}\n{"text": "Foxes bark."}\n'
    )
    options = {"corpus": "notes.jsonl", "results": 2}
    assert use("search", options, tmp_path, query="where do badgers dig").text == "[1] Badgers dig."
    assert use("search", options, tmp_path, query="zebra").text == "nothing was found"
    with pytest.raises(ContentError, match="search: there is no file"):
        World(name=None, tools=(("search", {"corpus": "none.jsonl"}),), beside=tmp_path).factory()
