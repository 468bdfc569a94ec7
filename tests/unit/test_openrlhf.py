"""Requests of OpenRLHF's remote reward client: its three ages, stop and pad tokens of all families, cut prompts."""

from __future__ import annotations

from contextlib import closing

import pytest

from alignkit.recipe.schema import RewardSpec
from alignkit.rewards.judge.control_tokens import answer_start, without_stop
from alignkit.rewards.pool.pool import RewardPool
from alignkit.rewards.serve.openrlhf import OpenRlhfRequest, completion_start, groups_from_openrlhf
from alignkit.types.rollout import StopReason
from tests.unit.loopback import TOKEN, served

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")
from alignkit.rewards.serve.server import build_app  # noqa: E402  # fastapi is optional

CHATML = "<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n"
STOPS = {
    "qwen, smollm, yi, internlm": "<|im_end|>",
    "qwen base, phi, olmo, falcon, gpt": "<|endoftext|>",
    "llama 3": "<|eot_id|>",
    "llama 3 base, granite": "<|end_of_text|>",
    "llama 3 tools": "<|eom_id|>",
    "llama 4": "<|eot|>",
    "llama 2, mistral, zephyr, baichuan, minicpm": "</s>",
    "gemma": "<end_of_turn>",
    "gemma base": "<eos>",
    "gemma later": "<turn|>",
    "phi 3": "<|end|>",
    "deepseek": "<｜end▁of▁sentence｜>",
    "command r": "<|END_OF_TURN_TOKEN|>",
    "aya": "<EOS_TOKEN>",
    "exaone": "[|endofturn|]",
    "kimi": "[EOS]",
    "seed oss": "<seed:eos>",
    "gpt-oss": "<|return|>",
    "gpt-oss tools": "<|call|>",
    "glm": "<|user|>",
    "glm tools": "<|observation|>",
    "openchat": "<|end_of_turn|>",
    "deepseek coder": "<|EOT|>",
    "smolvlm": "<end_of_utterance>",
    "minimax": "[e~[",
    "ling": "<|role_end|>",
    "nemotron": "<extra_id_1>",
    "apertus": "<|assistant_end|>",
}
PADS = [
    "<pad>",
    "<|pad|>",
    "<PAD>",
    "[PAD]",
    "<unk>",
    "<|finetune_right_pad_id|>",
    "<｜▁pad▁｜>",
    "<seed:pad>",
    "<|dummy_85|>",
]
HEADERS = {
    "chatml": "<|im_start|>assistant\n",
    "llama 3": "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "gemma": "<start_of_turn>model\n",
    "mistral": "[/INST]",
    "zephyr, phi 3, olmo, falcon, glm": "<|assistant|>\n",
    "deepseek": "<｜Assistant｜>",
    "command r": "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    "exaone": "[|assistant|]",
    "granite": "<|start_of_role|>assistant<|end_of_role|>",
    "phi 4": "<|im_start|>assistant<|im_sep|>",
    "kimi": "<|im_assistant|>assistant<|im_middle|>",
    "seed oss": "<seed:bos>assistant\n",
    "baichuan": "<reserved_107>",
    "minicpm": "<AI>",
}


def only(**request):
    [(task, [rollout])] = groups_from_openrlhf(OpenRlhfRequest(**request))
    return task, rollout


@pytest.mark.parametrize("stop", STOPS.values(), ids=list(STOPS))
def test_the_stop_token_of_each_family_is_no_part_of_the_completion(stop):
    for padding in ("", *PADS, stop):
        said = without_stop(f"so it is 4\n{stop}{padding * 3}")
        assert said == ("so it is 4\n", True)
    assert without_stop(f"{stop} is a token, 4") == (f"{stop} is a token, 4", False)


@pytest.mark.parametrize("pad", PADS)
def test_padding_alone_means_that_the_completion_was_cut(pad):
    assert without_stop(f"so it is 4{pad}{pad} {pad}\n") == ("so it is 4", False)


@pytest.mark.parametrize(
    "text", ["4", "", "a </think>", "<answer>4</answer>", "x<tool_call>y</tool_call>", "[4]", "if a<b>c"]
)
def test_a_completion_without_a_stop_token_stays_as_it_is(text):
    assert without_stop(text) == (text, False)


def test_a_completion_of_nothing_but_many_stop_tokens_is_empty():
    assert without_stop("<|im_end|>" * 20_000) == ("", True)


def test_todays_request_keeps_whether_the_policy_ended_its_turn():
    task, ended = only(query=[CHATML + "It is 4.<|im_end|>"], prompts=[CHATML], labels=["4"])
    assert (task.text, task.reference, ended.text) == (CHATML, "4", "It is 4.")
    assert ended.turns[-1].stop is StopReason.END_OF_TEXT
    _, cut = only(query=[CHATML + "It is 4 bec"], prompts=[CHATML], labels=["4"])
    assert (cut.text, cut.turns[-1].stop) == ("It is 4 bec", StopReason.LENGTH)


@pytest.mark.parametrize("header", HEADERS.values(), ids=list(HEADERS))
def test_a_query_alone_is_split_where_the_template_opens_the_last_answer(header):
    prompt = (
        f"<|x|>user\nWhat?{header}One.{STOPS['llama 2, mistral, zephyr, baichuan, minicpm']}<|x|>user\nAnd?{header}"
    )
    task, rollout = only(query=[prompt + "The <b>model</b> says 4, <assistant> too</s>"])
    assert (task.text, task.reference) == (prompt, None)
    assert rollout.text == "The <b>model</b> says 4, <assistant> too"


