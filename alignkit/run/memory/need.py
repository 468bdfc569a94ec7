"""What a recipe needs on a device, phase by phase, and whether that is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from alignkit.parallel.memory.device import Device
from alignkit.parallel.memory.rollout_engine import ENGINE_PROCESS, VllmShare
from alignkit.parallel.memory.sharding import Sharding
from alignkit.parallel.memory.trace import Held, total
from alignkit.recipe.schema import Recipe, Stage
from alignkit.run.memory.measure import Counted, count_stage
from alignkit.run.train.loader import check_uncut

CONTEXT = 600 * 10**6
"""Bytes of a process's CUDA context and of the libraries' kernels and workspaces: assumed, not measured."""
COLLECTIVES = 10**9
"""Bytes of NCCL's channels among several devices: assumed, not measured."""
SLACK = 0.05
"""Share of what comes and goes that the allocator cannot use again for blocks of other sizes: assumed, not measured."""
PASSING = ("activations", "logits and head", "lent weights")
ROWS = 256  # sequences that the hf engine samples at the same time


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Of one stage on one of the devices, the first, which has the engine. phases: bytes by role."""

    stage: str
    phases: Mapping[str, Held]
    size: int
    engine_fits: bool
    notes: tuple[str, ...] = ()

    @property
    def peak(self) -> str:
        """The phase that needs the most."""
        return max(self.phases, key=lambda phase: total(self.phases[phase]))

    @property
    def bytes(self) -> int:
        return total(self.phases[self.peak])

    @property
    def fits(self) -> bool:
        return self.engine_fits and self.bytes <= self.size

    def as_json(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "device_bytes": self.size,
            "peak": self.peak,
            "peak_bytes": self.bytes,
            "fits": self.fits,
            "engine_fits": self.engine_fits,
            "phases": {phase: {**held, "total": total(held)} for phase, held in self.phases.items()},
            "notes": list(self.notes),
        }


def needs(recipe: Recipe, device: Device, sharding: Sharding) -> list[Need]:
    """Of every stage. Raises ContentError where the sizes of a model are not known, RecipeError for a base in 4 bits
    under ZeRO-3."""
    if sharding.stage == 3:
        check_uncut(recipe.model)
    stages = enumerate(recipe.stages)
    return [need_of(count_stage(recipe, i), stage, device, sharding) for i, stage in stages]


def need_of(counted: Counted, stage: Stage, device: Device, sharding: Sharding) -> Need:
    """What was counted, shared out over the devices, with what the counting cannot see."""
    vllm = vllm_of(counted, stage)
    phases = {}
    for phase, held in counted.phases.items():
        copied = phase == "start" and counted.engine == "hf"  # which wants the policy whole
        cut = replace(sharding, stage=min(sharding.stage, 2)) if copied else sharding
        found = cut.share(held, trained=counted.trained, weights=counted.weights, phase=phase)
        if sharding.stage and phase == "save":  # of several processes each gathers on the host
            found = {role: size for role, size in found.items() if role not in PASSING}
        if sharding.stage or phase != "start":  # one process loads the model before the engine starts
            found |= _engine(counted, stage, vllm, device.size, phase)
        phases[phase] = found | {"overhead": _overhead(found, sharding.world)}
    if counted.engine is not None:
        still = {role: size for role, size in phases["save"].items() if role not in (*PASSING, ENGINE_PROCESS)}
        still |= _engine(counted, stage, vllm, device.size, "sample")
        phases["sample"] = still | {"overhead": _overhead(still, sharding.world)}
    notes, engine_fits = list(counted.notes), True
    if vllm is not None:
        sequences = vllm.sequences(device.size)
        engine_fits = sequences > 0
        at_once = f"its cache has room for {sequences:,} sequences of {counted.context:,} tokens at once"
        asleep = "; it sleeps while the trainer trains" if counted.sleeps else ""
        notes.append(f"vLLM: {at_once + asleep if engine_fits else 'its share has no room for a single sequence'}")
    if counted.limits.given:
        notes.append(
            "how long completions are, the data decides: counted are full micro-batches, and one sequence longer than "
            "train.micro_batch_tokens needs more; set data.max_completion_tokens"
        )
    return Need(stage=stage.name, phases=phases, size=device.size, engine_fits=engine_fits, notes=tuple(notes))


def _overhead(held: Held, world: int) -> int:
    passing = sum(held.get(role, 0) for role in PASSING)
    return round(CONTEXT + COLLECTIVES * (world > 1) + SLACK * passing)


def vllm_of(counted: Counted, stage: Stage) -> VllmShare | None:
    """The share of the stage's vLLM; None without one."""
    if counted.engine != "vllm":
        return None
    return VllmShare(
        share=stage.rollouts.gpu_memory_fraction,
        weights=-(-counted.policy * counted.width // counted.workers),
        token=counted.token,
        context=counted.context,
        sleeps=counted.sleeps,
    )


def _engine(counted: Counted, stage: Stage, vllm: VllmShare | None, size: int, phase: str) -> Held:
    if vllm is not None:
        return vllm.held(size, phase)
    if counted.engine is None:
        return {}
    rows = min(ROWS, stage.rollouts.prompts * stage.rollouts.group)
    return {"engine weights": 4 * counted.policy, "engine cache": rows * counted.context * counted.token}
