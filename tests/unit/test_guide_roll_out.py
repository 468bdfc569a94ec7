"""RLGF's roll-outs: the policy begins, a guide finishes; the whole is scored, only the policy's tokens are trained."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from alignkit.algorithms.rollouts import grpo
from alignkit.data.offline.example import Example
from alignkit.engines.hf import HfEngine
from alignkit.errors import EngineError, RecipeError
from alignkit.models.forward import Forward
from alignkit.models.load import save_pretrained
from alignkit.parallel.group import Group
from alignkit.recipe.read import read_recipe
from alignkit.recipe.schema import Rollouts
from alignkit.rewards.serve.wire import group_to_wire
from alignkit.rollout.answers import Answers
from alignkit.rollout.collect import Collector
from alignkit.rollout.guide_roll_out import GuideRollOut
from alignkit.rollout.items import pack_rollouts
from alignkit.rollout.play import Prompt
from alignkit.run.train.build import build_collector, build_policy
from alignkit.run.train.training_play import training_play
from alignkit.train.source import Drawn, Order, RolloutSource
from alignkit.train.step import Step
from alignkit.types.rollout import Completion, Rollout, StopReason
from alignkit.types.score import Score
from alignkit.types.task import Task
from tests.resume.runs import write_recipe
from tests.tiny import Recorder, causal_lm, relative

END = 9
POLICY, GUIDE = (11, 12, 13, 14, END), (21, END)


class Scripted:
    """An engine that always says the same, as far as a request lets it; remembers what it was asked."""

    def __init__(self, said: tuple[int, ...], version: int) -> None:
        self.said, self.policy_version, self.requests = said, version, []

    async def generate(self, requests) -> list[Completion]:
        self.requests += requests
        return [self.completion(request.max_new_tokens) for request in requests]

    def completion(self, longest: int) -> Completion:
        ids = self.said[:longest]
        stop = StopReason.END_OF_TEXT if ids[-1] == END else StopReason.LENGTH
        logprobs = tuple(-0.5 for _ in ids)
        return Completion(token_ids=ids, logprobs=logprobs, stop=stop, versions=((0, self.policy_version),))


class Length:
    """Scores a text by its length in characters, one for each token."""

    async def score(self, groups) -> list[list[Score]]:
        return [[Score(value=float(len(rollout.text))) for rollout in rollouts] for _, rollouts in groups]


def letters(ids: Sequence[int]) -> str:
    return "".join(chr(90 + i) for i in ids)


def collector(
    finished: float = 1.0, *, policy=None, guide=None, longest: int = 6, context: int = 64, prompts: int = 60
) -> Collector:
    guide = guide or Scripted(GUIDE, version=0)
    return Collector(
        engine=policy or Scripted(POLICY, version=3),
        play=GuideRollOut(play=Answers(decode=letters), share=finished, guide=guide, context=context),
        scorer=Length(),
        decode=letters,
        stop_token_ids=(END,),
        settings=Rollouts(engine="hf", prompts=prompts, group=2, max_new_tokens=longest, guide_roll_out=finished),
        seed=5,
    )


def drawn(made: Collector, cursor: int = 0, version: int = 3) -> Drawn:
    examples = [Example(task=Task(id=f"{i}", text="q"), prompt=(1, 2)) for i in range(60)]
    order = Order(examples=examples, seed=0, shuffle=False)
    return RolloutSource(order=order, collector=made, share_prefix=True).next(cursor, version)


def test_the_policys_tokens_come_first_then_the_guides_and_the_whole_is_scored():
    made = collector()
    places = set()
    for rollout in drawn(made).rollouts:
        turn, cut = rollout.turns[0], len(rollout.turns[0].completion_ids)
        places.add(cut)
        assert turn.prompt_ids == (1, 2)
        assert turn.completion_ids == POLICY[:cut]
        assert len(turn.sampler_logprobs) == cut
        assert turn.finish_ids == ((GUIDE[: 6 - cut]) if cut < 5 else ())
        assert rollout.reward == cut + len(turn.finish_ids)
        assert rollout.policy_version == 3  # the guide's weights are no version of the policy
        assert rollout.sampled_tokens == cut
    assert places == {1, 2, 3, 4, 5}  # from after the first token on; with 5 the policy has ended by itself


def test_the_guide_reads_the_exact_tokens_and_both_share_the_longest_completion():
    made = collector()
    drawn(made)
    asked = made.play.guide.requests
    assert asked
    for request in asked:
        assert request.prompt_ids == (1, 2, *POLICY[: 6 - request.max_new_tokens])
        assert request.stop_token_ids == (END,)
        assert request.temperature == made.settings.temperature
    assert len({request.seed for request in asked + made.engine.requests}) == 120 + len(asked)


def test_only_the_policys_tokens_are_actions_by_hand():
    """Prompt 1, 2; member 0 is 11, 12 | 21, end; member 1 stays whole: 11, end."""

    class Listed(Scripted):
        async def generate(self, requests) -> list[Completion]:
            return [Scripted(said, version=3).completion(9) for said in ((11, 12), (11, END))]

    prompt = Prompt(task=Task(id="a", text="q"), ids=(1, 2), position=0)
    [[first, second]] = asyncio.run(collector(policy=Listed((), version=3)).sample([prompt]))
    scored = [replace(first, score=Score(value=1.0)), replace(second, score=Score(value=0.0))]
    batch = pack_rollouts(scored, version=3, share_prefix=True)
    assert batch.tokens.tolist() == [1, 2, 11, 12, 21, END, 11, END]
    assert batch.action_mask.tolist() == [False, False, True, True, False, False, True, True]
    assert batch.require("sampler_logprobs").tolist() == [0, 0, -0.5, -0.5, 0, 0, -0.5, -0.5]
    assert batch.placed_rewards().tolist() == [0, 0, 0, 1.0, 0, 0, 0, 0]  # on the policy's last token
    assert batch.actions_per_sequence().tolist() == [2, 2]
    assert not batch.truncated.any()


def test_rewards_that_read_tokens_get_those_of_the_whole_text():
    rollout = next(each for each in drawn(collector()).rollouts if each.turns[0].finish_ids)
    sent = group_to_wire(rollout.task, [rollout])["completions"][0][0]
    assert sent["token_ids"] == [*rollout.turns[0].completion_ids, *rollout.turns[0].finish_ids]
    assert len(sent["token_ids"]) == len(sent["text"])


def test_a_completion_of_one_token_stays_whole():
    made = collector(policy=Scripted((END,), version=3))
    result = drawn(made)
    assert not made.play.guide.requests
    assert {rollout.turns[0].completion_ids for rollout in result.rollouts} == {(END,)}
    assert result.metrics["rollout/finished_frac"] == 0


def test_where_it_goes_over_does_not_depend_on_what_the_policy_says():
    """A place drawn from the length would take the policy's stop tokens out of what is trained: a biased gradient."""
    prompts = [Prompt(task=Task(id="a", text="q"), ids=(1,), position=i) for i in range(2000)]

    def longest(policy: Scripted) -> list[int]:
        """What each of two members may say of each prompt; 5 is the whole."""
        asyncio.run(collector(0.5, longest=5, policy=policy).sample(prompts))
        return [request.max_new_tokens for request in policy.requests]

    cuts = longest(Scripted(POLICY, version=3))
    firsts, seconds = cuts[::2], cuts[1::2]
    assert firsts.count(5) / 2000 == pytest.approx(0.5, abs=0.04)
    for place in (1, 2, 3, 4):
        assert firsts.count(place) / 2000 == pytest.approx(0.125, abs=0.03)
    assert longest(Scripted((END,), version=8)) == cuts
    assert firsts != seconds


