"""Prompts as token ids: the template once, stop tokens trained, BOS once, prefixes kept."""

import logging
from types import SimpleNamespace

import pytest

from alignkit.data.opened import opened
from alignkit.data.prompts import checked_prompts, fit_prompts, render, render_completion
from alignkit.errors import DataError
from alignkit.recipe.read import read_recipe
from alignkit.recipe.schema import Data
from alignkit.run.train.build import Policy
from alignkit.run.train.build_data import build_evaluator, build_examples
from alignkit.types.task import Task

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHAT, TEXT = Data(source="generator:parity"), Data(source="generator:parity", chat=False)


def make_tokenizer(*, template=CHATML, eos="<|im_end|>", adds_bos=False, merge=None):
    """One token per character, with ChatML's special tokens; `merge` makes one token of two characters."""
    from tokenizers import Tokenizer, decoders, models, processors
    from transformers import PreTrainedTokenizerFast

    letters = [chr(code) for code in range(32, 127)] + ["\n"]
    words = ["<s>", "<|im_start|>", "<|im_end|>", "</s>", *letters] + ([merge] if merge else [])
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [tuple(merge)] if merge else []))
    tokenizer.decoder = decoders.Fuse()
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 3)]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token=eos,
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    fast.chat_template = template
    return fast


def chat(completion=None, content="2+3?", **columns):
    columns |= {} if completion is None else {"completion": completion}
    return Task(id="c", messages=({"role": "user", "content": content},), columns=columns)


def text(prompt, completion=None):
    return Task(id="p", text=prompt, columns={} if completion is None else {"completion": completion})


def test_the_chat_template_is_applied_exactly_once():
    tokenizer = make_tokenizer()
    ids = render(tokenizer, chat(), CHAT)
    assert tokenizer.decode(ids) == "<|im_start|>user\n2+3?<|im_end|>\n<|im_start|>assistant\n"
    assert ids.count(tokenizer.convert_tokens_to_ids("<|im_start|>")) == 2


def test_a_tokenizer_that_adds_specials_of_its_own_adds_none_to_a_rendered_chat():
    plain, adding = make_tokenizer(), make_tokenizer(adds_bos=True)
    assert render(adding, chat(), CHAT) == render(plain, chat(), CHAT)


def test_text_gets_one_bos_where_the_tokenizer_adds_it_and_never_an_eos():
    adding = make_tokenizer(adds_bos=True, eos="</s>")
    assert adding("1+1=")["input_ids"][-1] == adding.eos_token_id
    for prompt in ("1+1=", "<s>1+1="):
        assert adding.decode(render(adding, text(prompt), TEXT)) == "<s>1+1="
    plain = make_tokenizer()
    assert plain.decode(render(plain, text("1+1="), TEXT)) == "1+1="


def test_a_completion_ends_with_the_stop_token_and_nothing_after_it():
    tokenizer = make_tokenizer()
    for completion in ("5", [{"role": "assistant", "content": "5"}]):
        ids = render_completion(tokenizer, chat(completion), CHAT)
        assert tokenizer.decode(ids) == "5<|im_end|>"  # ChatML's line break behind it is never sampled
        assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(render_completion(tokenizer, text("2+3=", "5"), TEXT)) == "5<|im_end|>"
    assert tokenizer.decode(render_completion(tokenizer, text("2+3=", ""), TEXT)) == "<|im_end|>"


def test_a_template_without_a_stop_token_gets_the_eos():
    bare = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"  # fmt: skip  # noqa: E501
    tokenizer = make_tokenizer(template=bare)
    assert tokenizer.decode(render_completion(tokenizer, chat("5"), CHAT)) == "5\n<|im_end|>"


def test_a_completion_is_tokenised_behind_its_prompt_as_the_sampler_will_stand_there():
    """The tokenizer would merge `=5`, but a policy that was given `2+3=` goes on from `=`."""
    tokenizer = make_tokenizer(merge="=5")
    prompt, completion = (call(tokenizer, text("2+3=", "5"), TEXT) for call in (render, render_completion))
    assert tokenizer.decode(prompt) == "2+3="
    assert tokenizer.decode(completion) == "5<|im_end|>"
    assert tokenizer.convert_tokens_to_ids("=5") in tokenizer("2+3=5")["input_ids"]


THINKING = CHATML.replace("<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<think>\n{% endif %}")


def problems(tokenizer, data, tasks, *, learnt=False):
    return checked_prompts(tokenizer, data, tasks, learnt=learnt)[1]


def test_an_answer_that_does_not_go_on_from_what_the_template_opened_is_found():
    tokenizer = make_tokenizer(template=THINKING)
    [problem] = problems(tokenizer, CHAT, [chat("5"), chat("6")], learnt=True)
    assert problem.startswith("the chat template opens '<think>\\n' for the policy")
    assert problem.endswith("(2 of 2 rows)")
    assert problems(tokenizer, CHAT, [chat("5"), chat()]) == []  # sampled answers are no matter of the template


def test_what_the_template_opened_is_neither_learnt_nor_lost():
    tokenizer = make_tokenizer(template=THINKING)
    task = chat("<think>\nadd</think>5")
    assert tokenizer.decode(render_completion(tokenizer, task, CHAT)) == "add</think>5<|im_end|>"
    assert opened(tokenizer, task, CHAT) == "<think>\n"
    assert opened(make_tokenizer(), task, CHAT) == ""
    assert opened(tokenizer, text("Q: 1+1? <think>\n"), TEXT) == "<think>\n"
    closed = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n\n</think>\n\n{% endif %}")
    assert opened(make_tokenizer(template=closed), task, CHAT) == ""  # nothing is left open


