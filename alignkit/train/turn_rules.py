"""Health rules of critics of utterances, and of an actor that follows them; in the form of alignkit/train/health.py."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

from alignkit.run_folder.light import Light

if TYPE_CHECKING:
    from alignkit.train.health import HealthLimits, History

RANKS = 0.05  # correlation of advantages below which critics tell nothing
EARLY = 32  # steps in which they may learn to
MORE = 0.25  # by which the share of utterances that nobody said may rise


def ranking(history: History, limits: HealthLimits) -> Light | None:
    """The critics cannot tell actions apart: on turns that they never saw, the advantages that they name and those that
    were earned have nothing in common."""
    values = history.known("control/ranking")
    if not values:
        return None
    now = values[-1]
    sentence = f"advantages that the critics name and those of unseen turns correlate by {now:.2f}"
    if len(values) < EARLY or max(values[-EARLY:]) >= RANKS:
        return Light(name="ranking", level="ok", sentence=sentence)
    advice = (
        "the critics cannot tell actions apart: give them more updates (critic.minibatches, replay.every), "
        "algorithm.head scores, or a q_lambda nearer 1"
    )
    return Light(name="ranking", level="warn", sentence=f"{sentence}, for {EARLY} steps", advice=advice)


def never_said(history: History, limits: HealthLimits) -> Light | None:
    """The policy says more and more that no past episode holds, where critics know nothing but how they began."""
    now, first = history.now("replay/never_said"), history.first.get("replay/never_said", [])
    if now is None:
        return None
    sentence = f"{now:.0%} of fresh utterances are in no past episode, {fmean(first):.0%} at the start"
    if now <= fmean(first) + MORE:
        return Light(name="never said", level="ok", sentence=sentence)
    advice = (
        "the actor may be climbing its critics where they were never corrected: look at reward/mean; raise "
        "algorithm.kl_weight or played_weight, or lower optimizer.lr"
    )
    return Light(name="never said", level="warn", sentence=sentence, advice=advice)


TURN_RULES = (ranking, never_said)
