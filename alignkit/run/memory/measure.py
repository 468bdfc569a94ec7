"""Runs a stage's own code on tensors without content, phase by phase, and writes down what it would hold."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from alignkit.models.adapted import base_model
from alignkit.models.arithmetic import settled
from alignkit.models.device_type import planned_for
from alignkit.models.load import load_policy, locate
from alignkit.models.save import stored_weights
from alignkit.models.weights import whole_shape
from alignkit.parallel.group import Group
from alignkit.parallel.memory.trace import Held, Peaks, deeper, most, total
from alignkit.parallel.single import SingleTrainer
from alignkit.recipe.lookup.kind_of import kind_of
from alignkit.recipe.schema import Recipe
from alignkit.run.memory.batches import Limits
from alignkit.run.memory.config_of import config_of, model_of_config
from alignkit.run.memory.quantized_sizes import parts
from alignkit.run.memory.recorder import Recorder
from alignkit.run.memory.sizes_only import SizesOnly, without_content
from alignkit.run.train import build
from alignkit.run.train.build_stage import StageBuilder
from alignkit.run.train.epochs import GivenData
from alignkit.train.hooks.hook import Hook
from alignkit.train.loop import Clock, StageLoop
from alignkit.train.state import State
from alignkit.train.step import Step
from alignkit.train.sync import Sync
from alignkit.types.batch import Batch


@dataclass(frozen=True, kw_only=True)
class Counted:
    """A stage on one device that holds everything, nothing sharded.

    phases: bytes by role at the moment at which each held the most. trained, weights: numbers in the weights that the
    policy's and the critic's optimizers train, and in all their weights. policy: numbers in the policy's checkpoint.
    width: bytes of a number in the engine. token: bytes of a token's keys and values there. context: tokens of the
    longest sequence that the engine is asked for. sleeps: whether the engine leaves its memory to the trainer that
    trains. workers: among which the engine's weights are cut. notes: what the run would report.
    """

    stage: str
    phases: dict[str, Held]
    trained: int
    weights: int
    policy: int
    width: int
    token: int
    context: int
    limits: Limits
    engine: str | None
    sleeps: bool = False
    workers: int = 1
    notes: tuple[str, ...] = ()


class _Builder(StageBuilder):
    """Without a source: nothing is drawn. Tensors have no numbers that could be named."""

    def _identity(self, policy: Any) -> str:
        return ""

    def _source(self, number: int, kind: Any, policy: Any, initial: Any) -> Any:
        return None


class _Mute:
    """The engine's side of a weight sync: takes the weights one after the other, as they come.

    lent: dtype of the copies that the trainer keeps until the engine has read all of them; None: it keeps none.
    """

    def __init__(self, recorder: Recorder, lent: torch.dtype | None):
        self._recorder, self._lent = recorder, lent

    def update(self, weights: Iterable[tuple[str, Tensor]], *, version: int) -> None:
        copies = []
        for _, tensor in weights:
            if self._lent is not None:
                copies.append(tensor.to(self._lent, copy=True))
                self._recorder.hold(copies[-1:], "lent weights")

    async def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        return [[0.0] * (len(sequence) - 1) for sequence in sequences]


class _Told:
    """A trainer that tells the recorder what it does."""

    def __init__(self, trainer: SingleTrainer, recorder: Recorder):
        self._trainer, self._recorder = trainer, recorder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trainer, name)

    def backward(self, loss: Tensor) -> None:
        self._recorder.enter("backward")
        self._trainer.backward(loss)
        self._recorder.enter("forward")

    def step(self, lr: float) -> float:
        self._recorder.enter("optimizer")
        norm = self._trainer.step(lr)
        state = [value for values in self._trainer.optimizer.state.values() for value in values.values()]
        self._recorder.hold([value for value in state if isinstance(value, FakeTensor)], "optimizer")
        return norm


class _OneUpdate(Hook):
    """Ends a step after its first optimizer step: the others hold no more."""

    name = "one_update"

    def is_enough(self, metrics: Any) -> bool:
        return True


@dataclass
class _Phases(Clock):
    """The loop's own clock, which tells the recorder what is being done."""

    recorder: Recorder | None = None

    @contextmanager
    def time(self, phase: str) -> Generator[None]:
        assert self.recorder is not None
        self.recorder.enter({"logprobs": "annotate", "update": "forward"}[phase])
        yield


PHASES = ("start", "sync", "verify", "annotate", "update", "optimizer", "save")
FEWEST = 2  # the first one is another: nothing before it may be trained
"""Layers of the smaller of two models from which a deep one is extrapolated, at least."""


