"""A reward model as a folder: what it scores does not depend on its company, and what it cannot score it says."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from alignkit.errors import ContentError
from alignkit.models.adapted import base_model
from alignkit.models.forward import packed, plain
from alignkit.models.load import VALUE_HEAD
from alignkit.rewards.learned import reward_model
from alignkit.rewards.learned.reward_model import RewardModel
from alignkit.rewards.pool.lift import find_reward
from alignkit.types.batch import pack
from alignkit.types.item import Item
from alignkit.types.outputs import Outputs
from alignkit.types.score import FaultKind
from alignkit.types.task import Task
from tests.unit.reward_folders import (
    TEMPLATE,
    answered,
    bert,
    by_the_book,
    character_model,
    saved,
    text_task,
    values,
)

TEXTS = {
    "character": (
        ("1+2=", ("3", "12", "", "a longer answer of many tokens")),
        ("what is 7+8?", ("15", "5", "fifteen")),
    ),
    "bert": (("what is the sum ?", ("one", "two and three", "", "a b c " * 5)), ("one and two", ("three", "c", "b a"))),
}


def make(kind: str, folder: Path):
    return bert(folder / "bert") if kind == "bert" else character_model()


@pytest.fixture(params=TEXTS)
def kind(request) -> str:
    return request.param


@pytest.fixture
def made(kind, tmp_path):
    """(kind, live model, tokenizer, the folder it was saved to)."""
    model, tokenizer = make(kind, tmp_path)
    return kind, model, tokenizer, saved(model, tokenizer, tmp_path / "reward")


def groups(kind: str):
    return [
        (task := text_task(prompt, number=n), answered(task, *texts)) for n, (prompt, texts) in enumerate(TEXTS[kind])
    ]


def token_ids(kind: str, tokenizer, prompt: str, text: str) -> list[int]:
    """What the model must see, put together by hand."""
    body = tokenizer(prompt + text, add_special_tokens=False)["input_ids"]
    if kind == "bert":
        body = [i for part in (prompt, text) for i in tokenizer(part, add_special_tokens=False)["input_ids"]]
        return [tokenizer.cls_token_id, *body, tokenizer.sep_token_id]
    return [
        *tokenizer(prompt)["input_ids"],
        *tokenizer(text, add_special_tokens=False)["input_ids"],
        tokenizer.eos_token_id,
    ]


def test_a_score_is_the_head_at_the_last_real_token_of_that_text_alone(made):
    kind, model, tokenizer, folder = made
    scores = values(RewardModel.load(folder).score(groups(kind), name="r"))
    expected = [by_the_book(model, token_ids(kind, tokenizer, p, t)) for p, texts in TEXTS[kind] for t in texts]
    assert scores == pytest.approx(expected, abs=1e-6)
    assert max(scores) - min(scores) > 0.05, "texts that all score alike would show nothing"


def test_scores_do_not_depend_on_batch_order_or_padding(made, monkeypatch):
    kind, _, _, folder = made
    model = RewardModel.load(folder)
    together = values(model.score(groups(kind), name="r"))
    alone = [model.score([(task, [one])], name="r")[0][0].value for task, own in groups(kind) for one in own]
    backwards = values(model.score([(task, own[::-1]) for task, own in groups(kind)[::-1]], name="r"))[::-1]
    monkeypatch.setattr(reward_model, "MICRO_BATCH_TOKENS", 50)
    few_at_a_time = values(model.score(groups(kind), name="r"))
    for other in (alone, backwards, few_at_a_time):
        assert other == pytest.approx(together, abs=1e-6)


@pytest.mark.parametrize("path", [packed, plain])
def test_sharing_a_prompt_changes_no_score_of_a_causal_model(path):
    model, tokenizer = character_model()
    read = {"dtype": torch.float32, "temperature": 1.0, "want": ("values",)}
    prompt = tokenizer("what is 7+8?")["input_ids"]
    items = [
        Item(prompt_ids=prompt, completion_ids=tokenizer(text, add_special_tokens=False)["input_ids"], member=member)
        for member, text in enumerate(("15", "5", "fifteen of them"))
    ]
    scores = []
    for share_prefix in (True, False):
        batch = pack(items, share_prefix=share_prefix)
        with torch.no_grad():
            scores.append(path(model, batch, **read).values[batch.last_token(), 0])
    assert len(pack(items, share_prefix=True).blocks) == 1
    torch.testing.assert_close(*scores, rtol=0, atol=1e-6)


def test_an_encoder_never_shares_prompts_or_packs(tmp_path):
    model = RewardModel.load(saved(*bert(tmp_path / "bert"), tmp_path / "reward"))
    model.score(groups("bert"), name="r")
    assert not model.forward.fast


@pytest.mark.parametrize("change", ["pad is eos", "no pad", "left", "padded and cut"])
def test_what_the_tokenizer_says_of_pads_is_not_asked(made, change):
    """Left-over settings of a tokenizer used elsewhere, and a pad that is also the stop token."""
    kind, _, tokenizer, folder = made
    before = values(RewardModel.load(folder).score(groups(kind), name="r"))
    if change == "pad is eos":
        tokenizer.pad_token = tokenizer.eos_token
    if change == "no pad":
        tokenizer.pad_token = None
    if change == "left":
        tokenizer.padding_side = tokenizer.truncation_side = "left"
    if change == "padded and cut":
        tokenizer.backend_tokenizer.enable_padding(length=40, pad_id=tokenizer.pad_token_id)
        tokenizer.backend_tokenizer.enable_truncation(2)
    tokenizer.save_pretrained(folder)
    assert values(RewardModel.load(folder).score(groups(kind), name="r")) == pytest.approx(before, abs=1e-6)


def test_a_folder_read_and_written_again_is_the_same_to_the_bit(made, tmp_path):
    kind, model, _, folder = made
    loaded = RewardModel.load(folder)
    scores = values(loaded.score(groups(kind), name="r"))
    again = saved(loaded.forward.model, loaded.tokenizer, tmp_path / "again")
    for file in ("model.safetensors", f"{VALUE_HEAD}.safetensors"):
        first, second = load_file(folder / file), load_file(again / file)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert values(RewardModel.load(again).score(groups(kind), name="r")) == scores
    kept = {name: tensor for name, tensor in base_model(model).state_dict().items() if "pooler" not in name}
    read = base_model(loaded.forward.model).state_dict()
    assert all(torch.equal(read[name], tensor) for name, tensor in kept.items())


def test_only_safetensors_are_written_and_read(made):
    folder = made[-1]
    assert not [file.name for file in folder.rglob("*") if file.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt")]
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ContentError, match="safetensors"):
        RewardModel.load(folder)


@pytest.mark.parametrize(
    ("file", "text", "sentence"),
    [
        ("reward.json", None, "is no reward model: it has no reward.json"),
        ("reward.json", "{", "reward.json cannot be read"),
        ("reward.json", '{"cut": true}', "reward.json cannot be read"),
        ("value_head.safetensors", None, "value_head.safetensors"),
        ("value_head.safetensors", "x", "value_head.safetensors"),
        ("config.json", None, "cannot load"),
    ],
)
def test_what_is_wrong_with_a_folder_is_one_line(tmp_path, file, text, sentence):
    folder = saved(*character_model(), tmp_path / "reward")
    (folder / file).unlink()
    if text is not None:
        (folder / file).write_text(text)
    with pytest.raises(ContentError, match=sentence) as caught:
        find_reward("learned", {"path": str(folder)})
    assert "\n" not in str(caught.value)


def test_a_head_of_another_width_is_refused(tmp_path):
    folder = saved(*character_model(), tmp_path / "reward")
    save_file({"weight": torch.zeros(2, 32), "bias": torch.zeros(2)}, folder / "value_head.safetensors")
    with pytest.raises(ContentError, match="value_head"):
        RewardModel.load(folder)


def test_an_adapter_is_merged_and_scores_the_same(tmp_path):
    model, tokenizer = character_model(lora=True)
    before = saved(model, tokenizer, tmp_path / "before")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
    folder = saved(model, tokenizer, tmp_path / "reward")
    scores = values(RewardModel.load(folder).score(groups("character"), name="r"))
    live = [by_the_book(model, token_ids("character", tokenizer, p, t)) for p, ts in TEXTS["character"] for t in ts]
    assert scores == pytest.approx(live, abs=3e-6)  # sums in another order
    assert scores != pytest.approx(values(RewardModel.load(before).score(groups("character"), name="r")), abs=1e-3)


def test_scores_depend_on_text_alone_whatever_the_policys_tokens_were(made):
    kind, _, _, folder = made
    model = RewardModel.load(folder)
    other = [(task, [replace(one, member=9, policy_version=4, turns=answered(task, one.text, ids=(7, 7, 7))[0].turns)
                     for one in own]) for task, own in groups(kind)]  # fmt: skip
    assert values(model.score(other, name="r")) == values(model.score(groups(kind), name="r"))


def test_a_chat_is_rendered_with_the_models_own_template_and_system_message(tmp_path):
    model, tokenizer = character_model(template=TEMPLATE)
    folder = saved(model, tokenizer, tmp_path / "reward", chat=True, system="be kind")
    asked = Task(id="t", messages=({"role": "user", "content": "1+2="},))
    rendered = "system: be kind<eos>user: 1+2=<eos>assistant: 3<eos>"
    pieces = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in rendered.split("<eos>")[:-1]]
    ids = [tokenizer.bos_token_id, *(i for piece in pieces for i in [*piece, tokenizer.eos_token_id])]
    scorer = RewardModel.load(folder)
    [[score]] = scorer.score([(asked, answered(asked, "3"))], name="r")
    assert score.value == pytest.approx(by_the_book(model, ids), abs=1e-6)
    own = Task(id="t", messages=({"role": "system", "content": "be brief"}, {"role": "user", "content": "1+2="}))
    [[kept]] = scorer.score([(own, answered(own, "3"))], name="r")
    assert kept.value != pytest.approx(score.value, abs=1e-4), "a task's own system message is kept"
    plain_text = text_task("1+2=")
    [[same]] = scorer.score([(plain_text, answered(plain_text, "3"))], name="r")
    assert same.value == score.value, "to a model of chats a plain prompt is what the user said"


def test_earlier_turns_belong_to_the_prompt(tmp_path):
    model, tokenizer = character_model(template=TEMPLATE)
    chat = RewardModel.load(saved(model, tokenizer, tmp_path / "chat", chat=True))
    text = RewardModel.load(saved(model, tokenizer, tmp_path / "text", chat=False))
    task = Task(id="t", messages=({"role": "user", "content": "start"},))
    rollouts = answered(task, "end", observations=("again", "once more"))
    said = [
        ("user", "start"),
        ("assistant", "before"),
        ("user", "again"),
        ("assistant", "before"),
        ("user", "once more"),
    ]
    whole = Task(id="t", messages=tuple({"role": role, "content": content} for role, content in said))
    assert values(chat.score([(task, rollouts)], name="r")) == values(
        chat.score([(whole, answered(whole, "end"))], name="r")
    )
    flat = text_task("start" + "beforeagain" + "beforeonce more")
    assert values(text.score([(task, rollouts)], name="r")) == values(
        text.score([(flat, answered(flat, "end"))], name="r")
    )


@pytest.mark.parametrize("longest", [5, None])
def test_an_answer_that_is_too_long_is_refused_with_the_cause_or_cut(tmp_path, longest):
    model, tokenizer = character_model(context=12)
    task = text_task("1+2=")
    rollouts = answered(task, "3", "3333333333333333")
    folder = saved(model, tokenizer, tmp_path / "refuses", longest=longest)
    [[short, long]] = RewardModel.load(folder).score([(task, rollouts)], name="r")
    assert short.value is not None
    assert (long.value, long.fault.kind) == (None, FaultKind.REFUSED)
    assert "17 tokens, more than the reward model reads" in long.fault.message
    [[same, cut]] = RewardModel.load(saved(model, tokenizer, tmp_path / "cuts", longest=longest, cut=True)).score(
        [(task, rollouts)], name="r"
    )
    assert same.value == pytest.approx(short.value, abs=1e-6)
    prompt = tokenizer("1+2=")["input_ids"]
    three = tokenizer("3", add_special_tokens=False)["input_ids"]
    kept = min(longest or 12, 12 - len(prompt))
    assert cut.value == pytest.approx(by_the_book(model, [*prompt, *three * kept]), abs=1e-6)


def test_a_prompt_that_fills_the_context_is_refused_even_where_answers_are_cut(tmp_path):
    folder = saved(*character_model(context=12), tmp_path / "reward", cut=True)
    task = text_task("1" * 12)
    [[score]] = RewardModel.load(folder).score([(task, answered(task, "3"))], name="r")
    assert (score.value, score.fault.kind) == (None, FaultKind.REFUSED)


def test_words_that_the_model_does_not_know_cost_that_answer_only(tmp_path):
    model = RewardModel.load(saved(*character_model(), tmp_path / "reward"))
    task, strange = text_task("1+2="), text_task("1€?")
    [[good, odd], [lost]] = model.score([(task, answered(task, "3", "€")), (strange, answered(strange, "3"))], name="r")
    assert good.value is not None
    for score in (odd, lost):
        assert (score.value, score.fault.kind) == (None, FaultKind.REFUSED)
        assert "€" in score.fault.message


def test_an_unknown_word_does_not_end_what_an_encoder_reads(tmp_path):
    model, tokenizer = bert(tmp_path / "bert")
    scorer = RewardModel.load(saved(model, tokenizer, tmp_path / "reward"))
    task = text_task("what is the sum ?")
    [[score]] = scorer.score([(task, answered(task, "one zebra two"))], name="r")
    assert "[UNK]" in tokenizer.tokenize("one zebra two")
    ids = token_ids("bert", tokenizer, "what is the sum ?", "one zebra two")
    assert score.value == pytest.approx(by_the_book(model, ids), abs=1e-6)


def test_broken_weights_are_a_fault_and_no_number(made):
    kind, model, tokenizer, folder = made
    with torch.no_grad():
        getattr(base_model(model), VALUE_HEAD).weight[0, 3] = math.nan
    saved(model, tokenizer, folder)
    for score in [one for group in RewardModel.load(folder).score(groups(kind), name="r") for one in group]:
        assert (score.value, score.fault.kind) == (None, FaultKind.NOT_A_NUMBER)


def test_a_model_in_bfloat16_scores_about_the_same(tmp_path):
    model, tokenizer = character_model()
    exact = RewardModel.load(saved(model, tokenizer, tmp_path / "exact")).score(groups("character"), name="r")
    half = RewardModel.load(saved(model, tokenizer, tmp_path / "half", dtype="bfloat16"))
    assert half.forward.dtype == torch.bfloat16
    got = values(half.score(groups("character"), name="r"))
    assert got == pytest.approx(values(exact), abs=0.1)
    assert got != values(exact)


def test_several_folders_are_members_in_their_order(tmp_path):
    folders = [str(saved(*character_model(seed=seed), tmp_path / str(seed))) for seed in range(3)]
    alone = [values(RewardModel.load(Path(folder)).score(groups("character"), name="r")) for folder in folders]
    ensemble = find_reward("learned", {"path": folders})
    scores = [score for group in ensemble.score_groups(groups("character")) for score in group]
    assert [list(score.members) for score in scores] == [list(members) for members in zip(*alone, strict=True)]
    assert [score.value for score in scores] == pytest.approx([sum(m) / 3 for m in zip(*alone, strict=True)])
    [one] = asyncio.run(find_reward("learned", {"path": folders[1:2]}).score(*question("1+2=", "3")))
    assert one.members is None
    assert one.value == pytest.approx(alone[1][0], abs=1e-6)
    with pytest.raises(ContentError, match="empty list"):
        find_reward("learned", {"path": []})


def test_one_member_that_refuses_leaves_the_answer_without_a_score(tmp_path):
    folders = [str(saved(*character_model(), tmp_path / str(n), longest=n)) for n in (20, 3)]
    scores = asyncio.run(find_reward("learned", {"path": folders}).score(*question("1+2=", "3", "3333")))
    assert scores[0].members is not None
    assert (scores[1].value, scores[1].fault.kind) == (None, FaultKind.REFUSED)


def question(prompt: str, *texts: str):
    task = text_task(prompt)
    return task, answered(task, *texts)


def test_reward_json_says_how_the_model_is_read(tmp_path):
    folder = saved(*character_model(), tmp_path / "reward", longest=9, cut=True)
    assert json.loads((folder / "reward.json").read_text()) == {
        "algorithm": {"type": "bradley_terry"},
        "dtype": "float32",
        "reference": None,
        "chat": False,
        "system": None,
        "cut": True,
        "longest": 9,
    }


def test_outputs_of_a_head_are_read_as_the_algorithm_says(tmp_path):
    """The judge of Bradley-Terry is the first head's number at each sequence's last token."""
    model = RewardModel.load(saved(*character_model(), tmp_path / "reward"))
    batch = pack([Item(prompt_ids=[3, 4], completion_ids=[5, 6, 7], group=n) for n in range(2)], share_prefix=False)
    said = Outputs(values=torch.arange(10.0)[:, None])
    assert model.algorithm.judge(model.config, said, batch).value.tolist() == [4.0, 9.0]
