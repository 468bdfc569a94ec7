"""A head per objective by hand: an answer that lacks a rating, and ratings as shares."""

from math import log, nan

from alignkit.types.example import WorkedExample

EXAMPLES = (
    # (1 - 1/2)^2 and no second rating;  (2 - 1)^2 and (1 - 3)^2:  the mean of three
    WorkedExample(
        settings={"objectives": ("right", "short")},
        batch={"channels": {"right": (0.5, 1.0), "short": (nan, 3.0)}},
        outputs={"values": (((0.0, 0.0), (1.0, 0.5)), ((0.0, 0.0), (2.0, 1.0)))},
        loss={"reward": (0.25 + 1 + 4) / 3},
        judged={"value": (0.75, 1.5), "parts": {"right": (1.0, 2.0), "short": (0.5, 1.0)}},
    ),
    # s = 3/4 for both;  y = 1: -log 3/4;  y = 1/4: -1/4 log 3/4 - 3/4 log 1/4
    WorkedExample(
        settings={"loss": "logistic"},
        batch={"channels": {"rating": (1.0, 0.25)}},
        outputs={"values": ((0.0, log(3)), (0.0, log(3)))},
        loss={"reward": (1.25 * log(4 / 3) + 0.75 * log(4)) / 2},
        judged={"value": (0.75, 0.75), "parts": {"rating": (0.75, 0.75)}},
    ),
    # (1 - 1/4)^2 and no second rating;  2 s_1 - s_2
    WorkedExample(
        settings={"objectives": ("right", "short"), "weights": (2.0, -1.0)},
        batch={"channels": {"right": (0.25,), "short": (nan,)}},
        outputs={"values": (((0.0, 0.0), (1.0, 0.5)),)},
        loss={"reward": 0.75**2},
        judged={"value": (1.5,)},
    ),
)