def count_stage(recipe: Recipe, number: int, *, device: str = "cuda", whole: bool = False) -> Counted:
    """The bytes of stage `number` of a checked recipe. device: the kind whose kernels and tiles it takes. whole: run
    all layers, also where a few say it all.

    Raises ContentError where the sizes of one of its models are not known.
    """
    layers, period = (0, 1) if whole else _repeated_layers(recipe)
    depth = FEWEST + (layers - FEWEST) % period  # and then whole periods
    if layers <= depth + period:
        counted, peaks = _count(recipe, number, device, None)
        return replace(counted, phases=_merged(peaks))
    (few, begin), (more, end) = (_count(recipe, number, device, deep) for deep in (depth, depth + period))
    peaks = deeper(begin, end, layers=(depth, depth + period, layers))
    numbers = {
        name: getattr(few, name) + (getattr(more, name) - getattr(few, name)) * (layers - depth) // period
        for name in ("trained", "weights", "policy", "token")
    }
    return replace(more, phases=_merged(peaks), **numbers)


def _merged(peaks: Peaks) -> dict[str, Held]:
    """What each phase holds at most; forward and backward are what they are together, the update."""
    phases: dict[str, Held] = {}
    for part, held in most(peaks).items():
        phase = part.partition("/")[0]
        phases[phase] = max(phases.get(phase, {}), held, key=total)
    phases["update"] = max((phases.pop(half) for half in ("forward", "backward")), key=total)
    return {phase: phases[phase] for phase in PHASES if phase in phases}


def _repeated_layers(recipe: Recipe) -> tuple[int, int]:
    """(the number of layers of each of the recipe's models, after how many of them their kinds come again).

    (0, 1) where the models differ in it, or nothing comes again.
    """
    critics = [stage.critic.path for stage in recipe.stages if stage.critic is not None]
    paths = [recipe.model.path, recipe.reference.path if recipe.reference else None, *critics]
    found = set()
    for path in filter(None, paths):
        revision = recipe.model.revision if path == recipe.model.path else None
        text = config_of(locate(path, build.beside(recipe)), revision, build.beside(recipe)).get_text_config()
        kinds = list(getattr(text, "layer_types", None) or []) or ["all"] * text.num_hidden_layers
        same = not getattr(text, "mlp_only_layers", None)
        found.add((len(kinds), _period(kinds)) if same else (0, 1))
    return found.pop() if recipe.model.path and len(found) == 1 else (0, 1)


def _period(kinds: list[str]) -> int:
    """The least distance at which every layer has one of its own kind behind it."""
    return next(step for step in range(1, len(kinds) + 1) if kinds[step:] == kinds[:-step])


def _count(recipe: Recipe, number: int, device: str, layers: int | None) -> tuple[Counted, Peaks]:
    """layers: that the models are given; None: their own."""
    recipe, _ = settled(recipe, begun="bfloat16")  # which all devices that are counted for compute
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def load(model: Any, *, seed: int, beside: Path | None) -> tuple[nn.Module, Any]:
        if model.path is not None:
            locate(model.path, beside)  # a model out of a package is unpacked at its first use
        with torch.device("meta"):
            read = partial(model_of_config, beside=beside, layers=layers)
            loaded, tokenizer = load_policy(model, seed=seed, beside=beside, read=read)
        return without_content(loaded, mode), tokenizer

    stage = recipe.stages[number]
    algorithm, _ = build.algorithm_of(recipe, stage)
    kind = kind_of(algorithm.source)
    engine = stage.rollouts.engine if kind.samples and recipe.engine.placement == "colocated" else None
    dtype = getattr(torch, recipe.model.dtype)
    notes: list[str] = []
    vocabulary: list[int] = []
    recorder = Recorder(lambda tensor: isinstance(tensor, FakeTensor), partial(_role_of, vocabulary))
    with ExitStack() as modes:
        modes.enter_context(planned_for(device))
        modes.enter_context(recorder)
        modes.enter_context(SizesOnly())
        recorder.enter("start")
        recorder.paused = True  # models are loaded and built on the host
        colocated = build.engine_settings(recipe) if engine == "vllm" else None
        mute: Any = _Mute(recorder, dtype if colocated and colocated.lends else None)
        apart = engine == "vllm" and build.sends_adapter(recipe)
        sync = Sync(engine=mute, group=Group(), probe=[[0] * build.PROBE_TOKENS], tolerance=1.0, apart=apart)
        policy = build.build_policy(recipe, Group(), load)
        model = policy.model
        vocabulary.append(base_model(model).config.get_text_config().vocab_size)
        builder = _Builder(
            recipe=recipe,
            group=Group(),
            collector=_nothing,
            given=GivenData(recipe=recipe, policy=policy),
            tasks_read=_nothing,
            folder=Path(),
            report=notes.append,
            load=load,
        )
        loop = builder.build_stage(number, policy, None, sync=sync, finish=_nothing)
        recorder.paused = False
        recorder.hold(_held_by(model), "weights")
        if engine == "vllm":
            deque(stored_weights(model, dtype), maxlen=0)
        limits = Limits.of(stage, kind, unit=algorithm.unit, context=policy.context)
        _own(recorder, loop)
        _run(recorder, loop, limits)
        recorder.enter("save")
        deque(stored_weights(model, dtype), maxlen=0)
    models = [step.trainer.model for step in _steps(loop)]
    counted = Counted(
        stage=stage.name,
        phases={},
        trained=sum(p.numel() for one in models for p in one.parameters() if p.requires_grad),
        weights=sum(p.numel() for one in models for p in one.parameters()),
        policy=sum(prod(whole_shape(p)) for p in base_model(model).parameters()),
        width=dtype.itemsize,
        token=_token_bytes(base_model(model).config, dtype.itemsize),
        context=build.longest_sequence(recipe, policy.context),
        limits=limits,
        engine=engine,
        workers=recipe.engine.tensor_parallel,
        sleeps=colocated is not None and colocated.sleeps,
        notes=tuple(dict.fromkeys(notes)),
    )
    return counted, recorder.trace.peaks()


