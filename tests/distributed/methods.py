"""What a rank does in test_methods.py: `python -m tests.distributed.methods STAGE FOLDER`, one process per rank.

Runs a few steps of every method, one after the other in the same processes: its smoke recipe with a smaller model.
STAGE 0 is one process with plain torch.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from alignkit.models.load import load_policy
from alignkit.models.save import save_pretrained
from alignkit.recipe.read import read_recipe
from alignkit.recipe.schema import Data, Lora, Model, Optimizer, Recipe, RewardSpec, Scratch, Stage
from alignkit.run.launch.deepspeed_file import DEEPSPEED_FILE
from alignkit.run.train.train import run
from tests.distributed.ranks import ROOT

SMOKE = ROOT / "recipes" / "smoke"
STEPS, EPSILON = 3, 1e-3  # of Adam: why so large, tests/distributed/steps.py says
TURNS = ("advantage", "archer", "archer_iql", "gigpo", "ilql", "refuel", "sweet", "turn_grpo", "turn_ppo")
REWARD_MODELS = ("bradley-terry", "cost", "odin", "pairwise", "plackett-luce", "quantile", "rating", "multi-objective",
                 "gate", "implicit")  # fmt: skip
ANSWERS = ("sft", "dpo", "ipo", "tdpo", "simpo", "orpo", "kto", "cpl", "ipl", "rebel_pairs", "rlmec", "grpo", "rloo",
           "reinforce", "raft", "rebel", "sppo", "nash_md", "online_dpo", "ppo", "ppo_lagrangian", "dqo", "dpa",
           "filtered_bc", "guided-finish")  # fmt: skip
SHORT = RewardSpec(name="length_penalty", options={"max_tokens": 5, "buffer": 4})
SHARDING = {
    "overlap_comm": True,
    "contiguous_gradients": True,
    "reduce_bucket_size": 3000,
    "allgather_bucket_size": 3000,
    "stage3_prefetch_bucket_size": 2000,
    "stage3_param_persistence_threshold": 0,
}
PROCESS = [
    {"prompt": f"{a}+{b}=", "completions": [f"{a}+{b}", f"={a + b}", "+1"], "labels": [True, True, False]}
    for a in range(12, 20)
    for b in range(3, 7)
]


def recipes(folder: Path) -> dict[str, Recipe]:
    """Every method's recipe by a name for it; models and data lie in `folder`."""
    files = {name: "start" if name == "sft" else name for name in ANSWERS}
    files |= {f"turns-{name}": f"guess-number-{name.replace('_', '-')}" for name in TURNS}
    files |= {f"reward-{name}": f"reward-{name}" for name in REWARD_MODELS}
    made = {name: shrunk(read_recipe(str(SMOKE / f"{file}.yaml"), []), folder) for name, file in files.items()}
    other = made["tdpo"].model.model_copy(update={"lora": Lora(rank=4, alpha=8)})
    made["tdpo with an adapter"] = made["tdpo"].model_copy(update={"model": other})
    (raft,) = made["raft"].stages
    raft = raft.model_copy(update={"algorithm": {"type": "raft", "keep": 1}})  # of rewards that are all below 1
    made["raft"] = made["raft"].model_copy(update={"stages": (raft,)})
    for name in ("turns-gigpo", "turns-refuel", "turns-turn_grpo"):  # which compare games that ended otherwise
        made[name] = taught(made[name])
    few_pairs = Data(source="generator:guess_number_pairs", options={"guesses": 4, "count": 50}, chat=False)
    (advantage,) = made["turns-advantage"].stages
    stages = (advantage.model_copy(update={"data": few_pairs}),)
    made["turns-advantage"] = made["turns-advantage"].model_copy(update={"stages": stages})
    made["tdpo from another model"] = made["tdpo"].model_copy(update={"reference": made["rlmec"].reference})
    steps = Data(source=str(folder / "process.jsonl"), chat=False)
    stage = made["dpo"].stages[0].model_copy(update={"algorithm": {"type": "process"}, "data": steps, "rewards": ()})
    made["reward-process"] = made["dpo"].model_copy(update={"stages": (stage,)})
    return {name: recipe.model_copy(update={"run": str(folder / "runs" / name)}) for name, recipe in made.items()}


def shrunk(recipe: Recipe, folder: Path) -> Recipe:
    """Of few steps, with a model of 2 narrow layers, from the disk where the recipe's is, without evaluation."""
    model = recipe.model
    if model.path is not None:
        frozen = folder / "runs" / "reward-multi-objective" / "final"
        model = model.model_copy(update={"path": str(frozen if model.frozen else folder / "model")})
    else:
        small = model.scratch.model_copy(update={"layers": 2, "hidden": 32})
        model = model.model_copy(update={"scratch": small})
    reference = recipe.reference and recipe.reference.model_copy(update={"path": str(folder / "other")})
    stages = tuple(few(stage) for stage in recipe.stages)
    return recipe.model_copy(update={"model": model, "reference": reference, "evaluation": None, "stages": stages})


def taught(recipe: Recipe) -> Recipe:
    """With a first stage that is long enough for some games to end otherwise than others."""
    first, *rest = recipe.stages
    train = first.train.model_copy(update={"steps": 40, "batch": 32, "micro_batch_tokens": 4000})
    optimizer, data = Optimizer(lr=5e-3, eps=EPSILON), first.data.model_copy(update={"limit": 400})
    first = first.model_copy(update={"train": train, "optimizer": optimizer, "data": data})
    return recipe.model_copy(update={"stages": (first, *rest)})


def few(stage: Stage) -> Stage:
    """A stage of few steps, each of several micro-batches."""
    batch = stage.train.batch and min(stage.train.batch, 12)
    train = {"steps": STEPS, "batch": batch, "micro_batch_tokens": 60, "critic_warmup_steps": 0}
    rollouts = {"prompts": min(stage.rollouts.prompts, 4), "group": min(stage.rollouts.group, 4), "reward_workers": 1}
    optimizer = Optimizer(lr=1e-3, eps=EPSILON)
    judges = [reward.name for reward in stage.rewards]
    unfit = judges == ["exact_match"] or "learned" in judges  # which such a model never is; which is not trained here
    return stage.model_copy(
        update={
            "data": stage.data.model_copy(update={"limit": 100, "holdout": 0}),
            "train": stage.train.model_copy(update=train),
            "rollouts": stage.rollouts.model_copy(update=rollouts),
            "optimizer": optimizer,
            "rewards": (SHORT,) if unfit else stage.rewards,
        }
    )


def prepare(folder: Path) -> None:
    """The models on the disk, and rows for a process reward model."""
    scratch = Scratch(characters="0123456789+=;?<>!", layers=2, hidden=32, heads=4, context=40)
    for seed, name in enumerate(("model", "other")):
        save_pretrained(*load_policy(Model(scratch=scratch), seed=5 + seed), folder / name, shard_bytes=20000)
    (folder / "process.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROCESS))


def main(stage: int, folder: Path) -> None:
    torch.set_num_threads(1)
    if stage:
        os.environ[DEEPSPEED_FILE] = str(folder / "deepspeed.json")
    only: Any = sys.argv[3:]
    for name, recipe in recipes(folder).items():
        if only and name not in only:
            continue
        begun = time.monotonic()
        run(recipe, resume=False, as_json=True)
        print(f"{name}: {time.monotonic() - begun:.1f} s", file=sys.stderr)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
