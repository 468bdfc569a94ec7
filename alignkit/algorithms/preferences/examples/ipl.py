"""IPL by hand: the rewards that two answers' logits imply."""

from math import log

from alignkit.types.example import WorkedExample

EXAMPLES = (
    # Q = l + V: log 4 and log 2 in the chosen answer, -log 2 in the rejected one
    # r = Q - V(next) / 2: log 2 and log 2;  -log 2.  Their sums differ by 3 log 2, every square is log^2 2
    WorkedExample(
        settings={"discount": 0.5, "weight": 0.5, "nll_weight": 1.0},
        batch={"side": (1, -1)},
        outputs={
            "logprobs": ((log(1 / 2), log(1 / 2)), (log(1 / 4),)),
            "normaliser": ((log(8), log(4)), (log(2),)),
        },
        loss={"policy": log(9 / 8) + 0.5 * log(2) ** 2 + log(2)},
    ),
    # Q = log 4 and log 2, -log 2;  r = (Q - V(next)) / 2: 0 and log(2) / 2, -log(2) / 2.   Sums log 2 apart
    # the mean of three squares, 0 1 1 times (log(2) / 2)^2
    WorkedExample(
        settings={"scale": 0.5, "discount": 1.0, "weight": 0.25, "nll_weight": 0.5},
        batch={"side": (1, -1)},
        outputs={
            "logprobs": ((log(1 / 2), log(1 / 2)), (log(1 / 4),)),
            "normaliser": ((log(8), log(4)), (log(2),)),
        },
        loss={"policy": log(3 / 2) + 0.25 * 2 / 3 * (log(2) / 2) ** 2 + 0.5 * log(2)},
        metrics={"loss/nll": log(2), "pairs/margin": log(2), "pairs/reward_square": 2 / 3 * (log(2) / 2) ** 2},
    ),
)