def _run(recorder: Recorder, loop: StageLoop, limits: Limits) -> None:
    """The phases of a step, with the optimizers' state in place when the full batch comes."""
    longest, full = limits.longest(), limits.full()
    train, critic = loop.stage.train, loop.stage.critic
    once = {"minibatches": 1, "epochs": min(2, loop.updates_per_step), "critic_warmup_steps": 0}
    loop.stage = loop.stage.model_copy(
        update={
            "train": train.model_copy(update=once),
            "critic": critic and critic.model_copy(update={"minibatches": 1, "epochs": 1}),
        }
    )
    loop.hooks = (*loop.hooks, _OneUpdate())
    recorder.enter("optimizer")
    for step in _steps(loop):  # which gives it its state
        for parameter in filter(lambda p: p.requires_grad, step.trainer.model.parameters()):
            parameter.grad = torch.zeros_like(parameter)
        step.trainer.step(0.0)
    if loop.samples:
        recorder.enter("sync")
        loop.sync_engine(State())
    recorder.enter("verify")
    for batch in (longest, full):
        for step in _steps(loop):
            step.forward.verify(batch, temperature=step.temperature)
        if loop.reference is not None:
            loop.reference.forward.verify(batch, temperature=loop.step.temperature)
    loop.learn(full, State(), _Phases(recorder=recorder))


def _steps(loop: StageLoop) -> list[Step]:
    return [loop.step, *([loop.critic] if loop.critic else [])]


def _held_by(model: nn.Module) -> list[Tensor]:
    held = [tensor for p in model.parameters() for tensor in (p, *parts(p).values())]
    return [tensor for tensor in (*held, *model.buffers()) if isinstance(tensor, FakeTensor)]


def _own(recorder: Recorder, loop: StageLoop) -> None:
    """Says what the weights are for, and sees to it that gradients and the optimizer's state are known as such."""
    if loop.reference is not None:
        recorder.hold(_held_by(loop.reference.forward.model), "reference")
        loop.reference.file = None  # there is nothing to remember
    if loop.target is not None:
        recorder.hold(_held_by(loop.target.forward.model), "target critic")
    forwards = [step.forward for step in _steps(loop)]
    for side in filter(None, (loop.reference, loop.target)):
        forwards.append(side.forward)
    for forward in forwards:
        forward.run = partial(_in_a_pass, recorder, forward.run or partial(_run_whole, forward.model))
    for step in _steps(loop):
        trainer = step.trainer
        assert isinstance(trainer, SingleTrainer), "one process trains with plain torch"
        recorder.hold(_held_by(trainer.model), "weights" if step is loop.step else "critic")
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda p: recorder.hold([p.grad], "gradients"))

        step.trainer = _Told(trainer, recorder)  # ty: ignore[invalid-assignment]


def _in_a_pass(recorder: Recorder, run: Callable[..., Any], *args: Any, **options: Any) -> Any:
    recorder.next_pass()
    return run(*args, **options)


def _run_whole(model: nn.Module, path: Callable[..., Any], batch: Batch, **options: Any) -> Any:
    return path(model, batch, **options)


def _role_of(vocabulary: Sequence[int], tensor: Tensor, file: str) -> str:
    """What a new block is for, until it is known better."""
    head = file == "ops/logprobs.py" or any(size in vocabulary for size in tensor.shape)
    return "logits and head" if head else "activations"


def _token_bytes(config: Any, width: int) -> int:
    """Bytes of a token's keys and values in all layers: 2 x layers x key heads x width of a head x bytes a number."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    each = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * heads * each * width


def _nothing(*_: Any) -> Any:
    return None