def test_a_guides_part_that_is_cut_by_the_limit_is_truncated():
    endless = collector(guide=Scripted((21,) * 9, version=0))
    by_hand = {True: set(), False: set()}
    for rollout in drawn(endless).rollouts:
        by_hand[bool(rollout.turns[0].finish_ids)].add((rollout.truncated, len(rollout.text)))
    assert by_hand == {True: {(True, 6)}, False: {(False, 5)}}


def test_a_full_context_is_not_handed_over():
    made = collector(context=5)  # prompt 2 + at most 2 of the policy's leave room for the guide
    cuts = {len(rollout.turns[0].completion_ids): bool(rollout.turns[0].finish_ids) for rollout in drawn(made).rollouts}
    assert cuts == {1: True, 2: True, 3: False, 4: False, 5: False}


def test_the_share_is_logged_and_a_failed_guide_leaves_the_batch():
    made = collector(0.5)
    result = drawn(made)
    finished = [rollout for rollout in result.rollouts if rollout.turns[0].finish_ids]
    assert result.metrics["rollout/finished_frac"] == len(finished) / 120
    assert 0.2 < len(finished) / 120 < 0.6  # half of them, less those that ended before
    assert result.metrics["rollout/tokens"] == sum(len(r.turns[0].completion_ids) for r in result.rollouts)

    class Failing(Scripted):
        def completion(self, longest: int) -> Completion:
            return replace(super().completion(longest), stop=StopReason.ERROR)

    failed = drawn(collector(0.5, guide=Failing(GUIDE, version=0)))
    assert failed.trained
    assert {rollout.turns[0].finish_ids for rollout in failed.trained} == {()}


