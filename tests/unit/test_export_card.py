"""The card of an export says what the run recorded and no secret; an upload is proven to lie on the hub whole."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from alignkit.cli import main
from alignkit.errors import ContentError, ExportError
from alignkit.recipe.read import read_recipe
from alignkit.run.export.card import card, without_secrets
from alignkit.run.export.export import export
from alignkit.run.train.stages import last_line
from alignkit.run.train.train import run as train
from tests.unit.export_models import write
from tests.unit.hub import TOKEN, hub

RECIPE = """
seed: 0
model: {path: ./model, dtype: float32, lora: {rank: 2, alpha: 4}}
data: {source: ./rows.jsonl}
algorithm: {type: sft}
optimizer: {lr: 1e-2}
train: {steps: 3, batch: 2}
checkpoints: {every: null}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A real run: three steps of SFT with LoRA on four rows."""
    place = tmp_path_factory.mktemp("card")
    write(place / "model", "SmolLM2")
    rows = [{"prompt": f"Say {word}.", "completion": f"{word}!"} for word in ("one", "two", "three", "four")]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "recipe.yaml").write_text(RECIPE)
    train(read_recipe(place / "recipe.yaml", [f"run={place / 'sums'}"]), resume=False)
    return place / "sums"


def front(page: str) -> dict:
    return YAML(typ="safe").load(re.match(r"---\n(.*?)---\n", page, re.DOTALL)[1])


def test_the_card_of_a_run_names_base_method_data_versions_and_the_whole_recipe(run, tmp_path):
    done = export(str(run), to="gguf", dtype="q8_0", out=tmp_path / "out")
    page = (done.folder / "README.md").read_text()
    assert front(page) == {"library_name": "gguf", "pipeline_tag": "text-generation", "tags": ["alignkit", "sft"]}
    assert re.search(r"Trained from \S*model by sft with LoRA, 3 steps, with alignkit\.", page)
    assert "rows.jsonl" in page
    assert "taken: 6, of them different: 4" in page
    assert "Say one" not in page, "no row of the data"
    assert "The run evaluated nothing before and after." in page
    assert re.search(r"torch 2\.\d+", page)
    assert "Linux" not in page
    shown = json.loads(re.search(r"```json\n(.*?)\n```", page, re.DOTALL)[1])
    resolved = json.loads((run / "recipe.resolved.json").read_text())
    assert shown["stages"][0]["optimizer"] == resolved["stages"][0]["optimizer"]
    assert shown.keys() == resolved.keys()


def test_the_last_line_of_a_run_can_be_done(run, tmp_path):
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    last = [line["text"] for line in lines if line["kind"] == "message"][-1]
    for command in re.findall(r"`alignkit ([^`]*)`", last):
        verb, *rest = command.split()
        assert main.run([verb, *rest, *(["--out", str(tmp_path / "out")] if verb == "export" else [])]) == 0


def test_the_last_line_quotes_the_folder_and_leaves_out_what_a_reward_model_cannot():
    assert last_line(Path("runs/my run"), "merged") == (
        "the trained model is runs/my run/final; next: `alignkit report 'runs/my run'`, "
        "`alignkit export 'runs/my run' --to merged`"
    )
    assert last_line(Path("runs/a"), None).endswith("next: `alignkit report runs/a`")


def test_every_source_of_a_mixture_is_named_and_those_of_the_hub_in_the_front(tmp_path):
    parts = {"a": {"source": "hub:org/sums", "weight": 3}, "b": {"source": "own.jsonl", "weight": 1}}
    stages = [{"algorithm": {"type": "sft"}, "data": {"source": "", "mixture": parts}}]
    (tmp_path / "recipe.resolved.json").write_text(json.dumps({"stages": stages}))
    page = card(tmp_path, name="model", to="merged", dtype="float32", gaps={})
    assert front(page)["datasets"] == ["org/sums"]
    assert "- hub:org/sums\n- own.jsonl\n" in page


def test_an_evaluation_is_told_with_its_interval_and_hub_names_stand_in_the_front(tmp_path):
    (tmp_path / "evaluations").mkdir()
    stages = [{"algorithm": {"type": "grpo"}, "data": {"source": "hub:org/rows"}, "train": {"steps": 2}}]
    recipe = {"seed": 1, "model": {"path": "Org/Base-1B"}, "stages": stages}
    (tmp_path / "recipe.resolved.json").write_text(json.dumps(recipe))
    for step, right in ((0, 4), (2, 28)):
        results = [{"task_id": str(i), "correct": i < right, "reward": None, "text": ""} for i in range(32)]
        (tmp_path / "evaluations" / f"main-{step:06}.json").write_text(json.dumps({"step": step, "results": results}))
    page = card(tmp_path, name="model", to="merged", dtype="float32", gaps={"gap": 0.0})
    assert front(page)["base_model"] == "Org/Base-1B"
    assert front(page)["datasets"] == ["org/rows"]
    assert re.search(r"0\.125.*0\.875.*95 % interval \+0\.\d+ to \+0\.\d+, exact McNemar", page)


def test_secrets_of_a_recipe_are_left_out_by_key_and_by_value():
    given = {
        "rewards": [{"name": "judge", "options": {"api_key": "abc", "url": "https://u:p@host/v1", "max_tokens": 5}}],
        "data": {"source": "hub:org/rows", "options": {"note": "hf_abcdef"}},
    }
    assert without_secrets(given) == {
        "rewards": [{"name": "judge", "options": {"api_key": "(left out)", "url": "(left out)", "max_tokens": 5}}],
        "data": {"source": "hub:org/rows", "options": {"note": "(left out)"}},
    }


@pytest.fixture
def online(monkeypatch):
    with hub() as held:
        monkeypatch.setenv("HF_ENDPOINT", held.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield held


def test_an_upload_is_the_folder_to_the_byte(run, tmp_path, online, capsys):
    out = tmp_path / "out"
    assert main.run(["export", str(run), "--to", "hub", "--repo", "org/sums", "--private", "--out", str(out)]) == 0
    there = online.files["org/sums"]
    ours = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert {name: there[name] for name in ours} == ours
    assert {"README.md", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= set(ours)
    assert online.private["org/sums"]
    assert ("POST", "/api/validate-yaml") in online.seen
    said = capsys.readouterr()
    assert f"uploaded to {online.url}/org/sums" in said.out
    assert TOKEN not in said.out + said.err


def test_a_refusal_and_a_file_that_arrived_cut_are_said_and_the_folder_stays(run, tmp_path, online, monkeypatch):
    online.cuts = 1
    with pytest.raises(ExportError, match=r"org/sums: .* is \d+ bytes where \d+ bytes were sent; upload .* again"):
        export(str(run), to="hub", repo="org/sums", out=tmp_path / "cut")
    assert (tmp_path / "cut" / "model.safetensors").is_file()
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(ExportError, match=r"could not be uploaded \(.*401.*is whole and proven") as told:
        export(str(run), to="hub", repo="org/sums", out=tmp_path / "refused")
    assert "hf_another" not in str(told.value)
    with pytest.raises(ContentError, match="--repo ORG/NAME goes with --to hub"):
        export(str(run), to="hub", out=tmp_path / "none")
