"""Wrong programs against right tests in every style: each is worth 0, none passes and none loses its score.

The same styles take right programs, so both halves can fail.
"""

from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest
from reward_rollouts import question, rollouts
from sandbox_forgeries import STYLES, cheats

from alignkit.rewards.pool.lift import find_reward
from alignkit.sandbox.isolation import available

CHEATS = cheats()
PAIRS = [(style, name) for name in CHEATS for style in STYLES]
NEVER_ENDS = 0.3  # seconds of its own that a cheat may take
STYLES_OF_A_CHEAT = 5
PARTS = 10
needs_walls = pytest.mark.skipif(not available().is_enough, reason=f"nothing to lock programs in with: {available()}")


def graded(style, program, timeout_s):
    """The code reward's value of a program, exactly as training gets it: a number, or None with its cause."""
    tests = STYLES[style][0]
    task = question(None, **tests) if isinstance(tests, dict) else question(tests)
    [rollout] = rollouts(task, f"```python\n{program}\n```")
    reward = find_reward("code", {"timeout_s": timeout_s})
    score = reward.function(rollout.text, task, **reward.options)
    return score.value if score.value is not None else score.fault


def passed(pairs):
    """The pairs of a style and a cheat whose value is anything but 0, with that value."""
    with ThreadPoolExecutor(2) as threads:
        values = threads.map(lambda pair: graded(pair[0], CHEATS[pair[1]], NEVER_ENDS), pairs)
        return {pair: value for pair, value in zip(pairs, values, strict=True) if value != 0.0}


@needs_walls
@pytest.mark.parametrize("style", STYLES)
def test_a_right_program_passes_in_every_style(style):
    assert graded(style, STYLES[style][1], 60.0) == 1.0


@needs_walls
def test_a_sample_of_cheats_is_worth_nothing(record_property):
    """Each style with one cheat, drawn by seed, and each kind of exception that once ended a loop."""
    rng = Random(0)
    ends = [name for name in CHEATS if name.startswith("StopIteration") and name.endswith("raised")]
    pairs = [(style, rng.choice(list(CHEATS))) for style in STYLES]
    pairs += [(style, name) for style in ("zip of map", "all of map", "iter with a sentinel") for name in ends]
    record_property("tries", len(pairs))
    assert passed(pairs) == {}


def sample():
    """Pairs of the slow test: every cheat in five styles, drawn by seed."""
    rng = Random(1)
    return [(style, name) for name in CHEATS for style in rng.sample(list(STYLES), STYLES_OF_A_CHEAT)]


@needs_walls
@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_no_cheat_passes_and_none_loses_its_score(part, record_property):
    pairs = sample()
    assert len(pairs) >= 2000
    record_property("tries", len(pairs[part::PARTS]))
    assert passed(pairs[part::PARTS]) == {}
