"""What is counted of a step's episodes: turns, how they ended, and what became of their tool calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from alignkit.types.rollout import Rollout


def episode_metrics(rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """Of episodes that the policy played from their start on; tools are counted only where there are calls."""
    turns = [turn for rollout in rollouts for turn in rollout.turns]
    metrics: dict[str, Any] = {"rollout/turns_mean": len(turns) / len(rollouts)}
    for end, number in sorted(Counter(rollout.end for rollout in rollouts if rollout.end is not None).items()):
        metrics[f"rollout/end/{end}"] = number / len(rollouts)
    broken = sum(len(rollout.contexts) - 1 for rollout in rollouts)
    if broken:
        metrics["rollout/new_contexts"] = broken
    calls = sum(len(turn.calls) for turn in turns)
    if calls:
        metrics["tools/calls_mean"] = calls / len(rollouts)
        metrics["tools/fault_frac"] = sum(len(turn.tool_faults) for turn in turns) / calls
        for kind, number in sorted(Counter(kind for turn in turns for kind in turn.tool_faults).items()):
            metrics[f"tools/fault/{kind}"] = number
    return metrics
