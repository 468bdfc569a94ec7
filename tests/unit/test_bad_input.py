"""A checkpoint and a tokenizer or data that do not fit it: named in one sentence by check and by training."""

from __future__ import annotations

import copy
import json

import pytest

from alignkit.cli import main
from alignkit.content import ROOT
from alignkit.models.load import save_pretrained
from tests.families import tokenizer
from tests.model_families import shrunk

pytestmark = pytest.mark.filterwarnings("ignore")
ROWS = {
    "sft": [{"prompt": f"Q{i}?", "completion": f"A{i}."} for i in range(3)],
    "dpo": [{"prompt": f"Q{i}?", "chosen": f"A{i}.", "rejected": "No."} for i in range(3)],
    "grpo": [{"prompt": f"Q{i}?", "reference": str(i)} for i in range(3)],
}
ANSWER = {"sft": "completion", "dpo": "chosen", "grpo": "prompt"}
METHODS = ("sft", *(pytest.param(method, marks=pytest.mark.slow) for method in ("dpo", "grpo")))


@pytest.fixture(scope="module")
def model():
    return shrunk(ROOT / "recipes" / "models" / "configs" / "Qwen" / "Qwen3-0.6B.json", tokenizer("qwen3"))


@pytest.fixture
def alignkit(model, tmp_path, capsys):
    """(verb, method, rows or file, words) -> exit code and what was printed."""

    def run(verb: str, method: str, rows: list[dict] | bytes | None = None, words=None) -> tuple[int, list[str]]:
        save_pretrained(model, words or tokenizer("qwen3"), tmp_path / "model")
        lines = "".join(json.dumps(row) + "\n" for row in rows or ROWS[method]) if not isinstance(rows, bytes) else ""
        (tmp_path / "rows.jsonl").write_bytes(rows if isinstance(rows, bytes) else lines.encode())
        given = [f"model.path={tmp_path / 'model'}", f"data.source={tmp_path / 'rows.jsonl'}", "model.dtype=float32"]
        if verb == "train":
            given += [f"run={tmp_path / 'run'}", "train.steps=1", "optimizer.warmup_steps=0", "checkpoints.every=null"]
        given += [] if method == "grpo" else ["train.batch=2"]
        given += ["rollouts={engine: hf, prompts: 2, group: 2, max_new_tokens: 4}"] if method == "grpo" else []
        code = main.run([verb, method, *given])
        told = capsys.readouterr()
        return code, [line.strip().replace(f"{tmp_path}/", "") for line in (told.out + told.err).splitlines()]

    return run


def with_two_more():
    words = copy.deepcopy(tokenizer("qwen3"))
    words.add_tokens(["<extra>", "<more>"])
    return words


EXTRA = (
    "tokenizer: 2 of its tokens have no embedding in the model (first '<extra>', id 265 of 265): a row with one of "
    "them is refused; resize the model's embeddings, or take the tokens out"
)


@pytest.mark.parametrize("method", METHODS)
def test_added_tokens_without_an_embedding_are_counted_and_a_row_with_one_is_named(method, alignkit):
    code, told = alignkit("check", method, words=with_two_more())
    assert (code, EXTRA in told) == (0, True)
    rows = copy.deepcopy(ROWS[method])
    rows[1][ANSWER[method]] = "a <extra> b"
    code, told = alignkit("check", method, rows, with_two_more())
    assert code == 1
    assert any("'<extra>' (id 265) has no embedding in the model, which has 265, in " in line for line in told)
    code, told = alignkit("train", method, rows, with_two_more())
    assert code == 2
    assert told[-1].startswith("tokenizer: '<extra>' (id 265) has no embedding in the model, which has 265, in '")
    assert told[-1].endswith("'; resize the model's embeddings, or take the token out")


OTHER = (
    "tokenizer: the checkpoint ends answers with token 256, which is the token that begins a text here ('<bos>'): they "
    "are of two families; put the checkpoint's own tokenizer there, or mend its generation_config.json"
)


