"""Health rules: pure functions that look at a run's metrics and say in plain words when it is dead, broken or odd.

Each rule takes a History (this step's value is the last of each series) and HealthLimits, and gives a Light, or None
when the metrics it reads are not logged. A rule that needs company in time (`for N steps`) reads it from the History,
so the History is the only state. docs/health.md lists the rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

from alignkit.errors import HealthError
from alignkit.run_folder.light import Light
from alignkit.train.turn_rules import TURN_RULES

WINDOW = 128  # steps of history behind the robust rules
START = 8  # first values of a series that stand for "at the start"
FIRST_UPDATES = 4  # of an adapter's two matrices one begins as zeros, so that the other has no gradient at first
RECENT = 8  # last values that stand for "now"

WATCHED = (
    "reward/mean",
    "reward/unscorable_frac",
    "rollout/truncated_frac",
    "rollout/turns_mean",
    "rollout/zero_spread_frac",
    "rollout/unique_frac",
    "rollout/length_mean",
    "loss/tokens",
    "policy/kl_sampler",
    "policy/kl_reference",
    "policy/entropy",
    "optim/grad_norm",
    "sync/canary_gap",
    "constraint/saturated",
    "control/ranking",
    "replay/never_said",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthLimits:
    """What the recipe allows: health.dead_steps, health.max_kl, rollouts.max_unscorable, rollouts.canary_tolerance."""

    dead_steps: int = 10
    max_kl: float | None = None
    max_unscorable: float = 0.5
    canary_tolerance: float | None = None


@dataclass(slots=True)
class History:
    """series: the last values per watched metric (None where a step did not log it); first: the first START values.

    untrained: the weights that have had no gradient in any update so far; None before the first one.
    """

    length: int = WINDOW
    series: dict[str, list[float | None]] = field(default_factory=dict)
    first: dict[str, list[float]] = field(default_factory=dict)
    untrained: list[str] | None = None

    def add(self, metrics: Mapping[str, float | int | None], untrained: Iterable[str] = ()) -> None:
        if metrics.get("optim/grad_norm"):  # else no weight had a gradient, which says nothing about any of them
            names = set(untrained)
            self.untrained = sorted(names if self.untrained is None else names & set(self.untrained))
        for name in WATCHED:
            value = metrics.get(name)
            number = float(value) if value is not None and math.isfinite(value) else None
            self.series[name] = [*self.series.get(name, []), number][-self.length - 1 :]
            first = self.first.setdefault(name, [])
            if number is not None and len(first) < START:
                first.append(number)

    def now(self, name: str) -> float | None:
        return self.series[name][-1] if self.series.get(name) else None

    def known(self, name: str) -> list[float]:
        """Known values in the window, oldest first."""
        return [value for value in self.series.get(name, []) if value is not None]

    def before(self, name: str) -> list[float]:
        """Known values of the window's earlier steps, oldest first."""
        return self.known(name)[:-1] if self.now(name) is not None else self.known(name)

    def streak(self, name: str, holds: Callable[[float], bool]) -> int:
        """Steps in a row, this one included, whose value is known and fulfils `holds`."""
        count = 0
        for value in reversed(self.series.get(name, [])):
            if value is None or not holds(value):
                break
            count += 1
        return count


class Health:
    """Keeps the History of one stage; `state` and `restore` carry it through a checkpoint."""

    def __init__(self, limits: HealthLimits | None = None):
        self.limits = limits or HealthLimits()
        self.history = History(length=max(WINDOW, self.limits.dead_steps))

    def lights(self, metrics: Mapping[str, float | int | None], *, untrained: Iterable[str] = ()) -> list[Light]:
        """Takes in one step's metrics and returns the light of every rule that applies, worst first.

        untrained: the trainable weights that have had no gradient so far.
        """
        self.history.add(metrics, untrained)
        found = [numbers(metrics), *(rule(self.history, self.limits) for rule in RULES)]
        order = {"stop": 0, "warn": 1, "ok": 2}
        return sorted((light for light in found if light is not None), key=lambda light: order[light.level])

    def state(self) -> dict[str, Any]:
        """JSON-serialisable; `restore` on a fresh Health continues exactly."""
        history = self.history
        return {"series": history.series, "first": history.first, "untrained": history.untrained}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.history.series = {name: list(values) for name, values in state["series"].items()}
        self.history.first = {name: list(values) for name, values in state["first"].items()}
        self.history.untrained = state.get("untrained")


