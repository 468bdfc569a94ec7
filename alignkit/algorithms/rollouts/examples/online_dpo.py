"""Online DPO by hand: of three completions the best and the worst are a pair."""

from math import log

from alignkit.types.example import WorkedExample

EXAMPLES = (
    # chosen: the second, D = log 2;  rejected: the first, D = -log 2:  -log sigmoid(2 log 2) = log(5/4)
    WorkedExample(
        settings={"beta": 1.0},
        batch={
            "reward": (0.0, 1.0, 0.5),
            "ref_logprobs": ((log(1 / 2),), (log(1 / 2), log(1 / 4)), (log(1 / 2),)),
        },
        outputs={"logprobs": ((log(1 / 4),), (log(1 / 2), log(1 / 2)), (log(1 / 8),))},
        loss={"policy": log(5 / 4)},
    ),
)
