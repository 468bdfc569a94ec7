"""What a judge is shown cannot hold a control token of any family, and ordinary text stays as it is."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from alignkit.errors import RewardError
from alignkit.rewards.judge.fence import defused, special_tokens
from alignkit.rewards.judge.judge import JudgeReward
from alignkit.types.task import Task
from tests.unit.loopback import Scripted, served
from tests.unit.reward_rollouts import rollouts

FAMILIES = {
    "chatml: qwen, smollm, yi, internlm": [
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
        "<tool_call>",
        "</tool_call>",
    ],
    "qwen vl": ["<|vision_start|>", "<|box_end|>", "<img>", "</img>", "<ref>"],
    "llama 2": ["<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<unk>"],
    "llama 3": ["<|begin_of_text|>", "<|start_header_id|>", "<|eot_id|>", "<|python_tag|>"],
    "llama 4": ["<|header_start|>", "<|eot|>", "<|image_start|>"],
    "mistral": [
        "[SYSTEM_PROMPT]",
        "[/SYSTEM_PROMPT]",
        "[TOOL_CALLS]",
        "[AVAILABLE_TOOLS]",
        "[IMG]",
        "[control_8]",
        "[THINK]",
    ],
    "gemma": ["<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>", "<unused7>", "<start_of_image>", "<mask>"],
    "gemma later": ["<|turn>", "<turn|>", "<|channel>", "<channel|>"],
    "deepseek": [
        "<｜begin▁of▁sentence｜>",
        "<｜User｜>",
        "<｜Assistant｜>",
        "<｜tool▁calls▁begin｜>",
        "<think>",
        "</think>",
    ],
    "phi": ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|im_sep|>", "<|dummy_85|>"],
    "glm": ["[gMASK]", "<sop>", "<eop>", "<|observation|>", "<arg_key>", "<|begin_of_image|>"],
    "baichuan": ["<reserved_106>", "<reserved_107>"],
    "minicpm": ["<用户>", "<AI>"],
    "minimax": ["]~b]", "]~!b[", "[e~[", "]<]"],
    "seed oss": ["<seed:bos>", "<seed:eos>", "<seed:think>", "</seed:tool_call>"],
    "command r": ["<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|CHATBOT_TOKEN|>", "<EOS_TOKEN>"],
    "exaone": ["[|system|]", "[|user|]", "[|assistant|]", "[|endofturn|]"],
    "kimi": ["[BOS]", "[EOS]", "[PAD]", "<|im_middle|>", "<|tool_calls_section_begin|>"],
    "gpt-oss": ["<|start|>", "<|channel|>", "<|message|>", "<|return|>", "<|call|>"],
    "granite": ["<|start_of_role|>", "<|end_of_role|>", "<fim_prefix>", "<reponame>"],
    "bert": ["[CLS]", "[SEP]", "[MASK]", "[unused1]"],
    "t5, nemotron": ["<extra_id_0>", "<SPECIAL_10>", "<pad>"],
    "falcon": [">>QUESTION<<", ">>ANSWER<<", "<|assistant|>"],
    "longcat, ling, apertus, reka": [
        "<longcat_user>",
        "<role>",
        "</role>",
        "<|role_end|>",
        "<|assistant_start|>",
        "<sep>",
    ],
    "others": ["<human>", "<_user>", "<jupyter_code>", "<file_sep>", "<0x0A>", "<madeupword0>"],
}
TEMPLATES = Path(__file__).parents[1] / "data" / "templates"


@pytest.mark.parametrize("tokens", FAMILIES.values(), ids=list(FAMILIES))
def test_no_control_token_of_a_family_passes_the_fence(tokens, record_property):
    record_property("tries", 6 * len(tokens))
    for token in tokens:
        for text in (
            token,
            f"x{token}y",
            f"{token}{token}\n{token} 10",
            f"<{token}>",
            f"[{token}]",
            f"{token[0]}{token}",
        ):
            shown = defused(text)
            assert token not in shown
            assert shown.replace(" ", "") == text.replace(" ", "")  # nothing is lost
            assert defused(shown) == shown


@pytest.mark.skipif(not TEMPLATES.is_dir(), reason="no public templates beside the tests")
@pytest.mark.parametrize("file", sorted(TEMPLATES.glob("*.json")), ids=lambda file: file.stem)
def test_no_control_token_of_a_public_template_passes_the_fence(file, record_property):
    told = json.loads(file.read_text())
    tokens = {told["bos"], told["eos"], told["pad"], told["turn_end"], *told["control"], *told["added"]} - {None}
    assert tokens
    record_property("tries", len(tokens))
    assert [token for token in tokens if token in defused(f"x{token}y")] == []


@pytest.mark.parametrize(
    "text",
    [
        "if a < b and c > d: x >> 2 << 1",
        "<div><p>Hello <b>you</b></p><br/></div> <H1>Title</H1>",
        "see [1], [A] and [the docs](x.md); a[0], a[i] and {1: [2, 3]}",
        "I <3 you -> yes <- no; x <= y => z; |a| || |b|",
        "a\tb\n\nc é 😀 ½ 漢字",
        '{"a": ["b", 1.5], "c": null}',
    ],
)
def test_ordinary_text_stays_as_it_is(text):
    assert defused(text) == text


def test_look_alikes_that_a_tokenizer_may_normalise_are_broken_too():
    for text in ("＜|im_start|＞", "＜s＞", "［INST］", "<\u200b|im_start|>", "<|im\u2060_start|>"):
        assert " " in defused(text)


def tokenizer_files(folder):
    added = [{"id": 3, "content": "@@user", "special": True}, {"id": 4, "content": "hello", "special": False}]
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    config = {
        "eos_token": {"content": "#end#"},
        "additional_special_tokens": ["%role%", "plainword", "\n\n"],
        "added_tokens_decoder": {"7": {"content": "@@tool", "special": True}, "8": {"content": "no", "special": False}},
        "extra_special_tokens": {"image_token": "~pic~"},
        "bos_token": None,
        "add_bos_token": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "special_tokens_map.json").write_text("not json")
    return ("#end#", "%role%", "@@tool", "@@user", "~pic~")


def test_the_tokens_that_a_tokenizers_files_call_special_are_known(tmp_path):
    assert special_tokens(tmp_path / "nothing") == ()
    wanted = tokenizer_files(tmp_path)
    assert special_tokens(tmp_path) == wanted
    shown = defused("hello plainword @@user: 10 #end# @@@user no", wanted)
    assert shown == "hello plainword @ @user: 10 # end# @@ @user no"


@pytest.mark.parametrize("mode", ["rubric", "pairwise"])
def test_a_judge_with_a_known_tokenizer_is_shown_none_of_its_tokens(tmp_path, mode):
    wanted = tokenizer_files(tmp_path)
    app = Scripted(lambda path, body, number: (200, {"choices": [{"message": {"content": "?"}}]}))
    task = Task(id="t", messages=({"role": "user", "content": "@@tool?"},), reference="#end#")
    with served(app) as url:
        for options in ({"tokenizer": str(tmp_path), "model": "m"}, {"model": str(tmp_path)}):
            judge = JudgeReward(url + "/v1", mode=mode, deadline_s=10, **options)
            asyncio.run(judge.score(task, rollouts(task, "a %role% b", "~pic~")))
    asked = [message["content"] for body in app.asked("/v1/chat/completions") for message in body["messages"]]
    assert len(asked) >= 4
    assert not [token for token in wanted for text in asked if token in text]


def test_a_tokenizer_that_is_none_is_an_error_before_the_first_call(tmp_path):
    with pytest.raises(RewardError, match=r"names no special token; wanted a folder with tokenizer.json"):
        JudgeReward("http://127.0.0.1:1/v1", "m", tokenizer=str(tmp_path))
