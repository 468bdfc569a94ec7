"""From a recipe to objects. This module and run/train/train.py are the only places that know everything."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alignkit.data.tokens import said_text
from alignkit.data.turns import Renderer
from alignkit.engines.engine import Engine
from alignkit.engines.fleet import Fleet
from alignkit.engines.vllm.arguments import Settings
from alignkit.engines.vllm.engine import VllmEngine
from alignkit.environments.maker import environment_maker
from alignkit.errors import RecipeError
from alignkit.models.adapted import base_model, is_adapted
from alignkit.models.adapter_folder import AdapterFolder
from alignkit.models.adapter_matrices import adapter_shapes
from alignkit.models.critic import add_value_head, check_reads, freeze_words
from alignkit.models.device_type import default_device, has_gpu
from alignkit.models.encoder import packs
from alignkit.models.frozen import hold_frozen
from alignkit.models.load import load_policy, locate
from alignkit.models.recompute import set_recompute
from alignkit.models.save import describe
from alignkit.models.tokenizer import stop_token_ids
from alignkit.models.weights import Part, named_policy_weights
from alignkit.parallel.cut import copied, set_whole
from alignkit.parallel.group import Group
from alignkit.parallel.single import SingleTrainer
from alignkit.parallel.trainer import Trainer
from alignkit.parallel.writers import write_together
from alignkit.recipe.read import resolve_algorithm
from alignkit.recipe.schema import Data, Environment, Optimizer, Recipe, Stage
from alignkit.rewards.learned.reward_model import BESIDE, Reading, adopt_head, adopt_value, is_reward_model
from alignkit.rewards.pool.blend import places_steps
from alignkit.rewards.pool.pool import RewardPool
from alignkit.rollout.answers import Answers
from alignkit.rollout.collect import Collector
from alignkit.rollout.episodes import Episodes
from alignkit.rollout.free_running import FreeRunning
from alignkit.rollout.gateway.programs import Programs, program_of
from alignkit.rollout.play import Play
from alignkit.run.check.named_models import under
from alignkit.run.check.training import training_of
from alignkit.run.train.loader import loader, sharding_of
from alignkit.run.train.replicas import placed, shares_card, start_host
from alignkit.run.train.served_fleet import served_fleet
from alignkit.types.seeds import child
from alignkit.types.task import Task
from alignkit.weights.pieces import checkpoint_shapes
from alignkit.weights.sender import Sender

PROBE_TOKENS = 64
Load = Callable[..., tuple[Any, Any]]
"""(recipe's `model` section, seed=, beside=) -> a model and its tokenizer, as `models/load.py: load_policy`."""
First = Mapping[str, Callable[[], torch.Tensor]]
"""The weights with which a stage began, by parameter name, each read when it is asked for."""
SUITE_TOKENS = 2048  # room for benchmarks: eight worked examples, a question and its answer


@dataclass(kw_only=True)
class Policy:
    """The trained model, as loaded; `tokenizer` and `stop` belong to it."""

    model: Any
    tokenizer: Any
    stop: tuple[int, ...]

    @property
    def context(self) -> int:
        return self.model.config.max_position_embeddings


def build_policy(recipe: Recipe, group: Group, load: Load | None = None) -> Policy:
    """Loads or builds the policy on the host; the same weights on every rank and at every start.

    The base of an adapter is held in the recipe's dtype, under ZeRO-3 in shards (`loader`), unless the hf engine is to
    have a copy.
    """
    if load is None:
        copied_whole = any(stage.rollouts.engine == "hf" for stage in recipe.stages)
        load = load_policy if copied_whole else loader(group)
    model, tokenizer = load(recipe.model, seed=child(recipe.seed, "model"), beside=beside(recipe))
    if recipe.model.lora is not None:
        hold_frozen(model, getattr(torch, recipe.model.dtype))
    stop = stop_token_ids(tokenizer, model)
    settings = getattr(base_model(model), "generation_config", None)
    if settings is not None and len(stop) > 1:  # whoever loads the saved model stops where it was taught to
        settings.eos_token_id = list(stop)
    return Policy(model=model, tokenizer=tokenizer, stop=stop)


def place(policy: Policy, group: Group) -> None:
    """Puts the policy where it is trained. Several processes leave it on the host: DeepSpeed places the shards."""
    if group.world == 1:
        policy.model.to(default_device())


def begins_as_base(recipe: Recipe, initial: First | None) -> bool:
    """Whether the stage's reference is the policy without its adapter: a fresh one, in its first stage."""
    if recipe.model.lora is None or initial is not None or (recipe.reference and recipe.reference.path):
        return False
    path = recipe.model.path
    return path is None or AdapterFolder.find(locate(path, beside(recipe)), recipe.model.revision) is None


def build_reference(recipe: Recipe, initial: First | None, load: Load = load_policy) -> nn.Module:
    """The frozen reference: `reference.path`, else the policy as it was when the stage began.

    initial: the stage's first weights; None when these are the recipe's own initial weights.
    """
    path = recipe.reference.path if recipe.reference else None
    if path:
        model, _ = load_other(recipe, "reference.path", path, load)
    else:
        model, _ = load(recipe.model, seed=child(recipe.seed, "model"), beside=beside(recipe))
    if initial is not None and path is None:
        for name, parameter in model.named_parameters():
            if name in initial:
                set_whole(parameter, initial[name]())
    return model.requires_grad_(False).eval()


def load_other(recipe: Recipe, key: str, path: str, load: Load = load_policy) -> tuple[nn.Module, Any]:
    """The model, with its tokenizer, that a recipe names under `key` beside its own, in the same arithmetic."""
    section = recipe.model.model_copy(update={"path": path, "scratch": None, "lora": None, "quantization": None})
    with under(key):
        return load(section, seed=recipe.seed, beside=beside(recipe))


def build_critic(
    recipe: Recipe, stage: Stage, policy: Policy, heads: int, load: Load = load_policy, **scores: Any
) -> nn.Module:
    """A critic of its own: `critic.path`, else a copy of the policy as it is now, with a fresh value head.

    scores: as of `add_value_head`.
    From the folder of a reward model of one number, a critic of one value takes the head, too: it begins as the score.
    Raises RecipeError for a model that cannot read the policy's tokens.
    """
    path = stage.critic.path if stage.critic else None
    if path:
        model, tokenizer = load_other(recipe, "critic.path", path, load)
        check_reads("critic.path", path, model, tokenizer, policy.tokenizer)
    else:
        model = copied(policy.model)
    freeze_words(base_model(model))
    add_value_head(model, heads, seed=child(recipe.seed, stage.name), **scores)
    if path and is_reward_model(folder := Path(locate(path, beside(recipe)))):
        adopt_value(model, folder)
    return on(model, next(policy.model.parameters()).device)


def make_reward_model(recipe: Recipe, stage: Stage, policy: Policy, report: Callable[[str], None]) -> None:
    """Gives the model its head; from a folder of a reward model it takes over the outputs of the same names."""
    algorithm, config = algorithm_of(recipe, stage)
    heads = algorithm.heads(config)
    if recipe.model.frozen:
        policy.model.requires_grad_(False)
    if not heads:
        return
    if is_adapted(base_model(policy.model).get_output_embeddings()):
        problem = (
            f"{stage.algorithm['type']} makes a reward model, which says no words: its head would never be trained"
        )
        raise RecipeError(f"model.lora: {problem}; take it out of target_modules and modules_to_save")
    freeze_words(base_model(policy.model))
    add_value_head(policy.model, len(heads), seed=child(recipe.seed, stage.name))
    folder = Path(locate(recipe.model.path, beside(recipe))) if recipe.model.path else Path()
    if recipe.model.path and is_reward_model(folder):
        adopted = adopt_head(policy.model, heads, folder)
        report(f"{len(adopted)} of {len(heads)} outputs of the head go on from {recipe.model.path}")


def build_engine(recipe: Recipe, policy: Policy, folder: Path, group: Group, *, log_file: Path) -> Engine | None:
    """Starts the recipe's rollout engine with the policy's present weights, on the first rank; all ranks call it.

    folder: for its files.
    """
    settings = recipe.stages[-1].rollouts
    served = recipe.engine.placement == "servers"
    if settings.engine == "hf" and not served:
        if not group.first:
            return None
        from alignkit.engines.hf import HfEngine

        return HfEngine(policy.model, dtype=recipe.model.dtype, device=default_device())
    part: Part = "base" if sends_adapter(recipe) else "merged"
    adapter = adapter_shapes(policy.model) if sends_adapter(recipe) else {}
    home, own = folder / "initial-model", engine_settings(recipe)
    dtype = recipe.model.dtype if settings.engine == "vllm" else "float32"  # the hf engine casts as it computes
    sender = None
    if group.first and group.world > 1 and not own.lends:
        shapes = checkpoint_shapes(policy.model, part=part)
        sender = Sender(home, dtype, shapes=shapes, adapter=adapter, lends=False)
    written = write_together(policy.model, group, sender.memory if sender else None, part)
    weights = None if written else named_policy_weights(policy.model, part=part)
    if not group.first:
        deque(weights or (), maxlen=0)  # which helps to gather what is cut
        return None
    describe(policy.model, policy.tokenizer, home, dtype=getattr(torch, recipe.model.dtype))
    one = recipe.engine.replicas == 1 and recipe.engine.placement == "colocated"
    if not written:
        sender = None if one else Sender(home, dtype, weights=weights, adapter=adapter, lends=False)
    if served and sender is not None:
        longest = longest_sequence(recipe, policy.context)
        return served_fleet(recipe, home, sender, max_model_len=longest, settings=own)
    start = partial(
        VllmEngine,
        home,
        sender=sender,
        adapter=adapter,
        dtype=dtype,
        max_model_len=longest_sequence(recipe, policy.context),
        memory_gib=settings.memory_gib,
        settings=own,
        startup_s=recipe.engine.startup_s,
        seed=recipe.seed,
    )
    if sender is None or one:
        return start(weights=weights, **placed(recipe, 0), log_file=log_file)
    return Fleet(start_host(recipe, start, log_file), sender)


def sends_adapter(recipe: Recipe) -> bool:
    """Whether the engine gets the adapter apart from its base."""
    return recipe.engine.lora == "adapter" and recipe.stages[-1].rollouts.engine == "vllm"


def engine_sleeps(recipe: Recipe) -> bool:
    """Whether the engine shares a card with the trainer and leaves its memory to it while it trains."""
    colocated = recipe.engine.placement == "colocated" and recipe.stages[-1].rollouts.engine == "vllm"
    return recipe.engine.sleep and colocated and has_gpu()


def engine_settings(recipe: Recipe) -> Settings:
    """What the recipe says of vLLM's process, on this machine."""
    return Settings(
        memory_fraction=recipe.stages[-1].rollouts.gpu_memory_fraction,
        sleeps=engine_sleeps(recipe),
        lends=recipe.engine.transport == "auto" and shares_card(recipe.engine) and has_gpu(),
        tensor_parallel=recipe.engine.tensor_parallel,
        deterministic=recipe.deterministic and has_gpu(),
        options=recipe.engine.options,
    )


def longest_sequence(recipe: Recipe, context: int) -> int:
    """Longest prompt plus completion that any stage or the evaluation may ask for, within the model's context."""
    evaluation = recipe.evaluation.max_new_tokens if recipe.evaluation else None
    needed = [
        episode_tokens(stage.environment, context)
        if stage.environment
        else stage.data.max_prompt_tokens + max(stage.rollouts.max_new_tokens, evaluation or 0)
        for stage in recipe.stages
    ]
    suite = SUITE_TOKENS if recipe.evaluation and recipe.evaluation.suite else 0
    return min(context, max(*needed, suite, PROBE_TOKENS))


def episode_tokens(environment: Environment, context: int) -> int:
    """Most tokens of one episode."""
    return min(context, environment.max_tokens or context)


def build_trainer(model: nn.Module, optimizer: Optimizer, group: Group, dtype: torch.dtype) -> Trainer:
    """Plain torch for one process, DeepSpeed ZeRO as the launch profile says for several. dtype: of the arithmetic."""
    if group.world == 1:
        return SingleTrainer(model, optimizer)
    if optimizer.moments != "float32":
        raise RecipeError(
            f"optimizer.moments: {optimizer.moments} is for one process; several shard Adam's moments in float32 "
            "(--launch zero2), or hold them on the host (--launch zero3-offload): remove it"
        )
    from alignkit.parallel.zero import ZeroTrainer

    return ZeroTrainer(model, optimizer, group, sharding_of(group), dtype)


def recompute(model: nn.Module, stage: Stage) -> None:
    """Sets what a model keeps for its backward pass, as `train.recompute` says."""
    wanted = stage.train.recompute
    try:
        set_recompute(model, has_gpu() if wanted is None else wanted)
    except ValueError as error:
        raise RecipeError(f"train.recompute: {error} Set it to false") from error


def renderer_of(data: Data, policy: Policy) -> Renderer:
    """What writes a conversation as the policy's token ids."""
    return Renderer(
        tokenizer=policy.tokenizer,
        chat=data.chat,
        system=data.system,
        arguments=data.chat_template_kwargs,
        stop_token_ids=policy.stop,
    )


def build_pool(recipe: Recipe, number: int, tasks: Sequence[Task]) -> RewardPool:
    """The rewards of stage `number` in their worker processes; tasks: what it trains on."""
    stage = recipe.stages[number]
    training = training_of(recipe, number, tasks)
    return RewardPool(stage.rewards, workers=stage.rollouts.reward_workers, beside=beside(recipe), training=training)


def build_collector(recipe: Recipe, stage: Stage, policy: Policy, engine: Engine, pool: RewardPool | None) -> Collector:
    """What samples and scores for a stage: answers through the pool, or episodes in its environment."""
    decode = partial(said_text, policy.tokenizer, stop_token_ids=policy.stop)
    free = stage.environment is not None and stage.environment.free_running
    return Collector(
        engine=FreeRunning(engine) if free else engine,
        play=_play(recipe, stage, policy, decode),
        scorer=pool,
        decode=decode,
        stop_token_ids=policy.stop,
        settings=stage.rollouts,
        seed=child(recipe.seed, stage.name),
        adapter="policy" if recipe.model.lora else None,
        places_steps=places_steps(stage.rewards),
    )


def _play(recipe: Recipe, stage: Stage, policy: Policy, decode: Callable[[Sequence[int]], str]) -> Play:
    environment = stage.environment
    if environment is None:
        return Answers(decode=decode)
    if environment.program is not None:
        return Programs(
            program=program_of(environment.program, beside(recipe)),
            judged=bool(stage.rewards),
            name=environment.title,
            renderer=renderer_of(stage.data, policy),
            max_turns=environment.max_turns,
            context=episode_tokens(environment, policy.context),
            deadline_s=environment.deadline_s,
            max_seconds=environment.max_seconds,
        )
    make, pays = environment_maker(environment, beside(recipe))
    return Episodes(
        make=make,
        pays=pays,
        name=environment.title,
        renderer=renderer_of(stage.data, policy),
        max_turns=environment.max_turns,
        context=episode_tokens(environment, policy.context),
        deadline_s=environment.deadline_s,
        max_seconds=environment.max_seconds,
        max_tool_calls=environment.max_tool_calls,
        lockstep=environment.pace == "lockstep",
    )


def reading_of(recipe: Recipe, stage: Stage) -> Reading:
    """How the reward model of a stage reads its input, for whoever loads it without the recipe."""
    algorithm, config = algorithm_of(recipe, stage)
    needs_reference = "reference" in algorithm.needs(config).models
    given = (recipe.reference.path if recipe.reference else None) or recipe.model.path
    reference = given or BESIDE if needs_reference else None
    if reference not in (None, BESIDE) and (folder := Path(locate(reference, beside(recipe)))).is_dir():
        reference = str(folder.resolve())  # whoever loads it stands elsewhere
    return Reading(
        algorithm=stage.algorithm,
        dtype=recipe.model.dtype,
        reference=reference,
        chat=stage.data.chat,
        system=stage.data.system,
        cut=stage.data.long_completions == "truncate",
        longest=stage.data.max_completion_tokens,
    )


def check_speaks(policy: Policy, *, reward: bool) -> None:
    """Raises RecipeError when an encoder is to be a policy, or a reward model that says words."""
    if not reward and not packs(policy.model):
        raise RecipeError("model.path: an encoder reads and cannot answer: it can only be made a reward model")


def on(model: nn.Module, device: torch.device) -> nn.Module:
    """The model on a device, untouched where it is there already."""
    return model if next(model.parameters()).device == device else model.to(device)


def algorithm_of(recipe: Recipe, stage: Stage):
    """(Algorithm, its Config) of a stage."""
    return resolve_algorithm(stage, recipe)


def beside(recipe: Recipe) -> Path | None:
    """Folder of the recipe file: relative names in the recipe are looked up there first."""
    return recipe.file.parent if recipe.file else None
