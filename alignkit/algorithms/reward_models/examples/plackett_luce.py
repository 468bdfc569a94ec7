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
    ),
)