def stop_if_needed(lights: Iterable[Light]) -> None:
    """Raises HealthError with the sentence and advice of every `stop` light."""
    dead = [f"{light.name}: {light.sentence}; {light.advice}" for light in lights if light.level == "stop"]
    if dead:
        raise HealthError(" | ".join(dead))


def numbers(metrics: Mapping[str, float | int | None]) -> Light:
    """NaN or infinite loss, policy statistic or gradient norm: stop, before it reaches the weights."""
    bad = [
        f"{name} is {value}"
        for name, value in metrics.items()
        if name.startswith(("loss/", "optim/", "policy/")) and value is not None and not math.isfinite(value)
    ]
    if not bad:
        return Light(name="numbers", level="ok", sentence="every loss and gradient norm is finite")
    advice = (
        "resume from the last checkpoint with a lower optimizer.lr or model.dtype float32, and look at the longest "
        "completions of the step"
    )
    return Light(name="numbers", level="stop", sentence=", ".join(bad), advice=advice)


def zero_signal(history: History, limits: HealthLimits) -> Light | None:
    """No group has rewards that differ: nothing to learn. Stops after `dead_steps` in a row."""
    share = history.now("rollout/zero_spread_frac")
    if share is None:
        return None
    dead = history.streak("rollout/zero_spread_frac", lambda value: value >= 1.0)
    reward = history.now("reward/mean")
    seen = f"; mean reward {reward:.3g}" if reward is not None else ""
    if dead == 0:
        return Light(name="signal", level="ok", sentence=f"{1 - share:.0%} of groups have rewards that differ{seen}")
    advice = (
        "if the reward is at its best the task is solved: take harder tasks; if not, the task is too hard or the "
        "reward never fires: run `alignkit check` on a gold answer, take easier tasks, or raise rollouts.group or "
        "rollouts.temperature"
    )
    steps = "1 step" if dead == 1 else f"{dead} steps in a row"
    level = "stop" if dead >= limits.dead_steps else "warn"
    sentence = f"all rewards were equal in every group for {steps} (limit {limits.dead_steps}){seen}"
    return Light(name="signal", level=level, sentence=sentence, advice=advice)


def truncation(history: History, limits: HealthLimits) -> Light | None:
    """Half of the completions or more are cut by the length limit."""
    share = history.now("rollout/truncated_frac")
    if share is None:
        return None
    sentence = f"{share:.0%} of completions were cut by the length limit"
    if share < 0.5:
        return Light(name="truncation", level="ok", sentence=sentence)
    whole = history.streak("rollout/truncated_frac", lambda value: value >= 1.0)
    if whole > 1:
        sentence += f", for {whole} steps in a row"
    advice = "raise rollouts.max_new_tokens, ask for shorter answers, or check that the model's stop token is sampled"
    if history.now("rollout/turns_mean") is not None:
        advice = "raise environment.max_turns or environment.max_tokens, or start from a policy that gets further"
    return Light(name="truncation", level="warn", sentence=sentence, advice=advice)


def masking(history: History, limits: HealthLimits) -> Light | None:
    """The loss saw no token at all. Stops after `dead_steps` in a row."""
    tokens = history.now("loss/tokens")
    if tokens is None:
        return None
    if tokens > 0:
        return Light(name="masking", level="ok", sentence=f"the loss was computed on {tokens:.0f} tokens")
    dead = history.streak("loss/tokens", lambda value: value == 0)
    level = "stop" if dead >= limits.dead_steps else "warn"
    steps = "1 step" if dead == 1 else f"{dead} steps in a row"
    sentence = f"every token was masked out of the loss for {steps} (limit {limits.dead_steps})"
    advice = "look for a filter that drops everything: overlong masking, importance masking, unscorable rewards"
    return Light(name="masking", level=level, sentence=sentence, advice=advice)


def unscorable(history: History, limits: HealthLimits) -> Light | None:
    """Rewards could not judge many completions. Stops above `max_unscorable` in one step."""
    share = history.now("reward/unscorable_frac")
    if share is None:
        return None
    sentence = f"{share:.1%} of completions could not be scored (limit {limits.max_unscorable:.0%})"
    if share <= 0.05:
        return Light(name="unscorable", level="ok", sentence=sentence)
    level = "stop" if share > limits.max_unscorable else "warn"
    advice = "read the `fault` column of rollouts/*.parquet: it names the reward and the cause of each"
    return Light(name="unscorable", level=level, sentence=sentence, advice=advice)


