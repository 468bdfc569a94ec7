"""What a run computes from besides its recipe: every change is named with its kind, its file and its hashes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignkit.errors import CheckpointError
from alignkit.models import fingerprint
from alignkit.models.fingerprint import fingerprint_file, fingerprint_folder
from alignkit.models.tokenizer import character_tokenizer
from alignkit.recipe.lookup.source_files import source_files
from alignkit.recipe.read import read_recipe
from alignkit.recipe.schema import Recipe
from alignkit.run.train.build import Policy
from alignkit.run.train.inputs import inputs_of
from alignkit.train.inputs import FILE, Input, changes, dump, parse_kinds, read, refuse

RECIPE = """
model: {path: ./model, chat_template: ./template.jinja}
reference: {path: ./teacher}
data:
  mixture:
    sums: {source: ./sums.jsonl}
    trivia: {source: ./trivia.jsonl}
rewards:
  - {name: "./mine.py:mine", options: {table: ./table.json}}
algorithm: {type: "./own.py:ALGORITHM", loss: {kl: loss, kl_weight: 0.01}}
rollouts: {engine: hf, prompts: 2, group: 2, max_new_tokens: 3}
optimizer: {lr: 1e-3}
train: {steps: 4}
evaluation: {data: {source: ./heldout.jsonl}}
"""


def rows(*prompts: str) -> str:
    return "".join(json.dumps({"prompt": prompt, "reference": "1", "tools": None}) + "\n" for prompt in prompts)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recipe with one of everything that can change."""
    for name, text in {
        "recipe.yaml": RECIPE,
        "sums.jsonl": rows("1+1", "2+2", "3+3"),
        "trivia.jsonl": rows("who", "when"),
        "heldout.jsonl": rows("9+9"),
        "template.jinja": "{{ messages[0].content }}",
        "mine.py": "import helper_of_mine\n\ndef mine(completion, task, table):\n    return 1.0\n",
        "table.json": "{}",
        "own.py": "from alignkit.algorithms.rollouts.grpo import ALGORITHM\n",
        "model/config.json": "{}",
        "model/model.safetensors": "weights",
        "model/tokenizer.json": "read by the loader, not by the fingerprint",
        "teacher/config.json": "{}",
        "teacher/model.safetensors": "other weights",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def policy(characters: str = "0123456789+", template: str = "{{ messages[0].content }}") -> Policy:
    tokenizer: Any = character_tokenizer(characters, context=32)
    tokenizer.chat_template = template
    return Policy(model=None, tokenizer=tokenizer, stop=())


def recipe(folder: Path) -> Recipe:
    return read_recipe(str(folder / "recipe.yaml"), [])


def told(folder: Path, change: Callable[[Path], object], *, after: Policy | None = None) -> list[tuple[str, str]]:
    before = inputs_of(recipe(folder), policy())
    change(folder)
    return [(each.kind, each.sentence) for each in changes(before, inputs_of(recipe(folder), after or policy()))]


def edit(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def test_nothing_has_changed_when_files_are_copied_touched_or_rewritten_with_other_spacing(folder):
    def rewrite(folder: Path) -> None:
        for file in folder.rglob("*.*"):
            file.write_bytes(file.read_bytes())
            os.utime(file, (1, 1))
        (folder / "sums.jsonl").write_text(rows("1+1", "2+2", "3+3").replace('": "', '":    "'))
        (folder / "model" / "README.md").write_text("not read by anything")

    assert told(folder, rewrite) == []


@pytest.mark.parametrize(
    ("name", "text", "kind", "says"),
    [
        ("sums.jsonl", rows("1+1", "2+2"), "data", "data: ./sums.jsonl (sums): 3 rows -> 2 rows, hash "),
        ("sums.jsonl", rows("1+1", "2+2", "3+4"), "data", "./sums.jsonl (sums): other rows, 3 as before, hash "),
        (
            "trivia.jsonl",
            rows("when", "who"),
            "data",
            "./trivia.jsonl (trivia): the same 2 rows in another order, hash",
        ),
        ("heldout.jsonl", rows("9+8"), "evaluation", "evaluation: ./heldout.jsonl: other rows, 1 as before, hash "),
        (
            "mine.py",
            "def mine(completion, task, table): return 0.5",
            "rewards",
            "./mine.py:mine: mine.py changed, hash ",
        ),
        ("table.json", "[]", "rewards", "rewards: ./mine.py:mine: ./table.json changed, hash "),
        (
            "own.py",
            "from alignkit.algorithms.rollouts.grpo import ALGORITHM as ALGORITHM",
            "algorithms",
            "./own.py:ALGORITHM: own.py changed, hash ",
        ),
        ("model/model.safetensors", "weighty", "model", "model: ./model: model.safetensors changed, hash "),
        ("model/generation_config.json", "{}", "model", "./model: generation_config.json is new, hash none -> "),
        ("teacher/config.json", "[]", "reference", "reference: ./teacher: config.json changed, hash "),
    ],
)
def test_a_changed_file_is_named_with_its_kind(folder, name, text, kind, says):
    ((got, sentence),) = told(folder, edit(name, text))
    assert got == kind
    assert says in sentence
    assert "(written 20" in sentence


def test_a_replaced_tokenizer_and_a_replaced_template_are_told_apart(folder):
    ((kind, sentence),) = told(folder, lambda folder: None, after=policy(characters="9876543210+"))
    assert kind == "tokenizer"
    assert "tokenizer: ./model: vocabulary and rules changed, hash " in sentence
    ((kind, sentence),) = told(folder, lambda folder: None, after=policy(template="{{ messages[1].content }}"))
    assert (kind, sentence[:42]) == ("template", "template: ./template.jinja: changed, hash ")


def test_a_reward_is_its_file_and_what_that_imports_of_the_users_own(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    (folder / "helper_of_mine.py").write_text("import json, alignkit, torch\nimport deeper_of_mine")
    (folder / "deeper_of_mine.py").write_text("from alignkit.errors import DataError\nimport helper_of_mine")
    files = [file.name for file in source_files(folder / "mine.py")]
    assert files == ["deeper_of_mine.py", "helper_of_mine.py", "mine.py"]
    ((kind, sentence),) = told(folder, edit("deeper_of_mine.py", "LIMIT = 3"))
    assert (kind, "deeper_of_mine.py changed" in sentence) == ("rewards", True)


def test_relative_imports_of_a_package_are_followed(tmp_path):
    package = tmp_path / "mine"
    (package / "inner").mkdir(parents=True)
    for name, text in {
        "__init__.py": "",
        "reward.py": "from . import table\nfrom .inner import deep",
        "table.py": "",
        "inner/__init__.py": "",
        "inner/deep.py": "from ..other import x",
        "other.py": "x = 1",
        "unused.py": "",
    }.items():
        (package / name).write_text(text)
    found = {str(file.relative_to(package)) for file in source_files(package / "reward.py")}
    assert found == {"__init__.py", "reward.py", "table.py", "inner/__init__.py", "inner/deep.py", "other.py"}


SUITED = """
model: {scratch: {characters: "0123456789+=", layers: 1, hidden: 16, heads: 2, context: 12}, dtype: float32}
data: {source: "generator:arithmetic", options: {digits: 1, style: characters}, chat: false, holdout: 10}
environment: {name: "./world.py:World"}
algorithm: {type: filtered_bc}
rollouts: {engine: hf, prompts: 2, group: 2, max_new_tokens: 3}
optimizer: {lr: 1e-3}
train: {steps: 4}
evaluation: {suite: ./mine.yaml, limit: 5}
"""
PROTOCOL = """
version: 1
about: one-digit sums
category: math
licence: "none: generated"
source: {generator: arithmetic, options: {digits: 1, style: characters}}
prompt: {chat: false, template: "{{prompt}}"}
gold: reference
sampling: {max_new_tokens: 3}
metrics: {accuracy: {reward: exact_match}}
"""


@pytest.mark.parametrize(
    ("name", "text", "kind", "says"),
    [
        ("world.py", "class World: started = 2\n", "environments", ["./world.py:World: world.py changed"]),
        ("sums.yaml", PROTOCOL.replace("tokens: 3", "tokens: 4"), "evaluation", ["./mine.yaml: sums changed"]),
        (
            "mine.yaml",
            "about: mine\nparts: [{protocol: ./more.yaml}]\n",
            "evaluation",
            ["sums is gone", "questions of sums is gone", "more is new", "exact_match of more is new"],
        ),
    ],
)
def test_an_environment_and_the_protocols_of_a_suite_are_known(tmp_path, name, text, kind, says):
    (tmp_path / "recipe.yaml").write_text(SUITED)
    (tmp_path / "world.py").write_text("class World:\n    started = 1\n")
    (tmp_path / "sums.yaml").write_text(PROTOCOL)
    (tmp_path / "more.yaml").write_text(PROTOCOL)
    (tmp_path / "mine.yaml").write_text("about: mine\nparts: [{protocol: ./sums.yaml}]\n")
    found = told(tmp_path, edit(name, text))
    assert {got for got, _ in found} == {kind}
    for words in says:
        assert any(words in sentence for _, sentence in found), found


def test_changes_are_refused_with_the_cure_unless_every_kind_is_accepted(folder):
    before = inputs_of(recipe(folder), policy())
    (folder / "sums.jsonl").write_text(rows("1+1"))
    (folder / "mine.py").write_text("def mine(completion, task, table): return 2.0")
    found = changes(before, inputs_of(recipe(folder), policy()))
    with pytest.raises(CheckpointError) as caught:
        refuse(found, ["data"], checkpoint="step-000004")
    sentence = str(caught.value)
    assert sentence.startswith("step-000004 was computed from what is no longer there: rewards: ./mine.py:mine: ")
    assert "sums.jsonl" not in sentence
    assert sentence.endswith("--accept-changes data,rewards")
    refuse(found, ["data", "rewards"], checkpoint="step-000004")
    refuse([], [], checkpoint="step-000004")
    assert caught.value.exit_code == 2


def test_a_record_comes_back_as_it_was_and_an_old_checkpoint_has_none(folder, tmp_path):
    known = inputs_of(recipe(folder), policy())
    assert read(tmp_path) is None
    (tmp_path / FILE).write_text(dump(known))
    assert read(tmp_path) == known
    (tmp_path / FILE).write_text('[{"kind": "data", "colour": 3}]')
    with pytest.raises(CheckpointError, match="written by another version"):
        read(tmp_path)


def test_what_only_one_record_knows_is_no_change():
    """An older version may have recorded less; a difference of recipes is refused before."""
    assert changes([], [Input(kind="data", name="x", rows=3, order="a")]) == []


def test_kinds_are_read_from_one_word_and_a_wrong_one_is_named():
    assert parse_kinds(" data, rewards,") == ("data", "rewards")
    assert parse_kinds(None) == ()
    with pytest.raises(CheckpointError, match="'rows' is nothing that can change; wanted data, evaluation"):
        parse_kinds("data,rows")


def test_a_large_file_is_told_by_its_size_and_by_blocks_from_its_first_to_its_last_byte(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "WHOLE", 1000)
    monkeypatch.setattr(fingerprint, "BLOCKS", 5)
    monkeypatch.setattr(fingerprint, "BLOCK", 100)
    file = tmp_path / "model.safetensors"
    content = (20).to_bytes(8, "little") + b"h" * 20 + b"w" * 9972
    seen = set()
    for changed in (content, content[:-1] + b"x", content[:20] + b"X" + content[21:], content + b"w"):
        file.write_bytes(changed)
        seen.add(fingerprint_file(file))
    assert len(seen) == 4


def test_an_adapter_is_its_own_files_and_those_of_its_base(tmp_path):
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    for folder in (base, adapter):
        folder.mkdir()
    (base / "model.safetensors").write_text("base")
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    (adapter / "adapter_model.safetensors").write_text("delta")
    names = ["adapter_config.json", "adapter_model.safetensors", "base/model.safetensors"]
    assert sorted(fingerprint_folder(adapter)) == names
