"""Filtered behaviour cloning by hand: the better half of four episodes, whatever their prompts."""

from math import log

from alignkit.types.example import WorkedExample

EXAMPLES = (
    # returns 3 1 2 0: the first and the third, -l = 1;  2 and 3 log 2
    WorkedExample(
        settings={"fraction": 0.5},
        batch={"group": (0, 0, 1, 1), "reward": (3.0, 1.0, 2.0, 0.0)},
        outputs={"logprobs": ((log(1 / 2),), (log(1 / 8),), (log(1 / 4), log(1 / 8)), (log(1 / 8),))},
        loss={"policy": 2 * log(2)},
    ),
    # all, but never the lowest
    WorkedExample(
        settings={"fraction": 1.0},
        batch={"reward": (1.0, 0.0)},
        outputs={"logprobs": ((log(1 / 2),), (log(1 / 4),))},
        loss={"policy": log(2)},
    ),
)
