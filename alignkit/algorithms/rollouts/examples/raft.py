"""RAFT by hand: two prompts, at the second of which no completion is better than the other."""

from math import log

from alignkit.types.example import WorkedExample

EXAMPLES = (
    # only the first completion is imitated: -l = 1 and 3 log 2, their mean
    WorkedExample(
        batch={"group": (0, 0, 1, 1), "reward": (1.0, 0.0, 1.0, 1.0)},
        outputs={"logprobs": ((log(1 / 2), log(1 / 8)), (log(1 / 4),), (log(1 / 4),), (log(1 / 4),))},
        loss={"policy": 2 * log(2)},
    ),
)
