"""ORPO by hand: one pair, likelihood and odds."""

from math import log

from alignkit.types.example import WorkedExample

EXAMPLES = (
    # e^m = (2/3 3/8)^{1/2} = 1/2 and 1/4: odds 1 and 1/3, which is log 3 apart:  log 2 + weight log(4/3)
    WorkedExample(
        settings={"weight": 0.5},
        batch={"side": (1, -1)},
        outputs={"logprobs": ((log(2 / 3), log(3 / 8)), (log(1 / 4),))},
        loss={"policy": log(2) + 0.5 * log(4 / 3)},
        metrics={"loss/nll": log(2), "pairs/margin": log(3)},
        judged={"value": (0.0, -log(3))},
    ),
)