@pytest.mark.parametrize("verb", ["check", "train"])
def test_a_tokenizer_of_another_family_than_the_checkpoint_is_named(verb, alignkit):
    code, told = alignkit(verb, "sft", words=tokenizer("gemma_3"))
    assert (code, told.count(OTHER)) == (0, 1)


def test_a_checkpoint_with_its_own_tokenizer_is_told_nothing_of_it(alignkit):
    code, told = alignkit("check", "sft")
    assert (code, [line for line in told if line.startswith("tokenizer:")]) == (0, [])


def without(*names: str):
    words = copy.deepcopy(tokenizer("qwen3"))
    for name in names:
        setattr(words, name, None)
    if "eos_token" in names:
        words.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    return words


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("lacking", "sentence"),
    [
        ("chat_template", "the tokenizer has no chat template; set model.chat_template, or data.chat to false"),
        ("eos_token", "the tokenizer has no EOS token, so no answer could teach the policy to stop; give it one"),
    ],
)
def test_a_tokenizer_without_template_or_stop_token_is_refused_before_a_step(method, lacking, sentence, alignkit):
    if (method, lacking) == ("grpo", "eos_token"):
        pytest.skip("sampling teaches nothing: the generation config's token ends the answers")
    assert alignkit("check", method, words=without(lacking))[0] == 1
    code, told = alignkit("train", method, words=without(lacking))
    assert (code, told[-1]) == (2, sentence)


LISTED = 'wanted text or a list of messages, {"role": "user" | "assistant" | "system" | "tool", "content": ...}'


@pytest.mark.parametrize("method", METHODS)
def test_a_column_of_mixed_types_is_named_by_line_and_value(method, alignkit):
    rows = copy.deepcopy(ROWS[method])
    rows[1][ANSWER[method]] = 5
    for verb in ("check", "train"):
        code, told = alignkit(verb, method, rows)
        assert (code, told[-1]) == (2, f"rows.jsonl line 2: {ANSWER[method]} is int '5'; {LISTED}")


def test_empty_and_nested_messages_are_named_by_line(alignkit):
    asked, answer = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
    for messages, sentence in (
        ([], "messages is an empty list; wanted at least one message"),
        ([[asked]], f'messages[0] is list "{[asked]}"; wanted a message with a role and a content'),
    ):
        code, told = alignkit("check", "sft", [{"messages": [asked, answer]}, {"messages": messages}])
        assert code == 2
        assert told[-1].startswith(f"rows.jsonl line 2: {sentence}")


def test_one_conversation_longer_than_the_context_is_counted_by_check_and_left_out_by_training(alignkit):
    rows = copy.deepcopy(ROWS["sft"])
    rows[1]["completion"] = "x " * 21_000
    code, told = alignkit("check", "sft", rows)
    assert (code, "1 rows longer than the model's context: rows.jsonl/1" in told) == (0, True)
    code, told = alignkit("train", "sft", rows)
    assert (code, "rows.jsonl: 1 of 3 completions left out, 1 with a completion too long" in told) == (0, True)


def test_a_file_that_is_not_utf_8_is_named_with_the_byte(alignkit):
    broken = json.dumps(ROWS["sft"][0]).encode().replace(b"Q0", b"Q\xff")
    code, told = alignkit("check", "sft", broken)
    assert (code, told[-1]) == (2, "rows.jsonl: not UTF-8 text at byte 13; save it as UTF-8")


def test_a_name_on_the_hub_without_a_network_says_what_to_do(capsys, tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS["sft"]))
    for verb in ("check", "train"):
        given = ["model.path=nobody/nothing", f"data.source={tmp_path / 'rows.jsonl'}", f"run={tmp_path / 'run'}"]
        assert main.run([verb, "sft", *given]) == 2
        assert capsys.readouterr().err.strip().endswith("; check the name, or download it while online")
    given = ["model.path=smollm2-135m-instruct", "data.source=hub:nobody/nothing"]
    assert main.run(["check", "sft", *given]) == 2
    assert "hub:nobody/nothing: cannot load split 'train': " in (told := capsys.readouterr().err)
    assert told.strip().endswith("; check its name and data.split, or download it while online")
