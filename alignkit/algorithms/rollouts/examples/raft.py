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
    # two of each prompt, if they are paid 1: the first and the second;  -l = 1 and 3 log 2;  4 log 2
    WorkedExample(
        settings={"keep": 2, "min_reward": 1.0, "aggregate": "sequence_mean_token_mean"},
        batch={"group": (0, 0, 0, 0, 1, 1), "reward": (2.0, 1.0, 1.0, 0.0, 0.5, 0.0)},
        outputs={"logprobs": ((log(1 / 2), log(1 / 8)), (log(1 / 16),), *((log(1 / 8),),) * 4)},
        loss={"policy": 3 * log(2)},
    ),
)
