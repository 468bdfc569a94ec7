"""An implicit reward model by hand: a right answer and a wrong one."""

from math import log, nan

from alignkit.types.example import WorkedExample

EXAMPLES = (
    # right, log-ratio log 2: -log 2/3;  wrong, log-ratio -log 3: -log(1 - 1/4);  their mean
    WorkedExample(
        settings={"beta": 1.0},
        batch={
            "channels": {"rating": (1.0, 0.0)},
            "ref_logprobs": ((log(1 / 2), log(1 / 4)), (log(3 / 4),)),
        },
        outputs={"logprobs": ((log(1 / 2), log(1 / 2)), (log(1 / 4),))},
        loss={"reward": (log(3 / 2) + log(4 / 3)) / 2},
    ),
    # log-ratios 2 log 2, not rated, -2 log 3 and 0, halved
    # y = 1: -log 2/3;  1/4: -1/4 log 1/4 - 3/4 log 3/4;  1/2: log 2
    # 0 and 1/2 are on the same side
    WorkedExample(
        settings={"beta": 0.5},
        batch={
            "channels": {"rating": (1.0, nan, 0.25, 0.5)},
            "ref_logprobs": ((log(1 / 4), log(1 / 4)), (log(1 / 4),), (log(3 / 4),), (log(1 / 2),)),
        },
        outputs={"logprobs": ((log(1 / 2), log(1 / 2)), (log(1 / 2),), (log(1 / 12),), (log(1 / 2),))},
        loss={"reward": (log(3 / 2) + log(4) / 4 + 3 / 4 * log(4 / 3) + log(2)) / 3},
        metrics={"outcomes/accuracy": 1.0},
        judged={
            "value": (log(2), log(2) / 2, -log(3), 0.0),
            "steps": ((log(2) / 2, log(2) / 2), (log(2) / 2,), (-log(3),), (0.0,)),
        },
    ),
)
