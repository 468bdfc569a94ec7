"""Ordered classes by hand: an answer called bad and one called good."""

from math import exp, log, nan

from alignkit.types.example import WorkedExample

EXAMPLES = (
    # z = 1/4 and 3/4, one of each class, so the bounds are 0 1/2 1
    # each has -10 1/4 (-1/4) for its own class and -10 3/4 1/4 for the other: 2.5 between them
    WorkedExample(
        settings={"classes": (0.0, 1.0), "sharpness": 10.0},
        batch={"channels": {"rating": (0.0, 1.0)}},
        outputs={"values": ((0.0, -log(3)), (0.0, log(3)))},
        loss={"reward": log(1 + exp(-2.5))},
        metrics={"ratings/accuracy": 1.0},
        judged={"value": (0.25, 0.75), "parts": {"rating": (0.25, 0.75)}},
    ),
    # z = 1/4 1/2 3/4 of three rated answers, one of each class: bounds 0 5/12 7/12 1
    # the first has 10 times 1/4 1/6, -1/6 1/3 and -1/3 3/4, the last the same from behind
    # the second -1/2 1/12, 1/12 1/12 and -1/12 1/2.   Who was not rated is not seen
    WorkedExample(
        settings={"classes": (1.0, 2.0, 3.0)},
        batch={"channels": {"rating": (1.0, nan, 2.0, 3.0)}},
        outputs={"values": ((0.0, -log(3)), (0.0, log(2)), (0.0, 0.0), (0.0, log(3)))},
        loss={
            "reward": 2 / 3 * (log(exp(5 / 12) + exp(-5 / 9) + exp(-5 / 2)) - 5 / 12)
            + 1 / 3 * (log(2 * exp(-5 / 12) + exp(5 / 72)) - 5 / 72)
        },
        metrics={"ratings/accuracy": 1.0},
    ),
)
