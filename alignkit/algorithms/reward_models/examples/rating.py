"""Ordered classes by hand: an answer called bad and one called good."""

from math import exp, log

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
)
