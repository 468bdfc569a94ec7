"""Health rules on synthetic series: each fires at the right step, names its numbers, and is silent on clean runs."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from alignkit.errors import HealthError
from alignkit.train.health import RULES, WATCHED, Health, HealthLimits, History, stop_if_needed


def watch(series, *, limits=None):
    """Feeds the metrics of each step; returns [{rule name: Light}] per step."""
    health = Health(limits)
    return [{light.name: light for light in health.lights(metrics)} for metrics in series]


def fired(steps, rule, level="warn"):
    """Numbers of the steps at which a rule had this level."""
    return [step for step, lights in enumerate(steps) if rule in lights and lights[rule].level == level]


def test_zero_signal_warns_at_once_and_stops_after_the_recipes_number_of_steps_in_a_row():
    shares = [0.5, 1.0, 1.0, 0.9, 1.0, 1.0, 1.0, 1.0]
    steps = watch(
        [{"rollout/zero_spread_frac": s, "reward/mean": 0.0} for s in shares], limits=HealthLimits(dead_steps=3)
    )
    assert fired(steps, "signal") == [1, 2, 4, 5]
    assert fired(steps, "signal", "stop") == [6, 7]
    assert "for 3 steps in a row (limit 3); mean reward 0" in steps[6]["signal"].sentence
    assert "task is solved" in steps[6]["signal"].advice


def test_a_step_without_groups_breaks_the_streak_of_zero_signal():
    steps = watch(
        [{"rollout/zero_spread_frac": share} for share in (1.0, None, 1.0)], limits=HealthLimits(dead_steps=2)
    )
    assert fired(steps, "signal") == [0, 2]
    assert fired(steps, "signal", "stop") == []


def test_dead_steps_beyond_the_window_still_stop():
    steps = watch([{"rollout/zero_spread_frac": 1.0}] * 300, limits=HealthLimits(dead_steps=250))
    assert fired(steps, "signal", "stop")[0] == 249


def test_truncation_warns_from_half_and_counts_the_steps_where_all_are_cut():
    steps = watch([{"rollout/truncated_frac": share} for share in (0.2, 0.5, 1.0, 1.0)])
    assert fired(steps, "truncation") == [1, 2, 3]
    assert steps[3]["truncation"].sentence == "100% of completions were cut by the length limit, for 2 steps in a row"
    episodes = watch([{"rollout/truncated_frac": 0.9, "rollout/turns_mean": 7.0}])
    assert "environment.max_turns" in episodes[0]["truncation"].advice


def test_masking_everything_warns_then_stops():
    steps = watch([{"loss/tokens": tokens} for tokens in (12, 0, 0, 0)], limits=HealthLimits(dead_steps=3))
    assert fired(steps, "masking") == [1, 2]
    assert fired(steps, "masking", "stop") == [3]


def test_unscorable_stops_above_the_recipes_share():
    steps = watch([{"reward/unscorable_frac": share} for share in (0.05, 0.2, 0.5, 0.51)])
    assert fired(steps, "unscorable") == [1, 2]
    assert fired(steps, "unscorable", "stop") == [3]
    assert steps[3]["unscorable"].sentence == "51.0% of completions could not be scored (limit 50%)"


def test_kl_runaway_warns_against_its_own_past_and_stops_at_the_recipes_limit():
    """Usual size 0.004: 0.05 is over 10 times that but not over a fifth of 0.5; 0.11 is; 0.6 is over max_kl 0.55."""
    values = [0.004] * 10 + [0.05, 0.11, 0.6]
    steps = watch([{"policy/kl_reference": value} for value in values], limits=HealthLimits(max_kl=0.55))
    assert fired(steps, "reference KL") == [11]
    assert fired(steps, "reference KL", "stop") == [12]
    assert steps[11]["reference KL"].sentence == "policy/kl_reference is 0.11 nats a token, usually 0.004"


def test_sampler_kl_counts_in_both_directions():
    steps = watch([{"policy/kl_sampler": value} for value in (0.05, -0.2)])
    assert fired(steps, "sampler KL") == [1]


@pytest.mark.parametrize("name", ["loss/policy", "optim/grad_norm", "policy/ratio_max"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_stops(name, value):
    steps = watch([{name: 1.0}, {name: value}])
    assert fired(steps, "numbers", "stop") == [1]
    assert steps[1]["numbers"].sentence == f"{name} is {value}"


def test_entropy_collapse_is_measured_against_the_start():
    steps = watch([{"policy/entropy": value} for value in [1.0] * 8 + [0.2, 0.11, 0.09]])
    assert fired(steps, "entropy") == [10]
    assert steps[10]["entropy"].sentence == "entropy is 0.09 nats a token, 1 at the start"


def test_a_reward_jump_with_collapsing_length_is_suspicious_and_either_alone_is_not():
    wobble = [0.01 * (-1) ** step for step in range(40)]

    def run(reward, length):
        early = [{"reward/mean": 0.3 + w, "rollout/length_mean": 100.0 + 10 * w} for w in wobble]
        return watch(early + [{"reward/mean": reward, "rollout/length_mean": length}] * 10)

    assert fired(run(0.9, 20.0), "hacking")[0] in range(43, 48)  # once most of the last 8 steps are the new kind
    assert fired(run(0.9, 100.0), "hacking") == []
    assert fired(run(0.3, 20.0), "hacking") == []
    assert "mean reward 0.3" in run(0.9, 20.0)[49]["hacking"].sentence


def test_duplicates_warn_only_when_they_cost_the_signal():
    steps = watch(
        [
            {"rollout/unique_frac": 0.2, "rollout/zero_spread_frac": 0.1},
            {"rollout/unique_frac": 0.2, "rollout/zero_spread_frac": 0.8},
            {"rollout/unique_frac": 0.9, "rollout/zero_spread_frac": 0.8},
        ]
    )
    assert fired(steps, "duplicates") == [1]


def test_the_canary_warns_before_its_tolerance_and_stops_beyond_it():
    limits = HealthLimits(canary_tolerance=0.08)
    steps = watch([{"sync/canary_gap": gap} for gap in (0.05, 0.07, 0.09)], limits=limits)
    assert fired(steps, "canary") == [1]
    assert fired(steps, "canary", "stop") == [2]


def test_a_gradient_spike_is_measured_against_the_last_128_steps():
    """Norms 1.0 and 1.1: the median log is between, so a 50 is far out; 3 is below 4 times the median."""
    norms = [1.0, 1.1] * 40 + [3.0, 50.0, 1.0]
    steps = watch([{"optim/grad_norm": norm} for norm in norms])
    assert fired(steps, "gradient") == [81]
    assert "gradient norm is 50, usually 1.1" in steps[81]["gradient"].sentence
    assert fired(watch([{"optim/grad_norm": norm} for norm in [1.0] * 20 + [50.0]]), "gradient") == []


def test_critics_that_rank_no_unseen_turn_for_32_steps_are_told_and_one_value_above_is_enough():
    blind = [{"control/ranking": 0.04 - 0.1 * (step % 2)} for step in range(40)]
    assert fired(watch(blind), "ranking") == list(range(31, 40))
    seen = [*blind[:20], {"control/ranking": 0.05}, *blind[20:]]
    assert fired(watch(seen), "ranking") == []


def test_a_rise_of_utterances_that_were_never_said_is_measured_against_the_start():
    """From 2 %: 26 % is still well, 28 % is not; free text begins near 1 and never rises by 25 points."""
    start = [{"replay/never_said": 0.02}] * 8
    assert fired(watch([*start, {"replay/never_said": 0.26}, {"replay/never_said": 0.28}]), "never said") == [9]
    assert fired(watch([{"replay/never_said": 0.9}] * 8 + [{"replay/never_said": 1.0}]), "never said") == []


def test_rules_without_their_metric_say_nothing():
    assert [light.name for light in Health().lights({"loss/policy": 1.0})] == ["numbers"]


def test_every_rule_is_explained_in_the_docs():
    text = (Path(__file__).parents[2] / "docs" / "health.md").read_text(encoding="utf-8")
    lights = Health(HealthLimits(canary_tolerance=0.1)).lights(dict.fromkeys(WATCHED, 0.5))
    assert len(lights) == 1 + len(RULES)
    assert re.findall(r"^## (.+)$", text, flags=re.MULTILINE) == ["numbers", *(rule_name(rule) for rule in RULES)]


def rule_name(rule):
    history = History()
    history.add(dict.fromkeys(WATCHED, 0.5))
    return rule(history, HealthLimits(canary_tolerance=0.1)).name


def test_the_worst_light_comes_first_and_stops_the_run_with_its_name():
    lights = Health(HealthLimits(dead_steps=1)).lights({"rollout/zero_spread_frac": 1.0, "rollout/truncated_frac": 0.9})
    assert [light.level for light in lights] == ["stop", "warn", "ok"]
    with pytest.raises(HealthError, match=r"^signal: all rewards were equal in every group for 1 step \(limit 1\)"):
        stop_if_needed(lights)
    stop_if_needed(lights[1:])


def clean_run(seed, steps):
    """A healthy run: learning, noise of realistic size, gradient norms with log-normal tails."""
    random = np.random.default_rng(seed)
    for step in range(steps):
        progress = 1 - math.exp(-step / 200)
        yield {
            "reward/mean": 0.1 + 0.6 * progress + 0.06 * random.standard_normal(),
            "reward/unscorable_frac": float(random.binomial(128, 0.005)) / 128,
            "rollout/truncated_frac": float(random.binomial(128, 0.1)) / 128,
            "rollout/zero_spread_frac": float(random.binomial(16, 0.3)) / 16,
            "rollout/unique_frac": float(np.clip(0.6 + 0.1 * random.standard_normal(), 0.1, 1)),
            "rollout/length_mean": 90 + 40 * progress + 5 * random.standard_normal(),
            "loss/policy": 0.02 * random.standard_normal(),
            "loss/tokens": 9000 + int(400 * random.standard_normal()),
            "policy/kl_sampler": 1e-4 + 5e-4 * random.standard_normal(),
            "policy/kl_reference": 0.03 * progress * math.exp(0.3 * random.standard_normal()),
            "policy/entropy": (1 - 0.6 * progress) * math.exp(0.1 * random.standard_normal()),
            "optim/grad_norm": math.exp(0.35 * random.standard_normal()),
            "sync/canary_gap": 0.01 * math.exp(0.2 * random.standard_normal()),
        }


def test_clean_runs_raise_at_most_one_alarm_in_1000_steps():
    """5 runs of 800 steps x 13 lights; the promise is at most 0.1 % of steps with an alarm, so at most 4 here."""
    alarms = [
        (seed, step, light.name)
        for seed in range(5)
        for step, lights in enumerate(watch(clean_run(seed, 800), limits=HealthLimits(canary_tolerance=0.08)))
        for light in lights.values()
        if light.level != "ok"
    ]
    assert len(alarms) <= 4, alarms


@pytest.mark.parametrize("cut", [1, 7, 40, 150])
def test_a_resumed_health_says_exactly_what_the_uninterrupted_one_says(cut):
    series = [*clean_run(3, 160), {"optim/grad_norm": 80.0, "policy/entropy": 0.01, "rollout/zero_spread_frac": 1.0}]
    whole, first = Health(), Health()
    expected = [whole.lights(metrics) for metrics in series]
    for metrics in series[:cut]:
        first.lights(metrics)
    second = Health()
    second.restore(json.loads(json.dumps(first.state())))
    assert [second.lights(metrics) for metrics in series[cut:]] == expected[cut:]
    assert second.state() == whole.state()