def engines() -> tuple[HfEngine, HfEngine]:
    return HfEngine(causal_lm(seed=1), dtype="float32", version=3), HfEngine(causal_lm(seed=2), dtype="float32")


def test_real_engines_give_the_same_again_and_the_guides_tokens_are_the_guides_choice():
    policy, guide = engines()
    first, again = (drawn(collector(policy=policy, guide=guide, prompts=8)) for _ in range(2))
    assert [r.turns for r in first.rollouts] == [r.turns for r in again.rollouts]
    unfinished = drawn(collector(0.0, policy=policy, guide=guide, prompts=8))
    seen = 0
    for rollout, whole in zip(first.rollouts, unfinished.rollouts, strict=True):
        turn, begun = rollout.turns[0], len(rollout.turns[0].completion_ids)
        assert turn.completion_ids == whole.turns[0].completion_ids[:begun]  # the beginning of what it would have said
        seen += turn.finish_ids != whole.turns[0].completion_ids[begun:]
    assert seen > 4


def test_a_source_that_goes_on_from_a_cursor_gives_the_same_bits():
    policy, guide = engines()
    made = collector(0.7, policy=policy, guide=guide, prompts=4)
    first = drawn(made)
    second = drawn(made, first.cursor)
    fresh = drawn(collector(0.7, policy=policy, guide=guide, prompts=4), first.cursor)
    assert torch.equal(second.batch.tokens, fresh.batch.tokens)
    assert torch.equal(second.batch.action_mask, fresh.batch.action_mask)
    assert torch.equal(second.batch.sampler_logprobs, fresh.batch.sampler_logprobs)
    assert not torch.equal(first.batch.tokens, second.batch.tokens)


def test_a_dead_guide_is_an_engine_error_not_a_short_completion():
    policy, guide = engines()
    guide.close()
    with pytest.raises(EngineError, match="closed"):
        drawn(collector(policy=policy, guide=guide, prompts=2))


def test_the_guide_is_the_reference_or_the_given_model(tmp_path: Path):
    """Of a later stage the reference is the policy as it began, which `initial` holds."""
    recipe = read_recipe(write_recipe(tmp_path, steps=4, every=2), ["stages.1.rollouts.guide_roll_out=0.5"])
    policy = build_policy(recipe, Group())
    plain = build_collector(recipe, recipe.stages[1], policy, Scripted(POLICY, version=3), None).play
    later = {name: p.detach() + 0.1 * torch.sin(100 * p.detach()) for name, p in policy.model.named_parameters()}
    stored = {name: lambda weight=weight: weight for name, weight in later.items()}  # read when they are asked for

    def says(path: str | None, initial: dict[str, Any] | None) -> list[list[float]]:
        settings = recipe.stages[1].rollouts.model_copy(update={"guide": path})
        stage = recipe.stages[1].model_copy(update={"rollouts": settings})
        return asyncio.run(training_play(plain, recipe, stage, policy, initial).guide.score([[3, 4, 5, 6]]))

    first = asyncio.run(HfEngine(policy.model, dtype="float32").score([[3, 4, 5, 6]]))
    assert says(None, None) == first
    policy.model.load_state_dict(later, strict=False)
    moved = asyncio.run(HfEngine(policy.model, dtype="float32").score([[3, 4, 5, 6]]))
    assert says(None, None) == first  # the recipe's own first weights, wherever the policy is by now
    assert says(None, stored) == moved != first
    save_pretrained(policy.model, policy.tokenizer, tmp_path / "better", dtype=torch.float32)
    assert says(str(tmp_path / "better"), None) == moved