RECIPE = """
model: {scratch: {}}
data: {source: ./rows.jsonl, chat_template_kwargs: {think: true}}
evaluation: {data: {source: ./rows.jsonl}}
rewards: [{name: exact_match}]
rollouts: {engine: hf, prompts: 1, group: 2, max_new_tokens: 4}
algorithm: {type: grpo}
optimizer: {lr: 1e-3}
train: {steps: 1}
"""


def test_training_and_evaluation_are_judged_with_what_their_own_settings_of_the_template_open(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"messages": [{"role": "user", "content": "2+3?"}], "reference": "5"}\n')
    (tmp_path / "r.yaml").write_text(RECIPE)
    recipe = read_recipe(tmp_path / "r.yaml")
    template = CHATML.replace("assistant\n{% endif %}", "assistant\n{% if think %}<think>\n{% endif %}{% endif %}")
    model = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=99))
    policy = Policy(model=model, tokenizer=make_tokenizer(template=template), stop=(2,))
    [trained] = build_examples(recipe.stages[0], policy, recipe=recipe, report=print).examples
    [graded] = build_evaluator(recipe, policy, SimpleNamespace(scorer=None)).examples
    assert (trained.opened, graded.opened) == ("<think>\n", "")


def test_a_last_message_of_the_assistant_is_gone_on_with():
    begun = ({"role": "user", "content": "2+3?"}, {"role": "assistant", "content": "It is "})
    tokenizer, task = make_tokenizer(), Task(id="c", messages=begun, columns={"completion": "5"})
    assert tokenizer.decode(render(tokenizer, task, CHAT)).endswith("<|im_start|>assistant\nIt is ")
    assert tokenizer.decode(render_completion(tokenizer, task, CHAT)) == "5<|im_end|>"
    assert opened(tokenizer, task, CHAT) == "It is "


def test_prompts_that_the_template_makes_equal_are_named():
    blind = make_tokenizer(template="mine.jinja{% if add_generation_prompt %}<|im_start|>{% endif %}")
    [hidden] = problems(blind, CHAT, [chat(content="2+3?"), chat(content="4+4?")])
    assert "does not show '2+3?'" in hidden
    assert hidden.endswith("(2 of 2 rows)")


def test_a_turn_end_that_is_not_the_eos_is_fine_and_a_doubled_bos_is_not():
    tasks = [chat("5"), chat("6")]
    for eos in ("<|im_end|>", "</s>"):
        tokenizer = make_tokenizer(eos=eos)
        assert problems(tokenizer, CHAT, tasks, learnt=True) == []
        assert tokenizer.decode(render_completion(tokenizer, tasks[0], CHAT)) == "5<|im_end|>"
    [bos] = problems(make_tokenizer(template="<s>{{ bos_token }}" + CHATML), CHAT, tasks)
    assert "begins with two BOS tokens ('<s>')" in bos
    assert problems(make_tokenizer(template="{{ bos_token }}" + CHATML, adds_bos=True), CHAT, tasks) == []
    [doubled] = problems(make_tokenizer(adds_bos=True), TEXT, [text("<s><s>1+1=")])
    assert "two BOS" in doubled


def test_missing_and_refusing_templates_are_errors_with_a_cure():
    with pytest.raises(DataError, match=r"no chat template; set model.chat_template, or data.chat to false"):
        render(make_tokenizer(template=None), chat(), CHAT)
    refusing = make_tokenizer(template="{{ raise_exception('no system role') }}")
    with pytest.raises(DataError, match="task c: the chat template refuses its messages: no system role"):
        render(refusing, chat(), CHAT)
    with pytest.raises(DataError, match="no column 'completion'"):
        render_completion(make_tokenizer(), chat(), CHAT)
    with pytest.raises(DataError, match="no EOS token"):
        render_completion(make_tokenizer(eos=None), text("a", "b"), TEXT)


def test_tools_reach_the_template():
    tokenizer = make_tokenizer(template="{% if tools %}{{ tools[0]['name'] }}{% endif %}" + CHATML)
    tools = [{"name": "calculator", "description": "", "parameters": {}}]
    assert tokenizer.decode(render(tokenizer, chat(tools=tools), CHAT)).startswith("calculator<|im_start|>")


def test_long_prompts_are_refused_dropped_or_cut_with_counts():
    prompts = [(text(str(n)), list(range(n))) for n in (2, 5, 9)]
    with pytest.raises(DataError, match="2 of 3 prompts have more than 4 tokens"):
        fit_prompts(prompts, 4, "error")
    kept, counts = fit_prompts(prompts, 4, "filter")
    assert [(task.text, ids) for task, ids in kept] == [("2", [0, 1])]
    assert (counts.given, counts.filtered, counts.truncated, counts.longest) == (3, 2, 0, 9)
    kept, counts = fit_prompts(prompts, 4, "truncate")
    assert [ids for _, ids in kept] == [[0, 1], [1, 2, 3, 4], [5, 6, 7, 8]]
    assert (counts.filtered, counts.truncated) == (0, 2)
    assert fit_prompts(prompts, 9, "error")[0] == prompts
    assert fit_prompts([], 9, "error") == ([], counts.__class__(given=0, filtered=0, truncated=0, longest=0))


@pytest.mark.parametrize("data", [CHAT, TEXT], ids=["chat", "text"])
def test_what_is_longer_than_the_tokenizers_limit_is_no_warning_of_transformers(data, caplog):
    """It is counted and refused with a cure later; a warning that speaks of indexing errors is only noise."""
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 3
    words = {"messages": [{"role": "user", "content": "hello"}]} if data.chat else {"text": "hello"}
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        render_completion(tokenizer, Task(id="0", columns={"completion": " you"}, **words), data)
    finally:
        logger.removeHandler(caplog.handler)
    assert caplog.records == []