def sampler_kl(history: History, limits: HealthLimits) -> Light | None:
    """Trainer and sampler disagree about the sampled tokens, or drift apart."""
    advice = (
        "the samples are too stale or the engine computes something else: fewer train.epochs or train.minibatches, "
        "a lower optimizer.lr, or model.dtype float32 on both sides; see sync/canary_gap"
    )
    return _runaway(history, limits, "policy/kl_sampler", name="sampler KL", high=0.1, advice=advice)


def reference_kl(history: History, limits: HealthLimits) -> Light | None:
    """The policy leaves its reference model behind."""
    advice = "lower optimizer.lr or raise the algorithm's KL weight, and read completions before trusting the reward"
    return _runaway(history, limits, "policy/kl_reference", name="reference KL", high=0.5, advice=advice)


def _runaway(
    history: History, limits: HealthLimits, metric: str, *, name: str, high: float, advice: str
) -> Light | None:
    """Warns above `high` nats or at 10 times the usual size (if above a fifth of `high`); stops above `max_kl`."""
    value = history.now(metric)
    if value is None:
        return None
    size = abs(value)
    earlier = [abs(number) for number in history.before(metric)]
    usual = median(earlier) if len(earlier) >= START else None
    sentence = f"{metric} is {value:.3g} nats a token"
    if limits.max_kl is not None and size > limits.max_kl:
        return Light(name=name, level="stop", sentence=f"{sentence} (health.max_kl {limits.max_kl:g})", advice=advice)
    if usual is not None and size > max(10 * usual, high / 5):
        return Light(name=name, level="warn", sentence=f"{sentence}, usually {usual:.3g}", advice=advice)
    level = "warn" if size > high else "ok"
    return Light(name=name, level=level, sentence=sentence, advice=advice if level == "warn" else "")


def entropy(history: History, limits: HealthLimits) -> Light | None:
    """Entropy fell to a tenth of its start: the policy says nearly the same thing every time."""
    value, start = history.now("policy/entropy"), history.first.get("policy/entropy", [])
    if value is None:
        return None
    sentence = f"entropy is {value:.3g} nats a token"
    if len(start) < START or value >= 0.1 * median(start):
        return Light(name="entropy", level="ok", sentence=sentence)
    advice = (
        "normal when the task is nearly solved; else exploration is over: lower optimizer.lr, raise clip_high, "
        "or raise rollouts.temperature"
    )
    return Light(name="entropy", level="warn", sentence=f"{sentence}, {median(start):.3g} at the start", advice=advice)


def reward_hacking(history: History, limits: HealthLimits) -> Light | None:
    """Reward jumps while completions shrink to less than half: a shortcut rather than a skill, often."""
    if history.now("reward/mean") is None or history.now("rollout/length_mean") is None:
        return None
    rewards, lengths = history.known("reward/mean"), history.known("rollout/length_mean")
    if len(rewards) < 4 * RECENT or len(lengths) < 4 * RECENT:
        return Light(name="hacking", level="ok", sentence="too few steps to tell")
    old_rewards, new_reward = rewards[:-RECENT], fmean(rewards[-RECENT:])
    old_length, new_length = median(lengths[:-RECENT]), fmean(lengths[-RECENT:])
    spread = max(_robust_deviation(old_rewards), 0.01)
    sentence = (
        f"mean reward {median(old_rewards):.3g} -> {new_reward:.3g} while mean length {old_length:.3g} -> "
        f"{new_length:.3g} tokens (last {RECENT} steps against before)"
    )
    if (new_reward - median(old_rewards)) / spread < 4 or new_length >= 0.5 * old_length:
        return Light(name="hacking", level="ok", sentence=sentence)
    advice = (
        "read the best completions in `alignkit report`: a short trick that pleases the reward, unless the task wants "
        "short answers"
    )
    return Light(name="hacking", level="warn", sentence=sentence, advice=advice)


def duplicates(history: History, limits: HealthLimits) -> Light | None:
    """Most completions of a group are the same text, and that takes the signal away."""
    unique, silent = history.now("rollout/unique_frac"), history.now("rollout/zero_spread_frac")
    if unique is None:
        return None
    sentence = f"{unique:.0%} of the completions in a group differ"
    if unique >= 0.3 or silent is None or silent <= 0.5:
        return Light(name="duplicates", level="ok", sentence=sentence)
    advice = (
        "most sampling is wasted: if the task is solved take harder tasks, else raise rollouts.temperature or "
        "use fewer completions and more prompts"
    )
    sentence += f" and {silent:.0%} of groups have no signal"
    return Light(name="duplicates", level="warn", sentence=sentence, advice=advice)


