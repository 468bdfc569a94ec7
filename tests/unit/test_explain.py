"""`alignkit explain` names every setting that changes what is learnt, in the words of its effect."""

from __future__ import annotations

import pytest

from alignkit.errors import RecipeError
from alignkit.recipe.explain import explain_recipe
from alignkit.recipe.lookup.find import find
from alignkit.recipe.read import read_recipe

LENGTH = '{"of": "length", "limit": 5}'

BESIDES = [
    (
        ("rollouts.guide_roll_in=0.3",),
        "0.3 of the prompts go on from part of their task's completion, which is not trained on",
    ),
    (
        ("rollouts.guide_roll_out=0.3",),
        "0.3 of the completions go over to the reference midway, whose part is not trained on",
    ),
    (
        ("rollouts.guide_roll_out=0.3", "rollouts.guide=some/model"),
        "0.3 of the completions go over to some/model midway, whose part is not trained on",
    ),
    (
        ("rollouts.dynamic_sampling=true",),
        "groups of equal rewards give way to new prompts, in at most 10 rounds a step",
    ),
    (
        ("train.drop_confident=0.2",),
        "0.2 of each step's completions are not trained on, those the policy was surest of",
    ),
    (
        ("train.max_update_kl=0.1", "train.minibatches=2"),
        "a step's updates end once the policy is 0.1 in KL per token from where it began",
    ),
    (
        ('train.fixup={"kl": 0.05, "max_steps": 1}',),
        "after each update at most 1 step on the KL alone, until no token's is above 0.05",
    ),
    (
        (f'constraints=[{LENGTH}, {{"of": "truncated", "limit": 0.1}}]',),
        "paid is (reward - m(length) x length - m(truncated) x truncated) / (1 + m(length) + m(truncated)), "
        "m the multipliers of the constraints",
    ),
    ((f"constraints=[{LENGTH}]",), "constraint: mean length at most 5; m begins at 1 and rises to 5 at most"),
]


def explained(*overrides, recipe="smoke/grpo"):
    """The one stage of a recipe with these settings changed."""
    return explain_recipe(read_recipe(find("recipes", recipe).path, overrides))["stages"][0]


@pytest.mark.parametrize(
    ("overrides", "sentence"), BESIDES, ids=lambda value: value[0] if isinstance(value, tuple) else ""
)
def test_what_else_shapes_training_is_said_in_json_and_in_text(overrides, sentence):
    stage = explained(*overrides)
    assert sentence in stage["besides"]
    assert f"  besides    {sentence}" in stage["text"]


def test_a_critic_that_learns_first_is_said():
    assert (
        "in the first 2 steps only the critic learns"
        in explained("train.critic_warmup_steps=2", recipe="smoke/ppo")["besides"]
    )


def test_a_critic_that_learns_more_often_than_the_policy_is_said():
    overrides = ("critic.epochs=3", "critic.minibatches=2", "train.minibatches=4")
    assert "the critic makes 6 updates a step, the policy 4" in explained(*overrides, recipe="smoke/ppo")["besides"]


def test_a_head_on_the_policy_cannot_learn_more_often_than_it():
    with pytest.raises(RecipeError, match=r"critic\.shared: a head on the policy has its layers and its optimizer"):
        explained("critic={shared: true, epochs: 2}", recipe="smoke/ppo")


def test_nothing_is_said_of_what_is_off():
    assert explained()["besides"] == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ((), None),
        (("engine.replicas=2",), "2 replicas on the trainer's devices"),
        (("engine.placement=own",), "1 replica on devices of their own"),
        (
            ("engine.replicas=2", "engine.tensor_parallel=2"),
            "2 replicas on the trainer's devices, each cut among 2 workers",
        ),
        (
            ("engine.placement=servers", "engine.replicas=3"),
            "servers that register at 127.0.0.1:8950, 3 of them before the first step",
        ),
    ],
)
def test_who_samples_is_said_where_it_is_not_the_trainers_one_engine(changes: tuple[str, ...], line: str | None):
    recipe = read_recipe("smoke/grpo", ["rollouts.engine=vllm", *changes])
    text = explain_recipe(recipe)["stages"][0]["text"]
    assert [each.split(maxsplit=1)[1] for each in text if each.startswith("  engine ")] == ([line] if line else [])
