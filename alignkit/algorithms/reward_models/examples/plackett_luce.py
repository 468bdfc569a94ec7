"""Plackett-Luce by hand: four answers, of which the second and the third share their place."""

from math import log

from alignkit.types.example import WorkedExample

EXAMPLES = (
    # e^r = 4 1 2 1: the best among all 4/8, the second and the third against the worst alone 1/2 and 2/3
    # the mean of r is 3/4 log 2
    WorkedExample(
        batch={"reward": (2.0, 1.0, 1.0, 0.0)},
        outputs={"values": ((0.0, log(4)), (0.0, 0.0), (0.0, log(2)), (0.0, 0.0))},
        loss={"reward": log(2) + log(2) + log(3 / 2) + 0.01 * (1.5 * log(2)) ** 2},
        # leads of 2 1 2 over the others, 0 and 1 over the worst, times log 2
        metrics={"pairs/margin": 6 / 5 * log(2), "pairs/accuracy": 4.5 / 5},
        judged={"value": (log(4), 0.0, log(2), 0.0)},
    ),
    # the first two share the first place: 2/3 and 1/2 against the third, the mean of their costs;  the others are tied
    WorkedExample(
        settings={"learn": "best", "centring": 0.0},
        batch={"group": (0, 0, 0, 1, 1), "reward": (1.0, 1.0, 0.0, 1.0, 1.0)},
        outputs={"values": ((0.0, log(2)), (0.0, 0.0), (0.0, 0.0), (0.0, 1.0), (0.0, 2.0))},
        loss={"reward": (log(3 / 2) + log(2)) / 2},
    ),
)