def test_a_guide_of_other_tokens_is_refused_by_name(tmp_path: Path):
    recipe = read_recipe(write_recipe(tmp_path, steps=4, every=2), ["stages.1.rollouts.guide_roll_out=0.5"])
    policy = build_policy(recipe, Group())
    scratch = recipe.model.scratch.model_copy(update={"characters": "abcdef"})
    other = recipe.model_copy(update={"model": recipe.model.model_copy(update={"scratch": scratch})})
    stranger = build_policy(other, Group())
    save_pretrained(stranger.model, stranger.tokenizer, tmp_path / "stranger", dtype=torch.float32)
    plain = build_collector(recipe, recipe.stages[1], policy, Scripted(POLICY, version=3), None).play
    settings = recipe.stages[1].rollouts.model_copy(update={"guide": str(tmp_path / "stranger")})
    with pytest.raises(RecipeError, match=r"rollouts\.guide: .*stranger cannot read the policy's tokens"):
        training_play(plain, recipe, recipe.stages[1].model_copy(update={"rollouts": settings}), policy, None)


RECIPE = """
model: {scratch: {}}
data: {source: "generator:arithmetic", options: {digits: 1, operations: "+", style: characters}, chat: false}
rewards: [{name: exact_match}]
algorithm: {type: %s}
optimizer: {lr: 1e-3}
rollouts: {engine: hf, max_new_tokens: 8, guide_roll_out: 0.5}
train: {steps: 1}
"""


@pytest.mark.parametrize(
    ("algorithm", "overrides", "problem"),
    [
        ("grpo", [], None),
        ("grpo", ["rollouts.guide=some/model"], None),
        (
            "grpo",
            ["rollouts.guide_roll_out=0", "rollouts.guide=some/model"],
            "has nothing to finish; set `guide_roll_out` above 0",
        ),
        ("grpo", ["rollouts.guide=./nowhere"], "there is no .*nowhere"),
        ("grpo", ["rollouts.max_new_tokens=1"], "one token cannot be shared; raise `rollouts.max_new_tokens`"),
        ("grpo", ['environment={"name": "guess_number"}'], None),
        ("refuel", ['environment={"name": "guess_number"}', "rewards=[]"], None),
        ("archer", ['environment={"name": "guess_number"}', "train.batch=4"], "archer keeps .* alone; remove it"),
        ("sft", ["train.batch=4"], "sft samples no answers; set it in the stages that do"),
        ("reinforce", ['rewards=[{"name": "exact_match", "steps": {"place": "step"}}]'], "remove `guide_roll_out`"),
    ],
)
def test_what_cannot_be_finished_is_refused_with_its_cure(tmp_path: Path, algorithm, overrides, problem):
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE % algorithm)
    if problem is None:
        assert read_recipe(file, overrides).stages[0].rollouts.guide_roll_out == 0.5
    else:
        with pytest.raises(RecipeError, match=problem):
            read_recipe(file, overrides)


def test_the_guides_tokens_do_not_enter_the_loss():
    """Other tokens of the guide: the same loss and gradient. Other tokens of the policy: another one."""
    policy, guide = engines()
    rollouts = drawn(collector(policy=policy, guide=guide, prompts=4)).trained
    others = [
        _with(rollout, finish_ids=tuple((i + 5) % 23 for i in rollout.turns[0].finish_ids)) for rollout in rollouts
    ]
    assert others != rollouts
    spoken = [_with(r, completion_ids=tuple((i + 5) % 23 for i in r.turns[0].completion_ids)) for r in rollouts]
    first, same, different = (_gradient(each) for each in (rollouts, others, spoken))
    assert relative(same, first) < 1e-5
    assert relative(different, first) > 0.1


def _with(rollout: Rollout, **changed) -> Rollout:
    return replace(rollout, turns=(replace(rollout.turns[0], **changed),))


def _gradient(rollouts: list[Rollout]) -> torch.Tensor:
    batch = pack_rollouts(rollouts, version=3, share_prefix=True)
    batch = batch.replace(reward=torch.arange(8.0) % 3)
    model, config = causal_lm(seed=1), grpo.Config(type="grpo")
    recorder = Recorder(model)
    step = Step(
        algorithm=grpo.ALGORITHM,
        config=config,
        trainer=recorder,
        forward=Forward(model=model, dtype=torch.float32),
        group=Group(),
        temperature=1.0,
        max_tokens=64,
    )
    step.update(grpo.estimate(config, batch), range(8), lr=1.0)
    return torch.cat([recorder.gradient, torch.tensor([recorder.loss])])
