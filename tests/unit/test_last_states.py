"""Last states from another engine: used where the score needs no others and the numbers are the same, else refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.engines.vllm.states import _without
from alignkit.errors import ContentError
from alignkit.models.adapted import base_model
from alignkit.models.last_states import reads_last_only
from alignkit.recipe.read import load_algorithm
from alignkit.rewards.learned.reward_model import FILES, RewardModel
from alignkit.rewards.pool.lift import find_reward
from tests.unit.reward_folders import answered, bert, character_model, saved, text_task, values, with_head

SETTINGS: dict[str, dict[str, Any]] = {
    "bradley_terry": {},
    "bradley_terry of members": {"members": 3},
    "bradley_terry with contrast": {"contrast": 0.5},
    "plackett_luce": {},
    "cost": {},
    "odin": {},
    "multi_objective": {"objectives": ["a", "b"]},
    "quantile": {"objectives": ["a"], "levels": 5},
    "rating": {"objective": "a", "classes": [0, 1, 2]},
}
OTHERS: dict[str, dict[str, Any]] = {"process": {}, "pairwise": {}, "implicit": {}, "gate": {"objectives": ["a", "b"]}}


def section(name: str) -> dict[str, Any]:
    return {"type": name.split()[0], **(SETTINGS | OTHERS)[name]}


def folder_of(name: str, folder: Path, **changes: Any) -> Path:
    algorithm = load_algorithm(section(name)["type"])
    model, tokenizer = character_model()
    heads = len(algorithm.heads(algorithm.config.model_validate(section(name))))
    return saved(
        with_head(model, seed=1, heads=heads), tokenizer, folder / "reward", algorithm=section(name), **changes
    )


class OneByOne:
    """Stands in for the engine: a plain forward of each sequence alone. off: added to every state."""

    def __init__(self, model: Any, off: float = 0.0):
        self.model, self.off, self.asked = base_model(model), off, 0

    @torch.no_grad()
    def __call__(self, sequences: list[list[int]]) -> list[list[float]]:
        self.asked += len(sequences)
        said = [self.model(input_ids=torch.tensor([ids]), output_hidden_states=True) for ids in sequences]
        return [(one.hidden_states[-1][0, -1] + self.off).tolist() for one in said]


def groups():
    texts = {"1+2=": ("3", "", "a longer answer of many tokens"), "what is 7+8?": ("15", "five")}
    return [(task := text_task(prompt), answered(task, *answers)) for prompt, answers in texts.items()]


@pytest.mark.parametrize("name", SETTINGS)
def test_what_scores_by_the_last_token_says_the_same_from_another_engines_states(name, tmp_path):
    model = RewardModel.load(folder_of(name, tmp_path))
    assert model.reads_last_only
    own = model.score(groups(), name="r")
    engine = OneByOne(model.forward.model)
    model.read_with(engine, engine="other")
    before = engine.asked
    other = model.score(groups(), name="r")
    assert engine.asked - before == len(values(own)), "it was not asked"
    assert values(other) == pytest.approx(values(own), abs=1e-5)
    for one, two in zip(own, other, strict=True):
        for a, b in zip(one, two, strict=True):
            assert (b.spread, b.members) == (pytest.approx(a.spread, abs=1e-5), pytest.approx(a.members, abs=1e-5))
            assert dict(b.parts) == pytest.approx(dict(a.parts), abs=1e-5)


@pytest.mark.parametrize("name", OTHERS)
def test_what_reads_other_states_too_is_refused_in_one_line_before_vllm_starts(name, tmp_path):
    algorithm = load_algorithm(section(name)["type"])
    config = algorithm.config.model_validate(section(name))
    assert not reads_last_only(algorithm, config)
    if algorithm.heads(config):
        with pytest.raises(ContentError, match=rf"is another \({name}\): use engine: transformers"):
            find_reward("learned", {"path": str(folder_of(name, tmp_path)), "engine": "vllm"})


def test_an_encoder_is_refused(tmp_path):
    path = saved(*bert(tmp_path / "bert"), tmp_path / "reward")
    with pytest.raises(ContentError, match="only what a causal LM says at the last token"):
        find_reward("learned", {"path": str(path), "engine": "vllm"})


@pytest.mark.parametrize(("off", "fits"), [(1e-6, True), (1e-3, False), (float("nan"), False)])
def test_an_engine_with_other_numbers_is_refused_at_load(tmp_path, off, fits):
    model = RewardModel.load(folder_of("bradley_terry", tmp_path))
    engine = OneByOne(model.forward.model, off)
    if fits:
        model.read_with(engine, engine="other")
    else:
        with pytest.raises(ContentError, match=r"engine other: .* more than 0\.0001; use engine: t"):
            model.read_with(engine, engine="other")
    assert (model.states is engine) == fits


def test_bfloat16_is_refused_before_vllm_starts(tmp_path):
    path = folder_of("cost", tmp_path, dtype="bfloat16")
    with pytest.raises(
        ContentError, match=r"in bfloat16 vllm's scores are not those of transformers; train .* in float32"
    ):
        find_reward("learned", {"path": str(path), "engine": "vllm"})


def test_an_unknown_engine_is_one_line(tmp_path):
    with pytest.raises(ContentError, match="engine is 'vlm'; wanted transformers or vllm"):
        find_reward("learned", {"path": str(folder_of("cost", tmp_path)), "engine": "vlm"})


def test_the_engine_is_given_the_checkpoint_without_the_head(tmp_path):
    folder = folder_of("cost", tmp_path)
    links = _without(folder, FILES, tmp_path / "links")
    assert {file.name for file in folder.iterdir()} - {file.name for file in links.iterdir()} == set(FILES)
    assert (links / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
