"""SimPO by hand: one pair, by the mean log-prob of its tokens."""

from math import e, log

from alignkit.types.example import WorkedExample

EXAMPLES = (
    # means log 1/2 and log 1/4, beta 2, gamma = 2 0.5 = 1:  -log sigmoid(2 log 2 - 1) = log(1 + e/4)
    WorkedExample(
        batch={"side": (1, -1)},
        outputs={"logprobs": ((log(2 / 3), log(3 / 8)), (log(1 / 4),))},
        loss={"policy": log(1 + e / 4)},
    ),
)