def canary(history: History, limits: HealthLimits) -> Light | None:
    """Engine and trainer come close to the tolerance at which the sync itself stops the run."""
    gap, tolerance = history.now("sync/canary_gap"), limits.canary_tolerance
    if gap is None or tolerance is None:
        return None
    sentence = f"after the sync, engine and trainer differ by {gap:.3g} nats a token (tolerance {tolerance:g})"
    level = "stop" if gap > tolerance else "warn" if gap > 0.75 * tolerance else "ok"
    advice = "the engine does not hold the trainer's weights, or computes in another precision; try `engine: hf`"
    return Light(name="canary", level=level, sentence=sentence, advice="" if level == "ok" else advice)


def gradient_spike(history: History, limits: HealthLimits) -> Light | None:
    """Gradient norm far outside the last 128 steps: robust z of its logarithm above 8, and over 4 times the median."""
    norm = history.now("optim/grad_norm")
    if norm is None:
        return None
    sentence = f"gradient norm is {norm:.3g}"
    earlier = [math.log(value) for value in history.before("optim/grad_norm") if value > 0]
    if len(earlier) < 32 or norm <= 0:
        return Light(name="gradient", level="ok", sentence=sentence)
    middle = median(earlier)
    score = (math.log(norm) - middle) / max(_robust_deviation(earlier), 0.05)
    if score < 8 or norm < 4 * math.exp(middle):
        return Light(name="gradient", level="ok", sentence=sentence)
    advice = "one spike is clipped and harmless; several in a row call for a lower optimizer.lr or more prompts a step"
    sentence += f", usually {math.exp(middle):.3g} (robust z {score:.0f} over {len(earlier)} steps)"
    return Light(name="gradient", level="warn", sentence=sentence, advice=advice)


def _robust_deviation(values: list[float]) -> float:
    """1.4826 times the median absolute deviation: the standard deviation of clean normal data, deaf to outliers."""
    middle = median(values)
    return 1.4826 * median(abs(value - middle) for value in values)


def untrained(history: History, limits: HealthLimits) -> Light | None:
    """A weight that is to be trained has had no gradient but 0 in any update. Of an adapter it stops the run after
    `dead_steps` updates: the adapter is not the one that was asked for."""
    if history.untrained is None:
        return None
    updates = sum(norm > 0 for norm in history.known("optim/grad_norm"))
    if not history.untrained:
        return Light(name="untrained", level="ok", sentence="every trained weight has had a gradient")
    if updates < FIRST_UPDATES:
        return Light(name="untrained", level="ok", sentence="too few steps to tell")
    adapters = [name for name in history.untrained if ".lora_" in name or ".modules_to_save." in name]
    named = ", ".join((adapters or history.untrained)[:3])
    count, dead = len(history.untrained), bool(adapters) and updates >= limits.dead_steps
    sentence = f"{count} weights had no gradient in {updates} updates, e.g. {named}"
    advice = "nothing in the loss depends on them: "
    if adapters:
        advice += "take their modules out of model.lora"
    else:
        advice += "harmless, unless they were to be trained (parts of a model that this data does not use)"
    return Light(name="untrained", level="stop" if dead else "warn", sentence=sentence, advice=advice)


def saturation(history: History, limits: HealthLimits) -> Light | None:
    """A constraint's multiplier has stayed at its cap: the limit cannot be kept at that price."""
    count = history.now("constraint/saturated")
    if count is None:
        return None
    steps = history.streak("constraint/saturated", lambda value: value > 0)
    if steps < START:
        return Light(name="constraints", level="ok", sentence=f"{count:.0f} multipliers at their cap")
    advice = "raise constraints.cap, loosen the limit, or find out whether the policy can keep it at all"
    sentence = f"{count:.0f} constraint multipliers have been at their cap for {steps} steps"
    return Light(name="constraints", level="warn", sentence=sentence, advice=advice)


RULES = (
    zero_signal,
    truncation,
    masking,
    unscorable,
    sampler_kl,
    reference_kl,
    entropy,
    reward_hacking,
    duplicates,
    canary,
    gradient_spike,
    saturation,
    untrained,
    *TURN_RULES,
)