def test_a_query_alone_without_a_template_is_all_completion():
    task, rollout = only(query=["What is 2+2? 4</s>"])
    assert (task.text, rollout.text) == ("", "What is 2+2? 4")
    assert answer_start("no model\nassistant\n4") == 0


def test_a_thought_that_the_template_opened_belongs_to_the_completion():
    prompt = CHATML + "<think>\n"
    for request in ({"prompts": [prompt]}, {}):
        task, rollout = only(query=[prompt + "2+2</think>4<|im_end|>"], **request)
        assert (task.text, rollout.text) == (CHATML, "<think>\n2+2</think>4")


LONG = "<|im_start|>user\n" + "Some words about ünïcödé sums. " * 20 + "What is 2+2?<|im_end|>\n<|im_start|>assistant\n"


def test_a_prompt_that_lost_its_beginning_is_found_wherever_it_was_cut():
    for cut in range(len(LONG) - 4):
        query = LONG[cut:] + "It is 4."
        assert query[completion_start(query, LONG) :] == "It is 4."
    assert only(query=["\ufffd" + LONG[50:] + "4"], prompts=[LONG])[1].text == "4"


def test_a_prompt_that_lost_its_end_is_found():
    for cut in range(20, len(LONG) - 1):
        query = LONG[:cut] + "§ It is 4."
        assert query[completion_start(query, LONG) :] == "§ It is 4."


def test_padding_a_begin_token_and_other_white_space_do_not_hide_the_prompt():
    for before in ("<|endoftext|>" * 5, "<s>", "<s> ", "<pad><pad><s>", "<|begin_of_text|>", "<｜begin▁of▁sentence｜>"):
        assert only(query=[before + CHATML + "4</s>"], prompts=[CHATML])[1].text == "4"
    prompt = "<s>[INST] What  is it? [/INST]"
    assert only(query=["<s> [INST] What is it? [/INST] 4</s>"], prompts=[prompt])[1].text == " 4"
    assert only(query=["<|bos|>" + CHATML + "4</s>"], prompts=["<|bos|>" + CHATML])[1].text == "4"


def test_a_query_with_another_prompt_is_not_taken_for_a_cut_one():
    other = CHATML.replace("2+2", "3+3")
    for query, prompt in ((other + "6", CHATML), ("What? five", "Who?"), ("Who? me", "What? "), ("", CHATML)):
        assert completion_start(query, prompt) is None


def test_the_served_rewards_are_those_of_the_clean_completion():
    """Finding: right answers of OpenRLHF's client got 0 with HTTP 200 because of the stop token behind them."""
    format_ok = "<think>a</think><answer>4</answer>"
    cases = [
        ("exact_match", {}, "4", "4", 1.0),
        ("format_think_answer", {}, format_ok, None, 1.0),
        ("length_penalty", {"max_tokens": 4, "buffer": 2}, "abc", None, -0.5),
        ("ends_with_stop", {}, "abc", None, 1.0),
    ]
    for name, options, text, label, expected in cases:
        with (
            closing(RewardPool([RewardSpec(name=name, options=options)], workers=1)) as pool,
            served(build_app(pool, reward=name, token=TOKEN)) as url,
        ):
            body = {"query": [CHATML + text + "<|im_end|>"], "prompts": [CHATML], "labels": [label]}
            answer = httpx.post(url.replace("://", f"://any:{TOKEN}@") + "/get_reward", json=body)
            assert answer.json()["rewards"] == [expected], name
            if name == "ends_with_stop":
                body["query"] = [CHATML + text]
                answer = httpx.post(url.replace("://", f"://any:{TOKEN}@") + "/get_reward", json=body)
                assert answer.json()["rewards"] == [0.0]


def test_missing_labels_are_the_named_cause_and_a_cut_prompt_does_not_fail_its_batch():
    with (
        closing(RewardPool([RewardSpec(name="gsm8k_answer")], workers=1)) as pool,
        served(build_app(pool, reward="gsm8k_answer", token=TOKEN)) as url,
    ):
        send = lambda **body: httpx.post(url.replace("://", f"://any:{TOKEN}@") + "/get_reward", json=body)  # noqa: E731
        queries = [CHATML + "#### 4<|im_end|>", LONG[30:] + "#### 5<|im_end|>"]
        batch = {"query": queries, "prompts": [CHATML, LONG]}
        for labels in ({}, {"labels": []}, {"labels": ["", ""]}, {"labels": [None, None]}):
            answer = send(**batch, **labels)
            assert answer.status_code == 502
            assert "2 of 2 completions could not be scored; the first: gold in gsm8k_answer" in answer.json()["error"]
            assert "the request has no labels" in answer.json()["error"]
        assert send(**batch, labels=["4", "4"]).json()["rewards"] == [1.0, 0.0]
        assert send(query=queries).status_code == 502
        partly = send(**batch, labels=["4", None]).json()["error"]
        assert "1 of 2" in partly
        assert "request/1" in partly
        assert "no labels" not in partly
    with (
        closing(
            RewardPool([RewardSpec(name="length_penalty", options={"max_tokens": 9, "buffer": 2})], workers=1)
        ) as pool,
        served(build_app(pool, reward="length_penalty", token=TOKEN)) as url,
    ):
        body = {"query": [CHATML + "12345678<|im_end|>"]}
        assert httpx.post(url.replace("://", f"://any:{TOKEN}@") + "/get_reward", json=body).json()["rewards"] == [-0.5]
